"""Code tasks: gold programs pass their own sets' tests, wrong ones fail, and the set decides what a test calls."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from evaluation.example import Example
from evaluation.graders.code import GraderUnavailable
from evaluation.graders.evalplus_oracle import OracleError, TimeLimits
from evaluation.grading import check_available, grade, graders_for, graders_of
from evaluation.sandbox import run as sandbox
from evaluation.sandbox.run import Limits, run
from evaluation.sets import examples
from harness.errors import ConfigError
from harness.evaluate.task import evaluate_task
from harness.schema.data import GeneratedData
from harness.schema.evaluation import TaskSpec
from tests.paths import SHARED, needs_shared

LIMITS = Limits(timeout_s=10)
STUB = 'from typing import List\n\n\ndef f(x: List[int]) -> int:\n    """Sum of x."""\n'
PLUS = {
    "task_id": "HumanEval/0",
    "prompt": STUB,
    "canonical_solution": "    return sum(x)\n",
    "entry_point": "f",
    "test": "",
    "base_input": [[[1, 2]], [[]]],
    "plus_input": [[[0.5]], [[-1, -1]]],
    "atol": 0,
}
MBPP_PLUS = {
    "task_id": "Mbpp/106",
    "prompt": '"""\nWrite a function to add the list to the tuple.\nassert add_lists([5], (9, 10)) == (9, 10, 5)\n"""\n',
    "canonical_solution": "\ndef add_lists(test_list, test_tup):\n  return tuple(list(test_tup) + test_list)\n",
    "entry_point": "add_lists",
    "base_input": [[[5, 6, 7], [9, 10]]],
    "plus_input": [[[], []]],
    "atol": 0,
}
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
    limits = Limits(timeout_s=1 if expected == "timed_out" else 10)
    (verdict,) = grade(
        "humaneval", examples("humaneval", [HUMANEVAL]), [completion], graders=["code_tests"], limits=limits
    ).verdicts["code_tests"]
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
    (example,) = examples("mbpp", [MBPP_PLUS])
    with pytest.raises(ValueError, match="Mbpp/106: field 'test_list' is missing"):
        example.job("x = 1")


def test_time_and_memory_limits_reach_the_program() -> None:
    asked = examples("humaneval", [HUMANEVAL])
    slow = "import time\ndef f(x):\n    time.sleep(0.4)\n    return sum(x)"
    large = "def f(x):\n    y = bytearray(200 << 20)\n    return sum(x)"

    def graded(program: str, limits: Limits) -> str | None:
        grading = grade("humaneval", asked, [program], limits=limits)
        assert grading.limits == limits.as_dict() and grading.sandbox_level
        return grading.verdicts["code_tests"][0].outcome

    assert graded(slow, Limits(timeout_s=0.5)) == "timed_out" and graded(slow, LIMITS) == "passed"
    assert graded(large, Limits(timeout_s=10, memory_mb=128)) == "out_of_memory" and graded(large, LIMITS) == "passed"


# ------------------------------------------------------------------------------------------------------------ EvalPlus


def plus_verdicts(completion: str, record: dict = PLUS, format: str = "humaneval", **more: object) -> dict[str, bool]:
    graded = grade(format, examples(format, [record]), [completion], **more)
    return {name: verdicts[0].correct for name, verdicts in graded.verdicts.items()}


def test_every_grader_judges_every_completion_where_the_record_has_added_inputs() -> None:
    right = f"```python\n{STUB}    return sum(x)\n```"
    assert plus_verdicts(right) == dict.fromkeys(graders_of("humaneval"), True)
    base_only = plus_verdicts("```python\ndef f(x):\n    return int(sum(x))\n```")
    assert base_only == {"code_tests": True, "code_plus": False, "pissa_code_tests": True, "pissa_code_plus": False}
    asserting = plus_verdicts("```python\ndef f(x):\n    assert x is not None\n    return sum(x)\n```")
    assert asserting == {"code_tests": True, "code_plus": True, "pissa_code_tests": False, "pissa_code_plus": False}
    assert plus_verdicts("```python\ndef f(x):\n    return 3\n```") == dict.fromkeys(graders_of("humaneval"), False)


def test_mbpp_plus_rows_are_graded_on_tuples() -> None:
    record = MBPP_PLUS
    (example,) = examples("mbpp", [record])
    assert example.query.startswith("Write a function to add the list to the tuple. Your code should satisfy")
    assert "assert add_lists([5], (9, 10)) == (9, 10, 5)" in example.query
    assert plus_verdicts(example.reference, record, "mbpp") == dict.fromkeys(graders_of("mbpp"), True)
    wrong = plus_verdicts("def add_lists(a, b):\n    return list(b) + a", record, "mbpp")
    assert wrong == dict.fromkeys(graders_of("mbpp"), False)
    needs_tuple = "def add_lists(a, b):\n    return b + tuple(a)"
    assert plus_verdicts(needs_tuple, record, "mbpp")["code_plus"] is True


def test_plus_graders_say_nothing_where_there_are_no_added_inputs() -> None:
    asked = examples("humaneval", [HUMANEVAL])
    assert graders_for("humaneval", asked) == ("code_tests", "pissa_code_tests")
    assert set(grade("humaneval", asked, ["    return sum(x)"]).verdicts) == {"code_tests", "pissa_code_tests"}
    with pytest.raises(GraderUnavailable, match="grader 'code_plus': found no plus tests for HumanEval/0"):
        grade("humaneval", asked, [""], graders=["code_plus"])
    mixed = examples("humaneval", [PLUS, HUMANEVAL | {"task_id": "HumanEval/1"}])
    with pytest.raises(GraderUnavailable, match="no plus tests for HumanEval/1"):
        check_available("humaneval", "code_plus", mixed)
    check_available("humaneval", "code_plus", mixed[:1])
    check_available("gsm8k", "sound", [])


def test_base_graders_say_nothing_where_the_base_inputs_are_unknown() -> None:
    test = "def check(candidate):\n    inputs = [[[1, 2]], [[0.5]]]\n    results = [3, 0.5]\n"
    test += "    for i, (inp, exp) in enumerate(zip(inputs, results)):\n        assertion(candidate(*inp), exp, 0)\n"
    asked = examples("humaneval", [HUMANEVAL | {"task_id": "Other/0", "test": test}])
    assert graders_for("humaneval", asked) == ("code_plus", "pissa_code_plus")
    assert grade("humaneval", asked, ["    return sum(x)"]).verdicts["code_plus"][0].correct
    with pytest.raises(GraderUnavailable, match="grader 'code_tests': found no base tests for Other/0"):
        check_available("humaneval", "code_tests", asked)


def test_a_headline_without_tests_is_refused_before_anything_is_generated() -> None:
    source = GeneratedData(kind="generated", generator="humaneval", rows=1, seed=0)
    task = TaskSpec(source=source, format="humaneval", prompt_template="alpaca-humaneval", max_new_tokens=1, grader="code_plus")
    with pytest.raises(
        ConfigError, match="evaluation.tasks.code.grader: grader 'code_plus': found no plus tests for HumanEval/0"
    ):
        evaluate_task(None, None, "code", task, [HUMANEVAL])  # type: ignore[arg-type]


def test_each_distinct_program_runs_once_and_only_the_wanted_inputs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    jobs = []
    run_each = sandbox.Sandbox.run_each
    seen = lambda self, batch: run_each(self, (jobs.append(job) or job for job in batch))  # noqa: E731
    monkeypatch.setattr(sandbox.Sandbox, "run_each", seen)
    asked = examples("humaneval", [PLUS])
    completion = "```python\ndef f(x):\n    return sum(x)\n```"
    grade("humaneval", asked, [completion], graders=["code_tests"], cache_dir=tmp_path)
    assert [len(job.inputs) for job in jobs] == [2, 2]  # the reference, the program
    jobs.clear()
    grade("humaneval", asked, [completion], cache_dir=tmp_path)
    assert [len(job.inputs) for job in jobs] == [2, 4]  # the reference on the added inputs, the program on all
    jobs.clear()
    grade("humaneval", asked, [completion], cache_dir=tmp_path)
    assert [len(job.inputs) for job in jobs] == [4]
    assert jobs[0].input_timeouts_s == [1.0] * 4 and jobs[0].expected == [3, 0, 0.5, -2] and not jobs[0].collect


def test_the_limits_of_a_run_are_recorded() -> None:
    of_plus = grade("humaneval", examples("humaneval", [PLUS]), [""]).limits
    assert of_plus.items() >= TimeLimits().as_dict().items() and "timeout_s" not in of_plus
    assert "input_min_s" not in grade("humaneval", examples("humaneval", [HUMANEVAL]), [""]).limits


ODD = ["", " \n", "\x00", "\ud800 def f(x): return sum(x)", "def f(x): return '\udfff'", "```python\n" * 100, "(" * 100_000]
ODD += ["x = 1\n" * 170_000, "def f(x):\n    return 3\n\n" + "é" * 1_000_000]


@pytest.mark.parametrize(
    ("completion", "record"),
    # What a record's tests are changes how a program is run, not how it is found: one of each kind for the second form.
    [*((completion, PLUS) for completion in ODD), *((ODD[i], HUMANEVAL) for i in (0, 4, 6))],
)
def test_odd_completions_are_wrong_and_never_a_crash(completion: str, record: dict) -> None:
    assert set(plus_verdicts(completion, record).values()) <= {False}


def test_a_reference_that_fails_is_named() -> None:
    with pytest.raises(OracleError, match="HumanEval/0: reference solution"):
        plus_verdicts("    return 1", PLUS | {"canonical_solution": "    return y\n"})


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
@pytest.mark.parametrize("kind", ["fractions.Fraction", "decimal.Decimal"])
@pytest.mark.parametrize(
    ("number", "program"),
    [
        (8, "def sum_product(numbers):\n    return number(sum(numbers)), number(math.prod(numbers))"),
        (13, "def greatest_common_divisor(a, b):\n    return number(math.gcd(a, b))"),
        (45, "def triangle_area(a, h):\n    return number(a) * number(h) / 2"),
    ],
)
def test_exact_numbers_are_right_where_they_equal_the_gold(number: int, program: str, kind: str) -> None:
    (example,) = (e for e in load("humaneval") if e.id == f"HumanEval/{number}")
    module, _, name = kind.partition(".")
    source = f"import math\nfrom {module} import {name} as number\n{program}"
    assert run(example.job(source), limits=LIMITS).outcome == "passed"
    assert run(example.job(source.replace("    return ", "    return number(1),")), limits=LIMITS).outcome == "failed"


@needs_shared
def test_helpers_in_a_test_are_the_references_not_the_programs() -> None:
    """HumanEval/38 tests decode_cyclic with the stub's encode_cyclic: a program that redefines it gains nothing."""
    (example,) = (e for e in load("humaneval") if e.id == "HumanEval/38")
    cheat = "def encode_cyclic(s):\n    return s\ndef decode_cyclic(s):\n    return s"
    assert run(example.job(cheat), limits=LIMITS).outcome == "failed"
