"""A seccomp filter for programs that compute and need no one: no sockets, processes, signals to others, tracing, mounts,
namespaces, memory outside the address space limit, or rare kernel interfaces. x86-64 Linux; standard library only."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from functools import cache

_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2

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
    "memfd_create": 319,
    "memfd_secret": 447,
    "migrate_pages": 256,
    "move_pages": 279,
    "process_madvise": 440,
    "process_mrelease": 448,
    "sched_setparam": 142,
    "sched_setscheduler": 144,
    "sched_setattr": 314,
    "ioprio_set": 251,
    "setpgid": 109,
    "inotify_init": 253,
    "inotify_init1": 294,
    "modify_ldt": 154,
    "adjtimex": 159,
    "settimeofday": 164,
    "clock_settime": 227,
    "clock_adjtime": 305,
    "sethostname": 170,
    "setdomainname": 171,
    "vhangup": 153,
    "lookup_dcookie": 212,
    "quotactl_fd": 443,
    "fchmodat2": 452,
    "statmount": 457,
    "listmount": 458,
    "mknod": 133,
    "mknodat": 259,
}
_CLONE, _CLONE3, _CLONE_THREAD = 56, 435, 0x10000
_PRLIMIT, _EXECVE = 302, 59
_AUDIT_ARCH_X86_64, _X32_BIT = 0xC000003E, 0x40000000
_LOAD, _JUMP_EQUAL, _JUMP_NOT_LESS, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERROR, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
#: Offsets in ``struct seccomp_data``: call number, architecture, low half of the first argument.
_NUMBER, _ARCHITECTURE, _ARGUMENT = 0, 4, 16


def _statement(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)


@cache
def program() -> bytes | None:
    """The filter as classic BPF, or None on other machines than x86-64 Linux.

    ``clone`` may start threads only; ``clone3`` is said not to exist, whereupon the C library uses ``clone``;
    ``prlimit`` may be asked about the calling process only.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64" or sys.maxsize < 1 << 32:
        return None
    denied, allowed = _statement(_RETURN, _ERROR | errno.EPERM), _statement(_RETURN, _ALLOW)
    statements = [
        _statement(_LOAD, _ARCHITECTURE),
        _statement(_JUMP_EQUAL, _AUDIT_ARCH_X86_64, 1, 0),
        _statement(_RETURN, _KILL),
        _statement(_LOAD, _NUMBER),
        _statement(_JUMP_NOT_LESS, _X32_BIT, 0, 1),
        denied,
        _statement(_JUMP_EQUAL, _CLONE3, 0, 1),
        _statement(_RETURN, _ERROR | errno.ENOSYS),
        _statement(_JUMP_EQUAL, _CLONE, 0, 4),
        _statement(_LOAD, _ARGUMENT),
        _statement(_JUMP_ANY_BIT, _CLONE_THREAD, 1, 0),
        denied,
        allowed,
        _statement(_JUMP_EQUAL, _PRLIMIT, 0, 4),
        _statement(_LOAD, _ARGUMENT),
        _statement(_JUMP_EQUAL, 0, 1, 0),
        denied,
        allowed,
    ]
    for number in sorted(_DENIED.values()):
        statements += [_statement(_JUMP_EQUAL, number, 0, 1), denied]
    return b"".join([*statements, allowed])


@cache
def without_exec() -> bytes | None:
    """A second filter, for a process that has become what it is to be: ``execve`` starts no other program. (``execveat``
    is denied to all.)"""
    if program() is None:
        return None
    denied = [_statement(_JUMP_EQUAL, _EXECVE, 0, 1), _statement(_RETURN, _ERROR | errno.EPERM)]
    return b"".join([_statement(_LOAD, _NUMBER), *denied, _statement(_RETURN, _ALLOW)])


@cache
def descriptor() -> int | None:
    """A file descriptor that holds the filter, for bubblewrap's ``--seccomp``; rewind it before each use."""
    statements = program()
    if statements is None:
        return None
    fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    os.write(fd, statements)
    return fd


def install() -> None:
    """Filter the calling process and what it starts, for good. ``no_new_privs`` must be set.

    Raises:
        OSError: the kernel refuses, or there is no filter for this machine.
    """
    statements = program()
    if statements is None:
        raise OSError(errno.ENOSYS, f"no seccomp filter for {sys.platform} on {platform.machine()}")
    buffer = ctypes.create_string_buffer(statements, len(statements))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(statements) // 8, ctypes.addressof(buffer)), 16)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), header, ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
        raise OSError(ctypes.get_errno(), "seccomp filter refused")
