"""One sandbox per level of isolation, and a target whose state is compared after every attack."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from glob import glob
from pathlib import Path

import pytest

from evaluation.sandbox.process import folders_of
from evaluation.sandbox.run import Job, Limits, Result, Sandbox, SandboxUnavailable
from tests.evaluation.sandbox.hostile import EXPECTED, INPUTS, Hostile

LIMITS = Limits(workers=1)
LEVELS = ("bubblewrap", "landlock")


@pytest.fixture(scope="session", params=LEVELS)
def box(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """A sandbox of each level that works on this machine."""
    try:
        with Sandbox(limits=LIMITS, isolation=request.param) as sandbox:
            yield sandbox
    except SandboxUnavailable as error:
        pytest.skip(str(error))


class Target:
    """What a program might harm or read: files that everybody may read and write, a process, an open port, an environment
    variable. Only the sandbox stands before them, no file mode or user."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.chmod(0o777)
        self.secret = folder / "secret"
        self.secret.write_text("needle")
        self.secret.chmod(0o666)
        (folder / "secret_module.py").write_text("")
        user = 65534 if os.geteuid() == 0 else None
        self.process = subprocess.Popen(["sleep", "1000"], user=user)
        self.server = socket.create_server(("127.0.0.1", 0))
        self.abstract = f"sandbox-target-{os.getpid()}"
        self.unix = socket.socket(socket.AF_UNIX)
        self.unix.bind("\0" + self.abstract)
        self.unix.listen()
        for listening in (self.server, self.unix):
            listening.setblocking(False)

    def fill_in(self, source: str) -> str:
        """A program's source with the target's names."""
        values = {"folder": self.folder, "secret": self.secret, "pid": self.process.pid, "abstract": self.abstract}
        for name, value in {**values, "port": self.server.getsockname()[1]}.items():
            source = source.replace("{" + name + "}", str(value))
        return source

    def state(self) -> dict[str, object]:
        """Whatever an attack might have changed."""
        secret, traces = self.secret.stat(), ("/tmp/sandbox-mark", "/dev/shm/attack*", "/mark", "/usr/lib/mark")
        return {
            "files": sorted(os.listdir(self.folder)),
            "secret": (self.secret.read_text(), secret.st_mode, secret.st_uid, secret.st_nlink, secret.st_mtime_ns),
            "process": (self.process.poll(), os.getpriority(os.PRIO_PROCESS, self.process.pid)),
            "limits": Path(f"/proc/{self.process.pid}/limits").read_text(),
            "connected": [self._connected(server) for server in (self.server, self.unix)],
            "environment": dict(os.environ),
            "traces": [path for pattern in traces for path in glob(pattern)],
            "scratch folders": [path for tester in _testers() for path in folders_of(tester)],
            "processes": [pid for tester in _testers() for pid in _children(tester)],
        }

    @staticmethod
    def _connected(server: socket.socket) -> bool:
        try:
            server.accept()
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.server.close()
        self.unix.close()


def _testers() -> list[int]:
    return [pid for pid in _children(os.getpid()) if b"evaluation.sandbox.tester" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def _children(pid: int) -> list[int]:
    children = []
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError):  # a thread that ended
            children += [int(child) for child in tasks.read_text().split()]
    return children


@pytest.fixture(scope="session")
def target() -> Iterator[Target]:
    """Shared: an attack that harms it fails its own test."""
    os.environ["SANDBOX_CANARY"] = "needle"
    # Outside pytest's own folder, which is closed to other users.
    folder = Path(tempfile.mkdtemp(prefix="target-", dir="/var/tmp"))
    victim = Target(folder)
    try:
        yield victim
    finally:
        victim.close()
        shutil.rmtree(folder)
        del os.environ["SANDBOX_CANARY"]


@pytest.fixture
def attack(box: Sandbox, target: Target) -> Callable[[Hostile], Result]:
    """Run a hostile program and make sure that nothing outside changed."""

    def run(hostile: Hostile) -> Result:
        job = Job(
            source=target.fill_in(hostile.source),
            entry_point="f",
            inputs=INPUTS,
            expected=EXPECTED,
            timeout_s=hostile.timeout_s,
            memory_mb=hostile.memory_mb,
        )
        before = target.state()
        (result,) = box.run_all([job])
        assert target.state() == before
        return result

    return run
