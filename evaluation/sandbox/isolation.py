"""How a process is kept apart that runs an untrusted program, and which way works on this machine.

==============  =========================================================================================================
``bubblewrap``  namespaces (``evaluation.sandbox.bubblewrap``), seccomp, resource limits; as nobody if the harness runs as root
``landlock``    Landlock, seccomp, resource limits; as nobody if the harness runs as root
``unsafe``      resource limits; as nobody if the harness runs as root. Only on request
==============  =========================================================================================================

``choose`` finds the first that works by trying it: a probe in a process so isolated attempts what it must not be able to do.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from evaluation.sandbox import bubblewrap, confinement, packages, seccomp

BUBBLEWRAP, LANDLOCK, UNSAFE = "bubblewrap", "landlock", "unsafe"
_PROBE_LIMITS = confinement.ProcessLimits(cpu_s=5, memory_mb=512)
_PROBE_S = 20.0
#: With a fixed seed the order of a set of strings, and so a verdict, is the same in each run; with one arena the address
#: space limit leaves room for threads (each would reserve 64 MiB).
#: NumPy's threads would each take 32 MiB more.
_ENVIRONMENT = {"PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "MALLOC_ARENA_MAX": "1", "OPENBLAS_NUM_THREADS": "1"}

#: Text on descriptor 1: the JSON list of what was possible. Arguments: a folder, a port of this machine, a process.
_PROBE = """
import posix, sys
folder, port, parent = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

def connect():
    from _socket import socket
    socket().connect(("127.0.0.1", port))

def fork():
    if posix.fork() == 0:
        posix._exit(0)

attempts = {
    "read a file": lambda: posix.open(folder + "/canary", posix.O_RDONLY),
    "write a file": lambda: posix.open(folder + "/mark", posix.O_WRONLY | posix.O_CREAT),
    "open a connection": connect,
    "signal a process": lambda: posix.kill(parent, 0),
    "start a process": fork,
    "become root": lambda: posix.setuid(0),
}
possible = []
for name, attempt in attempts.items():
    try:
        attempt()
        possible.append(name)
    except OSError:
        pass
if posix.getuid() == 0:
    possible.append("be root")
if "SANDBOX_CANARY" in {key.decode() for key in posix.environ}:
    possible.append("read the environment")
posix.write(1, ("[" + ",".join(['"' + name + '"' for name in possible]) + "]").encode())
"""


class SandboxUnavailable(RuntimeError):
    """This machine cannot isolate programs well enough; the text says what was tried and what to do."""


def start(
    isolation: str,
    arguments: Sequence[str],
    *,
    limits: confinement.ProcessLimits,
    folder: str,
    stdout: int = subprocess.DEVNULL,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start the interpreter with ``arguments``, isolated.

    Args:
        folder: its working folder, which the user nobody can write to; under bubblewrap any (it gets a private one).

    Raises:
        OSError, subprocess.SubprocessError, bubblewrap.Missing: it could not be started so.
    """
    command = [bubblewrap.interpreter(), "-P", "-s", "-S", "-B", *arguments]
    pass_fds = tuple(pass_fds)
    if isolation == BUBBLEWRAP:
        command = bubblewrap.command(command, scratch_mb=limits.scratch_mb)
        descriptor = seccomp.descriptor()
        if descriptor is not None:
            os.lseek(descriptor, 0, os.SEEK_SET)
            pass_fds += (descriptor,)
    return subprocess.Popen(
        command,
        pass_fds=pass_fds,
        env=_ENVIRONMENT | {"TMPDIR": bubblewrap.SCRATCH if isolation == BUBBLEWRAP else folder},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: _confine(isolation, limits, folder),
    )


def _confine(isolation: str, limits: confinement.ProcessLimits, folder: str) -> None:
    """Restrict the calling process, which then may only ``exec``. Called between fork and exec."""
    os.setsid()
    confinement.lower_limits(limits)
    if isolation == BUBBLEWRAP:
        bubblewrap.as_user()
    elif os.geteuid() == 0:
        confinement.become_nobody(keep_reading=True)
    if sys.platform == "linux":
        confinement.die_with_parent()
        confinement.forbid_new_privileges()
    if isolation == LANDLOCK:
        confinement.restrict_files(folder)
        seccomp.install()


def layers(isolation: str) -> str:
    """What is in force, joined by ``+``, for records: ``bubblewrap+rlimits+nobody+seccomp+packages``. Without ``packages``
    programs find the standard library only (``evaluation.sandbox.packages``)."""
    nobody = ("nobody",) if os.geteuid() == 0 else ()
    filtered = ("seccomp",) if isolation != UNSAFE and seccomp.program() is not None else ()
    installed = () if packages.folder() is None else ("packages",)
    return "+".join((isolation, "rlimits", *nobody, *filtered, *installed))


def choose(wanted: str | None = None, *, allow_unsafe: bool = False) -> str:
    """The strongest isolation that passes its self-test, or ``wanted`` if that does.

    Raises:
        SandboxUnavailable: none does, and ``unsafe`` was not allowed.
    """
    reasons = []
    for isolation in (BUBBLEWRAP, LANDLOCK) if wanted is None else (wanted,):
        reason = self_test(isolation)
        if reason is None:
            return isolation
        reasons.append(f"{isolation}: {reason}")
    if allow_unsafe:
        return UNSAFE
    raise SandboxUnavailable(
        f"no safe way to run a model's programs on this machine ({'; '.join(reasons)}); install bubblewrap, or allow it to run "
        "them with resource limits only (--allow-unsafe), on a machine where nothing can be lost"
    )


def self_test(isolation: str) -> str | None:
    """Why programs cannot be isolated so here; None if they can."""
    if sys.platform != "linux":
        return f"needs Linux, this is {sys.platform}"
    if isolation == LANDLOCK and confinement.landlock_version() == 0:
        return "this kernel has no Landlock"
    if isolation == LANDLOCK and seccomp.program() is None:
        return f"no seccomp filter for {platform.machine()}"
    with tempfile.TemporaryDirectory(prefix="sandbox-") as name, socket.create_server(("127.0.0.1", 0)) as server:
        folder, work = Path(name), Path(name) / "work"
        work.mkdir()
        folder.chmod(0o755)
        (folder / "canary").write_text("")
        if os.geteuid() == 0:
            os.chown(work, confinement.NOBODY, confinement.NOBODY)
        arguments = ["-c", _PROBE, str(folder), str(server.getsockname()[1]), str(os.getpid())]
        try:
            with start(isolation, arguments, limits=_PROBE_LIMITS, folder=str(work), stdout=subprocess.PIPE) as probe:
                try:
                    possible = set(json.loads(probe.communicate(timeout=_PROBE_S)[0]))
                finally:
                    probe.kill()
        except bubblewrap.Missing as error:
            return str(error)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            return f"{type(error).__name__}: {error}"
    if isolation == UNSAFE:
        return None
    if isolation == BUBBLEWRAP and seccomp.program() is None:
        possible -= {"start a process"}  # where they die with the namespace
    return f"a probe could {', '.join(sorted(possible))}" if possible else None
