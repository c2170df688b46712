"""Answers and programs are taken from completions as documented."""

from __future__ import annotations

import time

import pytest

from evaluation.graders.extraction import answer_text, last_boxed, metamath_answer, metamath_number, pissa_code, sound_code


@pytest.mark.parametrize(
    ("tail", "number"),
    [
        ("72", 72),
        ("1,234,567", 1234),
        ("4.6", 5),
        ("2.5", 2),
        ("3/4", 1),
        ("12/0", 12),
        ("5 + 2 = 7", 5),
        ("$1,000", 1000),
        ("-3", -3),
        ("none", None),
        ("9" * 400, None),
    ],
)
def test_metamath_number_keeps_the_quirks_of_the_lineage(tail: str, number: int | None) -> None:
    assert metamath_number("The answer is: 1\nThe answer is: " + tail) == number


def test_metamath_needs_its_exact_trigger() -> None:
    assert metamath_number("The answer is 5") is None and metamath_number("the answer is: 5") is None
    assert metamath_answer("The answer is: \\frac12.\nThat is all.") == "\\frac12"
    assert metamath_answer("The answer is: 6\nI hope so.") == "6\nI hope so"


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("So it is six. The answer is: 6.", "6"),
        ("The final answer is 12", "12"),
        ("x\n#### 5", "5"),
        ("the answer is: 8\n\n### Instruction:\nMore\n\n### Response: The answer is: 99", "8"),
        ("Thus \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("The answer is: **240**", "240"),
        ("\\boxed{\\text{The answer is }12}", "\\text{The answer is }12"),
        ("Then \\boxed{\\text{The answer is }12} and\nno more", "\\text{The answer is }12"),
        ("25", "25"),
        ("$\\frac{1}{2}$.", "$\\frac{1}{2}$"),
        ("25 apples, since 5 were eaten.", "25 apples"),
        ("1. First we add.", None),
        ("First we add 20 and 5.", None),
        ("20\n25", None),
        ("nothing", None),
        ("", None),
    ],
)
def test_answer_text(completion: str, answer: str | None) -> None:
    assert answer_text(completion) == answer


def test_last_boxed_balances_braces() -> None:
    assert last_boxed("\\boxed{a} \\boxed{\\frac{1}{2}} end") == "\\frac{1}{2}"
    assert last_boxed("\\fbox{3}") == "3" and last_boxed("\\boxed 3$") == "3" and last_boxed("\\boxed{cut") is None


def test_pissa_code_cuts_at_the_first_assert_anywhere() -> None:
    text = "Sure!\n```python\ndef f(x):\r\n    y = x\n    assert y\n    return y\n```\nDone"
    assert pissa_code(text) == "\ndef f(x):\n    y = x\n    "
    assert pissa_code('def f(): pass\nif __name__ == "__main__":\n    f()') == "def f(): pass\n"
    assert pissa_code("x = 1\n# Example usage:\nx") == "x = 1\n"
    assert pissa_code("plain prose") == "plain prose"


def test_sound_code_takes_the_block_that_defines_the_function() -> None:
    text = "Use:\n```\npip install x\n```\nthen\n```python\ndef f(x):\n    assert x\n    return x\n```\n"
    assert sound_code(text, entry_point="f") == "def f(x):\n    assert x\n    return x"
    assert sound_code(text) == "pip install x"


@pytest.mark.parametrize(
    ("completion", "program"),
    [
        ("def f(x):\n    return x\n\nThis function returns x.", "def f(x):\n    return x\n"),
        ("Here is it:\ndef f():\n\treturn 1", "def f():\n    return 1"),
        ("    return x + 1\n\nExplanation: adds", "    return x + 1\n"),
        ("```python\ndef f():\n    return 1", "def f():\n    return 1"),
        ('def f():\n    """Doc\nstring text\n"""\n    return 1', 'def f():\n    """Doc\nstring text\n"""\n    return 1'),
    ],
)
def test_sound_code_without_a_closed_fence(completion: str, program: str) -> None:
    assert sound_code(completion) == program


@pytest.mark.parametrize(
    "text",
    [
        "{" * 100_000,
        "\\boxed{" * 20_000,
        "```" * 50_000,
        "The answer is:" * 20_000,
        "\n" * 100_000,
        "The answer is: \\begin{" + "\n\\begin{" * 20_000,
        "####" * 40_000,
        "* " * 50_000,
        "is " * 50_000,
        "<<1" * 50_000,
        "as many as " * 20_000,
        "\\boxed{the answer is}" * 10_000,
        "\\boxed{1}," * 20_000,
    ],
)
def test_extraction_is_fast_on_long_hostile_text(text: str) -> None:
    start = time.perf_counter()
    for extract in (answer_text, metamath_answer, metamath_number, pissa_code, sound_code):
        extract(text)
    assert time.perf_counter() - start < 1
