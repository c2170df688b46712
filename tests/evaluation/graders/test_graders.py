"""Graders give the recorded verdicts, agree with a human reader, and cannot be harmed by an answer."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from evaluation.example import Example
from evaluation.graders.algebra import AlgebraWorker
from evaluation.graders.answers import algebra
from evaluation.graders.math_lineages import hendrycks_equal
from evaluation.grading import grade, graders_of
from evaluation.sets import examples
from tests.paths import SHARED, needs_shared


def verdict(task: str, grader: str, gold: str, completion: str) -> bool:
    example = Example(id="x", query="", gold=gold, reference="")
    return grade(task, [example], [completion], graders=[grader]).verdicts[grader][0].correct


def answered(task: str, grader: str, gold: str, answer: str) -> bool:
    return verdict(task, grader, gold, f"Let me think.\nThe answer is: {answer}")


@needs_shared
@pytest.mark.parametrize(("task", "agreement"), [("math", 0.97), ("gsm8k", 0.95)])
def test_recorded_cases(task: str, agreement: float) -> None:
    cases = [case for case in json.loads((SHARED / "spec/grader_cases.json").read_text()) if case["task"] == task]
    asked = [Example(id=case["id"], query="", gold=case["gold"], reference="") for case in cases]
    verdicts = grade(task, asked, [case["completion"] for case in cases]).verdicts
    for name, key in (("metamath", "metamath"), ("paper", "beamlora_official_env")):
        assert [c["id"] for c, v in zip(cases, verdicts[name], strict=True) if v.correct != c["verdicts"][key]] == []
    pairs = [(v.correct, c["expected_by_human"]) for c, v in zip(cases, verdicts["sound"], strict=True)]
    assert sum(correct == human for correct, human in pairs) / len(pairs) >= agreement
    assert (True, False) not in pairs


MATH_EQUAL = [
    ("\\frac{3}{4}", "0.75"),
    ("-\\frac{1}{2}", "-0.5"),
    ("\\sqrt{12}", "2\\sqrt3"),
    ("\\{1,2,3\\}", "\\{3,1,2\\}"),
    ("5", "5 cm"),
    ("5", "5\\text{ cm}"),
    ("32", "$32$"),
    ("1000", "1,000"),
    ("1,000", "1000"),
    ("12", "12.0"),
    ("\\frac{a}{b}", "a/b"),
    ("3\\frac{1}{2}", "3.5"),
    ("3\\frac{1}{2}", "\\frac{7}{2}"),
    ("(2,5]", "(2, 5]"),
    ("(-\\infty, 2)", "\\left(-\\infty,2\\right)"),
    ("1,2", "2, 1"),
    ("50\\%", "50"),
    ("x=5", "5"),
    ("\\frac{\\pi}{2}", "\\pi/2"),
    ("\\text{(C)}", "C"),
    ("\\text{Evelyn}", "\\text{evelyn}"),
    ("2x+3", "3+2x"),
    ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"),
    ("10", "$10.$"),
    ("2^{10}", "1024"),
    ("\\frac{1}{2}", "\\boxed{\\frac{1}{2}}"),
    ("90", "90^\\circ"),
    ("(\\frac12, 1)", "(0.5,1)"),
    ("\\dfrac{17}{2}", "8.5"),
    ("y = 2x + 3", "y=3+2x"),
    ("1 \\text{ and } 2", "1, 2"),
    ("[-1,1] \\cup [2,3]", "[2,3]\\cup[-1,1]"),
    ("6", "x = 6"),
]
MATH_DIFFERENT = [
    ("x^2-y^2", "(x-y)(x+y)"),
    ("(-\\infty,2]", "(-\\infty,2)"),
    ("(2,5)", "\\{2,5\\}"),
    ("\\frac{12}{3}", "\\frac{1}{23}"),
    ("x^{2}1", "x^{21}"),
    ("7", "\\frac"),
    ("7", "\\sqrt"),
    ("7", "7\\text{ cm}\\text{ cm} + 1"),
    ("\\frac{1}{2}", "1:2"),
    ("\\frac{1}{3}", "0.3333"),
    ("12345", "12346"),
    ("1", "1.0001"),
    ("10", "1000"),
    ("10", "0.1"),
    ("3\\frac{1}{2}", "1.5"),
    ("4", "4,4"),
    ("16", "16\\pi"),
    ("(1,2)", "(2,1)"),
    ("\\text{(C)}", "\\text{(B)}"),
    ("2", "2x"),
    ("x", "y"),
    ("5", "5, 6"),
    ("1,2", "1,3"),
    ("-3", "3"),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix}1&2\\end{pmatrix}"),
    ("2", "3/2"),
    ("1000", "1,00"),
    ("\\pi", "3.14159265"),
    ("10\\%", "0.01"),
    ("E", "F"),
    ("x+1", "x-1"),
    ("\\{1\\}", "\\{1,2\\}"),
    ("2^{10}", "210"),
    ("\\text{Monday}", "Sunday"),
    ("5", ""),
    ("0", "\\emptyset"),
    ("12", "-12"),
    ("3", "3 or 4"),
    ("y=2x+3", "2x-3"),
    ("y=5", "x=5"),
    ("\\sqrt{2}", "1.41421356"),
]


@pytest.mark.parametrize(("gold", "answer"), MATH_EQUAL)
def test_sound_accepts_another_notation(gold: str, answer: str) -> None:
    assert answered("math", "sound", gold, answer)


@pytest.mark.parametrize(("gold", "answer"), MATH_DIFFERENT)
def test_sound_rejects_another_value(gold: str, answer: str) -> None:
    assert not answered("math", "sound", gold, answer)


@pytest.mark.parametrize(
    ("gold", "answer", "correct"),
    [
        ("72", "72", True),
        ("7", "5 + 2 = 7", True),
        ("1234567", "1,234,567", True),
        ("1000000", "1 million", True),
        ("21", "twenty-one", True),
        ("206", "two hundred and six apples", True),
        ("18", "$18.00", True),
        ("-5", "-5", True),
        ("60", "60%", True),
        ("5", "4.6", False),
        ("5", "500", False),
        ("1", "3/4", False),
        ("12", "12/0", False),
        ("45", "$45 and 50 cents", False),
        ("12", "12 or 13", False),
        ("2", "2.5", False),
        ("5", "-5", False),
        ("7", "", False),
        ("100000", "100005", False),
        ("12", "x12y", False),
        ("3", "three hundred", False),
        ("12", "12 apples.", True),
        ("5", "5 + 2 = 7", False),
        ("5", "five apples", True),
        ("1500", "1.5 thousand", True),
        ("2", "2:30", False),
        ("240", "\\$240", True),
    ],
)
def test_sound_reads_gsm8k_answers(gold: str, answer: str, correct: bool) -> None:
    assert answered("gsm8k", "sound", gold, answer) is correct


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("5", "500"),
        ("12345", "12346"),
        ("7", "\\frac"),
        ("7", "2\\text{ cm}\\text{ cm}"),
        ("x^{2}1", "x^{21}"),
        ("(2,5)", "\\{2,5\\}"),
        ("2*x+1", "1+x*2"),
    ],
)
def test_paper_is_lenient_where_the_released_grader_is(gold: str, answer: str) -> None:
    expected = (gold, answer) != ("(2,5)", "\\{2,5\\}")
    assert answered("math", "paper", gold, answer) is expected
    assert not answered("math", "metamath", gold, answer)


def test_paper_accepts_a_factor_of_100_on_gsm8k_and_metamath_does_not() -> None:
    assert answered("gsm8k", "paper", "5", "500") and not answered("gsm8k", "metamath", "5", "500")


@pytest.mark.parametrize("task", ["gsm8k", "math"])
@pytest.mark.parametrize(
    "answer",
    [
        "__import__('os').system('touch {marker}')",
        "9**9**9**9",
        "9^{9^{9^{9^{9}}}}",
        "{" * 100_000,
        "(" * 900,
        "\\frac{" * 150,
        "[" * 500 + "1," + "]" * 500,
        "\\sqrt{" * 140 + "}" * 140,
        "factorial(factorial(99999))",
        '(lambda: exec(\'open("{marker}","w")\'))()',
        "\udcff\udcfe",
        "x" * 1_000_000,
        "\x00",
        "10**1000000",
        "1" * 999,
        "\\int_0^{\\infty} e^{-x^{x^{x}}} dx",
        "1,(" * 300,
        "5 " + "a" * 900 + "!",
        "5 " + "a. " * 300 + "!",
        "0." + "1" * 900 + "\\ldots",
        "\\text{" * 100 + "}" * 100,
        "((" * 40 + "1" + "!" * 90 + "))" * 40,
        "1000000!^{1000000!}",
        "x" + "=x" * 300,
        "\\pm 1" * 120,
        "2^{" * 20 + "9" + "}" * 20,
    ],
)
def test_a_hostile_answer_is_just_wrong(task: str, answer: str, tmp_path: Path) -> None:
    algebra().expression_equal("x", "x")  # started before the clock
    marker = tmp_path / "marker"
    for name in graders_of(task):
        start = time.perf_counter()
        assert not answered(task, name, "7", answer.replace("{marker}", str(marker)))
        assert time.perf_counter() - start < 1.5
    assert not marker.exists()


def test_the_algebra_server_survives_what_it_cannot_do() -> None:
    worker = AlgebraWorker(timeout_s=0.3)
    try:
        assert worker.expression_equal("2*x", "x+x")
        assert not worker.expression_equal("factorial(10**7) - factorial(10**7 - 1)", "1")
        assert worker.latex_equal("\\frac{2}{4}", "\\frac12")
        assert not worker.latex_equal("1", "2")
    finally:
        worker.close()
    assert worker.expression_equal("1/2", "0.5"), "a closed worker starts again"
    worker.close()


def test_unparseable_is_not_the_same_as_wrong() -> None:
    example = Example(id="x", query="", gold="7", reference="")
    verdicts = grade("gsm8k", [example] * 2, ["I do not know.", "The answer is: 8"]).verdicts["sound"]
    assert [v.unparseable for v in verdicts] == [True, False] and not any(v.correct for v in verdicts)


def test_grade_refuses_a_foreign_grader_and_missing_completions() -> None:
    example = Example(id="x", query="", gold="7", reference="")
    with pytest.raises(KeyError, match="expected one of sound, metamath, paper, math_verify"):
        grade("math", [example], ["x"], graders=["code_tests"])
    with pytest.raises(ValueError, match="0 completions for 1 examples"):
        grade("math", [example], [])


def test_hendrycks_normal_form_special_cases_only_one_decimal() -> None:
    assert hendrycks_equal("0.5", "\\frac12") and not hendrycks_equal("0.75", "\\frac34")


@needs_shared
@pytest.mark.parametrize("task", ["gsm8k", "math"])
def test_gold_scores_everything_and_a_constant_answer_next_to_nothing(task: str) -> None:
    lines = (SHARED / f"data/{task}/test.jsonl").read_text().splitlines()
    asked = examples(task, [json.loads(line) for line in lines])[:: len(lines) // 150]
    gold = grade(task, asked, [example.reference for example in asked]).verdicts
    constant = grade(task, asked, ["The answer is: 2"] * len(asked)).verdicts
    for name in graders_of(task):
        correct = sum(v.correct for v in gold[name]) / len(asked)
        # Math-Verify cannot parse every gold answer of MATH (text answers, for one).
        assert correct == 1 or (name == "math_verify" and correct > 0.9), name
        assert sum(v.correct for v in constant[name]) / len(asked) < 0.12, name
