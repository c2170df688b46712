"""Forged replies that are meant to keep the trusted side busy: it ends at most 3 s after the limit, and says when."""

from __future__ import annotations

import time

import pytest

from evaluation.sandbox.run import Job, Result, Sandbox
from tests.evaluation.sandbox.hostile import each_level

LIMIT_S = 2.0
BEYOND_S = 3.0

#: Takes the token of the request from the frame that answers it, and replies in its place.
FORGE = """
import os, struct, sys, time
def reply_with(value):
    frame = sys._getframe()
    while not {"request", "channel"} <= set(frame.f_locals):
        frame = frame.f_back
    data = b'{"token":"' + frame.f_locals["request"]["token"].encode() + b'","value":' + value + b"}"
    data = memoryview(struct.pack("!I", len(data)) + data)
    while data:
        data = data[os.write(int(sys.argv[1]), data):]
    while True:
        time.sleep(1)
SIZE = 127 << 20
EQUAL = [b'["int","%x"]' % (n * (2**61 - 1)) for n in range(60_000)]
"""

#: Replies that are refused before anything is built of them, or built of them in vain.
VALUES = {
    "a set of equal hashes": """b'["set",[' + b",".join(EQUAL) + b"]]" """,
    "a frozen set of equal hashes": """b'["frozenset",[' + b",".join(EQUAL) + b"]]" """,
    "a dict of equal hashes": """b'["dict",[' + b",".join(b"[%b,0]" % key for key in EQUAL) + b"]]" """,
    "keys of equal hashes": """b'["dict_keys",[' + b",".join(EQUAL) + b"]]" """,
    "a set of Decimals of equal hash": (
        """b'["set",[' + b",".join(b'["Decimal","%d"]' % (n * (2**61 - 1)) for n in range(60_000)) + b"]]" """
    ),
    "empty lists": """b'["list",[' + b"[]," * (SIZE // 3 - 9) + b"[]]]" """,
    "empty dicts": """b'["list",[' + b"{}," * (SIZE // 3 - 9) + b"{}]]" """,
    "floats": """b'["list",[' + b"1.5," * (SIZE // 4 - 9) + b"1.5]]" """,
    "as many lists as may be": """b'["list",[' + b'["list",[]],' * 1_490_000 + b"1]]" """,
    "as many Fractions as may be": """b'["list",[' + b'["Fraction",1,3],' * 1_490_000 + b"1]]" """,
    "brackets": """b"[" * (SIZE - 9)""",
    "nested beyond the bound": """b'["list",[' * 401 + b"]]" * 401""",
    "a long number": """b"1" * (SIZE - 9)""",
    "a long float": """b"1." + b"1" * (SIZE - 9)""",
    "an integer without bound": """b'["int","' + b"f" * (SIZE - 99) + b'"]' """,
    "a Decimal without bound": """b'["Decimal","1e999999999999"]' """,
}
#: Values that cost nothing to build, and a lot to test.
TRAPS = {
    "a list of equal hashes": """b'["list",[' + b",".join(EQUAL) + b"]]" """,
    "an endless range": """b'["range",0,1000000000000000000,1]' """,
}


def run_timed(box: Sandbox, value: str, **job: object) -> tuple[Result, float]:
    """The result for a program that replies with ``value``, and how long it took outside."""
    source = f"{FORGE}VALUE = {value}\ndef f(x): reply_with(VALUE)"
    start = time.monotonic()
    (result,) = box.run_all([Job(source=source, timeout_s=LIMIT_S, memory_mb=2048, **job)])  # type: ignore[arg-type]
    return result, time.monotonic() - start


def check(result: Result, seconds: float) -> None:
    assert result.outcome in ("failed", "timed_out")
    assert seconds < LIMIT_S + BEYOND_S
    assert seconds - 0.75 < result.seconds <= seconds


@each_level
@pytest.mark.parametrize("name", VALUES)
def test_no_reply_holds_up_a_comparison(name: str, box: Sandbox) -> None:
    check(*run_timed(box, VALUES[name], entry_point="f", inputs=((1,),), expected=({1},)))


@pytest.mark.parametrize("box", ["bubblewrap"], indirect=True)
@pytest.mark.parametrize("name", [name for name in VALUES if "equal" in name and not name.startswith("keys")])
def test_no_set_is_collected_whose_items_collide(name: str, box: Sandbox) -> None:
    """What is collected is built once more, in the process that asks for it. Keys of a dict are not collected."""
    result, seconds = run_timed(box, VALUES[name], entry_point="f", inputs=((1,),), collect=True)
    check(result, seconds)
    assert result.outputs == ()


@each_level
@pytest.mark.parametrize("name", TRAPS)
def test_a_test_that_does_not_end_is_ended(name: str, box: Sandbox) -> None:
    """``set`` of it is one step of the interpreter, which no signal interrupts."""
    result, seconds = run_timed(box, TRAPS[name], tests="assert set(f(1)) == {1}", names=("f",))
    check(result, seconds)
    assert result.outcome == "timed_out"


@each_level
def test_a_comparison_by_sets_is_ended_too(box: Sandbox) -> None:
    """MBPP tasks that EvalPlus compares so."""
    from evaluation.graders.evalplus import OutputComparison, Task

    task = Task(dataset="mbpp", id="", entry_point="Diff", reference="", base=(), plus=(), atol=0)
    job = {"inputs": ((1,),), "expected": ([1],), "comparisons": (OutputComparison(task),)}
    check(*run_timed(box, TRAPS["a list of equal hashes"], entry_point="f", **job))


@each_level
def test_time_is_over_also_for_a_test_that_catches_everything(box: Sandbox) -> None:
    tests = "import time\ntry:\n    while True: time.sleep(0.01)\nexcept Exception: pass"
    start = time.monotonic()
    (result,) = box.run_all([Job(source="", tests=tests, timeout_s=0.5)])
    assert result.outcome == "timed_out" and time.monotonic() - start < 0.5 + BEYOND_S


@each_level
def test_the_next_program_is_not_held_up(box: Sandbox) -> None:
    run_timed(box, VALUES["as many lists as may be"], entry_point="f", inputs=((1,),), expected=(1,))
    start = time.monotonic()
    (result,) = box.run_all([Job(source="def f(x): return x", entry_point="f", inputs=((1,),), expected=(1,))])
    assert result.outcome == "passed" and time.monotonic() - start < 3


@each_level
def test_as_deep_and_as_long_as_may_be_is_read(box: Sandbox) -> None:
    source = (
        "def f(n):\n    value = 1\n    for _ in range(n): value = [value]\n    return value\ndef g(n): return list(range(n))"
    )
    deep, deeper, long, longer = box.run_all(
        [
            Job(source=source, entry_point=name, inputs=((n,),), collect=True, timeout_s=60)
            for name, n in (("f", 399), ("f", 401), ("g", 1_400_000), ("g", 1_600_000))
        ]
    )
    assert deep.outputs[0].error is None and str(deep.outputs[0].value) == "[" * 399 + "1" + "]" * 399
    assert (deeper.outcome, deeper.detail) == ("failed", "input 0: reply nested too deeply")
    assert long.outputs[0].value == list(range(1_400_000)) and longer.outputs[0].error == "ValueError"
