"""Progress that a person can read: which run of how many, which step, how much time is left.

The workflow keeps a JSON file of the jobs that it has to do (``harness.workflow.watch``) and passes its path in
``BEAMLORA_PROGRESS``; in the folder beside it jobs say how far they are. Without it a job reports on itself alone.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from harness.files import write_text
from harness.time_left import Job, Report, time_left

ENVIRONMENT_VARIABLE = "BEAMLORA_PROGRESS"


def duration(seconds: float) -> str:
    """``75.2`` -> ``1 min 15 s``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _job_file(plan: Path, title: str) -> Path:
    return plan.with_suffix("") / f"{title.replace('/', ' ')}.json"


def _reports(plan: Path, title: str) -> dict[str, Any]:
    """What a job has written of itself: ``first`` and ``last`` of ``Job``."""
    try:
        reports = json.loads(_job_file(plan, title).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return {name: Report(**report) for name, report in reports.items()}


def _plan_file() -> Path | None:
    """Where the workflow that started this process keeps its plan; None without one."""
    path = os.environ.get(ENVIRONMENT_VARIABLE)
    return Path(path) if path and Path(path).exists() else None


@dataclass(frozen=True)
class Plan:
    """What one invocation of the workflow is about."""

    #: Runs that its target is made of, those that were there already included.
    runs: int
    #: Id -> the jobs that it starts and that take time, in the order of their ids.
    jobs: dict[int, Job]

    @classmethod
    def read(cls, path: Path) -> Plan:
        """The plan in a file of ``write``, with what the jobs say of themselves."""
        content = json.loads(path.read_text(encoding="utf-8"))
        jobs = [Job(**{**job, "kind": tuple(job["kind"]), "after": tuple(job["after"])}) for job in content["jobs"]]
        told = [job if job.started is None else replace(job, **_reports(path, job.title)) for job in jobs]
        return cls(runs=content["runs"], jobs={job.id: job for job in told})

    def write(self, path: Path) -> None:
        """Replace the file; a job that reads meanwhile reads the old one."""
        write_text(path, json.dumps({"runs": self.runs, "jobs": [asdict(job) for job in self.jobs.values()]}))


def overall() -> str:
    """``12 of 90 runs done, about 14 min left in all``; empty without a plan."""
    path = _plan_file()
    if path is None:
        return ""
    try:
        plan = Plan.read(path)
    except (OSError, ValueError, KeyError, TypeError):
        return ""  # gone, or of sources that were changed meanwhile: no reason to end a training
    jobs = list(plan.jobs.values())
    parts = []
    if plan.runs:
        pending = {job.run for job in jobs if not job.done} - {None}
        parts.append(f"{plan.runs - len(pending)} of {plan.runs} runs done")
    left = time_left(jobs, time.time())
    if left:
        parts.append(f"about {duration(left)} left in all")
    return ", ".join(parts)


class Progress:
    """Prints a line at the first update, at the last, and at most every ``interval`` seconds between them.

    Args:
        whole_job: the units, counted one by one, are those of the whole job, and the first ones may have been done by an
            earlier attempt. Else each of its parts begins again at 0.
    """

    def __init__(self, title: str, *, interval: float = 5.0, whole_job: bool = False) -> None:
        self.title = title
        self.interval = interval
        self.whole_job = whole_job
        #: Of the current part: when it began, the units that were done by then, and those that are done.
        self.started = time.monotonic()
        self._begun: int | None = None if whole_job else 0
        self._first: Report | None = None
        self._done = 0
        self._updated = self.started
        self._printed = -float("inf")

    def update(self, done: int, total: int, note: str = "") -> None:
        """Report that ``done`` of ``total`` units (optimizer steps, prompts) are finished."""
        now = time.monotonic()
        if self._begun is None:
            self._begun = done - 1
        elif done <= self._done:
            self.started = self._updated
        self._done, self._updated = done, now
        if done < total and now - self._printed < self.interval:
            return
        self._printed = now
        if self.whole_job:
            self._tell(done / total)
        left = f"{duration((now - self.started) / (done - self._begun) * (total - done))} left" if 0 < done < total else ""
        parts = [self.title, f"{done}/{total}", note, left, overall()]
        print(" · ".join(part for part in parts if part), flush=True)

    def _tell(self, share: float) -> None:
        """Let every job's estimate know how far this one is."""
        last = Report(when=time.time(), share=share)
        self._first = self._first or last
        plan = _plan_file()
        if plan is not None:
            write_text(_job_file(plan, self.title), json.dumps({"first": asdict(self._first), "last": asdict(last)}))
