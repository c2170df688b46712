"""Statistics against SciPy and statsmodels, and against simulated data whose truth is known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from harness.statistics import stats


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def random_scores(generator: np.random.Generator, *, seeds: int, examples: int, seed_sd: float, shift: float = 0.0):
    """Binary scores of two methods that share their examples; ``shift`` moves the first (logit)."""
    items = generator.normal(size=(1, examples))
    pair = []
    for offset in (shift, 0.0):
        own = 0.5 * generator.normal(size=(1, examples))
        logit = offset + items + own + seed_sd * generator.normal(size=(seeds, 1))
        pair.append((generator.random((seeds, examples)) < expit(logit)).astype(float))
    return pair[0], pair[1]


# ------------------------------------------------------------------------------------------------- textbook procedures


@pytest.mark.parametrize(("successes", "n"), [(0, 8), (8, 8), (3, 8), (1, 164), (700, 1319)])
def test_wilson_interval_is_statsmodels(successes: int, n: int) -> None:
    expected = proportion_confint(successes, n, alpha=0.05, method="wilson")
    assert stats.wilson_interval(successes, n) == pytest.approx(expected, abs=1e-12)


def test_wilson_interval_at_zero_of_eight_has_width() -> None:
    low, high = stats.wilson_interval(0, 8)
    assert low == 0 and high == pytest.approx(0.3244, abs=1e-4)


@pytest.mark.parametrize(("successes", "n"), [(-1, 8), (9, 8), (0, 0)])
def test_wilson_interval_refuses_impossible_counts(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="expected 0 <= successes <= n"):
        stats.wilson_interval(successes, n)


def test_mean_over_seeds_is_scipys_t_interval() -> None:
    values = [0.31, 0.40, 0.29]
    interval = stats.mean_over_seeds(values)
    expected = scipy.stats.t.interval(0.95, 2, loc=np.mean(values), scale=scipy.stats.sem(values))
    assert (interval.low, interval.high) == pytest.approx(expected)


def test_mean_over_seeds_of_one_run_has_no_interval() -> None:
    assert stats.mean_over_seeds([0.5]) == stats.Interval(mean=0.5, low=None, high=None)
    with pytest.raises(ValueError, match="finite"):
        stats.mean_over_seeds([0.5, math.nan])


@pytest.mark.parametrize(("b", "c"), [(0, 0), (5, 5), (1, 9), (20, 7), (0, 6)])
def test_mcnemar_is_statsmodels(b: int, c: int) -> None:
    expected = mcnemar([[10, b], [c, 10]], exact=True).pvalue if b + c else 1.0
    assert stats.mcnemar_exact(only_first=b, only_second=c) == pytest.approx(expected)


@pytest.mark.parametrize("p_values", [[0.04], [0.01, 0.04, 0.03], [0.5, 0.001, 0.5, 0.02], [0.2, 0.2, 1.0], [0.0, 0.9]])
def test_holm_is_statsmodels(p_values: list[float]) -> None:
    assert stats.holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])


def test_holm_of_nothing() -> None:
    assert stats.holm([]) == []


# --------------------------------------------------------------------------------------------------- two-level variance


def test_one_seed_is_the_binomial_standard_error() -> None:
    scores = np.array([[1.0] * 13 + [0.0] * 27])
    estimate = stats.mean_score([scores], rng=rng(), binary=True)
    assert estimate.stderr == pytest.approx(scipy.stats.sem(scores[0]))
    assert estimate.seed_stderr is None
    assert (estimate.low, estimate.high) == pytest.approx(proportion_confint(13, 40, method="wilson"))


def test_seeds_alone_are_the_t_test_over_seeds() -> None:
    by_seed = np.array([0.3, 0.1, 0.45, 0.2])
    method = np.repeat(by_seed[:, None], 50, axis=1)
    difference = stats.paired_difference([method], [np.zeros_like(method)], rng=rng(), binary=False)
    assert difference.p_value == pytest.approx(scipy.stats.ttest_1samp(by_seed, 0).pvalue, rel=1e-6)
    assert (difference.low, difference.high) == pytest.approx(
        scipy.stats.t.interval(0.95, 3, loc=by_seed.mean(), scale=scipy.stats.sem(by_seed))
    )
    assert difference.example_stderr == pytest.approx(0, abs=1e-9)


def test_variance_is_unbiased_when_seeds_and_examples_both_vary() -> None:
    generator = rng()
    means, variances = [], []
    for _ in range(1500):
        matrix = (0.3 * generator.normal(size=(4, 1)) + 1.0 * generator.normal(size=(1, 30))
                  + 0.7 * generator.normal(size=(4, 30)))  # fmt: skip
        means.append(matrix.mean())
        variances.append(stats.two_level_variance([matrix]).total)
    truth = 0.3**2 / 4 + 1.0 / 30 + 0.7**2 / (4 * 30)
    assert np.var(means) == pytest.approx(truth, rel=0.1)
    assert np.mean(variances) == pytest.approx(truth, rel=0.05)


def test_strata_share_seeds_but_not_examples() -> None:
    generator = rng()
    first, second = generator.normal(size=(3, 40)), generator.normal(size=(3, 60))
    seed = np.array([[0.5], [-0.2], [0.9]])
    both = stats.two_level_variance([first + seed, second + seed])
    alone = [stats.two_level_variance([m + seed]).examples for m in (first, second)]
    assert both.examples == pytest.approx(sum(alone) / 4)
    assert both.seeds == pytest.approx(np.var(((first + seed).mean(1) + (second + seed).mean(1)) / 2, ddof=1) / 3)


@pytest.mark.parametrize("strata", [[], [np.zeros((2, 3)), np.zeros((3, 3))], [np.array([[1.0, np.nan]])], [np.zeros((2, 0))]])
def test_impossible_matrices_are_refused(strata: list[np.ndarray]) -> None:
    with pytest.raises(ValueError, match="expected"):
        stats.mean_score(strata, rng=rng(), binary=False)


def test_unequal_shapes_are_not_compared() -> None:
    with pytest.raises(ValueError, match="expected equal shapes"):
        stats.paired_difference([np.zeros((2, 3))], [np.zeros((2, 4))], rng=rng(), binary=True)


# ---------------------------------------------------------------------------------------------------------------- edges


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_nothing_or_everything_solved_keeps_an_interval_with_width(seeds: int, value: float) -> None:
    estimate = stats.mean_score([np.full((seeds, 8), value)], rng=rng(), binary=True)
    assert estimate.mean == value and 0 <= estimate.low <= value <= estimate.high <= 1
    assert estimate.high - estimate.low == pytest.approx(0.3244, abs=1e-4)


@pytest.mark.parametrize("seeds", [1, 3])
def test_equal_scores_do_not_prove_equality(seeds: int) -> None:
    scores = np.tile([1.0, 0.0] * 4, (seeds, 1))
    difference = stats.paired_difference([scores], [scores], rng=rng(), binary=True)
    assert difference.mean == 0 and difference.p_value == (None if seeds == 1 else 1)
    assert difference.low < -0.1 and difference.high > 0.1


def test_seeds_that_agree_by_rounding_do_not_prove_a_difference() -> None:
    """Three seeds of 20 examples with the same number solved: no variance over seeds is seen, but some there must be."""
    method, baseline = np.zeros((3, 20)), np.zeros((3, 20))
    method[:, :9] = 1
    difference = stats.paired_difference([method], [baseline], rng=rng(), binary=True)
    assert difference.seed_stderr > 0
    assert 1e-4 < difference.p_value < 0.05


@given(st.integers(2, 4), st.integers(2, 12), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_interval_and_p_value_agree(seeds: int, examples: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    first, second = random_scores(generator, seeds=seeds, examples=examples, seed_sd=0.5, shift=1.5)
    difference = stats.paired_difference([first], [second], rng=rng(), binary=True)
    excludes_zero = difference.low > 0 or difference.high < 0
    assert excludes_zero == (difference.p_value < 0.05)


def test_swapping_the_methods_mirrors_the_difference() -> None:
    first, second = random_scores(rng(), seeds=3, examples=50, seed_sd=0.5, shift=1.0)
    ab = stats.paired_difference([first], [second], rng=rng(), binary=True)
    ba = stats.paired_difference([second], [first], rng=rng(), binary=True)
    assert (ab.mean, ab.low, ab.high, ab.p_value) == pytest.approx((-ba.mean, -ba.high, -ba.low, ba.p_value))


def test_one_seed_has_an_interval_over_examples_and_no_test() -> None:
    """Two trained models say nothing of how far two others would differ."""
    first, second = random_scores(rng(), seeds=1, examples=60, seed_sd=0.0, shift=1.0)
    task = stats.paired_difference([first], [second], rng=rng(), binary=True, margin=0.01)
    average = stats.paired_difference([first, first], [second, second], rng=rng(), binary=True, margin=0.01)
    b, c = int((first > second).sum()), int((first < second).sum())
    assert task.p_by_seed == pytest.approx((mcnemar([[0, b], [c, 0]], exact=True).pvalue,))
    for difference in (task, average):
        assert difference.p_value is difference.p_equivalent is difference.p_sign_flip is difference.dof is None
        assert difference.low < difference.mean < difference.high


# ------------------------------------------------------------------------------------------------------------ bootstrap


def test_bootstrap_is_repeatable_and_its_generator_matters() -> None:
    scores = [rng().normal(size=(1, 30))]
    a, b = (stats.stratified_bootstrap(scores, rng=np.random.default_rng(s), resamples=200) for s in (1, 1))
    c = stats.stratified_bootstrap(scores, rng=np.random.default_rng(2), resamples=200)
    assert np.array_equal(a, b) and not np.array_equal(a, c)


def test_bootstrap_has_the_analytic_standard_error() -> None:
    generator = rng()
    strata = [generator.normal(size=(1, 50)), (generator.random((1, 80)) < 0.3).astype(float)]
    means = stats.stratified_bootstrap(strata, rng=generator, resamples=20_000)
    expected = math.sqrt(sum(m.var() / m.size for m in strata)) / 2
    assert means.std() == pytest.approx(expected, rel=0.03)
    assert means.mean() == pytest.approx(np.mean([m.mean() for m in strata]), abs=4 * expected / 100)


def test_bootstrap_never_mixes_strata() -> None:
    means = stats.stratified_bootstrap([np.zeros((1, 20)), np.ones((1, 5))], rng=rng(), resamples=100)
    assert np.array_equal(means, np.full(100, 0.5))


def test_bootstrap_interval_is_scipys() -> None:
    data = rng().exponential(size=60)
    estimate = stats.mean_score([data[None]], rng=rng(), binary=False)
    expected = scipy.stats.bootstrap((data,), np.mean, method="percentile", n_resamples=20_000, rng=rng()).confidence_interval
    assert (estimate.low, estimate.high) == pytest.approx((expected.low, expected.high), abs=0.03)


# --------------------------------------------------------------------------------------- coverage, false positives, power

REPEATS = 800
#: Four standard errors of a rate of 5 % over REPEATS simulations.
NOISE = 4 * math.sqrt(0.05 * 0.95 / REPEATS)


#: The default tests take the ends, at each number of seeds once few examples and once many: no spread of the seeds, where the
#: examples dominate, and a wide one, where the seeds do. The slow ones take what lies between, and the other pairs.
EXAMPLES_AND_SEEDS = [
    pytest.param(*cell, marks=() if cell in {(2, 0.0, 20), (2, 1.0, 150), (3, 0.0, 150), (3, 1.0, 20)} else pytest.mark.slow)
    for cell in itertools.product((2, 3), (0.0, 0.3, 1.0), (20, 150))
]


@pytest.mark.parametrize(("seeds", "seed_sd", "examples"), EXAMPLES_AND_SEEDS)
def test_no_difference_is_rarely_called_one(seeds: int, seed_sd: float, examples: int) -> None:
    """At two and three seeds, whether seeds or examples dominate: at most 5 % of tests reject, at most 5 % of the 95 %
    intervals miss, and hardly any p-value is below 0.001 (what Holm's correction of a table leans on)."""
    generator = np.random.default_rng(seeds * 1000 + examples)
    p_values = np.array([
        stats.paired_difference([a], [b], rng=generator, binary=True).p_value
        for a, b in (random_scores(generator, seeds=seeds, examples=examples, seed_sd=seed_sd) for _ in range(REPEATS))
    ])  # fmt: skip
    assert (p_values < 0.05).mean() <= 0.05 + NOISE
    assert (p_values < 0.001).mean() <= 0.001 + 4 * math.sqrt(0.001 / REPEATS)


@pytest.mark.parametrize("seed_sd", [0.3, *(pytest.param(sd, marks=pytest.mark.slow) for sd in (0.0, 1.0))])
def test_three_seeds_cover_a_true_difference_and_a_true_mean(seed_sd: float) -> None:
    generator = rng()
    big = random_scores(generator, seeds=3000, examples=1500, seed_sd=seed_sd, shift=0.5)
    truth, level = big[0].mean() - big[1].mean(), big[0].mean()
    covered = {"difference": 0, "mean": 0}
    for _ in range(REPEATS):
        a, b = random_scores(generator, seeds=3, examples=80, seed_sd=seed_sd, shift=0.5)
        difference = stats.paired_difference([a], [b], rng=generator, binary=True)
        mean = stats.mean_score([a], rng=generator, binary=True)
        covered["difference"] += difference.low <= truth <= difference.high
        covered["mean"] += mean.low <= level <= mean.high
    assert covered["difference"] / REPEATS >= 0.95 - NOISE
    assert covered["mean"] / REPEATS >= 0.95 - NOISE


def test_dominant_seeds_give_nominal_not_wider_intervals() -> None:
    """Where seeds dominate, the interval is the t interval over seeds and no more: as exact as three seeds allow."""
    a, b = random_scores(rng(), seeds=3, examples=2000, seed_sd=1.0)
    difference = stats.paired_difference([a], [b], rng=rng(), binary=True)
    by_seed = (a - b).mean(axis=1)
    low, high = scipy.stats.t.interval(0.95, 2, loc=by_seed.mean(), scale=scipy.stats.sem(by_seed))
    assert difference.high - difference.low == pytest.approx(min(high, 1) - max(low, -1), rel=0.05)


def test_detectable_difference_is_found_four_times_in_five() -> None:
    """Known variances: only seeds vary, with standard deviation 0.1, three seeds; the expected detectable difference."""
    error = 0.1 / math.sqrt(3)
    exact = stats.Estimate(
        mean=0, stderr=error, seed_stderr=error, example_stderr=0.0, low=0, high=0, n_seeds=3, n_examples=100
    )
    shift = stats.minimum_detectable_difference(exact)
    draws = shift + 0.1 * rng().normal(size=(4000, 3))
    power = (scipy.stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05).mean()
    assert 0.7 < power < 0.9


def test_detectable_difference_grows_with_correction_power_and_noise() -> None:
    small = stats.Estimate(mean=0, stderr=0.02, seed_stderr=None, example_stderr=0.02, low=0, high=0, n_seeds=1, n_examples=500)
    base = stats.minimum_detectable_difference(small)
    assert base == pytest.approx((scipy.stats.t.ppf(0.975, 499) + scipy.stats.t.ppf(0.8, 499)) * 0.02)
    assert stats.minimum_detectable_difference(small, alpha=0.001) > base
    assert stats.minimum_detectable_difference(small, power=0.9) > base
