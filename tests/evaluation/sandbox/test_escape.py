"""Programs that want to act outside: run others, harm processes and files, gain rights."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from evaluation.sandbox.run import Result
from tests.evaluation.sandbox.hostile import Hostile, attempt, forbidden, kernel, system_call

SEEN = {
    "runs a shell": "import os\nos.system('touch {folder}/mark')",
    "opens a pipe to a shell": "import os\nos.popen('touch {folder}/mark').read()",
    "runs a process": "import subprocess\nsubprocess.run(['touch', '{folder}/mark'])",
    "forks": "import os\nos.fork()",
    "forks through posix": "import posix\nposix.fork()",
    "forks through multiprocessing": "import multiprocessing\nmultiprocessing.Process(target=print).start()",
    "a pseudo-terminal": "import pty\npty.spawn('/bin/sh')",
    "replaces itself": "import os\nos.execv('/bin/touch', ['touch', '{folder}/mark'])",
    "spawns": "import os\nos.posix_spawn('/bin/touch', ['touch', '{folder}/mark'], dict())",
    "kills its parent": "import os\nos.kill(os.getppid(), 9)",
    "kills its group": "import os\nos.killpg(0, 9)",
    "signals a thread": "import signal, threading\nsignal.pthread_kill(threading.get_ident(), 0)",
    "calls the C library": "import ctypes\nctypes.CDLL(None).system(b'touch {folder}/mark')",
    "raises its limits": "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "writes outside": "import os\nos.open('{folder}/mark', os.O_WRONLY | os.O_CREAT)",
    "writes through ..": "open('../../../../../..{folder}/mark', 'w')",
    "appends": "open('{secret}', 'a').write('x')",
    "removes files": "import shutil\nshutil.rmtree('{folder}')",
    "removes a file": "import os\nos.remove('{secret}')",
    "renames": "import os\nos.rename('{secret}', '{folder}/mark')",
    "changes modes": "import os\nos.chmod('{folder}', 0o700)",
    "truncates": "import os\nos.truncate('{secret}', 0)",
    "links out": "import os\nos.symlink('{secret}', 'link')",
    "links in": "import os\nos.link('{secret}', 'link')",
    "makes a folder": "import os\nos.mkdir('{folder}/mark')",
    "replaces a module of the library": "import string\nopen(string.__file__, 'w')",
}

BEHIND = {
    "a pool of processes": "from concurrent.futures import ProcessPoolExecutor\nProcessPoolExecutor(1).submit(print).result()",
    "forks": "import os\nif os.fork() == 0:\n    while True: pass",
    "runs a shell": "import os\nif os.system('touch {folder}/mark'): raise OSError",
    "runs a process": "import subprocess\nsubprocess.run(['/bin/touch', '{folder}/mark'], check=True)",
    "becomes another program": "import os\nos.execv('/bin/touch', ['touch', '{folder}/mark'])",
    "becomes the interpreter anew": (
        "import os, sys\nname = sys.base_prefix + '/bin/python3'\nassert os.path.exists(name)\n"
        "os.execve(name, [name, '-c', 'pass'], dict())"
    ),
    "becomes a file of its own": (
        "import os\nf = os.open('mine', os.O_WRONLY | os.O_CREAT, 0o700)\nos.write(f, b'#!/bin/sh')\nos.close(f)\n"
        "os.execv('mine', ['mine'])"
    ),
    "a process that outlives it": (
        "import subprocess, sys\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(999)'], start_new_session=True)"
    ),
    "kills a process": "import os\nos.kill({pid}, 9)",
    "signals its parent": "import os\nos.kill(os.getppid(), 0)",
    "signals everyone": "import os\nos.kill(-1, 0)",
    "changes a priority": "import os\nos.setpriority(os.PRIO_PROCESS, {pid}, 19)",
    "changes another's limits": "import resource\nresource.prlimit({pid}, resource.RLIMIT_NOFILE, (1, 1))",
    "changes its parent's limits": ("import os, resource\nresource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (1, 1))"),
    "raises its memory limit": "import resource\nresource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))",
    "raises its limit on processes": "import resource\nresource.setrlimit(resource.RLIMIT_NPROC, (1 << 30, 1 << 30))",
    "raises its priority": "import os\nos.nice(-5)",
    "becomes root": "import os\nos.setuid(0)",
    "becomes another user": "import os\nos.setresuid(1, 1, 1)",
    "writes a new file": "open('{folder}/mark', 'w')",
    "writes an open file": "open('{secret}', 'w').write('x')",
    "writes below /tmp": "open('/tmp/sandbox-mark', 'w')",
    "writes below /dev/shm": "open('/dev/shm/attack', 'w')",
    "writes below /": "open('/mark', 'w')",
    "writes the system": "open('/usr/lib/mark', 'w')",
    "writes the interpreter's library": "import os\nopen(os.path.dirname(os.__file__) + '/mark.py', 'w')",
    "removes a file": "import os\nos.remove('{secret}')",
    "renames a file": "import os\nos.rename('{secret}', '{folder}/mark')",
    "moves a file out": "import os\nopen('mine', 'w')\nos.rename('mine', '{folder}/mark')",
    "truncates a file": "import os\nos.truncate('{secret}', 0)",
    "changes a mode": "import os\nos.chmod('{secret}', 0o600)",
    "changes an owner": "import os\nos.chown('{secret}', 1, 1)",
    "changes times": "import os\nos.utime('{secret}', (0, 0))",
    "links a file in": "import os\nos.link('{secret}', 'link')\nopen('link', 'a').write('x')",
    "follows its own link": "import os\nos.symlink('{secret}', 'link')\nopen('link', 'a').write('x')",
    "follows a link of folders": "import os\nos.symlink('{folder}', 'link')\nopen('link/mark', 'w')",
    "climbs out of its folder": "open('../../../../../..{folder}/mark', 'w')",
    "moves to another folder": "import os\nos.chdir('{folder}')\nopen('mark', 'w')",
    "makes a device": "import os\nos.mknod('device', 0o020666, os.makedev(1, 1))\nos.open('device', os.O_RDWR)",
    "types into a terminal": "import fcntl\nfcntl.ioctl(0, 0x5412, b'x')",
    "the memory of its parent": "import os\nopen(f'/proc/{os.getppid()}/mem', 'r+b')",
    "the machine's memory": "open('/dev/mem', 'r+b')",
    "a kernel setting": "open('/proc/sys/kernel/core_pattern', 'w').write('x')",
    "the score of the memory killer": "open('/proc/self/oom_score_adj', 'w').write('-1000')",
}

CALLS = {
    "fork": (57,),
    "vfork by the x32 table": (0x40000000 | 58,),
    "clone": (56, 17, 0, 0, 0, 0),
    "clone into namespaces": (56, 0x10000000 | 17, 0, 0, 0, 0),
    "clone3": (435, 0, 88),
    "execve": (59, b"/bin/true", 0, 0),
    "execveat": (322, -100, b"/bin/true", 0, 0, 0),
    "ptrace": (101, 16, 1, 0, 0),
    "process_vm_writev": (311, 1, 0, 0, 0, 0, 0),
    "pidfd_open": (434, 1, 0),
    "unshare the user": (272, 0x10000000),
    "unshare the mounts": (272, 0x20000),
    "setns": (308, 0, 0),
    "chroot": (161, b"/"),
    "mount": (165, b"none", b"/tmp", b"tmpfs", 0, 0),
    "umount": (166, b"/usr", 2),
    "pivot_root": (155, b".", b"."),
    "open_by_handle_at": (304, -100, 0, 0),
    "bpf": (321, 0, 0, 0),
    "perf_event_open": (298, 0, 0, -1, -1, 0),
    "io_uring": (425, 1, 0),
    "userfaultfd": (323, 0),
    "keyctl": (250, 0, -3, 0),
    "memory outside the limit": (319, b"x", 0),
    "shared memory": (29, 1, 4096, 0o1666),
    "a message queue": (68, 1, 0o1666),
    "the clock": (164, 0, 0),
    "a kernel module": (313, 0, b"", 0),
    "reboot": (169, 0xFEE1DEAD, 672274793, 0x89ABCDEF, 0),
}


@pytest.mark.parametrize("name", SEEN)
def test_seen_by_the_hook(name: str, attack: Callable[[Hostile], Result]) -> None:
    assert attack(forbidden(SEEN[name])).outcome == "forbidden"


@pytest.mark.parametrize("name", ["runs a shell", "writes outside", "kills its parent"])
def test_seen_at_import(name: str, attack: Callable[[Hostile], Result]) -> None:
    program = Hostile(SEEN[name] + "\n" + attempt("pass"), "forbidden")
    assert attack(program).outcome == program.outcome


@pytest.mark.parametrize("name", BEHIND)
def test_stopped_by_the_kernel(name: str, attack: Callable[[Hostile], Result]) -> None:
    assert attack(kernel(BEHIND[name])).outcome == "failed"


@pytest.mark.parametrize("name", CALLS)
def test_system_calls_are_refused(name: str, attack: Callable[[Hostile], Result]) -> None:
    result = attack(system_call(*CALLS[name]))
    assert (result.outcome, result.detail.partition(": ")[2]) in [("failed", "PermissionError"), ("failed", "OSError")]


def test_the_hook_can_be_switched_off(attack: Callable[[Hostile], Result]) -> None:
    """Else the tests of the kernel's layers would test nothing."""
    harmless = "import ctypes, socket, gc\nctypes.CDLL(None).getpid()\ngc.get_objects()\nopen('mine', 'w').write('x')"
    assert attack(kernel(harmless)).outcome == "passed"
