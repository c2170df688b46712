"""Code tasks: gold programs pass their own sets' tests, wrong ones fail, and the set decides what a test calls."""

from __future__ import annotations

import gzip
import json

import pytest

from evaluation.code_tests import job_of
from evaluation.grading import grade
from evaluation.sandbox import Limits, run
from evaluation.tasks import Example, examples
from tests.paths import SHARED, needs_shared

LIMITS = Limits(timeout_s=10)
STUB = 'from typing import List\n\n\ndef f(x: List[int]) -> int:\n    """Sum of x."""\n'
HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": STUB,
    "canonical_solution": "    return sum(x)\n",
    "entry_point": "f",
    "test": "def check(candidate):\n    assert candidate([1, 2]) == 3\n    assert candidate([]) == 0\n",
}


def outcome(completion: str, record: dict = HUMANEVAL, format: str = "humaneval") -> str | None:
    return grade(format, examples(format, [record]), [completion], graders=["code_tests"]).verdicts["code_tests"][0].outcome


@pytest.mark.parametrize(
    "completion",
    [
        f"```python\n{STUB}    return sum(x)\n```",
        "    return sum(x)\n\nThis sums x.",
        "return sum(x)",
        "\treturn sum(x)",
        "Here:\n```\ndef f(x):\n    return sum(x)\n```\nIt sums.",
        "def f(x: List[int]):\n    return sum(x)",
        "def helper(x):\n    return sum(x)\n\ndef f(x):\n    return helper(x)",
        "import math\ndef f(x):\n\treturn int(math.fsum(x))",
    ],
)
def test_completions_in_any_usual_form_are_run(completion: str) -> None:
    assert outcome(completion) == "passed"


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("    return 3", "failed"),
        ("```python\ndef g(x):\n    return sum(x)\n```", "failed"),
        ("I cannot.", None),
        ("", None),
        ("    while True: pass", "timed_out"),
        ("x = " + "1 + " * 300_000 + "1", "failed"),
    ],
)
def test_wrong_completions_fail(completion: str, expected: str | None) -> None:
    verdict = grade(
        "humaneval", examples("humaneval", [HUMANEVAL]), [completion], graders=["code_tests"], limits=Limits(timeout_s=1)
    ).verdicts["code_tests"][0]
    assert (verdict.outcome, verdict.correct) == (expected, False)
    assert verdict.unparseable is (expected is None)


def test_mbpp_tests_take_built_ins_from_python_unless_the_reference_redefines_them() -> None:
    record = {
        "task_id": 1,
        "text": "Write f.",
        "code": "def f(x):\n    return sorted(set(x))",
        "test_setup_code": "",
        "test_list": ["assert set(f([2, 1, 2])) == set([1, 2])"],
    }
    hostile = "class set:\n    def __init__(s, x=None): pass\n    def __eq__(s, o): return True\ndef f(x): return []"
    assert outcome(hostile, record, "mbpp") == "failed"
    named_as_built_in = record | {"code": "def sum(a, b):\n    return a * b", "test_list": ["assert sum(3, 4) == 12"]}
    assert outcome("def sum(a, b):\n    return a * b", named_as_built_in, "mbpp") == "passed"
    assert outcome("def total(a, b):\n    return a * b", named_as_built_in, "mbpp") == "failed"


def test_mbpp_tests_may_use_objects_and_imports_of_the_program() -> None:
    record = {
        "task_id": 1,
        "text": "Write f.",
        "test_setup_code": "n = Node(1)\nn.left = Node(2)",
        "code": (
            "import math\nclass Node:\n    def __init__(s, v):\n        s.v, s.left = v, None\ndef f(n):\n    return n.left.v"
        ),
        "test_list": ["assert f(n) == int(math.sqrt(4))", "assert [f(k) for k in [n]] == [2]", "assert n.v == 1"],
    }
    assert outcome(f"```python\n{record['code']}\n```", record, "mbpp") == "passed"


def test_a_record_without_tests_is_refused() -> None:
    with pytest.raises(ValueError, match="test_list"):
        job_of("mbpp", Example(id="Mbpp/1", query="", gold=None, reference="", record={"prompt": ""}), "x = 1")


def test_time_and_memory_limits_reach_the_program() -> None:
    asked = examples("humaneval", [HUMANEVAL])
    slow = "import time\ndef f(x):\n    time.sleep(0.4)\n    return sum(x)"
    large = "def f(x):\n    y = bytearray(200 << 20)\n    return sum(x)"

    def graded(program: str, limits: Limits) -> str | None:
        found = grade("humaneval", asked, [program], limits=limits)
        assert found.limits == limits.as_dict() and found.sandbox_level
        return found.verdicts["code_tests"][0].outcome

    assert graded(slow, Limits(timeout_s=0.5)) == "timed_out" and graded(slow, LIMITS) == "passed"
    assert graded(large, Limits(timeout_s=10, memory_mb=128)) == "out_of_memory" and graded(large, LIMITS) == "passed"


def load(format: str) -> list[Example]:
    if format == "humaneval":
        with gzip.open(SHARED / "data/humaneval/HumanEval.jsonl.gz", "rt") as stream:
            return examples(format, [json.loads(line) for line in stream])
    return examples(format, [json.loads(line) for line in (SHARED / "data/mbpp/mbpp.jsonl").read_text().splitlines()])


@needs_shared
@pytest.mark.parametrize(("format", "step"), [("humaneval", 11), ("mbpp", 67)])
def test_gold_passes_and_a_constant_program_fails_on_a_sample(format: str, step: int) -> None:
    asked = load(format)[::step]
    gold = grade(format, asked, [example.reference for example in asked], limits=LIMITS).verdicts["code_tests"]
    assert [e.id for e, v in zip(asked, gold, strict=True) if not v.correct] == []
    constant = grade(format, asked, ["    return None"] * len(asked), limits=LIMITS).verdicts["code_tests"]
    assert [e.id for e, v in zip(asked, constant, strict=True) if v.correct] == []


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize("format", ["humaneval", "mbpp"])
def test_every_gold_program_passes(format: str) -> None:
    asked = load(format)
    gold = grade(format, asked, [e.reference for e in asked], graders=["code_tests"], limits=LIMITS).verdicts["code_tests"]
    assert [(e.id, v.outcome) for e, v in zip(asked, gold, strict=True) if not v.correct] == []


@needs_shared
def test_helpers_in_a_test_are_the_references_not_the_programs() -> None:
    """HumanEval/38 tests decode_cyclic with the stub's encode_cyclic: a program that redefines it gains nothing."""
    (example,) = (e for e in load("humaneval") if e.id == "HumanEval/38")
    cheat = "def encode_cyclic(s):\n    return s\ndef decode_cyclic(s):\n    return s"
    assert run(job_of("humaneval", example, cheat), limits=LIMITS).outcome == "failed"
