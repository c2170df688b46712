"""The two published comparisons of MATH answers give the verdicts of a re-implementation of the released code.

``lineage_verdicts.json`` holds [answer, gold, MetaMath's verdict, the released one] of 1,732 of 26,644 pairs made from MATH's
gold answers: other golds, cut ones, other spellings, slashes. All 26,644 agreed when they were recorded.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evaluation.graders.answers import algebra
from evaluation.graders.math_lineages import NotNormalisable, hendrycks_equal, hendrycks_normal_form, released_equal

VERDICTS = json.loads(Path(__file__).with_name("lineage_verdicts.json").read_text())


def test_verdicts_are_those_of_the_released_code() -> None:
    assert len(VERDICTS) > 1700
    compare = algebra().expression_equal
    differ = [
        (answer, gold)
        for answer, gold, metamath, released in VERDICTS
        if (hendrycks_equal(answer, gold), released_equal(answer, gold, compare)) != (metamath, released)
    ]
    assert differ == []


@pytest.mark.parametrize("text", ["a/b", "x/2", "/", "1/", "\\frac{1}{2}/3", "0.5/2"])
def test_one_slash_beside_something_else_than_an_integer_raises(text: str) -> None:
    with pytest.raises(NotNormalisable):
        hendrycks_normal_form(text)
    assert released_equal(text, "7", algebra().expression_equal), "the original compares the answer with itself"
    assert not hendrycks_equal(text, "7") and hendrycks_equal(text, text)


@pytest.mark.parametrize("text", ["01/2", "+1/2", "1_0/3", "1/2/3", "a/b/c"])
def test_other_slashes_stay(text: str) -> None:
    assert hendrycks_normal_form(text) == text and not released_equal(text, "7", algebra().expression_equal)
