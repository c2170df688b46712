"""Programs that want to read what is not theirs, or to send it away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from evaluation.sandbox.run import Result
from tests.evaluation.sandbox.hostile import Hostile, forbidden, kernel

PROJECT = str(Path(__file__).parents[3] / "README.md")

SEEN = {
    "reads a secret": "open('{secret}').read()",
    "reads the users": "open('/etc/passwd').read()",
    "reads through io": "import io\nio.open('/etc/shadow')",
    "reads through os": "import os\nos.read(os.open('/etc/hostname', os.O_RDONLY), 9)",
    "reads through ..": "import sys\nopen(sys.base_prefix + '/../../../../etc/passwd')",
    "reads through pathlib": "import pathlib\npathlib.Path('{secret}').read_text()",
    "reads its parent's environment": "import os\nopen(f'/proc/{os.getppid()}/environ')",
    "reads its own maps": "open('/proc/self/maps')",
    "lists the root": "import os\nos.listdir('/')",
    "walks": "import os\nnext(os.walk('/home'))",
    "looks for patterns": "import glob\nglob.glob('/etc/*')[0]",
    "opens a socket": "import socket\nsocket.socket()",
    "resolves a name": "import socket\nsocket.getaddrinfo('localhost', 80)",
    "connects": "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:{port}')",
    "sends mail": "import smtplib\nsmtplib.SMTP('127.0.0.1', {port})",
    "reads all objects": "import gc\ngc.get_objects()",
    "opens a database": "import sqlite3\nsqlite3.connect('{folder}/mark')",
}

BEHIND = {
    "reads a secret": "assert open('{secret}').read() == 'needle'",
    "reads the users": "open('/etc/passwd').read()",
    "reads the host's name": "open('/etc/hostname').read()",
    "reads this project": f"open({PROJECT!r}).read()",
    "reads by a raw system call": "syscall(257, -100, b'{secret}', 0, 0)",
    "reads by openat2": "import ctypes\nsyscall(437, -100, b'{secret}', bytes(24), 24)",
    "reads lines": "import linecache\nlinecache.getlines('{secret}')[0]",
    "imports from outside": "import sys\nsys.path.insert(0, '{folder}')\nimport secret_module",
    "opens a pair of sockets": "import socket\nsocket.socketpair()",
    "speaks asynchronously": "import asyncio\nasyncio.run(asyncio.open_connection('127.0.0.1', {port}))",
    "maps a file": "import mmap, os\nmmap.mmap(os.open('{secret}', os.O_RDONLY), 0, prot=mmap.PROT_READ)",
    "lists the target's folder": "import os\nassert 'secret' in os.listdir('{folder}')",
    "lists the homes": "import os\nos.listdir('/home')",
    "lists processes": "import os\nos.listdir('/proc')",
    "reads its parent's environment": "import os\nopen(f'/proc/{os.getppid()}/environ').read()",
    "reads a process's memory": "open('/proc/{pid}/mem', 'rb')",
    "reads a process's memory by system call": "syscall(310, {pid}, 0, 0, 0, 0, 0)",
    "reads mounts": "open('/proc/self/mountinfo').read()",
    "reads the environment": "import os\nassert 'SANDBOX_CANARY' in os.environ or 'HOME' in os.environ or 'USER' in os.environ",
    "reads its arguments for tests": "import sys\nassert 'expected' in repr(sys.argv) or '42' in repr(sys.argv)",
    "finds a descriptor that was left open": (
        "import os, stat\nstats = []\nfor n in range(64):\n    try: stats.append(os.fstat(n))\n    except OSError: pass\n"
        "assert sum(not stat.S_ISCHR(s.st_mode) for s in stats) > 1"
    ),
    "reads standard input": "import sys\nassert sys.stdin.read(1)",
    "connects": "import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)",
    "connects by version 6": "import socket\nsocket.socket(socket.AF_INET6)",
    "sends a datagram": "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))",
    "connects to an abstract name": "import socket\nsocket.socket(socket.AF_UNIX).connect('\\0{abstract}')",
    "asks the kernel for routes": "import socket\nsocket.socket(socket.AF_NETLINK)",
    "listens": "import socket\nsocket.create_server(('0.0.0.0', 0))",
    "connects its channel elsewhere": (
        "import os, socket, sys\ns = socket.socket(fileno=os.dup(int(sys.argv[1])))\ns.connect('\\0{abstract}')"
    ),
    "watches a folder": "syscall(254, syscall(294, 0), b'{folder}', 0xfff)",
    "reads the kernel's log": "syscall(103, 3, bytes(100), 100)",
}


@pytest.mark.parametrize("name", SEEN)
def test_seen_by_the_hook(name: str, attack: Callable[[Hostile], Result]) -> None:
    assert attack(forbidden(SEEN[name])).outcome == "forbidden"


@pytest.mark.parametrize("name", BEHIND)
def test_stopped_by_the_kernel(name: str, attack: Callable[[Hostile], Result]) -> None:
    assert attack(kernel(BEHIND[name])).outcome == "failed"
