"""The trusted side of the sandbox: holds the tests, drives an isolated child, and decides. See ``evaluation.sandbox``."""

from __future__ import annotations

import gc
import math
import os
import pickle
import resource
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from evaluation.comparison import JsonComparison
from evaluation.sandbox import confinement, isolation
from evaluation.sandbox.bubblewrap import Missing
from evaluation.sandbox.process import NOT_PLAIN, Child, Ended, ProgramError

#: The message that says that the time of a program has begun.
STARTED = b""
_STARTS = 3
#: After the program's time, for what is done with its last reply.
_JUDGING_S = 0.25
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


#: Stands for an object of a class of the program's own: it is not None, and equal to nothing.
_OBJECT = object()


def run_inputs(child: Child, job: dict[str, Any], outputs: list[tuple[Any, str | None, float]]) -> None:
    """Call the entry point on every input and append (value, error, seconds) of each to ``outputs``. Unless the job collects,
    each value is compared with what is expected, up to the first that is wrong, which is not appended."""
    child.plain_only = True
    child.built_in_only = job["collect"]
    # One comparison for all inputs, because it has a state.
    comparisons = job["comparisons"] or [JsonComparison(job["atol"])] * len(job["inputs"])
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
        seconds = round(time.monotonic() - start, 6)
        if not job["collect"]:
            if failure not in (None, NOT_PLAIN):
                raise Ended("failed", f"input {number}: {failure}")
            compared = value if failure is None else _OBJECT
            if not comparisons[number].accepts(arguments, compared, job["expected"][number]):
                raise Ended("failed", f"input {number}: another value than expected")
        outputs.append((value if job["collect"] else None, failure, seconds))


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


def run_job(kind: str, job: dict[str, Any], started: Callable[[], None]) -> dict[str, Any]:
    """Outcome, detail and what was collected. ``started`` is called when the time of the program begins."""
    timeout_s = job["timeout_s"]
    limits = confinement.ProcessLimits(cpu_s=math.ceil(timeout_s) + 1, memory_mb=job["memory_mb"])
    child = _start_child(kind, timeout_s=timeout_s, limits=limits)
    started()

    def on_alarm(signum: int, frame: object) -> None:
        child.end = "timed_out", "time limit"
        raise Ended(*child.end)

    outputs: list[tuple[Any, str | None, float]] = []
    try:
        signal.signal(signal.SIGALRM, on_alarm)
        signal.setitimer(signal.ITIMER_REAL, timeout_s + _JUDGING_S, _JUDGING_S)
        child.load(job["source"])
        if job["tests"]:
            run_assertions(child, job)
        else:
            run_inputs(child, job, outputs)
        outcome, detail = child.end or ("passed", "")
    except Ended as end:
        outcome, detail = end.outcome, end.detail
    except BaseException as error:  # tests are trusted code that may raise anything on the program's values
        outcome, detail = "failed", f"{type(error).__name__}: {error}"[:200]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        child.close()
    collected, right = (outputs, 0) if job["collect"] else ([], len(outputs))
    return {"outcome": outcome, "detail": detail, "outputs": collected, "right": right}


def answer(request: dict[str, Any], started: Callable[[], None]) -> dict[str, Any]:
    """The reply to one request: to choose how to isolate, or to run a job."""
    if "choose" in request:
        kind = isolation.choose(request["choose"], allow_unsafe=request["allow_unsafe"])
        return {"isolation": kind, "layers": isolation.layers(kind)}
    start = time.monotonic()
    return run_job(request["isolation"], request, started) | {"seconds": round(time.monotonic() - start, 4)}


def _requests() -> Iterator[dict[str, Any]]:
    """From standard input, until it is closed: the process that started this one has ended, or needs it no more."""
    while len(size := sys.stdin.buffer.read(4)) == 4:
        yield pickle.loads(sys.stdin.buffer.read(*struct.unpack("!I", size)))


def main() -> None:
    """Answer requests, length-prefixed pickles from and to the process that started this one; an empty message says that
    the time of a program has begun."""
    if sys.platform == "linux":
        confinement.become_subreaper()
    confinement.lower_limit(resource.RLIMIT_AS, _MEMORY_BYTES, _MEMORY_BYTES)
    sys.setrecursionlimit(5000)
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what tests print goes nowhere

    def write(data: bytes) -> None:
        replies.write(struct.pack("!I", len(data)) + data)
        replies.flush()

    # Collections while a reply is parsed would double the time that this takes.
    gc.disable()
    gc.freeze()
    for request in _requests():
        try:
            reply = answer(request, started=lambda: write(STARTED))
        except isolation.SandboxUnavailable as error:
            reply = {"unavailable": str(error)}
        write(pickle.dumps(reply))
        del request, reply
        gc.collect()


if __name__ == "__main__":
    main()
