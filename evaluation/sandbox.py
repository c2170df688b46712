"""Run programs that a model wrote against tests, without trusting them.

Three processes. The caller hands jobs to *testers* (``evaluation.sandbox_tester``), one per worker, which are trusted
and hold the tests. For every job a tester starts a *child* (``evaluation.sandbox_child``): a confined process
(``evaluation.confinement``) that holds the program only, is sent calls with plain arguments and replies with plain
data. Expected values never enter the child and results are compared outside it, so lying ``__eq__`` methods, frame
walking, early exits and forged messages cannot make a wrong program pass.

``python -m evaluation.sandbox FILE.py --tests TESTS.json`` runs one program; see ``main``.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evaluation import confinement

OUTCOMES = ("passed", "failed", "timed_out", "out_of_memory", "forbidden")
_START_UP_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of one program and the number of programs that run at once."""

    #: Wall-clock seconds from when the program is handed over until the last test.
    timeout_s: float = 3.0
    #: Address space, MiB.
    memory_mb: int = 1024
    #: Programs at once; None: the processors this process may use.
    workers: int | None = None

    def as_dict(self) -> dict[str, float]:
        """The limits that belong in a record."""
        return {"timeout_s": self.timeout_s, "memory_mb": self.memory_mb}


@dataclass(frozen=True, kw_only=True)
class Job:
    """A program and its tests: either ``tests`` (Python statements that call the program's functions and assert) or
    ``inputs`` and ``expected`` (values of ``entry_point``)."""

    source: str
    tests: str = ""
    #: Trusted source run before ``tests``, whose imports and helper functions they may use.
    reference: str = ""
    #: Functions of the program that the tests call, and values of it that they read.
    names: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    entry_point: str | None = None
    inputs: tuple[Any, ...] = ()
    expected: tuple[Any, ...] = ()
    atol: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a program's run ended. ``detail`` is for people: an exception's class, or the number of the failed test."""

    outcome: str
    detail: str
    seconds: float


def level() -> str:
    """The layers of isolation in use, such as ``rlimits+nobody+landlock+seccomp``."""
    return confinement.level()


def run_all(jobs: Sequence[Job], *, limits: Limits | None = None) -> list[Result]:
    """Run jobs, several at once, and return their results in order. A job that times out is run once more alone, so
    that a busy machine does not make a program wrong."""
    limits = limits or Limits()
    workers = min(limits.workers or len(os.sched_getaffinity(0)), max(len(jobs), 1))
    testers = [_Tester() for _ in range(workers)]
    idle = list(testers)
    lock = threading.Lock()

    def run_one(job: Job) -> Result:
        with lock:
            tester = idle.pop()
        try:
            return tester.run(job, limits)
        finally:
            with lock:
                idle.append(tester)

    try:
        with ThreadPoolExecutor(workers) as pool:
            results = list(pool.map(run_one, jobs))
        return [
            testers[0].run(job, limits) if workers > 1 and result.outcome == "timed_out" else result
            for job, result in zip(jobs, results, strict=True)
        ]
    finally:
        for tester in testers:
            tester.close()


def run(job: Job, *, limits: Limits | None = None) -> Result:
    """Run one job."""
    return run_all([job], limits=limits)[0]


class _Tester:
    """A tester process, started on first use and again after it died or hung."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, job: Job, limits: Limits) -> Result:
        if self._process is None or self._process.poll() is not None:
            self._process = self._start()
        request = asdict(job) | {"limits": limits.as_dict()}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        # The tester ends a program at its limit; this is the limit of the tester.
        reply = self._read(limits.timeout_s + _START_UP_S)
        if reply is None:
            self.close()
            return Result(outcome="timed_out", detail="the tests did not end", seconds=limits.timeout_s)
        return Result(**reply)

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-s", "-m", "evaluation.sandbox_tester"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=Path(__file__).resolve().parent.parent,
            start_new_session=True,
            env={"PATH": os.defpath, "PYTHONHASHSEED": "0"},
        )

    def _read(self, timeout_s: float) -> dict[str, Any] | None:
        assert self._process is not None and self._process.stdout is not None
        data = b""
        while not data.endswith(b"\n"):
            ready, _, _ = select.select([self._process.stdout], [], [], timeout_s)
            chunk = os.read(self._process.stdout.fileno(), 1 << 16) if ready else b""
            if not chunk:
                return None
            data += chunk
        return json.loads(data)


# -------------------------------------------------------------------------------------------------------- command line


def _job_from_files(source: Path, tests: Path) -> tuple[Job, Limits]:
    spec = json.loads(tests.read_text(encoding="utf-8"))
    known = {"entry_point", "inputs", "expected", "atol", "timeout_s", "memory_mb"}
    if not isinstance(spec, dict) or set(spec) - known or {"entry_point", "inputs", "expected"} - set(spec):
        raise ValueError(
            f"{tests}: found keys {sorted(spec)}, expected entry_point, inputs, expected and optionally "
            "atol, timeout_s, memory_mb"
        )
    if len(spec["inputs"]) != len(spec["expected"]):
        raise ValueError(
            f"{tests}: found {len(spec['inputs'])} inputs and {len(spec['expected'])} expected values, expected equally many"
        )
    for row, arguments in enumerate(spec["inputs"]):
        if not isinstance(arguments, list):
            raise ValueError(f"{tests}: inputs[{row}]: found {type(arguments).__name__}, expected a list of arguments")
    job = Job(
        source=source.read_text(encoding="utf-8", errors="surrogateescape"),
        entry_point=spec["entry_point"],
        inputs=tuple(spec["inputs"]),
        expected=tuple(spec["expected"]),
        atol=float(spec.get("atol", 0)),
    )
    limits = Limits(
        timeout_s=float(spec.get("timeout_s", Limits.timeout_s)),
        memory_mb=int(spec.get("memory_mb", Limits.memory_mb)),
        workers=1,
    )
    return job, limits


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one JSON object with ``outcome`` on the last line; exit status 0 whatever it is, 2 on bad arguments."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.sandbox", description="Run an untrusted Python program.")
    parser.add_argument("file", type=Path, metavar="FILE.py")
    parser.add_argument(
        "--tests",
        type=Path,
        required=True,
        metavar="TESTS.json",
        help="entry_point, inputs, expected; optional atol, timeout_s, memory_mb",
    )
    args = parser.parse_args(arguments)
    try:
        job, limits = _job_from_files(args.file, args.tests)
    except (OSError, ValueError, TypeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(asdict(run(job, limits=limits)) | limits.as_dict() | {"level": level()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
