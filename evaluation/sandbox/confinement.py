"""What the kernel can take away from a process before it runs an untrusted program. Standard library only.

- ``lower_limits``: CPU time, address space, file size, open files, no core dumps; a session of its own.
- ``become_nobody``: where the harness runs as root, user and group 65534.
- ``restrict_files``: Landlock; files can be read below the interpreter's and the system's libraries only, written in the
  working folder.

``evaluation.sandbox.isolation`` puts them together; the seccomp filter is in ``evaluation.sandbox.seccomp``.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from evaluation.sandbox import packages

NOBODY = 65534
_libc = ctypes.CDLL(None, use_errno=True)

_PR_SET_PDEATHSIG, _PR_SET_KEEPCAPS, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 1, 8, 36, 38, 47
_PR_CAP_AMBIENT_RAISE = 2
_CAP_DAC_READ_SEARCH = 2
_SYS_LANDLOCK_CREATE, _SYS_LANDLOCK_ADD, _SYS_LANDLOCK_RESTRICT = 444, 445, 446

_READ = 1 << 0 | 1 << 2 | 1 << 3  # execute, read file, read folder
_WRITE_FILES = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 14  # write, remove folder or file, make either, truncate
#: Rights per Landlock ABI version: all rights that the version knows are handled, and so denied where not granted.
_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
#: First kernel that counts a user's processes in each user namespace apart.
_COUNTS_IN_NAMESPACE = (5, 14)


@dataclass(frozen=True, kw_only=True)
class ProcessLimits:
    """Limits of one untrusted process."""

    cpu_s: int
    #: Address space, MiB.
    memory_mb: int
    #: Size of a file, and of all files together, MiB.
    file_mb: int = 8
    scratch_mb: int = 16
    #: Files and folders, about: they are counted twenty times a second.
    files: int = 2000
    #: Threads and processes.
    processes: int = 64
    open_files: int = 64

    def allowed_tasks(self, *, own_namespace: bool) -> int:
        """The value of RLIMIT_NPROC that allows ``processes`` more. The kernel counts all processes of the user, except in
        a user namespace of its own (since 5.14): there must be room for those that exist."""
        release = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
        if own_namespace and release >= _COUNTS_IN_NAMESPACE:
            return self.processes
        existing = Path("/proc/loadavg").read_text().split()[3].partition("/")[2]
        return int(existing) + self.processes


def libraries() -> tuple[str, ...]:
    """The folders and files that an interpreter must be able to read."""
    paths = {*own_libraries(), "/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/share/zoneinfo", "/etc/ld.so.cache"}
    return tuple(sorted(str(Path(path)) for path in paths if Path(path).exists()))


def own_libraries() -> tuple[str, ...]:
    """Those of them that may lie in a user's home: the interpreter's, and the packages for programs."""
    installed = packages.folder()
    return (sys.base_prefix,) if installed is None else (sys.base_prefix, installed)


def become_subreaper() -> None:
    """Orphans of this process's children become its own children, so that none escapes."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """SIGKILL when the parent dies. A change of user undoes it."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def forbid_new_privileges() -> None:
    """No program that this process runs gains rights (set-user-id files, file capabilities)."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def lower_limits(limits: ProcessLimits) -> None:
    """Set resource limits, never above those in force. The processor limit is announced by SIGXCPU, then enforced."""
    for name, soft, hard in (
        ("CPU", limits.cpu_s, limits.cpu_s + 1),
        ("AS", limits.memory_mb << 20, limits.memory_mb << 20),
        ("FSIZE", limits.file_mb << 20, limits.file_mb << 20),
        ("NOFILE", limits.open_files, limits.open_files),
        ("CORE", 0, 0),
        ("MEMLOCK", 0, 0),
    ):
        lower_limit(getattr(resource, f"RLIMIT_{name}"), soft, hard)


def lower_limit(which: int, soft: int, hard: int) -> None:
    """Set one resource limit, never above the one in force."""
    _, present = resource.getrlimit(which)
    if present != resource.RLIM_INFINITY:
        soft, hard = min(soft, present), min(hard, present)
    resource.setrlimit(which, (soft, hard))


def become_nobody(*, keep_reading: bool) -> None:
    """Change user and group to nobody. ``keep_reading`` keeps the right to read any file, because the interpreter may lie
    in a private home: only for a process whose files are then restricted by Landlock, and its way round Landlock
    (``open_by_handle_at``) closed by seccomp."""
    keep = 1 << _CAP_DAC_READ_SEARCH if keep_reading else 0
    _prctl(_PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    header = struct.pack("Ii", 0x20080522, 0)
    data = struct.pack("IIIIII", keep, keep, keep, 0, 0, 0)
    if _libc.capset(header, data) != 0:
        raise OSError(ctypes.get_errno(), "capset failed")
    if keep:
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_DAC_READ_SEARCH)


@cache
def landlock_version() -> int:
    """The kernel's Landlock ABI version; 0 where there is none."""
    return max(_libc.syscall(ctypes.c_long(_SYS_LANDLOCK_CREATE), None, ctypes.c_size_t(0), ctypes.c_uint(1)), 0)


def restrict_files(folder: str) -> None:
    """Landlock: read ``libraries()`` and ``folder``, write in ``folder`` only, whatever the file modes say.

    Raises:
        OSError: the kernel has no Landlock, or refuses.
    """
    version = landlock_version()
    if version == 0:
        raise OSError(ctypes.get_errno(), "this kernel has no Landlock")
    handled = _RIGHTS[min(version, 5)]
    attributes = struct.pack("QQQ", handled, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = _libc.syscall(ctypes.c_long(_SYS_LANDLOCK_CREATE), attributes, ctypes.c_size_t(size), ctypes.c_uint(0))
    if ruleset < 0:
        raise OSError(ctypes.get_errno(), "landlock_create_ruleset failed")
    rules = [(path, _READ) for path in (*libraries(), "/dev/null", "/dev/urandom", "/dev/zero")]
    for path, rights in [*rules, (folder, _READ | _WRITE_FILES), ("/dev/null", _READ | 1 << 1)]:
        _allow(ruleset, path, rights & handled)
    if _libc.syscall(ctypes.c_long(_SYS_LANDLOCK_RESTRICT), ctypes.c_int(ruleset), ctypes.c_uint(0)) != 0:
        raise OSError(ctypes.get_errno(), "landlock_restrict_self failed")
    os.close(ruleset)


def _prctl(option: int, *arguments: int) -> None:
    padded = (*arguments, 0, 0, 0, 0)[:4]
    if _libc.prctl(option, *(ctypes.c_ulong(argument) for argument in padded)) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


def _allow(ruleset: int, path: str, rights: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    if not os.path.isdir(path):
        rights &= 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14
    rule = struct.pack("=Qi", rights, descriptor)
    failed = _libc.syscall(ctypes.c_long(_SYS_LANDLOCK_ADD), ctypes.c_int(ruleset), ctypes.c_int(1), rule, ctypes.c_uint(0))
    error = ctypes.get_errno()
    os.close(descriptor)
    if failed:
        raise OSError(error, f"landlock_add_rule({path}) failed")
