"""Intervals and tests on simulated data whose truth is known: measured coverage and false positives."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.statistics import stats
from harness.statistics.variance import of_binary_scores
from tests.harness.statistics.simulations import LEVELS, Setup, grid, measure

#: The rates that a correct 95 % procedure has in this many simulations, but once in 10,000 (four standard errors).
NOMINAL = 0.95


def noise(repeats: int) -> float:
    return 4 * math.sqrt(NOMINAL * (1 - NOMINAL) / repeats)


#: Near 0 and 1 a single test set of 20 examples has six likely outcomes; Wilson's coverage then oscillates around 95 %.
DISCRETE = 0.02


def check(setup: Setup, *, repeats: int) -> None:
    rates = measure(setup, repeats=repeats, seed=11)
    allowed = noise(repeats) + (DISCRETE if setup.level and setup.examples == 20 else 0.0)
    assert rates.mean_covered >= NOMINAL - allowed, rates
    assert rates.difference_covered >= NOMINAL - allowed, rates
    if setup.shift == 0 and setup.seeds > 1:
        assert rates.rejected <= 1 - NOMINAL + allowed, rates


FAST = [
    Setup(seeds=1, examples=150),
    Setup(seeds=1, examples=20, level=4.0, tasks=4),
    Setup(seeds=1, examples=60, seed_sd=0.0, tasks=4),
    Setup(seeds=2, examples=20, level=4.0, tasks=4),
    Setup(seeds=2, examples=20, level=-4.0),
    Setup(seeds=3, examples=150, shift=0.5),
    Setup(seeds=3, examples=20, level=-4.0, tasks=4),
    Setup(seeds=5, examples=20, shift=1.0),
    Setup(seeds=5, examples=150, seed_sd=0.0),
    Setup(seeds=5, examples=150, seed_sd=0.3, tasks=4),
    Setup(seeds=8, examples=150, seed_sd=0.1, tasks=2),
]


@pytest.mark.parametrize("setup", FAST, ids=str)
def test_intervals_cover_and_tests_keep_their_level(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "RESAMPLES", 500)
    check(setup, repeats=200)


@pytest.mark.slow
@pytest.mark.parametrize("setup", [*grid(), *(Setup(seeds=1, examples=e, level=level, seed_sd=0.0, tasks=t)
                                             for e in (20, 150) for level in LEVELS for t in (1, 4))], ids=str)  # fmt: skip
def test_intervals_cover_everywhere(setup: Setup) -> None:
    check(setup, repeats=800)


def test_a_real_difference_is_found_more_often_with_more_seeds() -> None:
    power = [measure(Setup(seeds=s, examples=150, shift=1.0, seed_sd=0.3), repeats=100, seed=3).rejected for s in (2, 3, 5)]
    assert power == sorted(power) and power[2] > 0.7 > 0.3 > power[0]


# ------------------------------------------------------------------------------------------------- few errors, no variance


def test_seeds_that_err_on_different_examples_are_not_certain() -> None:
    """Two seeds with one error each, on different examples: the plain variance of the mean cancels to zero."""
    scores = np.ones((2, 20))
    scores[0, 3] = scores[1, 7] = 0
    assert stats.two_level_variance([scores]).total == pytest.approx(0, abs=1e-12)
    estimate = stats.mean_score([scores], rng=np.random.default_rng(0), binary=True)
    assert estimate.example_stderr == pytest.approx(math.sqrt(0.95 * 0.05 / 40))
    assert estimate.low < 0.9 and estimate.high > 0.97


def test_floor_is_that_of_independent_answers_and_no_more() -> None:
    rng = np.random.default_rng(4)
    shared = np.repeat((rng.random((1, 50)) < 0.5).astype(float), 3, axis=0)
    assert of_binary_scores([shared]).examples == stats.two_level_variance([shared]).examples
    mixed = (rng.random((3, 50)) < 0.5).astype(float)
    p = mixed.mean()
    expected = max(stats.two_level_variance([mixed]).total, p * (1 - p) / 150)
    assert of_binary_scores([mixed]).total == pytest.approx(expected)


def test_averages_near_one_keep_their_width_with_one_seed() -> None:
    strata = [np.ones((1, 20)) for _ in range(4)]
    strata[2][0, 5] = 0
    estimate = stats.mean_score(strata, rng=np.random.default_rng(0), binary=True)
    assert estimate.low < 0.95 and estimate.high > estimate.mean


def test_padded_bootstrap_is_centred_and_wider() -> None:
    delta = np.zeros((1, 30))
    delta[0, :3] = 1
    plain, padded = (stats.stratified_bootstrap([delta], rng=np.random.default_rng(0), pad=pad) for pad in (False, True))
    assert padded.mean() == pytest.approx(delta.mean(), abs=0.005)
    assert padded.std() == pytest.approx(math.sqrt(plain.var() + 1 / 31**2), rel=0.05)
