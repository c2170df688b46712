"""The trusted end of the channel to a program's process: starts it, sends calls, checks replies. See ``evaluation.sandbox``."""

from __future__ import annotations

import contextlib
import json
import marshal
import math
import os
import resource
import secrets
import select
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from glob import glob
from pathlib import Path
from typing import Any

from evaluation.sandbox import confinement, isolation, packages, seccomp
from evaluation.sandbox.child import BOOT, MAX_ITEMS, Codec, decode_plain

#: Bounds on a reply before it is parsed: its size, and its items as counted by commas and brackets, those in strings, too.
_MAX_MESSAGE_BYTES = 128 << 20
_MAX_MESSAGE_ITEMS = 4 * MAX_ITEMS
#: How deep its lists may be nested.
_MAX_DEPTH = 400
_START_UP_S = 10.0
#: How often the program's folder is checked for its size.
_CHECK_S = 0.05
#: Characters of the path of a folder that is looked into.
_MAX_PATH = 1000
_MEMORY = "/dev/shm"
_CHILD_SOURCE = Path(__file__).with_name("child.py").read_text(encoding="utf-8")
_CHILD = marshal.dumps(compile(_CHILD_SOURCE, "child.py", "exec"))
#: The error of a call that returns an object of a class of the program's own where only plain data counts.
NOT_PLAIN = "NotPlainData"
_PLAIN_ATOMS = (type(None), bool, int, float, complex, str, bytes)


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
    """An isolated process with one program in it."""

    def __init__(self, kind: str, *, timeout_s: float, limits: confinement.ProcessLimits) -> None:
        self.limits = limits
        own_namespace = kind == isolation.BUBBLEWRAP
        #: Its working folder, unless that is in a namespace of its own.
        self.folder = None if own_namespace else _make_folder()
        self.socket, theirs = socket.socketpair()
        self._cpu_s = _children_cpu_s()
        self.process: subprocess.Popen[bytes] | None = None
        #: Its working folder in a namespace of its own.
        self._folder_descriptor: int | None = None
        self._checked = 0.0
        self._objects: dict[int, Handle] = {}
        self._depth = 0
        #: Whether a returned object counts as an error.
        self.plain_only = False
        #: Whether a value of a class that extends a built-in one comes as the built-in value.
        self.built_in_only = False
        #: Outcome and detail of a run that ended: tests may have caught the exception. (Which holds the frames that it passed,
        #: with all that was received in them, and would be held by them.)
        self.end: tuple[str, str] | None = None
        settings = {
            "tasks": None if kind == isolation.UNSAFE else limits.allowed_tasks(own_namespace=own_namespace),
            "filter": None if kind == isolation.UNSAFE else seccomp.without_exec(),
            "hand_over": own_namespace,
            "readable": confinement.libraries(),
            "packages": packages.folder(),
        }
        try:
            with theirs:
                self.process = isolation.start(
                    kind,
                    ["-c", BOOT, str(theirs.fileno())],
                    limits=limits,
                    folder=self.folder or "/",
                    pass_fds=(theirs.fileno(),),
                )
            self.deadline = time.monotonic() + _START_UP_S
            self._write(_CHILD)
            self._send(settings)
            if own_namespace:
                self._folder_descriptor = self._receive_descriptor()
            if self._receive() != {"ready": True}:
                raise Ended("failed", "improper reply")
        except BaseException:
            self.close()
            raise
        self.deadline = time.monotonic() + timeout_s

    def close(self) -> None:
        """Kill the child and whatever it started, and remove its folder."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.kill()
            self.process.wait()
        for pid in _children():
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        self.socket.close()
        if self._folder_descriptor is not None:
            os.close(self._folder_descriptor)
        if self.folder is not None:
            remove_folder(self.folder)

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
        if not kwargs and _is_plain(args):
            return self._exchange({"name": name, "plain": args})
        keywords = {key: _encode(value) for key, value in kwargs.items()}
        return self._exchange({"name": name, "args": [_encode(value) for value in args], "kwargs": keywords})

    def attribute(self, handle: Handle, name: str, *value: Any) -> Any:
        """Read an attribute of an object in the child, or set it to ``value``."""
        return self._exchange({"attribute": name, "of": _encode(handle), "set": [_encode(item) for item in value]})

    def _exchange(self, message: dict[str, Any]) -> Any:
        try:
            self._depth = 0
            return self._decode(self._reply_to(message))
        except Ended as end:
            self.end = end.outcome, end.detail
            raise
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError, MemoryError) as error:
            self.end = "failed", "improper reply"
            raise Ended(*self.end) from error

    def _reply_to(self, message: dict[str, Any]) -> Any:
        token = secrets.token_hex(8)
        self._send(message | {"token": token})
        reply = self._receive()
        if not isinstance(reply, dict) or reply.get("token") != token:
            forbidden = isinstance(reply, dict) and isinstance(reply.get("forbidden"), str)
            raise Ended("forbidden", reply["forbidden"][:200]) if forbidden else Ended("failed", "improper reply")
        if "error" in reply:
            name = str(reply["error"])[:100]
            raise Ended("out_of_memory", name) if name == "MemoryError" else ProgramError(name)
        return reply.get("value")

    def _decode(self, value: Any) -> Any:
        if type(value) is not list:
            return value
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise Ended("failed", "reply nested too deeply")
        tag, *parts = value
        if tag == "object":
            if self.plain_only:
                raise ProgramError(NOT_PLAIN)
            decoded = self._objects.setdefault(int(parts[0]), Handle(self, int(parts[0])))
        elif tag == "other" and self.built_in_only:
            decoded = self._decode(parts[0])
        elif tag in ("dict_keys", "dict_items") and self.built_in_only:
            raise ProgramError(NOT_PLAIN)  # a view of a dict that is handed on to nobody
        else:
            decoded = decode_plain(tag, parts, self._decode)
        self._depth -= 1
        return decoded

    def _wait(self, *, to_write: bool = False) -> None:
        """Until the channel is ready.

        Raises:
            Ended: the time is over, or the folder too large.
        """
        while True:
            now = time.monotonic()
            if now >= self.deadline:
                raise Ended("timed_out", "time limit")
            if now >= self._checked + _CHECK_S:
                self._checked = now
                self._check_folder()
            slice_s = min(self.deadline - now, _CHECK_S)
            if any(select.select([] if to_write else [self.socket], [self.socket] if to_write else [], [], slice_s)):
                return

    def _check_folder(self) -> None:
        if self.folder is not None:
            files, size = _usage(self.folder, self.limits.files)
        elif self._folder_descriptor is not None:
            # The size of the file system is limited.
            files, size = _nodes(self._folder_descriptor), 0
        else:
            return
        if files > self.limits.files or size > self.limits.scratch_mb << 20:
            raise Ended("failed", "file limit")

    def _send(self, message: dict[str, Any]) -> None:
        self._write(marshal.dumps(message))

    def _write(self, message: bytes) -> None:
        data = memoryview(struct.pack("!I", len(message)) + message)
        try:
            while data:
                self._wait(to_write=True)
                data = data[self.socket.send(data, socket.MSG_DONTWAIT) :]
        except OSError:
            raise Ended(*self._death()) from None

    def _receive(self) -> Any:
        (size,) = struct.unpack("!I", self._read(4))
        if size > _MAX_MESSAGE_BYTES:
            raise Ended("failed", "reply too large")
        data = self._read(size)
        if data.count(b",") + data.count(b"[") > _MAX_MESSAGE_ITEMS:
            raise Ended("failed", "reply with too many items")
        try:
            return json.loads(data.decode("utf-8", "surrogatepass"))
        except (ValueError, RecursionError):
            raise Ended("failed", "improper reply") from None

    def _receive_descriptor(self) -> int:
        self._wait()
        _, descriptors, *_ = socket.recv_fds(self.socket, 1, 1)
        if len(descriptors) != 1:
            raise Ended(*self._death())
        return descriptors[0]

    def _read(self, size: int) -> bytearray:
        data = bytearray()
        while len(data) < size:
            self._wait()
            try:
                chunk = self.socket.recv(min(size - len(data), 1 << 20))
            except OSError:
                chunk = b""
            if not chunk:
                raise Ended(*self._death())
            data += chunk
        return data

    def _death(self) -> tuple[str, str]:
        """(outcome, detail) of a child that closed its channel."""
        assert self.process is not None  # it had a channel
        try:
            status = self.process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return "failed", "closed its channel"
        number = -status if status < 0 else status - 128  # bubblewrap adds 128
        if number in (signal.SIGXCPU, signal.SIGKILL) and _children_cpu_s() - self._cpu_s >= 0.9 * self.limits.cpu_s:
            return "timed_out", "processor time limit"
        if number == signal.SIGKILL:
            return "out_of_memory", "killed by the system"
        return "failed", f"ended early with status {status}"


def _make_folder() -> str:
    # In memory where that is possible: to remove 2000 folders from a disk was seen to take 8 s.
    place = _MEMORY if os.access(_MEMORY, os.W_OK | os.X_OK) else None
    folder = tempfile.mkdtemp(prefix=_prefix(os.getpid()), dir=place)
    if os.geteuid() == 0:
        os.chown(folder, confinement.NOBODY, confinement.NOBODY)
    return folder


def _prefix(tester: int) -> str:
    return f"sandbox-{tester}-"


def folders_of(tester: int) -> list[str]:
    """The folders of a tester's program, if it is at work or was killed: at most one."""
    return [path for place in (_MEMORY, tempfile.gettempdir()) for path in glob(f"{place}/{_prefix(tester)}*")]


def remove_folder(folder: str) -> None:
    """Remove a program's folder, whatever it made there: folders that may not be read, or nested a thousand times."""
    with contextlib.suppress(OSError, RecursionError):
        shutil.rmtree(folder)
    if os.path.lexists(folder):
        for command in (["chmod", "-R", "u+rwx"], ["rm", "-rf"]):
            subprocess.run([*command, "--", folder], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _usage(folder: str, most: int) -> tuple[float, int]:
    """Number of files and folders in a folder, counted until there are more than ``most``, and their bytes."""
    files, size = 0.0, 0
    folders = [folder]
    while folders and files <= most:
        path = folders.pop()
        if len(path) > _MAX_PATH:
            return math.inf, size
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):
                        size += entry.stat(follow_symlinks=False).st_size
                        if entry.is_dir(follow_symlinks=False):
                            folders.append(entry.path)
                    files += 1
        except FileNotFoundError:
            pass
        except OSError:  # a folder closed to its owner: not countable
            return math.inf, size
    return files, size


def _nodes(descriptor: int) -> int:
    """Files and folders of a file system that limits them, as tmpfs does."""
    status = os.statvfs(descriptor)
    return status.f_files - status.f_ffree


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _is_plain(value: Any) -> bool:
    """Whether marshal carries a value exactly."""
    kind = type(value)
    if kind in (list, tuple, set, frozenset):
        return all(type(item) in _PLAIN_ATOMS or _is_plain(item) for item in value)
    if kind is dict:
        return all(_is_plain(key) and _is_plain(item) for key, item in value.items())
    return kind in _PLAIN_ATOMS


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
