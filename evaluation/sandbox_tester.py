"""The trusted side of the sandbox: holds the tests, drives a confined child, and decides. See
``evaluation.sandbox``."""

from __future__ import annotations

import contextlib
import json
import marshal
import math
import os
import resource
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evaluation import confinement
from evaluation.sandbox_child import Codec, decode_plain

_MAX_MESSAGE_BYTES = 64 << 20
_START_UP_S = 10.0
_MEMORY_BYTES = 4 << 30
_CHILD = Path(__file__).with_name("sandbox_child.py").read_text(encoding="utf-8")


class Ended(Exception):
    """The run is over, with an outcome other than passed."""

    def __init__(self, outcome: str, detail: str) -> None:
        super().__init__(outcome, detail)
        self.outcome, self.detail = outcome, detail


class ProgramError(Exception):
    """The program raised; the text is the class name. Tests that expect an exception see this one."""


class Handle:
    """An object that lives in the child. It can be passed back as an argument and its attributes read and set (MBPP's
    tests build trees so); it equals nothing but itself."""

    __slots__ = ("_child", "_index")

    def __init__(self, child: Child, index: int) -> None:
        object.__setattr__(self, "_child", child)
        object.__setattr__(self, "_index", index)

    def __getattr__(self, name: str) -> Any:
        return self._child.attribute(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._child.attribute(self, name, value)


class Child:
    """A confined process with one program in it."""

    def __init__(self, *, timeout_s: float, memory_mb: int) -> None:
        self.folder = tempfile.mkdtemp(prefix="sandbox-")
        if os.geteuid() == 0:
            os.chown(self.folder, confinement.NOBODY, confinement.NOBODY)
        self.socket, theirs = socket.socketpair()
        limits = confinement.ProcessLimits(cpu_s=math.ceil(timeout_s) + 1, memory_mb=memory_mb)
        executable = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
        arguments = [str(theirs.fileno()), *confinement.libraries()]
        self.process = subprocess.Popen(
            [executable, "-I", "-S", "-c", _CHILD, *arguments],
            pass_fds=(theirs.fileno(),),
            env={},
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=lambda: confinement.confine(limits, self.folder),
        )
        theirs.close()
        self.deadline = time.monotonic() + _START_UP_S
        if self._receive() != {"ready": True}:
            raise Ended("failed", "the sandbox did not start")
        self.deadline = time.monotonic() + timeout_s
        self._objects: dict[int, Handle] = {}

    def close(self) -> None:
        """Kill the child and whatever it started, and remove its folder."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()
        for pid in _children():
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        self.socket.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def load(self, source: str) -> None:
        """Run the program's top level.

        Raises:
            Ended: it does not finish.
            ProgramError: it raises.
        """
        self._exchange({"source": source})

    def fetch(self, name: str) -> Any:
        """A global of the program, a handle unless it is plain data."""
        return self._exchange({"fetch": name})

    def call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a function of the program with plain values and handles.

        Raises:
            Ended: no proper reply came in time.
            ProgramError: the function raised, or returned what cannot be sent.
        """
        return self._exchange(
            {
                "name": name,
                "args": [_encode(value) for value in args],
                "kwargs": {key: _encode(value) for key, value in kwargs.items()},
            }
        )

    def attribute(self, handle: Handle, name: str, *value: Any) -> Any:
        """Read an attribute of an object in the child, or set it to ``value``."""
        return self._exchange({"attribute": name, "of": _encode(handle), "set": [_encode(item) for item in value]})

    def _exchange(self, message: dict[str, Any]) -> Any:
        token = secrets.token_hex(8)
        self._send(message | {"token": token})
        reply = self._receive()
        if not isinstance(reply, dict) or reply.get("token") != token:
            forbidden = isinstance(reply, dict) and isinstance(reply.get("forbidden"), str)
            raise Ended("forbidden", reply["forbidden"][:200]) if forbidden else Ended("failed", "improper reply")
        if "error" in reply:
            name = str(reply["error"])[:100]
            raise Ended("out_of_memory", name) if name == "MemoryError" else ProgramError(name)
        try:
            return self._decode(reply.get("value"))
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            raise Ended("failed", "improper reply") from error

    def _decode(self, value: Any) -> Any:
        if value is None or isinstance(value, bool):
            return value
        tag, *parts = value
        if tag == "object":
            return self._objects.setdefault(int(parts[0]), Handle(self, int(parts[0])))
        return decode_plain(tag, parts, self._decode)

    def _remaining(self) -> float:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise Ended("timed_out", "time limit")
        return left

    def _send(self, message: dict[str, Any]) -> None:
        data = marshal.dumps(message)
        self.socket.settimeout(self._remaining())
        try:
            self.socket.sendall(struct.pack("!I", len(data)) + data)
        except TimeoutError:
            raise Ended("timed_out", "time limit") from None
        except OSError:
            raise Ended(*self._death()) from None

    def _receive(self) -> Any:
        (size,) = struct.unpack("!I", self._read(4))
        if size > _MAX_MESSAGE_BYTES:
            raise Ended("failed", "reply too large")
        try:
            return json.loads(self._read(size))
        except (ValueError, RecursionError):
            raise Ended("failed", "improper reply") from None

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            self.socket.settimeout(self._remaining())
            try:
                chunk = self.socket.recv(min(size - len(data), 1 << 20))
            except TimeoutError:
                raise Ended("timed_out", "time limit") from None
            except OSError:
                chunk = b""
            if not chunk:
                raise Ended(*self._death())
            data += chunk
        return bytes(data)

    def _death(self) -> tuple[str, str]:
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = self.process.wait(timeout=1)
            if status in (-signal.SIGXCPU, -signal.SIGKILL):
                return "timed_out", "processor time limit"
            return "failed", f"ended early with status {status}"
        return "failed", "closed its channel"


def _encode(value: Any) -> Any:
    """An argument of a test as plain data, with handles inside containers."""
    if isinstance(value, Handle):
        return ["object", value._index]
    for name, kind in (("list", list), ("tuple", tuple), ("set", set), ("frozenset", frozenset)):
        if isinstance(value, kind):
            return [name, [_encode(item) for item in value]]
    if isinstance(value, dict):
        return ["dict", [[_encode(k), _encode(v)] for k, v in value.items()]]
    codec = Codec()
    encoded = codec.encode(value)
    if codec.objects:
        raise TypeError(f"a test passes a {type(value).__name__}, which cannot be sent to the program")
    return encoded


def _children() -> Iterator[int]:
    """Processes whose parent is this one."""
    path = Path(f"/proc/self/task/{os.getpid()}/children")
    with contextlib.suppress(OSError):
        yield from map(int, path.read_text().split())


# --------------------------------------------------------------------------------------------------------------- tests


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


def run_inputs(child: Child, request: dict[str, Any]) -> None:
    """Call the entry point on every input and compare with what is expected."""
    for number, (arguments, expected) in enumerate(zip(request["inputs"], request["expected"], strict=True)):
        try:
            actual = child.call(request["entry_point"], tuple(arguments), {})
        except ProgramError as error:
            raise Ended("failed", f"input {number}: {error}") from None
        if not plain_equal(actual, expected, request["atol"]):
            raise Ended("failed", f"input {number}: another value than expected")


def _on_alarm(signum: int, frame: object) -> None:
    raise Ended("timed_out", "time limit")


def run_job(request: dict[str, Any]) -> tuple[str, str]:
    """(outcome, detail) of one job."""
    limits = request["limits"]
    child = None
    try:
        child = Child(timeout_s=limits["timeout_s"], memory_mb=int(limits["memory_mb"]))
        signal.setitimer(signal.ITIMER_REAL, limits["timeout_s"] + 0.5)
        child.load(request["source"])
        (run_assertions if request["tests"] else run_inputs)(child, request)
        return "passed", ""
    except Ended as end:
        return end.outcome, end.detail
    except BaseException as error:  # tests are trusted code that may raise anything on the program's values
        return "failed", f"{type(error).__name__}: {error}"[:200]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        if child is not None:
            child.close()


def main() -> None:
    """Answer jobs, one JSON object a line, until the input ends."""
    confinement.die_with_parent()
    confinement.become_subreaper()
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    sys.setrecursionlimit(5000)
    signal.signal(signal.SIGALRM, _on_alarm)
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what tests print goes nowhere
    for line in sys.stdin.buffer:
        request = json.loads(line)
        start = time.monotonic()
        outcome, detail = run_job(request)
        reply = {"outcome": outcome, "detail": detail, "seconds": round(time.monotonic() - start, 4)}
        replies.write(json.dumps(reply).encode() + b"\n")
        replies.flush()


if __name__ == "__main__":
    main()
