"""Collapsed runs: what counts as the floor of a set."""

from __future__ import annotations

import numpy as np
import pytest

from harness.statistics.collapse import is_at_floor


@pytest.mark.parametrize(
    ("accuracy", "floor", "n", "expected"),
    [
        (0.115, 0.504, 1267, True),  # WinoGrande in NVlabs/DoRA, issue 26
        (0.55, 0.504, 1267, False),
        (0.518, 0.504, 1267, True),  # the standard error is 0.01405
        (0.519, 0.504, 1267, False),
        (0.0, None, 100, False),  # open answers
        (None, 0.5, 100, False),  # nothing was answered
        (1.0, 1.0, 100, False),  # all answers are the same
    ],
)
def test_at_the_floor_is_up_to_one_standard_error_above(
    accuracy: float | None, floor: float | None, n: int, expected: bool
) -> None:
    assert is_at_floor(accuracy, floor, n) is expected


def test_guessing_is_found_five_times_in_six() -> None:
    accuracies = np.random.default_rng(0).binomial(500, 0.5, size=2000) / 500
    assert np.mean([is_at_floor(accuracy, 0.5, 500) for accuracy in accuracies]) == pytest.approx(0.84, abs=0.03)
