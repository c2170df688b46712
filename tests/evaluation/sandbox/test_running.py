"""Ordinary programs are judged right, by values and by assertions, within their limits."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import pytest

from evaluation.sandbox import run as sandbox
from evaluation.sandbox.process import NOT_PLAIN, folders_of
from evaluation.sandbox.run import Job, Limits, Output, Result, Sandbox, run, run_all

RIGHT = "def f(x):\n    return x + 1"


def judge(box: Sandbox, source: str, **changes: Any) -> Result:
    """Of a program that ought to define f(x) = x + 1."""
    (result,) = box.run_all([Job(**{"source": source, "entry_point": "f", "inputs": ((41,),), "expected": (42,), **changes})])
    return result


def test_a_right_program_passes_and_a_wrong_one_fails(box: Sandbox) -> None:
    tests = "assert f(41) == 42"
    jobs = [
        Job(source=source, tests=tests, names=("f",))
        if asserted
        else Job(source=source, entry_point="f", inputs=((1,),), expected=(2,))
        for asserted in (False, True)
        for source in (RIGHT, "def f(x): return x")
    ]
    assert [result.outcome for result in box.run_all(jobs)] == ["passed", "failed", "passed", "failed"]


def test_every_result_has_the_level(box: Sandbox) -> None:
    assert judge(box, RIGHT).level == box.level
    assert box.level.split("+")[0] in ("bubblewrap", "landlock") and "rlimits" in box.level


def test_the_standard_library_is_there(box: Sandbox) -> None:
    modules = (
        "bisect, collections, copy, datetime, decimal, fractions, functools, hashlib, heapq, itertools, json, math, "
        "operator, random, re, statistics, string, tempfile, threading, typing, unicodedata, zoneinfo"
    )
    assert judge(box, f"import {modules}\n{RIGHT}").outcome == "passed"


def test_files_of_its_own_and_threads_are_allowed(box: Sandbox) -> None:
    source = (
        "import tempfile, threading\n"
        "with tempfile.TemporaryFile('w+') as s:\n    s.write('41')\n    s.seek(0)\n    assert s.read() == '41'\n"
        "def f(x):\n    out = []\n    threads = [threading.Thread(target=out.append, args=(n,)) for n in range(8)]\n"
        "    for t in threads: t.start()\n    for t in threads: t.join()\n    return x + len(out) - 7"
    )
    assert judge(box, source).outcome == "passed"


def test_the_order_of_a_set_is_always_the_same(box: Sandbox) -> None:
    source = "def f(): return list({'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'})"
    job = Job(source=source, entry_point="f", inputs=((),), collect=True)
    first, second = (result.outputs[0].value for result in box.run_all([job, job]))
    assert first == second


def test_a_view_of_a_dict_is_not_collected_and_named(box: Sandbox) -> None:
    source, inputs = "def f(name): return getattr({1: 2}, name)()", (("keys",), ("items",))
    (result,) = box.run_all([Job(source=source, entry_point="f", inputs=inputs, collect=True)])
    assert result.outcome == "passed" and [one.error for one in result.outputs] == [NOT_PLAIN] * 2


def test_threads_left_over_do_not_delay(box: Sandbox) -> None:
    source = f"import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\n{RIGHT}"
    start = time.monotonic()
    assert judge(box, source).outcome == "passed"
    assert time.monotonic() - start < 5


def test_limits_have_their_effect(box: Sandbox) -> None:
    slow = f"import time\ntime.sleep(0.5)\n{RIGHT}"
    assert judge(box, slow, timeout_s=0.2).outcome == "timed_out"
    assert judge(box, slow, timeout_s=10.0).outcome == "passed"
    large = f"x = bytearray(200 << 20)\n{RIGHT}"
    assert judge(box, large, memory_mb=128).outcome == "out_of_memory"
    assert judge(box, large, memory_mb=1024).outcome == "passed"


def test_limits_of_all_jobs_have_their_effect() -> None:
    slow = Job(source=f"import time\ntime.sleep(0.5)\n{RIGHT}", entry_point="f", inputs=((1,),), expected=(2,))
    assert run(slow, limits=Limits(timeout_s=0.2)).outcome == "timed_out"
    large = Job(source=f"x = bytearray(200 << 20)\n{RIGHT}", entry_point="f", inputs=((1,),), expected=(2,))
    assert run(large, limits=Limits(memory_mb=128)).outcome == "out_of_memory"
    assert Limits(timeout_s=2, memory_mb=300).as_dict() == {
        "timeout_s": 2,
        "memory_mb": 300,
        "scratch_mb": 16,
        "files": 2000,
        "processes": 64,
    }


def test_a_limit_for_each_input(box: Sandbox) -> None:
    """Only the input whose limit is short times out, although both take the same time."""
    source = "import time\ndef f(x):\n    time.sleep(0.3)\n    return x"
    inputs: dict[str, Any] = {"inputs": ((0,), (1,)), "expected": (0, 1)}
    assert judge(box, source, **inputs, input_timeouts_s=(5.0, 5.0)).outcome == "passed"
    result = judge(box, source, **inputs, input_timeouts_s=(5.0, 0.1))
    assert (result.outcome, result.detail) == ("timed_out", "input 1: time limit")
    assert judge(box, source, **inputs, input_timeouts_s=(5.0, 5.0), timeout_s=0.4).detail == "input 1: time limit"


def test_workers_run_at_once_and_results_keep_their_order() -> None:
    jobs = [
        Job(source=f"import time\ntime.sleep(0.5)\ndef f(x): return {n}", entry_point="f", inputs=((0,),), expected=(n % 3,))
        for n in range(4)
    ]
    with Sandbox(limits=Limits(timeout_s=20, workers=4)) as box:
        box.run_all(jobs)
        start = time.monotonic()
        outcomes = [result.outcome for result in box.run_all(jobs)]
    assert outcomes == ["passed", "passed", "passed", "failed"]
    assert time.monotonic() - start < 4 * 0.5


def test_a_timed_out_program_gets_a_second_chance_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[str] = []
    answers = {"a": ["timed_out", "passed"], "b": ["passed"], "c": ["timed_out", "timed_out"], "d": ["failed"]}

    def fake(self: object, job: Job, limits: Limits) -> Result:
        runs.append(job.source)
        return Result(outcome=answers[job.source].pop(0), detail="", seconds=0)

    monkeypatch.setattr(sandbox._Tester, "run", fake)
    results = run_all([Job(source=name) for name in "abcd"], limits=Limits(workers=2))
    assert [(r.outcome, r.retried) for r in results] == [
        ("passed", True),
        ("passed", False),
        ("timed_out", True),
        ("failed", False),
    ]
    assert sorted(runs[:4]) == ["a", "b", "c", "d"] and runs[4:] == ["a", "c"]


def test_programs_are_drawn_when_their_turn_comes_and_a_slow_one_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def fake(self: object, job: Job, limits: Limits) -> Result:
        time.sleep(0.3 if job.source == "0" else 0.01)
        return Result(outcome="passed", detail=job.source, seconds=0)

    def jobs() -> Iterator[Job]:
        for number in range(8):
            drawn.append(number)
            yield Job(source=str(number))

    monkeypatch.setattr(sandbox._Tester, "run", fake)
    ended = []
    with Sandbox(limits=Limits(workers=2)) as box:
        for place, result in box.run_each(jobs()):
            ended.append(place)
            assert result.detail == str(place) and len(drawn) <= len(ended) + 3
    assert sorted(ended) == list(range(8)) and ended[-1] == 0


def test_a_program_that_ran_alone_is_not_run_again() -> None:
    result = run(Job(source="while True: pass"), limits=Limits(timeout_s=0.2))
    assert (result.outcome, result.retried) == ("timed_out", False)


def test_a_tester_that_dies_is_replaced_and_leaves_nothing(box: Sandbox) -> None:
    with Sandbox(isolation=box.level.split("+")[0]) as own:
        tests = "import os\nfrom evaluation.sandbox.process import folders_of\n"
        tests += "print(os.getpid(), *folders_of(os.getpid()), file=open({!r}, 'w'))\nos._exit(0)"
        with tempfile.NamedTemporaryFile("r") as said:
            job = Job(source=RIGHT, tests=tests.format(said.name), names=("f",))
            assert [result.outcome for result in own.run_all([job])] == ["timed_out"]
            tester, *folders = said.read().split()
        assert len(folders) == (box.level.startswith("landlock")) and folders_of(int(tester)) == []
        assert judge(own, RIGHT).outcome == "passed"


def test_collected_outputs(box: Sandbox) -> None:
    source = (
        "class A: pass\ndef f(x):\n    if x == 2: raise KeyError(x)\n    if x == 3: return A()\n    if x == 4: return [A()]\n"
        "    if x == 5:\n        while True: pass\n    return {x: (x,)}"
    )
    result = judge(
        box, source, inputs=[(n,) for n in range(1, 7)], expected=(), collect=True, input_timeouts_s=[10.0] * 4 + [0.2] * 2
    )
    assert [(output.value, output.error) for output in result.outputs] == [
        ({1: (1,)}, None),
        (None, "KeyError"),
        (None, "NotPlainData"),
        (None, "NotPlainData"),
    ]
    assert (result.outcome, result.detail) == ("timed_out", "input 4: time limit")
    assert all(isinstance(output, Output) and 0 <= output.seconds < 10 for output in result.outputs)


PLAIN = [
    None,
    True,
    0,
    -1,
    2**63 - 1,
    -(2**63),
    2**63,
    -(10**5000),
    0.1,
    -0.0,
    5e-324,
    math.inf,
    -math.inf,
    math.nan,
    1j,
    complex(-0.0, math.inf),
    "",
    "null",
    'ä€😀\0\n\\"\u2028',
    "\ud800",
    b"",
    bytes(range(256)),
    [],
    (),
    set(),
    frozenset({1, "a", (2, b"b")}),
    {1, 1.5, "x", None, (True,)},
    {},
    {(1, 2): [3], "a": {4: {5}}, None: 0, 1.5: b""},
    [["list", 1], ["int", "2a"], "object"],
    [[[[[[[[[[1]]]]]]]]]],
    [1, (2, [3, {4: (5, {6})}])],
]


def same(left: Any, right: Any) -> bool:
    """Equal in type and value, item by item; not-a-number is itself, and zero has a sign."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float | complex):
        return repr(left) == repr(right)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return same(list(left.items()), list(right.items()))
    return left == right


def test_plain_data_goes_in_and_comes_out_exactly(box: Sandbox) -> None:
    result = judge(box, "def f(x): return x", inputs=[(value,) for value in PLAIN], expected=(), collect=True)
    assert result.outcome == "passed"
    wrong = [
        value for value, output in zip(PLAIN, result.outputs, strict=True) if output.error or not same(value, output.value)
    ]
    assert wrong == []


def test_twenty_megabytes_go_in_and_come_out() -> None:
    values = [
        "x" * 20_000_000,
        b"\xff" * 20_000_000,
        "€" * 7_000_000,
        list(range(1_000_000)),
        [float(n) / 7 for n in range(200_000)],
        {str(n): (n, [n]) for n in range(50_000)},
        1 << 10_000_000,
    ]
    job = Job(
        source="def f(x): return x", entry_point="f", inputs=[(value,) for value in values], collect=True, timeout_s=120.0
    )
    result = run(job)
    assert [output.value == value for output, value in zip(result.outputs, values, strict=True)] == [True] * len(values)


def test_thousands_of_inputs(box: Sandbox) -> None:
    inputs = [[n, list(range(n % 50))] for n in range(5000)]
    result = judge(
        box, "def f(n, l): return n + sum(l)", inputs=inputs, expected=[n + sum(items) for n, items in inputs], timeout_s=30
    )
    assert result.outcome == "passed"


def test_an_argument_that_is_changed_stays_as_it_was_outside(box: Sandbox) -> None:
    argument = [3, 1, 2]
    result = judge(box, "def f(x):\n    x.sort()\n    return x", inputs=[[argument], [argument]], expected=[[1, 2, 3]] * 2)
    assert result.outcome == "passed" and argument == [3, 1, 2]


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
def test_values_are_compared_as_plain_data(actual: str, expected: object, atol: float, outcome: str, box: Sandbox) -> None:
    result = judge(box, f"def f(): return {actual}", inputs=((),), expected=(expected,), atol=atol)
    assert result.outcome == outcome


def test_a_job_that_does_not_fit_together_is_refused() -> None:
    with pytest.raises(ValueError, match="found 1 inputs and 0 expected values"):
        Job(source="", entry_point="f", inputs=((1,),))
    with pytest.raises(ValueError, match="found 1 inputs and 2 time limits"):
        Job(source="", entry_point="f", inputs=((1,),), expected=(1,), input_timeouts_s=(1.0, 2.0))
