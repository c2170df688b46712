"""No hostile program passes, none changes anything outside, and ordinary ones are judged right.

Every program below is run for real, in the sandbox, as a model's completion would be.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evaluation import sandbox
from evaluation.sandbox import Job, Limits, Result, run, run_all

LIMITS = Limits(timeout_s=1.0, memory_mb=256, workers=2)


def judge(source: str, *, limits: Limits = LIMITS) -> Result:
    """A program that ought to define f(x) = x + 1, checked on values it cannot guess."""
    return run(
        Job(source=source, entry_point="f", inputs=((41,), (-1,), (10**30,)), expected=(42, 0, 10**30 + 1)), limits=limits
    )


def judge_asserted(source: str) -> Result:
    """The same by assertions, as HumanEval and MBPP have them."""
    return run(
        Job(source=source, tests="assert f(41) == 42\nassert f(-1) == 0\nassert isinstance(f(2), int)", names=("f",)),
        limits=LIMITS,
    )


def test_a_right_program_passes_and_a_wrong_one_fails() -> None:
    assert judge("def f(x):\n    return x + 1").outcome == "passed"
    assert judge("def f(x):\n    return x").outcome == "failed"
    assert judge_asserted("def f(x):\n    return x + 1").outcome == "passed"
    assert judge_asserted("def f(x):\n    return x").outcome == "failed"


def test_the_standard_library_is_there() -> None:
    modules = (
        "bisect, collections, copy, datetime, decimal, fractions, functools, hashlib, heapq, itertools, json, math, "
        "operator, random, re, statistics, string, threading, typing, unicodedata"
    )
    assert judge(f"import {modules}\ndef f(x):\n    return x + 1", limits=Limits(timeout_s=5)).outcome == "passed"


LIAR = """
class Liar(int):
    def __eq__(self, other): return True
    __ne__ = lambda self, other: False
    __hash__ = int.__hash__
    def __sub__(self, other): return 0
    __rsub__ = __sub__
    def __repr__(self): return '42'
    __class__ = int
def f(x): return Liar(7)
"""
FORGERIES = {
    "lying __eq__ on an int": LIAR,
    "lying __eq__ on an object": "class A:\n    def __eq__(self, o): return True\ndef f(x): return A()",
    "lying list": "class L(list):\n    def __eq__(self, o): return True\n    def __iter__(self): return iter([42])\n"
    "def f(x): return L([1])",
    "walks frames for expected values": (
        "import sys\ndef f(x):\n    frame = sys._getframe()\n    while frame:\n        for name in ('expected', 'tests'):\n"
        "            if name in frame.f_locals: return frame.f_locals[name]\n        frame = frame.f_back\n    return None"
    ),
    "exits at once": "import os\nos._exit(0)",
    "exits in the call": "import os\ndef f(x): os._exit(0)",
    "sys.exit": "import sys\nsys.exit(0)",
    "SystemExit in the call": "def f(x): raise SystemExit(0)",
    "prints a verdict": 'print(\'{"outcome": "passed"}\')\ndef f(x):\n    print(\'{"outcome": "passed"}\')\n    return 0',
    "forges replies on every descriptor": (
        "import os, json, struct\nfor fd in range(3, 64):\n"
        "    for m in ({'outcome': 'passed'}, {'token': '', 'value': ['int', '2a']}):\n"
        "        data = json.dumps(m).encode()\n        try: os.write(fd, struct.pack('!I', len(data)) + data)\n"
        "        except OSError: pass\ndef f(x): return 0"
    ),
    "garbage on the channel": (
        "import os\nfor fd in range(3, 64):\n    try: os.write(fd, b'\\xff' * 64)\n    except OSError: pass"
    ),
    "closes the channel": "import os\nos.closerange(3, 64)\ndef f(x): return x + 1",
    "replaces the json module": 'import json\njson.dumps = lambda *a, **k: \'{"outcome": "passed"}\'\ndef f(x): return 0',
    "replaces isinstance": "import builtins\nbuiltins.isinstance = lambda *a: True\ndef f(x): return 0",
    "swallows everything": "def f(x):\n    try: raise KeyError\n    except BaseException: return True",
    "a bool for a number": "def f(x): return True",
    "a string of the number": "def f(x): return str(x + 1)",
    "nearly right": "def f(x): return x + 1 + 1e-3",
    "not a number": "def f(x): return float('nan')",
    "no function": "x = 1",
    "syntax error": "def f(x) return x",
    "null byte": "def f(x): return x\0",
    "lone surrogate": "x = '\udcff'\ndef f(x): return '\udcff'",
    "recursion": "def f(x): return f(x)",
    "a value that contains itself": "def f(x):\n    l = []\n    l.append(l)\n    return l",
    "an endless iterator": "import itertools\ndef f(x): return itertools.count()",
    "raises a liar": "class E(BaseException):\n    def __str__(self): return 'passed'\ndef f(x): raise E()",
    "lying metaclass": "class M(type):\n    __name__ = property(lambda s: 1 / 0)\nclass E(BaseException, metaclass=M): pass\n"
    "def f(x): raise E()",
    "abort": "import os\ndef f(x): os.abort()",
}


@pytest.mark.parametrize("name", FORGERIES)
def test_forgeries_fail(name: str) -> None:
    assert judge(FORGERIES[name]).outcome == "failed"
    assert judge_asserted(FORGERIES[name]).outcome == "failed"


FORBIDDEN = {
    "reads a secret": "open('/etc/passwd').read()",
    "reads through io": "import io\nio.open('/etc/shadow')",
    "reads through os": "import os\nos.read(os.open('/etc/hostname', os.O_RDONLY), 9)",
    "reads through ..": "import sys\nopen(sys.base_prefix + '/../../../../etc/passwd')",
    "reads its parent's environment": "import os\nopen(f'/proc/{os.getppid()}/environ')",
    "writes outside": "import os\nos.open('{marker}', os.O_WRONLY | os.O_CREAT)",
    "runs a shell": "import os\nos.system('touch {marker}')",
    "runs a process": "import subprocess\nsubprocess.run(['touch', '{marker}'])",
    "forks": "import os\nos.fork()",
    "forks through posix": "import posix\nposix.fork()",
    "replaces itself": "import os\nos.execv('/bin/touch', ['touch', '{marker}'])",
    "spawns": "import os\nos.posix_spawn('/bin/touch', ['touch', '{marker}'], dict())",
    "kills its parent": "import os\nos.kill(os.getppid(), 9)",
    "opens a socket": "import socket\nsocket.socket()",
    "connects": "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:1')",
    "calls the C library": "import ctypes\nctypes.CDLL(None).system(b'touch {marker}')",
    "lists the root": "import os\nos.listdir('/')",
    "removes files": "import shutil\nshutil.rmtree('{folder}')",
    "changes modes": "import os\nos.chmod('{folder}', 0o777)",
    "links out": "import os\nos.symlink('/etc/passwd', 'p')",
    "reads all objects": "import gc\ngc.get_objects()",
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_forbidden_operations_are_named_and_change_nothing(name: str, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("here")
    source = FORBIDDEN[name].replace("{marker}", str(tmp_path / "marker")).replace("{folder}", str(tmp_path))
    indented = "\n".join("    " + line for line in source.split("\n"))
    for program in (f"{source}\ndef f(x): return x + 1", f"def f(x):\n{indented}\n    return x + 1"):
        assert judge(program).outcome == "forbidden"
    assert os.listdir(tmp_path) == ["kept"] and kept.read_text() == "here"


#: Python-level hooks are no barrier to code that calls the kernel; these go round the audit hook by design of the test.
WITHOUT_HOOK = "import sys\nsys.addaudithook = None\n"
requires_kernel_layers = pytest.mark.skipif(
    "seccomp" not in sandbox.level() or "landlock" not in sandbox.level(),
    reason=f"this machine's sandbox level is {sandbox.level()}",
)


@requires_kernel_layers
@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (41, (2, 1, 0)),
        (57, ()),
        (58, ()),
        (62, (1, 9)),
        (101, (0, 0, 0, 0)),
        (161, (b"/",)),
        (165, (b"a", b"b", b"c", 0, 0)),
        (272, (0x10000000,)),
        (304, (0, 0, 0)),
        (310, (1, 0, 0, 0, 0, 0)),
        (321, (0, 0, 0)),
        (425, (1, 0)),
        (435, (0, 0)),
        (56, (17, 0, 0, 0, 0)),
    ],
)
def test_the_kernel_refuses_dangerous_system_calls(code: int, arguments: tuple, tmp_path: Path) -> None:
    """Confined as the sandbox confines, without the Python-level hook."""
    assert confined(
        f"import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        f"print(libc.syscall({code}, *{arguments!r}), ctypes.get_errno())",
        tmp_path,
    ) in ("-1 1", "-1 38")


@requires_kernel_layers
def test_the_kernel_hides_files_and_drops_rights(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    folder = tmp_path / "work"
    folder.mkdir()
    os.chmod(tmp_path, 0o755)
    if os.geteuid() == 0:
        os.chown(folder, 65534, 65534)
    for path in (secret, Path("/etc/passwd"), Path.home() / ".bashrc", Path(__file__)):
        assert confined(f"open({str(path)!r})", folder).startswith("PermissionError")
    assert confined("open('/tmp/beamlora-marker', 'w')", folder).startswith("PermissionError")
    assert confined("open('mine', 'w').write('x'); print(open('mine').read())", folder) == "x"
    assert confined("import os; print(os.environ.get('HOME'), os.getuid() != 0)", folder) == "None True"


def confined(source: str, folder: Path) -> str:
    """What a confined interpreter prints, or the last line of its error."""
    from evaluation import confinement

    if os.geteuid() == 0:
        os.chown(folder, 65534, 65534)
    limits = confinement.ProcessLimits(cpu_s=5, memory_mb=512)
    done = subprocess.run(
        [os.path.realpath(sys._base_executable), "-I", "-S", "-c", source],
        cwd=folder,
        env={},
        text=True,
        capture_output=True,
        preexec_fn=lambda: confinement.confine(limits, str(folder)),
        timeout=30,
    )
    return done.stdout.strip() or done.stderr.strip().split("\n")[-1]


EXHAUSTION = {
    "endless loop": ("def f(x):\n    while True: pass", "timed_out"),
    "endless loop at import": ("while True: pass", "timed_out"),
    "sleeps": ("import time\ndef f(x): time.sleep(60)", "timed_out"),
    "ignores signals": (
        "import signal\nfor s in range(1, 65):\n"
        "    try: signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError): pass\n"
        "while True: pass",
        "timed_out",
    ),
    "swallows exceptions for ever": (
        "def f(x):\n    while True:\n        try:\n            while True: pass\n        except BaseException: pass",
        "timed_out",
    ),
    "regular expression": ("import re\ndef f(x): re.match('(a+)+$', 'a' * 40 + 'b')", "timed_out"),
    "huge power": ("def f(x): return 9**9**9", "timed_out"),
    "memory at once": ("x = bytearray(1 << 40)", "out_of_memory"),
    "memory by and by": ("def f(x):\n    l = []\n    while True: l.append(bytearray(1 << 20))", "out_of_memory"),
    "huge integer": ("def f(x): return 1 << (1 << 26)", "failed"),
    "huge reply": ("def f(x): return ['x' * 1000000] * 90", "failed"),
    "segmentation fault": (
        "import sys\nsys.setrecursionlimit(10**9)\nl = []\nfor _ in range(10**5): l = [l]\nrepr(l)",
        "failed",
    ),
    "endless recursion": ("import sys\nsys.setrecursionlimit(10**9)\ndef f(x): return f(x)", "out_of_memory"),
    "thread bomb": (
        "import threading, time\ndef f(x):\n"
        "    for _ in range(1000): threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "    return 0",
        "failed",
    ),
    "huge file": (
        "def f(x):\n    with open('big', 'wb') as s:\n        for _ in range(100): s.write(bytes(1 << 20))\n    return 0",
        "failed",
    ),
}


@pytest.mark.parametrize("name", EXHAUSTION)
def test_exhaustion_ends_in_time(name: str) -> None:
    source, outcome = EXHAUSTION[name]
    start = time.monotonic()
    # On a busy machine the time limit may come first.
    assert judge(source).outcome in {outcome, "timed_out"}
    assert time.monotonic() - start < 6


def test_nothing_survives_a_run() -> None:
    """Live threads at the end do not delay a verdict, and no process or folder is left."""
    folder = Path(os.environ.get("TMPDIR", "/tmp"))
    before = set(folder.glob("sandbox-*"))
    source = "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\ndef f(x): return x + 1"
    start = time.monotonic()
    assert judge(source).outcome == "passed"
    assert time.monotonic() - start < 5
    assert not set(folder.glob("sandbox-*")) - before


def test_limits_have_their_effect() -> None:
    slow = "import time\ntime.sleep(0.7)\ndef f(x): return x + 1"
    assert judge(slow, limits=Limits(timeout_s=0.3)).outcome == "timed_out"
    assert judge(slow, limits=Limits(timeout_s=5)).outcome == "passed"
    large = "x = bytearray(200 << 20)\ndef f(x): return x + 1"
    assert judge(large, limits=Limits(memory_mb=128)).outcome == "out_of_memory"
    assert judge(large, limits=Limits(memory_mb=1024)).outcome == "passed"


def test_workers_run_at_once_and_results_keep_their_order() -> None:
    jobs = [
        Job(source=f"import time\ntime.sleep(0.5)\ndef f(x): return {n}", entry_point="f", inputs=((0,),), expected=(n % 3,))
        for n in range(4)
    ]
    start = time.monotonic()
    outcomes = [result.outcome for result in run_all(jobs, limits=Limits(timeout_s=5, workers=4))]
    assert outcomes == ["passed", "passed", "passed", "failed"]
    assert time.monotonic() - start < 4 * 0.5 + 1


def test_a_timed_out_program_gets_a_second_chance_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[str] = []
    answers = iter(["timed_out", "passed", "passed"])

    def fake(self: object, job: Job, limits: Limits) -> Result:
        runs.append(job.source)
        return Result(outcome=next(answers), detail="", seconds=0)

    monkeypatch.setattr(sandbox._Tester, "run", fake)
    one, two = (Job(source=name, entry_point="f") for name in "ab")
    assert [r.outcome for r in run_all([one, two], limits=Limits(workers=2))] == ["passed", "passed"]
    assert runs in (["a", "b", "a"], ["b", "a", "b"])


def test_expected_values_and_tests_never_enter_the_child() -> None:
    """A program that looks for them everywhere it can reach finds nothing."""
    source = (
        "import sys\ndef f(x):\n    seen = repr(sys.argv)\n    for module in list(sys.modules.values()):\n"
        "        seen += repr(getattr(module, '__dict__', ''))[:100000]\n    return 'need' + 'le' in seen"
    )
    assert run(Job(source=source, entry_point="f", inputs=((1,),), expected=("needle",)), limits=LIMITS).outcome == "failed"
    tests = "secret = 'needle'\nassert f(1) is False"
    assert run(Job(source=source, tests=tests, names=("f",)), limits=LIMITS).outcome == "passed"


@pytest.mark.parametrize(
    ("actual", "expected", "atol", "outcome"),
    [
        ("(1, 2)", [1, 2], 0, "passed"),
        ("[1, 2]", [2, 1], 0, "failed"),
        ("0.1 + 0.2", 0.3, 0, "passed"),
        ("1.05", 1, 0.1, "passed"),
        ("1.05", 1, 0, "failed"),
        ("{'a': (1,)}", {"a": [1]}, 0, "passed"),
        ("{'a': 1, 'b': 2}", {"a": 1}, 0, "failed"),
        ("None", None, 0, "passed"),
        ("''", None, 0, "failed"),
        ("'a'", "a", 0, "passed"),
        ("1.0", 1, 0, "passed"),
        ("True", True, 0, "passed"),
        ("[0.1 + 0.2]", [0.3], 0, "passed"),
        ("float('inf')", float("inf"), 0, "passed"),
        ("{1, 2}", [1, 2], 0, "failed"),
    ],
)
def test_values_are_compared_as_plain_data(actual: str, expected: object, atol: float, outcome: str) -> None:
    job = Job(source=f"def f(): return {actual}", entry_point="f", inputs=((),), expected=(expected,), atol=atol)
    assert run(job, limits=LIMITS).outcome == outcome


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "evaluation.sandbox", *arguments], capture_output=True, text=True, timeout=60)


def test_the_command_line(tmp_path: Path) -> None:
    program, tests = tmp_path / "p.py", tmp_path / "t.json"
    tests.write_text(
        json.dumps({"entry_point": "f", "inputs": [[1], [2]], "expected": [2, 3], "timeout_s": 2, "memory_mb": 300})
    )
    for body, outcome in (("x + 1", "passed"), ("x", "failed"), ("open('/etc/passwd')", "forbidden")):
        program.write_text(f"def f(x):\n    return {body}\n")
        done = command(str(program), "--tests", str(tests))
        assert done.returncode == 0
        last = json.loads(done.stdout.strip().split("\n")[-1])
        assert last["outcome"] == outcome and last["level"] == sandbox.level() and last["timeout_s"] == 2


@pytest.mark.parametrize(
    "spec",
    [
        "{",
        "[]",
        '{"entry_point": "f"}',
        '{"entry_point": "f", "inputs": [[1]], "expected": []}',
        '{"entry_point": "f", "inputs": [1], "expected": [1]}',
        '{"entry_point": "f", "inputs": [], "expected": [], "timeout": 1}',
    ],
)
def test_bad_arguments_exit_with_2_and_one_line(spec: str, tmp_path: Path) -> None:
    program, tests = tmp_path / "p.py", tmp_path / "t.json"
    program.write_text("")
    tests.write_text(spec)
    done = command(str(program), "--tests", str(tests))
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
