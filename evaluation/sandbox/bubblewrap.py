"""Programs in namespaces of their own, by bubblewrap (https://github.com/containers/bubblewrap).

What a program finds there: the interpreter, its packages and the system's libraries, read-only; ``/dev/null`` and
``/dev/urandom``; a private folder of limited size. No network, no other process, no ``/proc`` (nothing here needs it, and
mounting it is what most often fails inside a container), no user's files, no further user namespaces.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from evaluation.sandbox import confinement, seccomp

_CLONE_NEWNS, _MS_BIND, _MS_REC, _MS_PRIVATE = 0x20000, 1 << 12, 1 << 14, 1 << 18
#: The program's working folder, in its own namespace.
SCRATCH = "/sandbox"
#: Covered by a private file system in this process's mount namespace.
_STAGE = Path("/dev/shm")
_DEVICES = ("/dev/null", "/dev/urandom", "/dev/zero")
_NAMESPACES = ("--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try")
_ATTEMPT_S = 10.0


class Missing(Exception):
    """bubblewrap is not installed, or cannot make namespaces here; the text says why."""


def command(program: Sequence[str], *, scratch_mb: int) -> list[str]:
    """The command line that runs ``program``, an interpreter and its arguments, isolated. To be started by the user that
    ``as_user`` makes, with the descriptor of the filter (``seccomp.descriptor()``) rewound and passed on.

    Raises:
        Missing: it would not work.
    """
    filter_descriptor = seccomp.descriptor()
    filtered = [] if filter_descriptor is None else ["--seccomp", str(filter_descriptor)]
    return [*_command(_nesting(), scratch_mb=scratch_mb), *filtered, "--", *program]


def as_user() -> None:
    """Make the calling process the user that bubblewrap starts from: nobody if it is root's, for whom the limit on
    processes does not count."""
    if os.geteuid() == 0:
        confinement.become_nobody(keep_reading=False)


def _command(nesting: Sequence[str], *, scratch_mb: int) -> list[str]:
    executable = shutil.which("bwrap", path=os.defpath)
    if executable is None:
        raise Missing("bwrap is not installed (Debian, Ubuntu, Fedora: the package bubblewrap)")
    words = [executable, *_NAMESPACES, *nesting, "--uid", str(confinement.NOBODY), "--gid", str(confinement.NOBODY)]
    words += ["--hostname", "sandbox", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    for path in confinement.libraries():
        words += ["--ro-bind", _sources().get(path, path), path]
    for path in _DEVICES:
        words += ["--dev-bind", path, path]
    return [*words, "--size", str(scratch_mb << 20), "--tmpfs", SCRATCH, "--remount-ro", "/", "--chdir", SCRATCH]


@cache
def _nesting() -> tuple[str, ...]:
    """The option that forbids further user namespaces, if this version and this kernel can; seccomp forbids them, too."""
    reason = ""
    for options in (("--disable-userns",), ()):
        with contextlib.suppress(subprocess.TimeoutExpired):
            done = subprocess.run(
                [*_command(options, scratch_mb=1), "--", interpreter(), "-I", "-S", "-c", "pass"],
                env={},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_ATTEMPT_S,
                preexec_fn=as_user,
            )
            if done.returncode == 0:
                return options
            reason = done.stderr.decode(errors="replace").strip().split("\n")[-1]
    raise Missing(reason or "bwrap does not end")


def interpreter() -> str:
    """The real interpreter: no virtual environment, no launcher."""
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


@cache
def _sources() -> dict[str, str]:
    """Where the user that ``as_user`` makes can reach what may lie in a home that is closed to nobody, the interpreter and the
    packages: root mounts them also in a place that is open, in a mount namespace that only this process and its children
    see, and that goes with them."""
    if os.geteuid() != 0:
        return {}
    libc = ctypes.CDLL(None, use_errno=True)
    stage = bytes(_STAGE)
    staged = (
        libc.unshare(_CLONE_NEWNS) == 0
        and libc.mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None) == 0
        and libc.mount(b"tmpfs", stage, b"tmpfs", ctypes.c_ulong(0), b"size=64k,mode=755") == 0
    )
    sources = {}
    for number, path in enumerate(confinement.own_libraries() if staged else ()):
        target = _STAGE / str(number)
        target.mkdir()
        if libc.mount(os.fsencode(path), bytes(target), None, ctypes.c_ulong(_MS_BIND), None) == 0:
            sources[path] = str(target)
    return sources
