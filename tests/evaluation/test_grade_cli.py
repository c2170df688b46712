"""The conformance entry: cases in, verdicts out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


def command(lines: bytes, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-m", "evaluation.grade", *arguments], input=lines, capture_output=True, timeout=60)


def case(**fields: object) -> bytes:
    return json.dumps(fields).encode() + b"\n"


def test_verdicts_come_in_order_and_default_to_the_sound_grader() -> None:
    lines = (
        case(id="a", gold="5", completion="The answer is: 500") + b"\n" + case(id=2, gold="7", completion="The answer is 7.")
    )
    done = command(lines, "--task", "gsm8k")
    assert done.returncode == 0
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"id": "a", "correct": False, "extracted": "500"},
        {"id": 2, "correct": True, "extracted": "7"},
    ]
    paper = [json.loads(line)["correct"] for line in command(lines, "--task", "gsm8k", "--grader", "paper").stdout.splitlines()]
    assert paper == [True, False]


def test_a_case_may_say_what_was_asked_and_that_it_was_cut_off() -> None:
    answer = {"gold": "225", "completion": "The answer is: $15^2$"}
    lines = case(id=1, **answer) + case(id=2, **answer, question="Compute $15^2$.") + case(id=3, **answer, truncated=True)
    done = command(lines, "--task", "math")
    assert [json.loads(line)["correct"] for line in done.stdout.splitlines()] == [True, False, False]


def test_odd_completions_are_wrong_and_never_a_crash() -> None:
    lines = (
        case(id=1, gold="7", completion="")
        + case(id=2, gold="7", completion="7" * 1_000_000)
        + b'{"id": 3, "gold": "7", "completion": "The answer is: \xff\xfe"}\n'
        + case(id=4, gold="7", completion="\ud800")
    )
    done = command(lines, "--task", "math")
    assert done.returncode == 0
    assert [json.loads(line)["correct"] for line in done.stdout.splitlines()] == [False] * 4


def test_code_cases_carry_their_record() -> None:
    record = {"task_id": 1, "text": "Write f.", "code": "def f(x):\n    return x", "test_list": ["assert f(1) == 1"]}
    lines = case(id=1, record=record, completion="def f(x):\n    return x") + case(id=2, record=record, completion="x")
    done = command(lines, "--task", "mbpp")
    assert [json.loads(line)["correct"] for line in done.stdout.splitlines()] == [True, False]


def test_evalplus_records_have_plus_graders(tmp_path: Path) -> None:
    record = {
        "task_id": "Mbpp/1",
        "prompt": '"""\nWrite f.\nassert f(1) == 1\n"""\n',
        "canonical_solution": "def f(x):\n    return x\n",
        "entry_point": "f",
        "base_input": [[1]],
        "plus_input": [[2.5]],
        "atol": 0,
    }
    lines = case(id=1, record=record, completion="def f(x):\n    return int(x)")
    for grader, correct in (("code_tests", True), ("code_plus", False)):
        done = command(lines, "--task", "mbpp", "--grader", grader, "--cache-dir", str(tmp_path))
        assert [json.loads(line)["correct"] for line in done.stdout.splitlines()] == [correct]
    assert len(list((tmp_path / "evalplus").iterdir())) == 2
    broken = command(case(id=1, record=record | {"plus_input": 3}, completion=""), "--task", "mbpp")
    assert broken.returncode == 2 and b"line 1: mbpp row 0: field 'plus_input': found int" in broken.stderr


def test_a_grader_without_tests_in_the_record_is_refused() -> None:
    record = {"task_id": 1, "text": "Write f.", "code": "def f(x):\n    return x", "test_list": ["assert f(1) == 1"]}
    done = command(case(id=1, record=record, completion=""), "--task", "mbpp", "--grader", "code_plus")
    assert done.returncode == 2 and b"grader 'code_plus': found no plus tests for Mbpp/1" in done.stderr


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (b"{\n", b"line 1: found no JSON"),
        (b"3\n", b"line 1: field 'id' is missing"),
        (b'\n{"id": 1, "completion": ""}\n', b"line 2: field 'gold' is missing"),
        (b'{"id": 1, "gold": "1", "completion": null}\n', b"line 1: completion: found NoneType, expected text"),
        (
            b'{"id": 1, "gold": "1", "completion": "", "truncated": 1}\n',
            b"line 1: truncated: found int, expected true or false",
        ),
        (b'{"id": 1, "gold": "1", "completion": "", "question": 1}\n', b"line 1: question: found int, expected text"),
    ],
)
def test_a_bad_line_is_named(lines: bytes, message: bytes) -> None:
    done = command(lines, "--task", "math")
    assert done.returncode == 2 and message in done.stderr and done.stderr.count(b"\n") == 1 and done.stdout == b""


def test_a_grader_of_another_task_is_refused() -> None:
    done = command(b"", "--task", "math", "--grader", "code_tests")
    assert done.returncode == 2 and b"expected one of sound, metamath, paper, math_verify" in done.stderr
