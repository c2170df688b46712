"""What a job says of itself and of the whole invocation."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from harness import progress
from harness.time_left import Job


def job(id: int, run: str, *, after: tuple[int, ...] = (), **state: float | bool) -> Job:
    rule = "evaluate" if after else "train"
    return Job(id=id, title=f"{rule} {run}", run=run, kind=("tokens", rule), work=1, share=0.5, after=after, **state)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the workflow that started this process keeps its plan."""
    path = tmp_path / "progress/tiny.json"
    monkeypatch.setenv(progress.ENVIRONMENT_VARIABLE, str(path))
    return path


def plan(*jobs: Job, runs: int) -> progress.Plan:
    return progress.Plan(runs=runs, jobs={one.id: one for one in jobs})


def test_without_a_plan_a_job_speaks_of_itself(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv(progress.ENVIRONMENT_VARIABLE, raising=False)
    progress.Progress("train x").update(3, 10, "loss 1.0")
    assert capsys.readouterr().out.startswith("train x · 3/10 · loss 1.0 · ")


def test_the_runs_are_the_targets_and_the_time_is_that_of_what_is_left(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six runs of which three were there: one of the others is done, one trained and being evaluated, one not begun."""
    monkeypatch.setattr(progress.time, "time", lambda: 1000.0)
    a = [job(0, "a", started=0, ended=300), job(1, "a", after=(0,), started=300, ended=400)]
    b = [job(2, "b", started=400, ended=700), job(3, "b", after=(2,), started=970)]
    plan(*a, *b, job(4, "c"), job(5, "c", after=(4,)), runs=6).write(path)
    assert progress.overall() == "4 of 6 runs done, about 6 min 40 s left in all"


def test_nothing_is_promised_before_anything_is_known(path: Path) -> None:
    assert progress.overall() == ""
    plan(job(0, "a", started=time.time()), job(1, "b"), runs=3).write(path)
    assert progress.overall() == "1 of 3 runs done"


def test_a_run_whose_job_failed_is_not_done(path: Path) -> None:
    plan(job(0, "a", started=0, ended=9, failed=True), job(1, "a", after=(0,)), runs=1).write(path)
    assert progress.overall() == "0 of 1 runs done"


def test_a_plan_of_other_sources_ends_no_training(path: Path) -> None:
    path.parent.mkdir()
    path.write_text('{"runs": 1, "jobs": [{"id": 0, "kind": [], "after": [], "colour": "red"}]}')
    assert progress.overall() == ""


def test_a_job_says_in_the_plan_how_far_it_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resumed at step 20 of 100, five steps in ten seconds: 25 done, 150 seconds for the other 75, and as much for the next."""
    clock = 1000.0
    monkeypatch.setattr(progress.time, "time", lambda: clock)
    plan(job(0, "math/a/lora/seed0", started=990.0), job(1, "math/a/lora/seed1"), runs=2).write(path)
    shown = progress.Progress("train math/a/lora/seed0", interval=0, whole_job=True)
    shown.update(20, 100)
    clock = 1010.0
    shown.update(25, 100)
    assert progress.overall() == "0 of 2 runs done, about 3 min 30 s left in all"


def test_the_time_left_of_a_job_is_that_of_its_own_part(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second part begins at 0 again, a resumed job at what was done before: neither is as fast as it looks."""
    monkeypatch.delenv(progress.ENVIRONMENT_VARIABLE, raising=False)

    def play(updates: dict[float, int], **how: bool) -> None:
        clock = iter([0.0, *updates])
        monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
        shown = progress.Progress("x", interval=0, **how)
        for done in updates.values():
            shown.update(done, 100)

    play({60.0: 50, 120.0: 100, 125.0: 50, 130.0: 100})
    play({10.0: 81, 20.0: 82}, whole_job=True)
    said = [line.split(" · ")[2:] for line in capsys.readouterr().out.splitlines()]
    assert said == [["1 min 00 s left"], [], ["5 s left"], [], ["3 min 10 s left"], ["3 min 00 s left"]]


def test_the_first_the_last_and_one_line_an_interval_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    shown = progress.Progress("x", interval=60)
    for done in range(1, 11):
        shown.update(done, 10)
    assert [line.split(" · ")[1] for line in capsys.readouterr().out.splitlines()] == ["1/10", "10/10"]


@pytest.mark.parametrize(("seconds", "said"), [(59.4, "59 s"), (75.2, "1 min 15 s"), (7300, "2 h 01 min")])
def test_durations_are_rounded_to_what_a_person_reads(seconds: float, said: str) -> None:
    assert progress.duration(seconds) == said
