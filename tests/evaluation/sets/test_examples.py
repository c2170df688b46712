"""Records become examples with the right gold, reference and errors."""

from __future__ import annotations

import pytest

from evaluation.sets import examples
from evaluation.sets.training import training_example

GSM8K = {"question": "How many?", "answer": "He has 3+4=<<3+4=7>>7.\nSo 7*200=<<7*200=1400>>1400.\n#### 1,400"}
MATH = {"problem": "What?", "solution": "First $\\boxed{1}$, then $\\boxed{\\frac{1}{2}}$.", "level": "Level 1"}
HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": "def f(x):\n",
    "canonical_solution": "    return x\n",
    "entry_point": "f",
    "test": "def check(candidate):\n    assert candidate(1) == 1\n",
}
MBPP = {
    "task_id": 7,
    "text": "Write f.",
    "code": "def f(x):\r\n  return x",
    "test_list": ["assert f(1) == 1"],
    "test_setup_code": "",
}


def test_gsm8k_reference_is_in_the_training_style() -> None:
    (example,) = examples("gsm8k", [GSM8K])
    assert (example.gold, example.query) == ("1400", "How many?")
    assert example.reference == "He has 3+4=7.\nSo 7*200=1400.\n#### 1400\nThe answer is: 1400"
    assert training_example("gsm8k", GSM8K) == ("How many?", example.reference)


def test_math_gold_is_the_last_box() -> None:
    (example,) = examples("math", [MATH])
    assert example.gold == "\\frac{1}{2}"
    assert example.reference == MATH["solution"] + "\nThe answer is: \\frac{1}{2}"


def test_code_references_are_fenced_programs() -> None:
    assert examples("humaneval", [HUMANEVAL])[0].reference == "```python\ndef f(x):\n    return x\n```"
    (example,) = examples("mbpp", [MBPP])
    assert example.id == "Mbpp/7" and example.reference == "```python\ndef f(x):\n  return x\n```"
    assert example.query == ("Write f. Your code should satisfy the following assertion:\n```python\nassert f(1) == 1\n```")


@pytest.mark.parametrize(
    ("format", "record", "field"),
    [
        ("gsm8k", GSM8K, "answer"),
        ("gsm8k", GSM8K, "question"),
        ("math", MATH, "solution"),
        ("math", MATH, "problem"),
        ("humaneval", HUMANEVAL, "test"),
        ("humaneval", HUMANEVAL, "canonical_solution"),
        ("mbpp", MBPP, "code"),
    ],
)
def test_a_missing_field_is_named_with_set_and_row(format: str, record: dict, field: str) -> None:
    broken = {key: value for key, value in record.items() if key != field}
    with pytest.raises(ValueError, match=f"{format} row 1: field '{field}' is missing"):
        examples(format, [record | ({"task_id": "other"} if "task_id" in record else {}), broken])


@pytest.mark.parametrize(
    ("format", "record", "message"),
    [
        ("gsm8k", GSM8K | {"answer": "seven"}, "expected '#### N'"),
        ("math", MATH | {"solution": "1/2"}, "boxed"),
        ("math", MATH | {"problem": None}, "found NoneType, expected text"),
        ("mbpp", MBPP | {"test_list": []}, "test_list"),
    ],
)
def test_a_malformed_field_is_refused(format: str, record: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        examples(format, [record])


def test_ids_are_unique() -> None:
    with pytest.raises(ValueError, match="row 1: id 'Mbpp/7' is that of row 0"):
        examples("mbpp", [MBPP, MBPP])


def test_training_records() -> None:
    assert training_example("metamath", {"query": "q", "response": "r", "type": "x"}) == ("q", "r")
    assert training_example("codefeedback", {"query": "q", "response": "r"}) == ("q", "r")
    assert training_example("alpaca", {"instruction": "i", "input": "", "output": "o"}) == ("i", "o")
    assert training_example("alpaca", {"instruction": "i", "input": "x", "output": "o"}) == ("i\nx", "o")
    with pytest.raises(ValueError, match="metamath row 4: field 'response' is missing, found query"):
        training_example("metamath", {"query": "q"}, row=4)


def test_svamp_is_a_story_with_a_number() -> None:
    record = {"Body": "Ann has 3 pens.", "Question": "How many pens?", "Equation": "( 3.0 + 0.0 )", "Answer": "3.0"}
    (example,) = examples("svamp", [record])
    assert (example.id, example.query, example.gold) == ("svamp/0", "Ann has 3 pens. How many pens?", "3")
    assert example.reference.endswith("The answer is: 3")
    with pytest.raises(ValueError, match="svamp row 0: field 'Body' is missing"):
        examples("svamp", [{"Question": "q"}])
