"""How long a workflow still takes, from what it has done so far. No torch.

A job is expected to take its work times the pace of the jobs that are most like it, finished or, where they say how far they
are, running; those that are left are then played through, each as soon as what it needs is done and there is room for it.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Report:
    """How far a running job said it was: the share of all its work, an earlier attempt's included."""

    #: Seconds since the epoch.
    when: float
    share: float


@dataclass(frozen=True, kw_only=True)
class Job:
    """One job that the workflow starts, and what has become of it."""

    id: int
    #: As in its own progress lines.
    title: str
    #: The run that it trains or evaluates; None for one of no run, such as a base model's.
    run: str | None
    #: The unit of its work, ``tokens`` or ``seconds``, and what its pace depends on, the most telling first: activity, rule,
    #: model, domain, method.
    kind: tuple[str, ...]
    #: Tokens through the model, or as good as (``harness.workflow.workload``); of a job that runs none, the seconds it took
    #: elsewhere.
    work: float
    #: How much of the machine it takes, of 1: one of two cores is 0.5, the only GPU 1.
    share: float
    #: The jobs that it waits for.
    after: tuple[int, ...]
    #: Seconds since the epoch; None: not yet.
    started: float | None = None
    ended: float | None = None
    failed: bool = False
    #: What it says itself, None where it says nothing: when its first report came, and when its last.
    first: Report | None = None
    last: Report | None = None

    @property
    def done(self) -> bool:
        return self.ended is not None and not self.failed

    def pace(self) -> tuple[float, float] | None:
        """Seconds that all of its work takes, the start of the process included, and how much of it has shown that, of 1; None
        as long as nothing has."""
        if self.started is None or self.failed:
            return None
        if self.first is None or self.last is None:
            return None if self.ended is None else (self.ended - self.started, 1.0)
        end = self.last if self.ended is None else Report(when=self.ended, share=1.0)
        shown = end.share - self.first.share
        if shown <= 0:
            return None
        return self.first.when - self.started + (end.when - self.first.when) / shown, shown

    def left(self, expected: float, now: float) -> float:
        """Seconds until it ends.

        Args:
            expected: seconds for all of its work.
            now: seconds since the epoch.
        """
        if self.started is None:
            return expected
        if self.first is None or self.last is None or self.last.share <= self.first.share or self.last.when <= self.first.when:
            return max(0.0, expected - (now - self.started))
        speed = (self.last.share - self.first.share) / (self.last.when - self.first.when)
        return max(0.0, (1 - self.last.share) / speed - (now - self.last.when))


def expected_seconds(jobs: Sequence[Job]) -> dict[int, float] | None:
    """Id -> seconds for all of the job's work, by the pace of those whose kind shares the longest beginning with its own; None
    while there are jobs whose work is in a unit of which no pace is known."""
    seconds: dict[tuple[str, ...], float] = defaultdict(float)
    work: dict[tuple[str, ...], float] = defaultdict(float)
    for job in jobs:
        pace = job.pace()
        if pace is None:
            continue
        for length in range(1, len(job.kind) + 1):
            seconds[job.kind[:length]] += pace[0] * pace[1]
            work[job.kind[:length]] += job.work * pace[1]
    elsewhere = ("seconds",)
    if elsewhere not in seconds:
        seconds[elsewhere] = work[elsewhere] = 1.0
    if any(job.kind[:1] not in seconds for job in jobs):
        return None

    def expect(job: Job) -> float:
        known = next(job.kind[:length] for length in range(len(job.kind), 0, -1) if job.kind[:length] in seconds)
        return job.work * seconds[known] / work[known]

    return {job.id: expect(job) for job in jobs}


def time_left(jobs: Sequence[Job], now: float) -> float | None:
    """Seconds until the last job that can still finish has finished; None as ``expected_seconds``.

    Args:
        jobs: all that the workflow starts, in the order in which it would rather start them.
        now: seconds since the epoch.
    """
    expected = expected_seconds(jobs)
    if expected is None:
        return None
    return _play(jobs, {job.id: job.left(expected[job.id], now) for job in jobs if job.ended is None})


#: Less of the machine than any job takes: 1 - 3 x 1/3 is not quite 0.
_NOTHING = 1e-9


def _play(jobs: Sequence[Job], left: Mapping[int, float]) -> float:
    """Seconds for the jobs of ``left``, which are running or not started. What waits for a failed job never starts."""
    done = {job.id for job in jobs if job.done}
    running = [(left[job.id], job.id) for job in jobs if job.id in left and job.started is not None]
    heapq.heapify(running)
    shares = {job.id: job.share for job in jobs}
    free = 1 - sum(shares[id] for _, id in running)
    waiting = [job for job in jobs if job.id in left and job.started is None]
    clock = 0.0
    while True:
        for job in tuple(waiting):
            if free < _NOTHING:
                break
            if job.share < free + _NOTHING and done.issuperset(job.after):
                waiting.remove(job)
                heapq.heappush(running, (clock + left[job.id], job.id))
                free -= job.share
        if not running:
            return clock
        clock, finished = heapq.heappop(running)
        done.add(finished)
        free += shares[finished]
