"""Programs that use up time, memory, disk, processes or the channel."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from evaluation.sandbox.run import Job, Result, Sandbox
from tests.evaluation.sandbox.hostile import WITHOUT_HOOK, Hostile, each_level, kernel, looping

IGNORE_SIGNALS = (
    "import signal\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError): pass\n"
)
#: Sends to the channel, whose descriptor is an argument.
SEND = "import os, sys, struct\nchannel = int(sys.argv[1])\ndef send(data): os.write(channel, data)\n"

TIME = {
    "endless loop": looping("def f(x):\n    while True: pass"),
    "endless loop at import": looping("while True: pass"),
    "sleeps": looping("import time\ndef f(x): time.sleep(60)"),
    "waits for itself": looping("import threading\ndef f(x):\n    l = threading.Lock()\n    l.acquire()\n    l.acquire()"),
    "waits for a thread": looping(
        "import threading, time\nt = threading.Thread(target=time.sleep, args=(60,))\nt.start()\ndef f(x): t.join()"
    ),
    "ignores signals": looping(IGNORE_SIGNALS + "while True: pass"),
    "swallows exceptions": looping(
        "def f(x):\n    while True:\n        try:\n            while True: pass\n        except BaseException: pass"
    ),
    "regular expression": looping("import re\ndef f(x): re.match('(a+)+$', 'a' * 40 + 'b')"),
    "huge power": looping("def f(x): return 9**9**9"),
    "an endless sum": looping("import itertools\ndef f(x): return sum(itertools.count())"),
    "endless exit handlers": looping(
        "import atexit\natexit.register(lambda: [1 for _ in iter(int, 1)])\ndef f(x): raise_(SystemExit)\n"
        "def raise_(e):\n    while True: pass"
    ),
    "an endless finalizer": looping("class A:\n    def __del__(self):\n        while True: pass\ndef f(x): A()"),
    "endless recompilation": looping("def f(x):\n    while True: exec(compile('x = 1', '', 'exec'))"),
    "endless output": looping("import sys\ndef f(x):\n    while True: print('x' * 10000)"),
    "endless errors": looping("import sys\ndef f(x):\n    while True: print('x' * 10000, file=sys.stderr)"),
    "a reply drop by drop": looping(
        SEND + "import time\nsend(struct.pack('!I', 1000))\nwhile True:\n    send(b' ')\n    time.sleep(0.01)"
    ),
    "a reply that is announced only": looping(SEND + "import time\nsend(struct.pack('!I', 1 << 20))\ntime.sleep(60)"),
    "threads that spin": looping(
        "import threading\ndef spin():\n    while True: pass\n"
        "for _ in range(8): threading.Thread(target=spin).start()\ndef f(x): spin()"
    ),
}

SPACE = {
    "memory at once": Hostile("x = bytearray(1 << 40)", "out_of_memory"),
    "memory by and by": Hostile("def f(x):\n    l = []\n    while True: l.append(bytearray(1 << 20))", "out_of_memory"),
    "memory in one list": Hostile("def f(x): return [0] * (1 << 30)", "out_of_memory"),
    "memory in a string": Hostile("def f(x): return len('x' * (1 << 40))", "out_of_memory"),
    "memory in an integer": Hostile("def f(x): return 1 << (1 << 40)", "out_of_memory"),
    "memory that is mapped": kernel("import mmap\nmmap.mmap(-1, 1 << 32)"),
    "memory in threads": Hostile(
        "import threading\nl = []\ndef grow():\n    while True: l.append(bytearray(1 << 20))\ndef f(x): grow()", "out_of_memory"
    ),
    "endless recursion": Hostile("import sys\nsys.setrecursionlimit(10**9)\ndef f(x): return f(x)", "failed", memory_mb=64),
    "a stack overflow in C": Hostile(
        "import sys\nsys.setrecursionlimit(10**9)\nl = []\nfor _ in range(10**5): l = [l]\nrepr(l)", "failed"
    ),
    "a thread bomb": Hostile(
        "import threading, time\ndef f(x):\n"
        "    for _ in range(1000): threading.Thread(target=time.sleep, args=(60,)).start()\n    return x + 1",
        "failed",
    ),
    "a thread bomb with small stacks": Hostile(
        "import threading, time\nthreading.stack_size(1 << 15)\ndef f(x):\n"
        "    for _ in range(100_000): threading.Thread(target=time.sleep, args=(60,)).start()\n    return x + 1",
        "failed",
    ),
    "a fork bomb": kernel("import os\nwhile True: os.fork()"),
    "a huge file": Hostile(
        "def f(x):\n    with open('big', 'wb') as s:\n        for _ in range(100): s.write(bytes(1 << 20))\n    return x + 1",
        "failed",
    ),
    "a file with a hole": Hostile("def f(x):\n    open('big', 'wb').truncate(1 << 40)\n    return x + 1", "failed"),
    "many large files": Hostile(
        "import time\ndef f(x):\n    for n in range(100):\n        with open(f'file{n}', 'wb') as s: s.write(bytes(4 << 20))\n"
        "        time.sleep(0.01)\n    return x + 1",
        "failed",
    ),
    "many small files": Hostile(
        "def f(x):\n    for n in range(10**6): open(f'file{n}', 'w').close()\n    return x + 1", "forbidden"
    ),
    "many small folders": Hostile(
        "import os\ndef f(x):\n    for n in range(10**6): os.mkdir(f'folder{n}')\n    return x + 1", "forbidden"
    ),
    "many open files": Hostile("def f(x):\n    l = [open('mine', 'w') for _ in range(500)]\n    return x + 1", "failed"),
    "many pipes": Hostile("import os\ndef f(x):\n    l = [os.pipe() for _ in range(500)]\n    return x + 1", "failed"),
}

#: Behind the hook's back: 70,000 a second could be made.
FILES = {
    "files": "for n in range(10**6): os.close(os.open(f'file{n}', os.O_WRONLY | os.O_CREAT))",
    "folders": "for n in range(10**6): os.mkdir(f'folder{n}')",
    "folders in folders": "for n in range(10**6):\n    os.mkdir('d')\n    os.chdir('d')",
    "files in a folder that may not be listed": (
        "os.mkdir('d', 0o300)\nfor n in range(10**6): os.close(os.open(f'd/file{n}', os.O_WRONLY | os.O_CREAT))"
    ),
    "named pipes": "for n in range(10**6): os.mkfifo(f'pipe{n}')",
    "links": "for n in range(10**6): os.symlink('x', f'link{n}')",
}

REPLIES = {
    "a huge integer": "def f(x): return 1 << (1 << 26)",
    "a huge string": "def f(x): return ['x' * 1_000_000] * 150",
    "an endless iterator": "import itertools\ndef f(x): return itertools.count()",
    "an endless generator": "def f(x):\n    while True: yield 1",
    "endless keys": "class D(dict):\n    def items(self):\n        while True: yield 1, 1\ndef f(x): return D()",
    "a value that contains itself": "def f(x):\n    l = []\n    l.append(l)\n    return l",
    "a dict that contains itself": "def f(x):\n    d = {}\n    d[1] = d\n    return d",
    "a deep value": "def f(x):\n    l = []\n    for _ in range(100_000): l = [l]\n    return l",
    "an announced giant": SEND + "send(b'\\xff' * 8)\ndef f(x): return x + 1",
    "deep brackets": SEND + "data = b'[' * 10_000_000\nsend(struct.pack('!I', len(data)) + data)",
    "many objects": SEND + "data = b'[' + b'[],' * 3_000_000 + b'[]]'\nwhile data:\n    if data[:1] == b'[':\n"
    "        send(struct.pack('!I', len(data)))\n    data = data[os.write(channel, data):]\n    break",
    "a number of many digits": SEND + "data = b'1' * 1_000_000\nsend(struct.pack('!I', len(data)) + data)",
    "bytes that are no text": SEND + "data = b'\\xff' * 1000\nsend(struct.pack('!I', len(data)) + data)",
}


@each_level
@pytest.mark.parametrize("name", TIME)
def test_time(name: str, attack: Callable[[Hostile], Result]) -> None:
    start = time.monotonic()
    assert attack(TIME[name]).outcome == "timed_out"
    assert time.monotonic() - start < TIME[name].timeout_s + 3


@each_level
@pytest.mark.parametrize("name", SPACE)
def test_space(name: str, attack: Callable[[Hostile], Result]) -> None:
    assert attack(SPACE[name]).outcome == SPACE[name].outcome


@pytest.mark.parametrize("name", FILES)
def test_the_number_of_files_is_capped(name: str, attack: Callable[[Hostile], Result]) -> None:
    """Nothing of it is left (``attack`` looks)."""
    making = FILES[name].replace("\n", "\n    ")
    source = WITHOUT_HOOK.replace(
        'FORBIDDEN_EVENTS"] = ()', 'FORBIDDEN_EVENTS"] = ()\n    frame.f_globals["MAX_WRITES"] = 10**9'
    )
    result = attack(Hostile(f"{source}    import os\n    {making}", "failed"))
    assert result.outcome == "failed" and result.seconds < 3
    if result.detail != "input 0: PermissionError":  # some are denied altogether
        assert result.detail == "input 0: file limit"


def test_files_over_many_calls_are_capped(box: Sandbox) -> None:
    """No call takes long enough to be looked at while it runs."""
    source = "import os\nn = 0\ndef f(x):\n    global n\n    for _ in range(9):\n        n += 1\n        os.mkdir(f'd{n}')"
    job = Job(
        source=f"import sys\nsys._getframe(1).f_globals['MAX_WRITES'] = 10**9\n{source}",
        entry_point="f",
        inputs=((1,),) * 5000,
        collect=True,
        timeout_s=30.0,
    )
    (result,) = box.run_all([job])
    assert (result.outcome, result.detail.partition(": ")[2]) == ("failed", "file limit") and len(result.outputs) < 4000


def test_files_that_were_removed_do_not_count(box: Sandbox) -> None:
    source = "import os\ndef f(x):\n    os.mkdir('d')\n    os.rmdir('d')\n    return x"
    job = Job(source=source, entry_point="f", inputs=((1,),) * 900, expected=(1,) * 900, timeout_s=30.0)
    assert [result.outcome for result in box.run_all([job])] == ["passed"]


@each_level
@pytest.mark.parametrize("name", REPLIES)
def test_replies(name: str, attack: Callable[[Hostile], Result]) -> None:
    assert attack(Hostile(REPLIES[name], "failed")).outcome == "failed"
