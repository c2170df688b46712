"""What a workflow costs beside its work: the CPU time of Snakemake itself, and of process starts and imports.

The Snakefile names a file in ``BEAMLORA_CPU_TIMES``. Every command that runs below it appends a line of its own (``counted``,
called by ``cli.run``), Snakemake's process the last ones: one for the process that imported for the jobs forked from it, and
one for itself. CPU time is user and system time in seconds, and per process, so that it means the same on a busy machine; jobs
on other machines are not measured.
"""

from __future__ import annotations

import builtins
import contextlib
import json
import os
import resource
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.progress import duration

ENVIRONMENT_VARIABLE = "BEAMLORA_CPU_TIMES"


class ImportClock:
    """Stands in for ``builtins.__import__`` and adds up the CPU time of the imports in the thread that made it.

    Of 9.06 s that one evaluation's imports took, it saw 9.02 s; the rest went through ``importlib.import_module``.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._import = builtins.__import__
        self._thread = threading.get_ident()
        self._inside = False

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        if self._inside or threading.get_ident() != self._thread:
            return self._import(*arguments, **named)
        self._inside, start = True, time.thread_time()
        try:
            return self._import(*arguments, **named)
        finally:
            self._inside = False
            self.seconds += time.thread_time() - start

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Count the imports of the block."""
        builtins.__import__ = self
        try:
            yield
        finally:
            builtins.__import__ = self._import


@contextlib.contextmanager
def counted() -> Iterator[None]:
    """Below a workflow, count what this process spent before the block, which is its start, and on the block's imports."""
    path = os.environ.get(ENVIRONMENT_VARIABLE)
    if path is None:
        yield
        return
    start, imports = time.process_time(), ImportClock()
    try:
        with imports.running():
            yield
    finally:
        with contextlib.suppress(OSError):  # a job does not fail for its cost
            _append(Path(path), {"start_s": start, "imports_s": imports.seconds})


def _append(path: Path, line: dict[str, float]) -> None:
    """One write, so that lines of processes that end together do not mix."""
    with path.open("ab", buffering=0) as stream:
        stream.write(json.dumps(line).encode() + b"\n")


def _children() -> float:
    """CPU time of all descendants that have ended and were waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class WorkflowClock:
    """Measures a workflow in Snakemake's own process, from when the Snakefile is read to ``stop``."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
        os.environ[ENVIRONMENT_VARIABLE] = str(path.absolute())
        self._path = path
        self._start = time.process_time()
        self._wall = time.monotonic()
        self._jobs = _children()

    def stop(self, *, preloading_s: float = 0.0) -> None:
        """Write down what Snakemake and all processes below it took.

        Args:
            preloading_s: CPU time of the process that imported for the jobs that were forked from it; it has ended.
        """
        if preloading_s:
            _append(self._path, {"start_s": preloading_s, "imports_s": 0.0})
        line = {
            "wall_s": time.monotonic() - self._wall,
            "snakemake_start_s": self._start,
            "snakemake_s": time.process_time() - self._start,
            "jobs_s": _children() - self._jobs,
        }
        _append(self._path, line)


@dataclass(frozen=True, kw_only=True)
class Overhead:
    """CPU time of a workflow, and its wall time, in seconds."""

    wall_s: float
    #: Snakemake's start and imports, before the wall time counts.
    snakemake_start_s: float
    snakemake_s: float
    #: Starts and imports of the commands below it, and how many of them said so.
    starts_s: float
    processes: int
    #: All processes below Snakemake together.
    jobs_s: float

    @property
    def work_s(self) -> float:
        """What the processes did but start and import; the shells that started them are in it."""
        return self.jobs_s - self.starts_s

    @property
    def all_s(self) -> float:
        """The workflow, its work included."""
        return self.snakemake_start_s + self.snakemake_s + self.jobs_s

    def sentence(self) -> str:
        """For the terminal. A share of 100 % is one core kept busy all the time."""

        def share(seconds: float) -> str:
            return f"{100 * seconds / self.wall_s:.1f} %"

        return (
            f"Overhead: CPU time in shares of the {duration(self.wall_s)} that this run took (one busy core is 100 %): "
            f"Snakemake {share(self.snakemake_s)} ({duration(self.snakemake_s)}, and {duration(self.snakemake_start_s)} to "
            f"start it), starts and imports of {self.processes} processes {share(self.starts_s)} ({duration(self.starts_s)}), "
            f"their work {share(self.work_s)} ({duration(self.work_s)})."
        )


def measured() -> Overhead | None:
    """The workflow that runs this process, as far as its clock was stopped; None where nothing was measured."""
    path = os.environ.get(ENVIRONMENT_VARIABLE)
    return None if path is None or not Path(path).exists() else read(Path(path))


def read(path: Path) -> Overhead | None:
    """What a workflow wrote down there; None where its clock was not stopped."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    workflow = next((line for line in lines if "wall_s" in line), None)
    if workflow is None:
        return None
    starts = [line["start_s"] + line["imports_s"] for line in lines if "start_s" in line]
    return Overhead(**workflow, starts_s=sum(starts), processes=len(starts))
