"""The likeliest choice, by sum and by length, and what a tie is worth."""

from __future__ import annotations

import pytest

from evaluation.graders.choices import CHOICE_GRADERS, PER_CHARACTER, PER_TOKEN, ChoiceScore, judge
from evaluation.graders.labels import LOGLIKELIHOOD


def scores(**values: tuple[float, int, int]) -> dict[str, ChoiceScore]:
    return {label: ChoiceScore(loglikelihood=a, characters=b, tokens=c) for label, (a, b, c) in values.items()}


def test_each_grader_has_its_own_likeliest_choice() -> None:
    offered = scores(short=(-4.0, 2, 1), long=(-10.0, 20, 4), words=(-9.0, 10, 6))
    best = {grader: judge(offered, "long", grader=grader).best for grader in CHOICE_GRADERS}
    assert best == {LOGLIKELIHOOD: ("short",), PER_CHARACTER: ("long",), PER_TOKEN: ("words",)}


@pytest.mark.parametrize(
    ("values", "gold", "extracted", "correct"),
    [
        ({"a": -1.0, "b": -2.0, "c": -3.0}, "a", "a", True),
        ({"a": -1.0, "b": -2.0, "c": -3.0}, "b", "a", False),
        ({"a": -1.0, "b": -2.0, "c": -1.0}, "c", "a/c", 1 / 2),
        ({"a": -1.0, "b": -2.0, "c": -1.0}, "b", "a/c", False),
        ({"a": -1.0, "b": -1.0, "c": -1.0}, "b", "a/b/c", 1 / 3),
    ],
)
def test_a_tie_of_k_choices_is_worth_1_over_k_if_the_right_one_is_among_them(values, gold, extracted, correct) -> None:
    verdict = judge(scores(**{label: (value, 1, 1) for label, value in values.items()}), gold, grader=LOGLIKELIHOOD)
    assert (verdict.extracted, verdict.correct) == (extracted, correct)
    assert isinstance(verdict.correct, bool) == (correct in (True, False))


def test_an_empty_choice_has_a_score_under_every_grader() -> None:
    assert {judge(scores(a=(0.0, 0, 0), b=(-1.0, 3, 1)), "a", grader=grader).best for grader in CHOICE_GRADERS} == {("a",)}
