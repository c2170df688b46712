"""What the kernel can take away from a process before it runs an untrusted program. Linux only; standard library only.

Layers, each used where it is available and named in ``level()``:

- ``rlimits``: CPU time, address space, file size, open files, processes, no core dumps; a session of its own.
- ``no_new_privs``, and ``nobody`` where the harness runs as root: user and group 65534 with no capability (but reading
  below the interpreter's folder, which may lie in a private home), so that process limits bind.
- ``landlock``: files can be read below the interpreter's and the system's libraries only, written below the working
  folder.
- ``seccomp``: no sockets, new processes, signals to others, tracing, mounts, namespaces or kernel interfaces.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import signal
import struct
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

NOBODY = 65534
_libc = ctypes.CDLL(None, use_errno=True)

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 1, 22, 38, 47
_PR_SET_KEEPCAPS, _PR_SET_CHILD_SUBREAPER = 8, 36
_PR_CAP_AMBIENT_RAISE = 2
_CAP_DAC_READ_SEARCH = 2
_SECCOMP_MODE_FILTER = 2
_SYS_LANDLOCK_CREATE, _SYS_LANDLOCK_ADD, _SYS_LANDLOCK_RESTRICT = 444, 445, 446

_READ = 1 << 0 | 1 << 2 | 1 << 3  # execute, read file, read folder
_WRITE_FILES = 1 << 1 | 1 << 5 | 1 << 8 | 1 << 14  # write, remove file, make file, truncate
#: Rights per Landlock ABI version: all rights that the version knows are handled, and so denied where not granted.
_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}


@dataclass(frozen=True, kw_only=True)
class ProcessLimits:
    """Limits of one untrusted process."""

    cpu_s: int
    memory_mb: int
    file_mb: int = 8
    processes: int = 64
    open_files: int = 64


def libraries() -> tuple[str, ...]:
    """The folders an interpreter must be able to read."""
    found = {sys.base_prefix, "/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/share/zoneinfo", "/etc/ld.so.cache"}
    return tuple(sorted(str(Path(path)) for path in found if Path(path).exists()))


@cache
def level() -> str:
    """The layers available to this process, joined by ``+``."""
    layers = ["rlimits"]
    if os.geteuid() == 0:
        layers.append("nobody")
    if _landlock_version() > 0:
        layers.append("landlock")
    if _seccomp_program() is not None:
        layers.append("seccomp")
    return "+".join(layers)


def become_subreaper() -> None:
    """Orphans of this process's children become its own children, so that none escapes."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """SIGKILL when the parent dies."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def confine(limits: ProcessLimits, folder: str) -> None:
    """Apply every available layer to the calling process, which then may only ``exec``. Call between fork and exec.

    Raises:
        OSError: a layer that is available could not be applied.
    """
    os.setsid()
    die_with_parent()
    memory = limits.memory_mb << 20
    for name, value in (
        ("CPU", limits.cpu_s),
        ("AS", memory),
        ("FSIZE", limits.file_mb << 20),
        ("NOFILE", limits.open_files),
        ("NPROC", limits.processes),
        ("CORE", 0),
        ("MEMLOCK", 0),
    ):
        _lower(getattr(resource, f"RLIMIT_{name}"), value)
    if os.geteuid() == 0:
        _drop_root()
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if _landlock_version() > 0:
        _landlock(folder)
    program = _seccomp_program()
    if program is not None:
        _install_filter(program)


def _lower(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def _prctl(option: int, *arguments: int) -> None:
    padded = (*arguments, 0, 0, 0, 0)[:4]
    if _libc.prctl(option, *(ctypes.c_ulong(argument) for argument in padded)) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


def _drop_root() -> None:
    """Become nobody, keeping only the right to read, which Landlock narrows; seccomp closes its way round Landlock.
    Without both nothing is kept, and the interpreter must lie where everyone can read it."""
    keep = 1 << _CAP_DAC_READ_SEARCH if _landlock_version() > 0 and _seccomp_program() is not None else 0
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
def _landlock_version() -> int:
    """The kernel's Landlock ABI version; 0 where there is none."""
    return max(_libc.syscall(ctypes.c_long(_SYS_LANDLOCK_CREATE), None, ctypes.c_size_t(0), ctypes.c_uint(1)), 0)


def _landlock(folder: str) -> None:
    version = _landlock_version()
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


# ------------------------------------------------------------------------------------------------------------- seccomp

#: x86-64 system calls that no solution of a programming task needs; they fail with EPERM.
_DENIED = {
    "socket": 41,
    "connect": 42,
    "accept": 43,
    "bind": 49,
    "listen": 50,
    "socketpair": 53,
    "accept4": 288,
    "fork": 57,
    "vfork": 58,
    "execveat": 322,
    "kill": 62,
    "tkill": 200,
    "tgkill": 234,
    "rt_sigqueueinfo": 129,
    "rt_tgsigqueueinfo": 297,
    "pidfd_send_signal": 424,
    "pidfd_open": 434,
    "pidfd_getfd": 438,
    "ptrace": 101,
    "process_vm_readv": 310,
    "process_vm_writev": 311,
    "kcmp": 312,
    "setpriority": 141,
    "sched_setaffinity": 203,
    "shmget": 29,
    "shmat": 30,
    "shmctl": 31,
    "semget": 64,
    "semop": 65,
    "msgget": 68,
    "msgsnd": 69,
    "msgrcv": 70,
    "mq_open": 240,
    "chroot": 161,
    "mount": 165,
    "umount2": 166,
    "pivot_root": 155,
    "unshare": 272,
    "setns": 308,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "mount_setattr": 442,
    "name_to_handle_at": 303,
    "open_by_handle_at": 304,
    "init_module": 175,
    "finit_module": 313,
    "delete_module": 176,
    "kexec_load": 246,
    "kexec_file_load": 320,
    "reboot": 169,
    "swapon": 167,
    "swapoff": 168,
    "acct": 163,
    "syslog": 103,
    "quotactl": 179,
    "add_key": 248,
    "request_key": 249,
    "keyctl": 250,
    "bpf": 321,
    "userfaultfd": 323,
    "perf_event_open": 298,
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "personality": 135,
    "iopl": 172,
    "ioperm": 173,
    "chmod": 90,
    "fchmod": 91,
    "fchmodat": 268,
    "chown": 92,
    "fchown": 93,
    "lchown": 94,
    "fchownat": 260,
    "utimensat": 280,
    "setxattr": 188,
    "fanotify_init": 300,
}
_CLONE, _CLONE3, _CLONE_THREAD = 56, 435, 0x10000
_AUDIT_ARCH_X86_64, _X32_BIT = 0xC000003E, 0x40000000
_LOAD, _JUMP_EQUAL, _JUMP_NOT_LESS, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERROR, _KILL = 0x7FFF0000, 0x00050000, 0x80000000


def _statement(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)


@cache
def _seccomp_program() -> bytes | None:
    """The filter as classic BPF, or None on other machines than x86-64. ``clone`` may start threads only; ``clone3``
    is said not to exist, whereupon the C library uses ``clone``."""
    if platform.machine() != "x86_64" or sys.maxsize < 1 << 32:
        return None
    denied = _statement(_RETURN, _ERROR | errno.EPERM)
    program = [
        _statement(_LOAD, 4),
        _statement(_JUMP_EQUAL, _AUDIT_ARCH_X86_64, 1, 0),
        _statement(_RETURN, _KILL),
        _statement(_LOAD, 0),
        _statement(_JUMP_NOT_LESS, _X32_BIT, 0, 1),
        denied,
        _statement(_JUMP_EQUAL, _CLONE3, 0, 1),
        _statement(_RETURN, _ERROR | errno.ENOSYS),
        _statement(_JUMP_EQUAL, _CLONE, 0, 4),
        _statement(_LOAD, 16),
        _statement(_JUMP_ANY_BIT, _CLONE_THREAD, 1, 0),
        denied,
        _statement(_RETURN, _ALLOW),
    ]
    for number in sorted(_DENIED.values()):
        program += [_statement(_JUMP_EQUAL, number, 0, 1), denied]
    return b"".join([*program, _statement(_RETURN, _ALLOW)])


def _install_filter(program: bytes) -> None:
    buffer = ctypes.create_string_buffer(program, len(program))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer)), 16)
    if _libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), header, ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
        raise OSError(ctypes.get_errno(), "seccomp filter refused")
