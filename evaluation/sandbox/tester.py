"""The trusted side of the sandbox: holds the tests, drives an isolated child, and decides. See ``evaluation.sandbox``."""

from __future__ import annotations

import contextlib
import math
import os
import pickle
import resource
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from evaluation.sandbox import confinement, isolation
from evaluation.sandbox.bubblewrap import Missing
from evaluation.sandbox.process import Child, Ended, ProgramError

_STARTS = 3
_MEMORY_BYTES = 4 << 30


def run_assertions(child: Child, request: dict[str, Any]) -> None:
    """Run test statements in this process; each of ``names`` stands for the child's function, or is the child's
    value."""
    namespace: dict[str, Any] = {"__name__": "tests"}
    if request["reference"]:
        exec(compile(request["reference"], "reference.py", "exec"), namespace)
    for name in request["names"]:
        namespace[name] = lambda *args, _name=name, **kwargs: child.call(_name, args, kwargs)
    for name in request["values"]:
        namespace[name] = child.fetch(name)
    exec(compile(request["tests"], "tests.py", "exec"), namespace)


def plain_equal(actual: Any, expected: Any, atol: float) -> bool:
    """EvalPlus's comparison on plain data: equal, or close where ``atol`` is set (or the values are floats, with its
    default 1e-6); a tuple equals a list with the same items, because JSON has no tuples."""
    if isinstance(expected, bool) or isinstance(actual, bool):
        return isinstance(actual, bool | int | float) and isinstance(expected, bool | int | float) and actual == expected
    if isinstance(expected, int | float) and isinstance(actual, int | float):
        tolerance = atol or (1e-6 if isinstance(expected, float) or isinstance(actual, float) else 0.0)
        if isinstance(expected, float) and math.isnan(expected):
            return math.isnan(actual)
        with contextlib.suppress(OverflowError):
            return actual == expected or (tolerance > 0 and math.isclose(actual, expected, rel_tol=1e-7, abs_tol=tolerance))
        return False
    if isinstance(expected, list | tuple) and isinstance(actual, list | tuple):
        return len(actual) == len(expected) and all(
            plain_equal(left, right, atol) for left, right in zip(actual, expected, strict=True)
        )
    if isinstance(expected, dict) and isinstance(actual, dict):
        return actual.keys() == expected.keys() and all(plain_equal(actual[key], expected[key], atol) for key in expected)
    return type(actual) is type(expected) and actual == expected


def run_inputs(child: Child, job: dict[str, Any], outputs: list[tuple[Any, str | None, float]]) -> None:
    """Call the entry point on every input. A job that collects has (value, error, seconds) of each appended to ``outputs``;
    else each value is compared with what is expected, up to the first difference."""
    child.plain_only = True
    end_of_job = child.deadline
    for number, arguments in enumerate(job["inputs"]):
        value, failure, start = None, None, time.monotonic()
        if job["input_timeouts_s"]:
            child.deadline = min(end_of_job, start + job["input_timeouts_s"][number])
        try:
            value = child.call(job["entry_point"], tuple(arguments), {})
        except ProgramError as error:
            failure = str(error)
        except Ended as end:
            raise Ended(end.outcome, f"input {number}: {end.detail}") from None
        if job["collect"]:
            outputs.append((value, failure, round(time.monotonic() - start, 6)))
        elif failure is not None:
            raise Ended("failed", f"input {number}: {failure}")
        elif not plain_equal(value, job["expected"][number], job["atol"]):
            raise Ended("failed", f"input {number}: another value than expected")


def _on_alarm(signum: int, frame: object) -> None:
    raise Ended("timed_out", "time limit")


def _start_child(kind: str, *, timeout_s: float, limits: confinement.ProcessLimits) -> Child:
    """A child ready for its program. A machine short of processes or memory is given time.

    Raises:
        isolation.SandboxUnavailable: it does not start; no program is to blame.
    """
    reason = ""
    for attempt in range(_STARTS):
        time.sleep(attempt)
        try:
            return Child(kind, timeout_s=timeout_s, limits=limits)
        except Ended as end:
            reason = end.detail
        except (OSError, subprocess.SubprocessError, Missing) as error:
            reason = str(error)
    raise isolation.SandboxUnavailable(f"a program could not be started under {kind}: {reason}")


def run_job(kind: str, job: dict[str, Any]) -> dict[str, Any]:
    """Outcome, detail and what was collected."""
    timeout_s = job["timeout_s"]
    limits = confinement.ProcessLimits(cpu_s=math.ceil(timeout_s) + 1, memory_mb=job["memory_mb"])
    child = _start_child(kind, timeout_s=timeout_s, limits=limits)
    outputs: list[tuple[Any, str | None, float]] = []
    try:
        signal.setitimer(signal.ITIMER_REAL, timeout_s + 0.5)
        child.load(job["source"])
        if job["tests"]:
            run_assertions(child, job)
        else:
            run_inputs(child, job, outputs)
        outcome, detail = ("passed", "") if child.end is None else (child.end.outcome, child.end.detail)
    except Ended as end:
        outcome, detail = end.outcome, end.detail
    except BaseException as error:  # tests are trusted code that may raise anything on the program's values
        outcome, detail = "failed", f"{type(error).__name__}: {error}"[:200]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        child.close()
    return {"outcome": outcome, "detail": detail, "outputs": outputs}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The reply to one request: to choose how to isolate, or to run a job."""
    if "choose" in request:
        kind = isolation.choose(request["choose"], allow_unsafe=request["allow_unsafe"])
        return {"isolation": kind, "layers": isolation.layers(kind)}
    start = time.monotonic()
    return run_job(request["isolation"], request) | {"seconds": round(time.monotonic() - start, 4)}


def _requests() -> Iterator[dict[str, Any]]:
    """From standard input, until it is closed: the process that started this one has ended, or needs it no more."""
    while len(size := sys.stdin.buffer.read(4)) == 4:
        yield pickle.loads(sys.stdin.buffer.read(*struct.unpack("!I", size)))


def main() -> None:
    """Answer requests, length-prefixed pickles from and to the process that started this one."""
    if sys.platform == "linux":
        confinement.become_subreaper()
    confinement.lower_limit(resource.RLIMIT_AS, _MEMORY_BYTES, _MEMORY_BYTES)
    sys.setrecursionlimit(5000)
    signal.signal(signal.SIGALRM, _on_alarm)
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what tests print goes nowhere
    for request in _requests():
        try:
            reply = answer(request)
        except isolation.SandboxUnavailable as error:
            reply = {"unavailable": str(error)}
        data = pickle.dumps(reply)
        replies.write(struct.pack("!I", len(data)) + data)
        replies.flush()


if __name__ == "__main__":
    main()
