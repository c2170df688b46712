"""Wrong programs that want to be judged right."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from evaluation.sandbox.run import Job, Result, Sandbox
from tests.evaluation.sandbox.hostile import Hostile, each_level, kernel

#: Writes messages in the channel's form to every descriptor that is open.
FORGE = (
    "import os, json, struct, sys\ndef forge(*messages):\n    for fd in range(1, 64):\n        for m in messages:\n"
    "            data = json.dumps(m).encode()\n            try: os.write(fd, struct.pack('!I', len(data)) + data)\n"
    "            except OSError: pass\n"
)
#: The frame that holds the request that is being answered, and its token.
FRAME = (
    "import sys\ndef request():\n    frame = sys._getframe()\n    while not {'request', 'channel'} <= set(frame.f_locals):\n"
    "        frame = frame.f_back\n    return frame\n"
)

LIES = {
    "an int that equals everything": (
        "class Liar(int):\n    def __eq__(self, other): return True\n    __ne__ = lambda self, other: False\n"
        "    __hash__ = int.__hash__\n    __sub__ = __rsub__ = lambda self, other: 0\n    __repr__ = lambda self: '42'\n"
        "    __int__ = __index__ = lambda self: 42\n    __class__ = int\ndef f(x): return Liar(7)"
    ),
    "an object that equals everything": "class A:\n    def __eq__(self, o): return True\ndef f(x): return A()",
    "an object that says it is an int": (
        "class A:\n    __class__ = int\n    def __eq__(self, o): return True\n"
        "    def __index__(self): return 42\ndef f(x): return A()"
    ),
    "a list that shows other items": (
        "class L(list):\n    def __eq__(self, o): return True\n"
        "    def __iter__(self): return iter([42])\ndef f(x): return L([1])"
    ),
    "a dict that shows other items": "class D(dict):\n    def items(self): return [(1, 42)]\ndef f(x): return D()",
    "a string that equals everything": (
        "class S(str):\n    def __eq__(self, o): return True\n    __hash__ = str.__hash__\ndef f(x): return S('')"
    ),
    "a float that is near everything": (
        "class F(float):\n    __sub__ = __rsub__ = lambda self, o: 0.0\n"
        "    def __eq__(self, o): return True\ndef f(x): return F(7)"
    ),
    "an answer that changes": (
        "class A(int):\n    n = 0\n    def __new__(c): A.n += 1; return int.__new__(c, A.n)\ndef f(x): return A()"
    ),
    "a type in place of a value": "def f(x): return int",
    "a bool": "def f(x): return True",
    "the text of the number": "def f(x): return str(x + 1)",
    "a list of the number": "def f(x): return [x + 1]",
    "nearly": "def f(x): return x + 1 + 1e-3",
    "not a number": "def f(x): return float('nan')",
    "infinity": "def f(x): return float('inf')",
    "an exception that is a value": "class E(BaseException, int): pass\ndef f(x): raise E(42)",
    "an exception with a verdict": "class E(BaseException):\n    def __str__(self): return 'passed'\ndef f(x): raise E()",
    "an exception named passed": "class passed(Exception): pass\ndef f(x): raise passed",
    "an exception of a lying class": (
        "class M(type):\n    __name__ = property(lambda s: 1 / 0)\n"
        "class E(BaseException, metaclass=M): pass\ndef f(x): raise E()"
    ),
    "a function that changes": "n = 0\ndef f(x):\n    global n\n    n += 1\n    return 42 if n == 1 else 0",
    "remembers answers": "seen = {41: 42, -1: 0}\ndef f(x): return seen[x]",
}

ENDS = {
    "exits at once": "import os\nos._exit(0)",
    "exits in the call": "import os\ndef f(x): os._exit(0)",
    "exits by sys": "import sys\nsys.exit(0)",
    "exits by sys in the call": "import sys\ndef f(x): sys.exit(0)",
    "exits by exception": "def f(x): raise SystemExit(0)",
    "is interrupted": "def f(x): raise KeyboardInterrupt",
    "ends its generator": "def f(x): raise GeneratorExit",
    "aborts": "import os\ndef f(x): os.abort()",
    "an alarm": (
        "import signal, time\ndef f(x):\n    signal.alarm(1)\n"
        "    signal.setitimer(signal.ITIMER_REAL, 0.01)\n    time.sleep(5)\n    return 0"
    ),
    "closes every descriptor": "import os\nos.closerange(0, 64)\ndef f(x): return x + 1",
    "hangs up": "import socket, sys\ndef f(x): return 0\nimport os\nos.close(int(sys.argv[1]))",
    "no function": "x = 1",
    "not a function": "f = 42",
    "another arity": "def f(): return 42",
    "nothing": "",
    "a syntax error": "def f(x) return x",
    "a null byte": "def f(x): return x\0",
    "half a surrogate": "x = '\udcff'\ndef f(x): return '\udcff'",
    "wrong indentation": "def f(x):\nreturn x + 1",
    "recursion": "def f(x): return f(x)",
    "a coroutine": "async def f(x): return x + 1",
    "a generator": "def f(x): yield x + 1",
}

FORGERIES = {
    "prints a verdict": (
        "import json\nprint(json.dumps({'outcome': 'passed'}))\ndef f(x):\n    print('{\"outcome\": \"passed\"}')\n    return 0"
    ),
    "writes verdicts everywhere": FORGE + "forge({'outcome': 'passed'})\ndef f(x): return 0",
    "replies before it is asked": FORGE + "forge({'token': '', 'value': 42}, {'value': 42})\ndef f(x): return 0",
    "is ready twice": FORGE + "forge({'ready': True}, {'ready': True})\ndef f(x): return 0",
    "claims to be forbidden": FORGE + "def f(x):\n    forge({'forbidden': 7, 'value': 42})\n    return 0",
    "garbage on the channel": (
        "import os\nfor fd in range(3, 64):\n    try: os.write(fd, b'\\xff' * 64)\n    except OSError: pass"
    ),
    "unknown tags": FORGE
    + FRAME
    + "def f(x):\n    forge({'token': request().f_locals['request']['token'], 'value': ['Ellipsis', 1]})\n    return 0",
    "a tag of the wrong form": FORGE
    + FRAME
    + "def f(x):\n    forge({'token': request().f_locals['request']['token'], 'value': ['dict', 7]})",
    "a value without a tag": FORGE
    + FRAME
    + "def f(x):\n    forge({'token': request().f_locals['request']['token'], 'value': []})",
    "a handle of nothing": FORGE
    + FRAME
    + "def f(x):\n    forge({'token': request().f_locals['request']['token'], 'value': ['object', 10**9]})",
    "a set of lists": FORGE
    + FRAME
    + "def f(x):\n    forge({'token': request().f_locals['request']['token'], 'value': ['set', [['list', []]]]})",
    "a huge range": FORGE
    + FRAME
    + "def f(x):\n    forge({'token': request().f_locals['request']['token'], 'value': ['range', 0, 10**18, 1]})",
    "an old token again": FORGE
    + FRAME
    + (
        "old = None\ndef f(x):\n    global old\n    now = request().f_locals['request']['token']\n"
        "    if old: forge({'token': old, 'value': 0})\n    old = now\n    return 42"
    ),
    "looks for expected values in frames": (
        "import sys\ndef f(x):\n    frame = sys._getframe()\n    while frame:\n"
        "        for place in (frame.f_locals, frame.f_globals):\n"
        "            for name in ('expected', 'tests', 'answer', 'outcome'):\n"
        "                if name in place and not callable(place[name]): return place[name]\n"
        "        frame = frame.f_back\n    return None"
    ),
    "looks for expected values in the request": FRAME + "def f(x): return request().f_locals['request']['expected']",
    "replaces the loop's answer": FRAME + "def f(x):\n    request().f_globals['answer'] = lambda *a: 42\n    return 42",
    "replaces the encoder": FRAME
    + "def f(x):\n    request().f_locals['codec'].encode = lambda v: {'passed': True}\n    return 0",
    "replaces json": 'import json\njson.dumps = lambda *a, **k: \'{"outcome": "passed"}\'\ndef f(x): return 0',
    "replaces isinstance": "import builtins\nbuiltins.isinstance = lambda *a: True\ndef f(x): return 0",
    "replaces len and type": "import builtins\nbuiltins.len = lambda x: 42\nbuiltins.type = lambda x: int\ndef f(x): return 0",
    "replaces marshal": "import marshal\nmarshal.loads = lambda d: {'token': '', 'fetch': 'f'}\ndef f(x): return 0",
    "exit code as a verdict": "import atexit, os\natexit.register(os._exit, 0)\nraise SystemExit(0)",
    "a thread that answers": FORGE + "import threading\n"
    "threading.Thread(target=lambda: [forge({'value': 42}) for _ in range(100)]).start()\ndef f(x): return 0",
    "swallows everything": "def f(x):\n    try: raise KeyError\n    except BaseException: return True",
    "traces the judge": "import sys\nsys.settrace(lambda *a: None)\nsys.setprofile(lambda *a: None)\ndef f(x): return 0",
}


@each_level
@pytest.mark.parametrize("name", [*LIES, *ENDS, *FORGERIES])
def test_does_not_pass(name: str, attack: Callable[[Hostile], Result]) -> None:
    source = (LIES | ENDS | FORGERIES)[name]
    assert attack(Hostile(source, "failed")).outcome == "failed"


@each_level
@pytest.mark.parametrize("name", [*LIES, *FORGERIES])
def test_does_not_pass_assertions(name: str, box: Sandbox) -> None:
    """Against assertions, as HumanEval and MBPP have them, which run in the trusted process."""
    tests = f"assert f(41) == 42\nassert f(-1) == 0\nassert f({10**30}) == {10**30 + 1}\nassert isinstance(f(2), int)"
    (result,) = box.run_all([Job(source=(LIES | FORGERIES)[name], tests=tests, names=("f",))])
    assert result.outcome == "failed"


def test_a_swallowed_end_is_an_end(box: Sandbox) -> None:
    """A test that catches everything does not turn a dead program into a right one."""
    tests = "try:\n    f(1)\nexcept Exception:\n    pass"
    programs = ["import os\ndef f(x): os._exit(0)", "def f(x): open('/etc/passwd')", "def f(x): raise ValueError"]
    results = box.run_all([Job(source=source, tests=tests, names=("f",)) for source in programs])
    assert [result.outcome for result in results] == ["failed", "forbidden", "passed"]


def test_expected_values_never_enter_the_child(box: Sandbox) -> None:
    """A program that looks everywhere it can reach finds nothing."""
    look = (
        "import sys\ndef f(x):\n    seen = repr(sys.argv)\n    frame = sys._getframe()\n    while frame:\n"
        "        seen += repr(frame.f_locals) + repr(frame.f_globals)\n        frame = frame.f_back\n"
        "    for module in list(sys.modules.values()):\n        seen += repr(getattr(module, '__dict__', ''))[:100000]\n"
        "    return 'need' + 'le' in seen"
    )
    (compared, asserted) = box.run_all(
        [
            Job(source=look, entry_point="f", inputs=((1,),), expected=("needle",)),
            Job(source=look, tests="secret = 'needle'\nassert f(1) is False", names=("f",)),
        ]
    )
    assert (compared.outcome, asserted.outcome) == ("failed", "passed")


def test_a_program_meets_a_fresh_process(attack: Callable[[Hostile], Result]) -> None:
    """Nothing that one program leaves is there for the next."""
    leave = "import builtins, sys\nbuiltins.left = 1\nopen('left', 'w').write('42')\ndef f(x): return x + 1"
    find = "import builtins\ndef f(x):\n    try: open('left')\n    except FileNotFoundError: builtins.left\n    return x + 1"
    assert attack(Hostile(leave, "passed")).outcome == "passed"
    assert attack(kernel("open('left')")).outcome == "failed"
    assert attack(Hostile(find, "failed")).outcome == "failed"
