"""The time that a workflow still takes: exact where durations are known, within a third on workflows that are played."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from harness.time_left import Job, Report, expected_seconds, time_left


def job(id: int, *kind: str, work: float = 1, share: float = 0.5, after: tuple[int, ...] = (), **state: Any) -> Job:
    kind = kind if kind[0] == "seconds" else ("tokens", *kind)
    return Job(id=id, title=str(id), run=None, kind=kind, work=work, share=share, after=after, **state)


def test_a_job_is_expected_at_the_pace_of_those_most_like_it() -> None:
    jobs = [
        job(0, "training", "train", "a", "math", "lora", work=10, started=0, ended=20),
        job(1, "training", "train", "a", "code", "lora", work=10, started=0, ended=60),
        job(2, "answering", "evaluate", "a", "math", "lora", work=5, started=0, ended=5),
        job(3, "training", "train", "a", "math", "lora", work=30),
        job(4, "training", "train", "a", "math", "dora", work=10),
        job(5, "training", "train", "b", "math", "lora", work=10),
        job(6, "answering", "prune", "a", "math", "lora", work=50),
        job(7, "translating", "a", work=10),
        job(8, "seconds", "figure", "one", work=5),
    ]
    expected = expected_seconds(jobs)
    assert expected is not None
    # Its own seed's; its domain's; the rule's, (20 + 60) / 20; the activity's; everything's, 85 / 25; as elsewhere.
    assert [expected[id] for id in range(3, 9)] == [60, 20, 40, 50, 34, 5]


def test_what_runs_no_model_takes_as_long_as_elsewhere_until_one_of_its_like_has_ended() -> None:
    waiting = [job(1, "seconds", "figure", "two", work=5), job(2, "seconds", "report", work=10)]
    assert expected_seconds(waiting) == {1: 5, 2: 10}
    drawn = job(0, "seconds", "figure", "one", work=5, started=0, ended=15)
    assert expected_seconds([drawn, *waiting]) == {0: 15, 1: 15, 2: 30}
    # Of training nothing is known: seconds say nothing of tokens.
    assert expected_seconds([drawn, *waiting, job(3, "train")]) is None


def test_nothing_is_said_before_a_job_has_finished_nor_learnt_from_one_that_failed() -> None:
    assert time_left([job(0, "train", started=0), job(1, "train")], now=50) is None
    assert time_left([job(0, "train", started=0, ended=1, failed=True), job(1, "train")], now=50) is None


FINISHED = job(0, "train", started=0, ended=10)


@pytest.mark.parametrize(
    ("jobs", "seconds"),
    [
        ([], 0),
        ([job(1, "train"), job(2, "train"), job(3, "train")], 20),  # two at a time
        ([job(1, "train", share=1.0), job(2, "train", share=1.0)], 20),  # one GPU
        ([job(1, "train", share=1 / 3), job(2, "train", share=1 / 3), job(3, "train", share=1 / 3)], 10),
        ([job(1, "train", started=94)], 4),  # six seconds of ten have passed
        ([job(1, "train", started=80)], 0),  # any moment now
        ([job(1, "train"), job(2, "train", after=(1,)), job(3, "train", after=(2,))], 30),  # one waits for the other
        ([job(1, "train", started=94, share=1.0), job(2, "train", after=(0,))], 14),
        ([job(1, "train", work=3, share=1.0), job(2, "train", after=(0,)), job(3, "train", after=(2,))], 50),
        # What waits for a failed job never starts.
        ([job(1, "train", started=0, ended=5, failed=True), job(2, "train", after=(1,)), job(3, "train", after=(2,))], 0),
    ],
)
def test_the_jobs_that_are_left_are_played_through(jobs: list[Job], seconds: float) -> None:
    assert time_left([FINISHED, *jobs], now=100) == pytest.approx(seconds)


def test_a_running_job_tells_how_fast_it_is() -> None:
    """Ten seconds to start, then a hundredth a second; a resumed one has done half by then and is as fast."""
    told = {"first": Report(when=10, share=0.0), "last": Report(when=60, share=0.5)}
    running = job(0, "training", "train", work=100, started=0, **told)
    assert expected_seconds([running, job(1, "training", "train", work=30)]) == {0: 110, 1: 33}
    assert time_left([running], now=70) == 40
    told = {"first": Report(when=10, share=0.5), "last": Report(when=30, share=0.7)}
    resumed = job(0, "training", "train", work=100, started=0, **told)
    assert expected_seconds([resumed]) == {0: pytest.approx(110)}
    assert time_left([resumed], now=30) == pytest.approx(30)
    assert expected_seconds([replace(resumed, ended=60)]) == {0: pytest.approx(110)}


# ------------------------------------------------------------------------------------------------------------ simulation

#: Seconds for a unit of work; a process start is added to each job. The estimate knows neither.
PACE = {"full-ft": 1.6, "lora": 1.0, "dora": 1.5, "relora": 1.1, "adalora": 1.4, "beamlora": 1.2}
SIZE = {"base": 1.0, "large": 1.7}
WORK = {"math": 60.0, "code": 40.0}
START_SECONDS = 8.0


def workflow(seeds: int, share: float) -> list[Job]:
    """A table: two base models, and on each every method in both domains, trained and evaluated."""
    jobs = [job(0, "training", "base_model", "base", work=100, share=share)]
    jobs.append(job(1, "training", "base_model", "large", work=100, share=share))
    for base, model in enumerate(SIZE):
        for domain, work in WORK.items():
            for method in PACE:
                for _ in range(seeds):
                    id = len(jobs)
                    names = (model, domain, method)
                    jobs.append(job(id, "training", "train", *names, work=work, share=share, after=(base,)))
                    jobs.append(job(id + 1, "answering", "evaluate", *names, work=25, share=share, after=(id,)))
    return jobs


def rendered(jobs: list[Job], figures: int) -> list[Job]:
    """A workflow that ends with figures of all its runs and a report of the figures: none of them runs a model."""
    share, runs = jobs[0].share, tuple(one.id for one in jobs)
    drawn = [job(len(runs) + n, "seconds", "figure", str(n), work=5, share=share, after=runs) for n in range(figures)]
    report = job(len(runs) + figures, "seconds", "report", work=15, share=share, after=tuple(one.id for one in drawn))
    return [*jobs, *drawn, report]


def true_seconds(one: Job, chance: random.Random) -> float:
    """How long a job really takes: one like another give or take a tenth, evaluations half as long again as they weigh."""
    if one.kind[0] == "seconds":
        return one.work * chance.uniform(1, 1.5)
    method = one.kind[5] if len(one.kind) > 5 else "lora"
    pace = (1.5 if one.kind[1] == "answering" else PACE[method]) * SIZE[one.kind[3]]
    return START_SECONDS + one.work * pace * chance.lognormvariate(0, 0.1)


class Played:
    """A workflow from its start to its end: base models first, the other ready jobs in no particular order."""

    def __init__(self, jobs: list[Job], chance: random.Random) -> None:
        self.seconds = {one.id: true_seconds(one, chance) for one in jobs}
        state = {one.id: one for one in jobs}
        #: (time, the jobs as they are from then on) of every end, and of the beginning.
        self.moments: list[tuple[float, list[Job]]] = []
        clock = 0.0
        while True:
            running = [one for one in state.values() if one.started is not None and one.ended is None]
            ready = [one for one in state.values() if one.started is None and all(state[id].done for id in one.after)]
            ready.sort(key=lambda one: ("base_model" in one.kind, chance.random()))
            while ready and sum(one.share for one in running) + ready[-1].share <= 1 + 1e-9:
                running.append(replace(ready.pop(), started=clock))
                state[running[-1].id] = running[-1]
            self.moments.append((clock, list(state.values())))
            if not running:
                break
            first = min(running, key=self._end)
            clock = self._end(first)
            state[first.id] = replace(first, ended=clock)
        self.total = clock

    def _end(self, one: Job) -> float:
        assert one.started is not None
        return one.started + self.seconds[one.id]

    def at(self, now: float) -> list[Job]:
        """The jobs as they are known at a time; the running ones that train say how far they are."""
        state = next(state for when, state in reversed(self.moments) if when <= now)
        return [replace(one, **self._reports(one, now)) for one in state]

    def _reports(self, one: Job, now: float) -> dict[str, Report]:
        if one.started is None or "training" not in one.kind or now < one.started + START_SECONDS:
            return {}
        first = Report(when=one.started + START_SECONDS, share=0.0)
        share = min(1.0, (now - first.when) / (self.seconds[one.id] - START_SECONDS))
        return {"first": first, "last": Report(when=now, share=share)}

    def worst_error(self, *, until: float = 0.9) -> float:
        """Largest relative error of the estimate from the end of the first tenth of the time on."""
        errors = []
        for now in (self.total * thousandths / 1000 for thousandths in range(100, round(1000 * until) + 1, 5)):
            left = time_left(self.at(now), now)
            assert left is not None
            errors.append(abs(left / (self.total - now) - 1))
        return max(errors)


@pytest.mark.parametrize("slots", [1, 2, 4])
@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3, 4))])
def test_after_the_first_tenth_it_is_right_within_a_third(slots: int, seed: int) -> None:
    assert Played(workflow(3, 1 / slots), random.Random(seed)).worst_error() < 1 / 3


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("seed", range(5))
def test_a_short_workflow_that_ends_with_many_figures_is_right_too(slots: int, seed: int) -> None:
    """Figures and report are about a fifth of it."""
    jobs = [replace(one, work=one.work / 5) for one in workflow(1, 1 / slots)]
    played = Played(rendered(jobs, figures=35), random.Random(seed))
    drawing = sum(seconds for id, seconds in played.seconds.items() if id >= len(jobs))
    assert 0.15 < drawing / sum(played.seconds.values()) < 0.25
    assert played.worst_error() < 1 / 3


@pytest.mark.parametrize("seed", range(5))
def test_it_does_not_wait_for_the_end_of_long_jobs(seed: int) -> None:
    """24 runs of hours on eight GPUs, three after one another: right before the first job ends."""
    played = Played([replace(one, work=100 * one.work) for one in anew(workflow(1, 1 / 8)[2:])], random.Random(seed))
    now = min(one.ended for one in played.moments[-1][1]) - 1
    left = time_left(played.at(now), now)
    assert left is not None and abs(left / (played.total - now) - 1) < 1 / 3


def anew(jobs: list[Job]) -> list[Job]:
    """The jobs as another invocation finds them: none has started, and what is not among them is there."""
    ids = {one.id for one in jobs}
    return [replace(one, started=None, first=None, last=None, after=tuple(ids.intersection(one.after))) for one in jobs]


@pytest.mark.parametrize("interrupted", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("slots", [1, 2])
def test_a_resumed_workflow_counts_what_is_left_of_it(slots: int, interrupted: float) -> None:
    """Begun anew with the jobs that are left: what the first attempt took is of no account. In the last fifth of a short
    rest two or three jobs decide."""
    chance = random.Random(slots)
    first = Played(workflow(3, 1 / slots), chance)
    rest = anew([one for one in first.at(interrupted * first.total) if one.ended is None])
    assert 0 < len(rest) < len(first.seconds)
    assert Played(rest, chance).worst_error(until=0.8) < 1 / 3
