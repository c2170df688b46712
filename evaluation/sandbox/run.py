"""Run programs that a model wrote against tests, without trusting them.

Three processes. The caller hands jobs to *testers* (``evaluation.sandbox.tester``), one per worker, which are trusted and
hold the tests. For every job a tester starts a *child* (``evaluation.sandbox.child``, driven by
``evaluation.sandbox.process``): a fresh, isolated process (``evaluation.sandbox.isolation``) that holds the program only, is
sent calls with plain arguments and replies with plain data.
Expected values never enter the child and results are compared outside it, so lying ``__eq__`` methods, frame walking, early
exits and forged messages cannot make a wrong program pass. What comes from a child is parsed and compared in the tester, which
is killed where it does not end in time: no reply can hold up the caller.

``python -m evaluation.sandbox FILE.py --tests TESTS.json`` runs one program.
"""

from __future__ import annotations

import os
import pickle
import queue
import select
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from evaluation.comparison import Comparison
from evaluation.sandbox.confinement import ProcessLimits
from evaluation.sandbox.isolation import SandboxUnavailable
from evaluation.sandbox.process import folders_of, remove_folder

OUTCOMES = ("passed", "failed", "timed_out", "out_of_memory", "forbidden")
_START_UP_S = 60.0
#: After a program's time its tester has so long to say how it ended, before it is killed: it gives up by itself, except inside
#: a single step of the interpreter, such as a comparison of two huge values.
_GRACE_S = 1.5


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
        return {
            "timeout_s": self.timeout_s,
            "memory_mb": self.memory_mb,
            "scratch_mb": ProcessLimits.scratch_mb,
            "files": ProcessLimits.files,
            "processes": ProcessLimits.processes,
        }


@dataclass(frozen=True, kw_only=True)
class Job:
    """A program and its tests: either ``tests`` (Python statements that call the program's functions and assert) or
    ``inputs`` of ``entry_point``, whose values are compared with ``expected``, or returned.

    Inputs are lists or tuples of arguments, exact in type and value: None, bool, int, float, complex, str, bytes, list,
    tuple, set, frozenset, dict, however nested.
    """

    source: str
    tests: str = ""
    #: Trusted source run before ``tests``, whose imports and helper functions they may use.
    reference: str = ""
    #: Functions of the program that the tests call, and values of it that they read.
    names: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    entry_point: str | None = None
    inputs: Sequence[Any] = ()
    expected: Sequence[Any] = ()
    #: Absolute tolerance of the comparison with ``expected`` (``evaluation.comparison.JsonComparison``); or how the
    #: value of each input is compared, which runs in the tester.
    atol: float = 0.0
    comparisons: Sequence[Comparison] = ()
    #: Return what the program returns, for all inputs, in ``Result.outputs``; nothing is compared.
    collect: bool = False
    #: Wall-clock seconds for each input; empty: only the whole program is limited.
    input_timeouts_s: Sequence[float] = ()
    #: In place of ``Limits.timeout_s`` and ``Limits.memory_mb``.
    timeout_s: float | None = None
    memory_mb: int | None = None

    def __post_init__(self) -> None:
        if not self.collect and len(self.expected) != len(self.inputs):
            raise ValueError(f"found {len(self.inputs)} inputs and {len(self.expected)} expected values, expected equally many")
        if self.comparisons and len(self.comparisons) != len(self.inputs):
            raise ValueError(f"found {len(self.inputs)} inputs and {len(self.comparisons)} comparisons for them")
        if self.input_timeouts_s and len(self.input_timeouts_s) != len(self.inputs):
            raise ValueError(f"found {len(self.inputs)} inputs and {len(self.input_timeouts_s)} time limits for them")


@dataclass(frozen=True, kw_only=True)
class Output:
    """What a program returned for one input: a plain value, or an exception's class name as ``error`` (``NotPlainData``
    where the value is an object of a class of its own)."""

    value: Any
    error: str | None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a program's run ended. ``detail`` is for people: an exception's class, or the number of the failed test.

    Of a job that collects, ``passed`` says that every input was answered, and ``outputs`` has the answers so far; of
    another job with inputs ``right`` is the number of those answered right before the end.
    """

    outcome: str
    detail: str
    #: Of the whole run, with what the judging took beyond the limit.
    seconds: float
    #: Whether this is the second run, alone, of a program that timed out among others.
    retried: bool = False
    #: The layers of isolation in force: see ``level``.
    level: str = ""
    outputs: tuple[Output, ...] = ()
    right: int = 0


def level(*, allow_unsafe: bool = False) -> str:
    """The layers of isolation that work on this machine, such as ``bubblewrap+rlimits+nobody+seccomp``, found once per
    process by trying them.

    Raises:
        SandboxUnavailable: too few, and ``allow_unsafe`` is false.
    """
    return _chosen(None, allow_unsafe)["layers"]


@cache
def _chosen(wanted: str | None, allow_unsafe: bool) -> dict[str, str]:
    """``isolation`` and ``layers``. A tester finds them, because trying them changes the process that tries."""
    tester = _Tester({})
    try:
        return tester.ask({"choose": wanted, "allow_unsafe": allow_unsafe})
    except _NoReply as error:
        raise SandboxUnavailable("the sandbox's tester process does not start") from error
    finally:
        tester.close()


def run_all(
    jobs: Sequence[Job], *, limits: Limits | None = None, allow_unsafe: bool = False, isolation: str | None = None
) -> list[Result]:
    """Run jobs, several at once, and return their results in order.

    A job that times out among others is run once more, alone after all the others, so that a busy machine does not make a
    program wrong.

    Args:
        allow_unsafe: where isolation does not work, run programs with resource limits only.
        isolation: ``bubblewrap``, ``landlock`` or ``unsafe``; None: the strongest that works.

    Raises:
        SandboxUnavailable: no isolation works, and ``allow_unsafe`` is false.
    """
    with Sandbox(limits=limits, allow_unsafe=allow_unsafe, isolation=isolation) as sandbox:
        return sandbox.run_all(jobs)


def run(job: Job, *, limits: Limits | None = None, allow_unsafe: bool = False, isolation: str | None = None) -> Result:
    """Run one job."""
    return run_all([job], limits=limits, allow_unsafe=allow_unsafe, isolation=isolation)[0]


class Sandbox:
    """``run_all`` for several batches: its testers are started once. A context manager."""

    def __init__(self, *, limits: Limits | None = None, allow_unsafe: bool = False, isolation: str | None = None) -> None:
        self.limits = limits or Limits()
        self._how = _chosen(isolation, allow_unsafe)
        self._testers: list[_Tester] = []

    @property
    def level(self) -> str:
        """The layers of isolation in force."""
        return self._how["layers"]

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        for tester in self._testers:
            tester.close()
        self._testers = []

    def run_all(self, jobs: Sequence[Job]) -> list[Result]:
        """See the function of this name."""
        results = dict(self.run_each(jobs))
        return [results[place] for place in range(len(jobs))]

    def run_each(self, jobs: Iterable[Job]) -> Iterator[tuple[int, Result]]:
        """(place, result) of each job as it ends; those that time out among others come last, run once more alone. A job is
        drawn when its turn is near, so that jobs and outputs of many programs are never held at once."""
        workers = self.limits.workers or len(os.sched_getaffinity(0))
        self._testers += [_Tester(self._how) for _ in range(workers - len(self._testers))]
        idle: queue.SimpleQueue[_Tester] = queue.SimpleQueue()
        for tester in self._testers[:workers]:
            idle.put(tester)

        def run_one(job: Job) -> Result:
            tester = idle.get()
            try:
                return tester.run(job, self.limits)
            finally:
                idle.put(tester)

        drawn = enumerate(jobs)
        late: list[tuple[int, Job, Result]] = []
        ended = 0
        with ThreadPoolExecutor(workers) as pool:
            running: dict[Future[Result], tuple[int, Job]] = {}
            while True:
                # One more than run at once: the next begins while the results of the last are looked at.
                for place, job in islice(drawn, workers + 1 - len(running)):
                    running[pool.submit(run_one, job)] = place, job
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    place, job = running.pop(future)
                    ended += 1
                    if future.result().outcome == "timed_out":
                        late.append((place, job, future.result()))
                    else:
                        yield place, future.result()
        for place, job, result in sorted(late, key=lambda one: one[0]):
            yield place, result if ended == 1 else replace(self._testers[0].run(job, self.limits), retried=True)


class _NoReply(Exception):
    """A tester died or hung."""


class _Tester:
    """A tester process, started on first use and again after it died or hung. It ends when its input is closed."""

    def __init__(self, how: dict[str, str]) -> None:
        self._how = how
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, job: Job, limits: Limits) -> Result:
        timeout_s = limits.timeout_s if job.timeout_s is None else job.timeout_s
        memory_mb = limits.memory_mb if job.memory_mb is None else job.memory_mb
        request = vars(job) | {"timeout_s": timeout_s, "memory_mb": memory_mb, "isolation": self._how["isolation"]}
        start = time.monotonic()
        try:
            # The tester ends a program at its limit; this is the limit of the tester.
            reply = self.ask(request, timeout_s=timeout_s + _GRACE_S)
        except _NoReply:
            seconds = round(time.monotonic() - start, 4)
            reply = {"outcome": "timed_out", "detail": "the tests did not end", "seconds": seconds, "outputs": (), "right": 0}
        outputs = tuple(Output(value=value, error=error, seconds=took) for value, error, took in reply.pop("outputs"))
        return Result(**reply, outputs=outputs, level=self._how["layers"])

    def ask(self, request: dict[str, Any], *, timeout_s: float = 0.0) -> dict[str, Any]:
        """The reply to one request, ``timeout_s`` after the tester says that it began, if it does; and after at most
        ``_START_UP_S`` if not.

        Raises:
            SandboxUnavailable: programs cannot be isolated.
            _NoReply: there is none in time.
        """
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process = self._start()
        assert self._process.stdin is not None
        data = pickle.dumps(request)
        try:
            self._process.stdin.write(struct.pack("!I", len(data)) + data)
            self._process.stdin.flush()
            message = self._read_message(time.monotonic() + _START_UP_S)
            if not message:
                message = self._read_message(time.monotonic() + timeout_s)
            reply = pickle.loads(message)
        except (OSError, _NoReply) as error:
            self.close()
            raise _NoReply from error
        if "unavailable" in reply:
            raise SandboxUnavailable(reply["unavailable"])
        return reply

    def close(self) -> None:
        """End the process, and remove the folder of the program that it may have been running."""
        if self._process is None:
            return
        self._process.kill()
        self._process.communicate()
        for folder in folders_of(self._process.pid):
            remove_folder(folder)
        self._process = None

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-s", "-m", "evaluation.sandbox.tester"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=Path(__file__).resolve().parents[2],
            start_new_session=True,
            env={"PATH": os.defpath, "PYTHONHASHSEED": "0", "TMPDIR": tempfile.gettempdir()},
        )

    def _read_message(self, deadline: float) -> bytearray:
        (size,) = struct.unpack("!I", self._read(4, deadline))
        return self._read(size, deadline)

    def _read(self, size: int, deadline: float) -> bytearray:
        assert self._process is not None and self._process.stdout is not None
        data = bytearray()
        while len(data) < size:
            ready, _, _ = select.select([self._process.stdout], [], [], max(deadline - time.monotonic(), 0))
            chunk = os.read(self._process.stdout.fileno(), min(size - len(data), 1 << 20)) if ready else b""
            if not chunk:
                raise _NoReply
            data += chunk
        return data
