"""Collapsed runs: what counts as the floor of a set, and as answers that are lost."""

from __future__ import annotations

import numpy as np
import pytest

from harness.statistics.collapse import has_lost_answers, is_at_floor


@pytest.mark.parametrize(
    ("accuracy", "floor", "n", "expected"),
    [
        (0.115, 0.504, 1267, True),  # WinoGrande in NVlabs/DoRA, issue 26
        (0.55, 0.504, 1267, False),
        (0.518, 0.504, 1267, True),  # the standard error is 0.01405
        (0.519, 0.504, 1267, False),
        (0.0, None, 100, False),  # open answers: see below
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


def of(right: range, n: int) -> np.ndarray:
    return np.array([float(i in right) for i in range(n)])


@pytest.mark.parametrize(
    ("run", "base", "n", "constant", "expected"),
    [
        (range(0), range(6), 100, 0.01, True),  # 2 / 2^6 = 0.031
        (range(0), range(5), 100, 0.01, False),  # 2 / 2^5 = 0.063
        (range(99, 100), range(8), 100, 0.01, True),  # 2 (1 + 9) / 2^9 = 0.039
        (range(99, 100), range(7), 100, 0.01, False),  # 2 (1 + 8) / 2^8 = 0.070
        (range(1), range(7), 100, 0.01, True),  # the same example: 2 / 2^6
        (range(2), range(90), 100, 0.01, False),  # 0.02; a constant scores 0.01, and 0.00995 is its standard error
        (range(26), range(192), 1319, 22 / 1319, True),  # LLaMA2-7B on GSM8K: 14.6; a constant may have 26.7 right
        (range(27), range(192), 1319, 22 / 1319, False),
        (range(0), range(0), 100, 0.01, False),  # the task is too hard for the model
        (range(1), range(0), 100, 0.01, False),
        (range(0), range(100), 100, 1.0, False),  # all reference answers are the same, or none is recorded
    ],
)
def test_open_answers_are_lost_if_the_base_model_is_right_significantly_more_often(
    run: range, base: range, n: int, constant: float, expected: bool
) -> None:
    assert has_lost_answers(of(run, n), of(base, n), constant=constant) is expected


def test_without_the_base_models_answers_nothing_is_known() -> None:
    assert has_lost_answers(np.zeros(100), None, constant=0.01) is False
