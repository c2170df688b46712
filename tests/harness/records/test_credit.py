"""One character says what an answer is worth."""

from __future__ import annotations

import pytest

from harness.records.credit import credit, digit


def test_right_wrong_and_shared_answers_have_a_character_each() -> None:
    worth = [True, False, 1.0, 0.0, *(1 / k for k in range(2, 10))]
    assert "".join(map(digit, worth)) == "101023456789"
    assert [credit(digit(value)) for value in worth] == [float(value) for value in worth]


@pytest.mark.parametrize("value", [0.3, 1.5, -1.0, 1 / 10])
def test_anything_else_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="expected 0 or 1/k"):
        digit(value)
