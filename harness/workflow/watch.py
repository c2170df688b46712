"""Snakemake's side of the progress line: what this invocation starts, and when each job starts and ends. No torch."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snakemake_interface_logger_plugins.common import LogEvent

from harness import progress
from harness.time_left import Job
from harness.workflow.dag import Dag
from harness.workflow.workload import Workload

if TYPE_CHECKING:
    from snakemake.workflow import Workflow

#: The rules that make a run: it is done when all of them that were to be done are.
_RUN_RULES = ("train", "evaluate")


def _run_of(job: Any) -> str | None:
    w = job.wildcards
    return f"{w.domain}/{w.model}/{w.method}/seed{w.seed}" if job.rule.name in _RUN_RULES else None


def _share(job: Any, capacity: dict[str, int]) -> float:
    """How much a job takes of what there is least of."""
    needed = {name: job.resources.get(name, 0) for name in capacity}
    return max(needed[name] / capacity[name] for name in capacity if needed[name])


def plan_of(dag: Dag, workflow: Workflow) -> progress.Plan:
    """What a workflow is about to do."""
    workload = Workload(dag)
    due = {job: work for job in workflow.dag.needrun_jobs() if (work := workload.of(job.rule.name, job.wildcards))}
    jobs = [
        Job(
            id=job.jobid,
            title=work.title,
            run=_run_of(job),
            kind=work.kind,
            work=work.amount,
            share=_share(job, workflow.scheduler.global_resources),
            after=tuple(sorted(other.jobid for other in workflow.dag.dependencies[job] if other in due)),
        )
        for job, work in due.items()
    ]
    runs = {_run_of(job) for job in workflow.dag.jobs} - {None}
    return progress.Plan(runs=len(runs), jobs={job.id: job for job in sorted(jobs, key=lambda job: job.id)})


def runs_at_once(workflow: Workflow) -> int:
    """How many runs can be in hand at a time: as many as have a job to do, and no more than cores, GPUs or submitted jobs
    allow."""
    due = [job for job in workflow.dag.needrun_jobs() if _run_of(job)]
    capacity = workflow.scheduler.global_resources
    most = max((math.floor(1 / _share(job, capacity) + 1e-6) for job in due), default=0)
    return min(len({_run_of(job) for job in due}), most)


class Watch(logging.Handler):
    """Writes down what Snakemake starts and ends, from the events that it logs."""

    def __init__(self, path: Path, plan: progress.Plan) -> None:
        super().__init__()
        self.path = path
        self.plan = plan
        plan.write(path)

    def emit(self, record: logging.LogRecord) -> None:
        """Take note of one event. A disk that is full is no reason to stop a workflow."""
        try:
            if self._note(record):
                self.plan.write(self.path)
        except OSError:
            self.handleError(record)

    def _note(self, record: Any) -> bool:
        """``record``: a ``logging.LogRecord`` with the fields that Snakemake gives to its event."""
        event, now = getattr(record, "event", None), time.time()
        if event == LogEvent.JOB_STARTED:
            return self._change(record.jobs, started=now)
        if event == LogEvent.JOB_FINISHED:
            return self._change([record.job_id], ended=now)
        if event == LogEvent.JOB_ERROR:
            return self._change([record.jobid], ended=now, failed=True)
        return False

    def _change(self, ids: list[int], **change: Any) -> bool:
        known = [id for id in ids if id in self.plan.jobs]
        for id in known:
            self.plan.jobs[id] = replace(self.plan.jobs[id], **change)
        return bool(known)


def watch(dag: Dag, workflow: Workflow) -> None:
    """Tell the jobs what this invocation is about, so that they can say how much is done. For ``onstart``."""
    from snakemake.logging import logger

    logger.addHandler(Watch(dag.progress_file, plan_of(dag, workflow)))
