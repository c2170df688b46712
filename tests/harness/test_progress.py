"""What a job says of itself and of the whole invocation."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from harness import progress


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Six planned files of an invocation that begins now."""
    found = [tmp_path / f"run{number}.json" for number in range(6)]
    progress.write_plan(tmp_path / "plan" / "tiny.json", found)
    monkeypatch.setenv(progress.ENVIRONMENT_VARIABLE, str(tmp_path / "plan" / "tiny.json"))
    return found


def made(path: Path, *, seconds_ago: float) -> None:
    path.write_text("{}")
    os.utime(path, (time.time() - seconds_ago,) * 2)


def test_without_a_plan_a_job_speaks_of_itself(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv(progress.ENVIRONMENT_VARIABLE, raising=False)
    progress.Progress("train x").update(3, 10, "loss 1.0")
    assert capsys.readouterr().out.startswith("train x · 3/10 · loss 1.0 · ")


def test_only_the_pace_of_this_invocation_counts(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    assert progress.overall() == "0 of 6 runs done"
    made(files[0], seconds_ago=1e6)
    assert progress.overall() == "1 of 6 runs done"
    started = time.time()
    monkeypatch.setattr(progress.time, "time", lambda: started + 3600)
    made(files[1], seconds_ago=120)
    assert progress.overall() == "2 of 6 runs done"
    made(files[2], seconds_ago=60)
    assert progress.overall() == "3 of 6 runs done, about 6 min 00 s left in all"


def test_the_first_the_last_and_one_line_an_interval_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    shown = progress.Progress("x", interval=60)
    for done in range(1, 11):
        shown.update(done, 10)
    assert [line.split(" · ")[1] for line in capsys.readouterr().out.splitlines()] == ["1/10", "10/10"]


@pytest.mark.parametrize(("seconds", "said"), [(59.4, "59 s"), (75.2, "1 min 15 s"), (7300, "2 h 01 min")])
def test_durations_are_rounded_to_what_a_person_reads(seconds: float, said: str) -> None:
    assert progress.duration(seconds) == said
