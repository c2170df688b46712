"""Programs that EvalPlus would let pass: packages, files, coroutines, and values that equal plain ones."""

from __future__ import annotations

from typing import Any

import pytest

from evaluation.comparison import Comparison
from evaluation.sandbox import packages
from evaluation.sandbox.run import Job, Result, Sandbox
from tests.evaluation.marks import needs_packages
from tests.evaluation.sandbox.hostile import each_level

PROGRAMS = {
    "numpy": "import numpy as np\ndef f(x): return int(np.array([x, 1]).sum())",
    "numpy's random numbers": "import numpy as np\nnp.random.default_rng(1).random(3)\ndef f(x): return x + 1",
    "pandas": "import pandas as pd\ndef f(x): return int(pd.DataFrame({'a': [x, 1]})['a'].sum())",
    "regex": "import regex\ndef f(x): return int(regex.match(r'\\d++', str(x + 1)).group())",
    "the others": (
        "import appdirs, dateutil, multipledispatch, rich, termcolor, tqdm, yaml\ndef f(x): return yaml.safe_load(str(x)) + 1"
    ),
}
STANDARD = {
    "asyncio.run": (
        "import asyncio\nasync def g(x):\n    await asyncio.sleep(0)\n    a, b = await asyncio.gather(h(x), h(0))\n"
        "    return a + b\nasync def h(x): return x + 0.5\ndef f(x): return int(asyncio.run(g(x)))"
    ),
    "asyncio with threads": (
        "import asyncio\nasync def g(x): return await asyncio.to_thread(lambda: x + 1)\ndef f(x): return asyncio.run(g(x))"
    ),
    "asyncio at the top": "import asyncio\nasync def g(x): return x + 1\nloop = asyncio.new_event_loop()\n"
    "def f(x): return loop.run_until_complete(g(x))",
    "a temporary folder": (
        "import os, tempfile\ndef f(x):\n    with tempfile.TemporaryDirectory() as d:\n        path = os.path.join(d, 'a')\n"
        "        with open(path, 'w') as s: s.write(str(x))\n        os.makedirs(os.path.join(d, 'b', 'c'))\n"
        "        os.rename(path, os.path.join(d, 'e'))\n        with open(os.path.join(d, 'e')) as s: x = int(s.read())\n"
        "    assert not os.path.exists(d)\n    return x + 1"
    ),
    "ctypes": "import ctypes\ndef f(x): return ctypes.c_int32(x + (1 << 32)).value + len(ctypes.create_string_buffer(1))",
}


def judge(box: Sandbox, source: str, **changes: Any) -> Result:
    (result,) = box.run_all([Job(**{"source": source, "entry_point": "f", "inputs": ((41,),), "expected": (42,), **changes})])
    return result


@needs_packages
@each_level
@pytest.mark.parametrize("name", PROGRAMS)
def test_packages_of_evalplus(name: str, box: Sandbox) -> None:
    found = judge(box, PROGRAMS[name], timeout_s=60.0)
    assert found.outcome == "passed" and found.level.endswith("+packages")


@needs_packages
def test_packages_cannot_be_written(box: Sandbox) -> None:
    source = "import numpy, os\ndef f(x):\n    os.open(numpy.__file__, os.O_RDONLY)\n    open(numpy.__file__, 'a')"
    assert judge(box, source, timeout_s=60.0).outcome == "forbidden"


@each_level
@pytest.mark.parametrize("name", STANDARD)
def test_parts_of_the_standard_library(name: str, box: Sandbox) -> None:
    found = judge(box, STANDARD[name], timeout_s=20.0)
    assert (found.outcome, found.detail) == ("passed", "")


#: (expression, expected value, whether EvalPlus says that it is right)
VALUES = [
    ("Decimal('7.5')", 7.5, True),
    ("Decimal('7.5000000001')", 7.5, False),  # not equal, and a tolerance is for floats
    ("Decimal('10')", 10, True),
    ("Fraction(15, 2)", 7.5, True),
    ("Fraction(1, 3)", 1 / 3, False),
    ("(Fraction(10), Decimal(24))", (10, 24), True),
    ("[Decimal(1), Fraction(4, 2)]", [1, 2], True),
    ("{Decimal(1): 'a'}", {1: "a"}, True),
    ("Decimal('NaN')", 0, False),
    ("Decimal('sNaN')", 0, False),
    ("Decimal('1e999999999')", 0, False),
    ("{1: 2, 3: 4}.keys()", {1, 3}, True),
    ("{1: 2}.items()", {(1, 2)}, True),
    ("{1: 2}.values()", [2], False),
    ("collections.UserList([1, 2])", [1, 2], True),
    ("collections.Counter('aab')", {"a": 2, "b": 1}, True),
    ("collections.namedtuple('P', 'a b')(1, 2)", (1, 2), True),
    ("collections.deque([1])", [1], False),
    ("type('F', (float,), {})(7.5)", 7.5, True),
    ("type('F', (float,), {})(7.5 + 1e-9)", 7.5, False),  # near, and of another type
    ("type('T', (tuple,), {})((7.5 + 1e-9,))", (7.5,), False),
    ("7.5 + 1e-9", 7.5, True),
]
NUMPY = [
    ("np.gcd(15, 10)", 5, True),
    ("np.float64(7.5)", 7.5, True),
    ("np.float64(7.5) + 1e-9", 7.5, False),
    ("np.float32(7.5)", 7.5, True),
    ("np.bool_(True)", True, True),
    ("np.array([1, 2])", [1, 2], False),  # its truth is ambiguous
    ("np.array([1, 2])", [1, 3], False),
    ("np.array([5])", [5], True),
    ("np.array([5])", 5, True),
    ("np.array([[5]])", 6, False),
    ("np.array(5)", 5, True),
    ("[np.array([5]), 1]", [5, 1], True),
    ("[np.array([5, 5]), 1]", [5, 1], False),
    ("list(np.array([1, 2]))", [1, 2], True),
    ("np.array([1, 2]).tolist()", [1, 2], True),
    ("np.str_('a')", "a", True),
    ("np.complex128(1j)", 1j, True),
    ("np.datetime64('2020-01-01')", 0, False),
]


def judge_values(box: Sandbox, imports: str, rows: list[tuple[str, Any, bool]]) -> list[str]:
    """Expressions on whose value we and EvalPlus differ."""
    jobs = [
        Job(
            source=f"{imports}\ndef f(): return {expression}",
            entry_point="f",
            inputs=((),),
            expected=(expected,),
            comparisons=(Comparison(),),
            timeout_s=60.0,
        )
        for expression, expected, _ in rows
    ]
    return [row[0] for row, found in zip(rows, box.run_all(jobs), strict=True) if (found.outcome == "passed") is not row[2]]


def test_values_that_equal_plain_ones(box: Sandbox) -> None:
    imports = "import collections\nfrom decimal import Decimal\nfrom fractions import Fraction"
    assert judge_values(box, imports, VALUES) == []


@needs_packages
def test_values_of_numpy(box: Sandbox) -> None:
    assert judge_values(box, "import numpy as np", NUMPY) == []


@needs_packages
def test_the_verdicts_on_values_are_pythons_and_numpys_own() -> None:
    """The tables above against EvalPlus's expression: equal, or of the same type and close."""
    import collections
    from decimal import Decimal
    from fractions import Fraction

    import numpy as np

    def verdict(output: Any, expected: Any) -> bool:
        try:
            close = isinstance(expected, float | tuple) and type(output) is type(expected)
            return bool(output == expected or (close and np.allclose(output, expected, rtol=1e-7, atol=1e-6)))
        except (ArithmeticError, ValueError, TypeError):
            return False

    names = {"collections": collections, "Decimal": Decimal, "Fraction": Fraction, "np": np}
    assert [row[0] for row in [*VALUES, *NUMPY] if verdict(eval(row[0], names), row[1]) is not row[2]] == []


@pytest.mark.parametrize(
    "source",
    [
        "from decimal import Decimal\nclass D(Decimal):\n    def __eq__(s, o): return True\n    __hash__ = None\n"
        "    def __str__(s): return '42'\ndef f(x): return D(7)",
        "from fractions import Fraction\nclass F(Fraction):\n    def __eq__(s, o): return True\n    __hash__ = None\n"
        "    numerator, denominator = 42, 1\ndef f(x): return F(7)",
        "from decimal import Decimal\nclass D:\n    __class__ = Decimal\n    def __str__(s): return '42'\n"
        "    def __eq__(s, o): return True\ndef f(x): return D()",
        "import collections\nclass U(collections.UserList):\n    def __eq__(s, o): return True\ndef f(x): return U([7])",
        "import sys, types\nnumpy = sys.modules['numpy'] = types.ModuleType('numpy')\nclass A:\n    def item(s): return s\n"
        "    def __eq__(s, o): return True\nnumpy.generic = A\ndef f(x): return A()",
    ],
    ids=["Decimal", "Fraction", "says it is a Decimal", "UserList", "numpy"],
)
def test_their_own_equality_is_never_asked(source: str, box: Sandbox) -> None:
    assert judge(box, source, timeout_s=10.0).outcome == "failed"


def test_without_the_packages_the_record_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from evaluation.sandbox import isolation

    monkeypatch.setattr(packages, "folder", lambda: None)
    assert "packages" not in isolation.layers("landlock")
    monkeypatch.setattr(packages, "folder", lambda: "/somewhere")
    assert isolation.layers("landlock").endswith("+packages")
