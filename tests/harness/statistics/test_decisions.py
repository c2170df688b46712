"""What decides: degrees of freedom, equivalence, families; and simulated, how often the words are right."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from harness.statistics import stats
from harness.statistics.comparison import Comparison, Family, decide
from harness.statistics.variance import Variance, two_level_variance

MARGIN = 0.1


def family(size: int = 1, *, margin: float | None = MARGIN, metric: str = "accuracy", min_seeds: int = 5) -> Family:
    return Family(name="primary", metric=metric, size=size, margin=margin, min_seeds=min_seeds)


def difference(by_seed: np.ndarray, *, examples: int = 30, margin: float | None = MARGIN) -> stats.Difference:
    """Of scores that vary with the seed alone."""
    scores = np.repeat(np.asarray(by_seed, dtype=float)[:, None], examples, axis=1)
    rng = np.random.default_rng(0)
    return stats.paired_difference([scores], [np.zeros_like(scores)], rng=rng, binary=False, margin=margin)


# ---------------------------------------------------------------------------------------------------- degrees of freedom


def test_degrees_of_freedom_are_those_of_the_t_interval_that_is_as_wide() -> None:
    generator = np.random.default_rng(1)
    scores = 0.3 * generator.normal(size=(5, 1)) + generator.normal(size=(1, 40)) + 0.5 * generator.normal(size=(5, 40))
    made = stats.paired_difference([scores], [np.zeros_like(scores)], rng=generator, binary=False)
    assert made.dof is not None and 4 < made.dof < 39
    expected = scipy.stats.t.interval(0.95, made.dof, loc=made.mean, scale=made.stderr)
    assert (made.low, made.high) == pytest.approx(expected)


@pytest.mark.parametrize(("seeds", "examples", "dof"), [(1.0, 0.0, 4), (0.0, 1.0, 99), (1.0, 1e-20, 4), (1e-20, 1.0, 99)])
def test_one_part_alone_has_its_own_degrees_of_freedom(seeds: float, examples: float, dof: float) -> None:
    variance = Variance(seeds=seeds, examples=examples, seed_dof=4, example_dof=99)
    assert variance.dof(0.05) == pytest.approx(dof, rel=1e-3)


# ----------------------------------------------------------------------------------------------------------- equivalence


def test_equivalence_is_statsmodels_tost_where_seeds_alone_vary() -> None:
    by_seed = np.array([0.02, -0.05, 0.04, 0.01, -0.03, 0.03])
    for shift in (0.0, 0.05, 0.2):
        expected = DescrStatsW(by_seed + shift).ttost_mean(-MARGIN, MARGIN)[0]
        assert difference(by_seed + shift).p_equivalent == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("mean", [0.0, 0.03, -0.06, 0.15])
def test_equivalence_at_5_percent_is_the_90_percent_interval_within_the_margin(mean: float) -> None:
    variance = Variance(seeds=0.02**2, examples=0.02**2, seed_dof=4, example_dof=150)
    half = variance.half_width(0.1)
    within = -MARGIN < mean - half and mean + half < MARGIN
    assert (variance.p_equivalent(mean, MARGIN) < 0.05) == within
    assert variance.p_equivalent(mean, MARGIN) == pytest.approx(variance.p_equivalent(-mean, MARGIN))


def test_a_wider_margin_is_met_more_easily_and_none_never() -> None:
    by_seed = np.array([0.02, -0.05, 0.04, 0.01, -0.03])
    p_values = [difference(by_seed, margin=margin).p_equivalent for margin in (0.02, 0.05, 0.1)]
    assert p_values == sorted(p_values, reverse=True)
    assert difference(by_seed, margin=None).p_equivalent is None
    assert outcome(difference(by_seed, margin=None), margin=None) == "undecided"


def test_sign_flips_are_all_counted() -> None:
    values = [0.3, -0.1, 0.2, 0.25, 0.05]
    flips = [abs(sum(s * v for s, v in zip(signs, values, strict=True))) for signs in itertools.product((1, -1), repeat=5)]
    assert stats.sign_flip(values) == pytest.approx(np.mean([flip >= sum(values) - 1e-12 for flip in flips]))
    assert stats.sign_flip([1.0] * 5) == 2 / 2**5
    assert stats.sign_flip([0.1] * 17) is None


# ----------------------------------------------------------------------------------------------------------------- words


def outcome(made: stats.Difference, **rules: object) -> str | None:
    return decide({"one": made}, family(**rules))["one"].outcome


STEADY = np.array([0.01, -0.01, 0.0, 0.005, -0.005])


def test_words() -> None:
    assert outcome(difference(STEADY + 0.3)) == "better"
    assert outcome(difference(STEADY - 0.3)) == "worse"
    assert outcome(difference(STEADY + 0.3), metric="gold_nll") == "worse"
    assert outcome(difference(STEADY - 0.3), metric="gold_nll") == "better"
    assert outcome(difference(STEADY)) == "equivalent"
    assert outcome(difference(40 * STEADY)) == "undecided"


def test_a_small_difference_that_is_not_zero_is_named_and_known_to_be_small() -> None:
    compared = decide({"one": difference(STEADY + 0.05)}, family())["one"]
    assert compared.outcome == "better" and compared.within_margin
    assert not decide({"one": difference(STEADY + 0.3)}, family())["one"].within_margin


@pytest.mark.parametrize("seeds", [1, 2, 3, 4])
def test_no_word_below_five_seeds(seeds: int) -> None:
    compared = decide({"one": difference(STEADY[:seeds] + 0.3)}, family())["one"]
    assert (compared.outcome, compared.p_adjusted, compared.p_equivalent) == (None, None, None)
    assert compared.word == f"not decided ({seeds} seed{'s' if seeds > 1 else ''})"


def test_no_word_while_a_planned_pair_is_missing() -> None:
    made = difference(np.full(6, 0.5) + np.linspace(0, 0.01, 6))
    assert outcome(made) == "better"
    (few,) = decide({"a": replace(made, n_planned=8)}, family()).values()
    assert few.outcome is few.p_adjusted is None and few.word == "not decided (6 of 8 seeds)"


def test_the_seeds_rule_is_the_experiments() -> None:
    assert outcome(difference(STEADY + 0.3), min_seeds=6) is None


def test_a_comparison_in_no_family_has_no_word() -> None:
    assert Comparison(difference=difference(STEADY + 0.3)).word is None


def test_the_mirror_says_the_opposite() -> None:
    compared = decide({"one": difference(STEADY + 0.3)}, family())["one"].mirrored()
    d = compared.difference
    assert compared.outcome == "worse" and d.low < d.mean < d.high < 0
    assert decide({"one": difference(STEADY)}, family())["one"].mirrored().outcome == "equivalent"


def test_both_tests_are_corrected_by_holm_over_what_was_planned() -> None:
    """A comparison that has not run, or with too few seeds, counts as p = 1: leaving runs out makes nothing easier."""
    generator = np.random.default_rng(3)
    made = {i: difference(0.1 * i + 0.1 * generator.normal(size=5)) for i in range(4)}
    made |= {"few": difference(np.full(3, 0.5) + 0.01 * generator.normal(size=3))}
    compared = decide(made, family(7))
    assert all(compared[key].family == family(7) for key in made)
    for raw, corrected in (("p_value", "p_adjusted"), ("p_equivalent", "p_equivalent")):
        p_values = [getattr(made[i], raw) for i in range(4)]
        expected = multipletests([*p_values, 1, 1, 1], method="holm")[1][:4]
        assert [getattr(compared[i], corrected) for i in range(4)] == pytest.approx(expected)
    assert decide(made, family(5))[3].p_adjusted < compared[3].p_adjusted


# ---------------------------------------------------------------------------------------------------- simulated: families

#: Standard deviation over seeds of a difference, of an example's, and what of it is the seed's alone.
SEED_SD, EXAMPLE_SD, REST_SD, EXAMPLES = 0.03, 0.2, 0.3, 120


def draw(generator: np.random.Generator, *, seeds: int, truth: float) -> stats.Difference:
    """A paired difference of continuous scores in which seeds and examples both vary."""
    scores = (
        truth
        + SEED_SD * generator.normal(size=(seeds, 1))
        + EXAMPLE_SD * generator.normal(size=(1, EXAMPLES))
        + REST_SD * generator.normal(size=(seeds, EXAMPLES))
    )
    return stats.paired_difference([scores], [np.zeros_like(scores)], rng=generator, binary=False, margin=MARGIN)


def words(*, seeds: int, truths: list[float], repeats: int) -> list[Counter[str]]:
    """How often each word is said of each comparison of a family."""
    generator = np.random.default_rng(seeds)
    counts: list[Counter[str]] = [Counter() for _ in truths]
    for _ in range(repeats):
        made = {i: draw(generator, seeds=seeds, truth=truth) for i, truth in enumerate(truths)}
        for i, compared in decide(made, family(len(truths))).items():
            counts[i][str(compared.outcome)] += 1
    return counts


def standard_error(seeds: int) -> float:
    return math.sqrt(SEED_SD**2 / seeds + EXAMPLE_SD**2 / EXAMPLES + REST_SD**2 / (seeds * EXAMPLES))


def allowed(rate: float, repeats: int) -> float:
    """Four standard errors above a nominal rate."""
    return rate + 4 * math.sqrt(rate * (1 - rate) / repeats)


@pytest.mark.parametrize("seeds", [5, 12])
def test_words_are_wrong_in_at_most_5_percent(seeds: int, repeats: int = 400) -> None:
    """No difference is rarely called one, and one as large as the margin is rarely called equivalent."""
    none, large = (words(seeds=seeds, truths=[truth], repeats=repeats)[0] for truth in (0.0, MARGIN))
    assert none["better"] + none["worse"] <= allowed(0.05, repeats) * repeats
    assert large["equivalent"] <= allowed(0.05, repeats) * repeats
    assert large["worse"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [5, 8, 12, 20])
def test_words_are_wrong_in_at_most_5_percent_of_many(seeds: int) -> None:
    test_words_are_wrong_in_at_most_5_percent(seeds, repeats=6000)


@pytest.mark.parametrize("truth", [0.0, MARGIN])
def test_a_family_makes_a_false_claim_in_at_most_5_percent(truth: float, repeats: int = 300) -> None:
    generator = np.random.default_rng(9)
    false = 0
    for _ in range(repeats):
        made = {i: draw(generator, seeds=5, truth=truth) for i in range(6)}
        said = {compared.outcome for compared in decide(made, family(6)).values()}
        false += bool(said & ({"equivalent"} if truth else {"better", "worse"}))
    assert false / repeats <= allowed(0.05, repeats)


@pytest.mark.slow
@pytest.mark.parametrize("truth", [0.0, MARGIN])
def test_a_family_makes_a_false_claim_in_at_most_5_percent_of_many(truth: float) -> None:
    test_a_family_makes_a_false_claim_in_at_most_5_percent(truth, repeats=4000)


@pytest.mark.parametrize("seeds", [5, 12])
def test_the_detectable_difference_is_found_four_times_in_five(seeds: int, repeats: int = 300) -> None:
    """From the true variances. The interval is a little wide at five seeds, and so is the detectable difference."""
    se = standard_error(seeds)
    known = stats.Estimate(mean=0, stderr=se, seed_stderr=math.sqrt(SEED_SD**2 + REST_SD**2 / EXAMPLES) / math.sqrt(seeds),
                           example_stderr=EXAMPLE_SD / math.sqrt(EXAMPLES), low=0, high=0, n_seeds=seeds,
                           n_examples=EXAMPLES)  # fmt: skip
    truth = stats.minimum_detectable_difference(known)
    (said,) = words(seeds=seeds, truths=[truth], repeats=repeats)
    assert 0.72 <= said["better"] / repeats <= 0.9 and said["worse"] == 0


@pytest.mark.parametrize("seeds", [5, 12])
def test_equal_methods_are_called_equivalent_at_a_margin_of_three_standard_errors(seeds: int, repeats: int = 300) -> None:
    """Power of the two one-sided tests: about (t[0.95] + t[0.9]) standard errors make four times in five."""
    se, dof = standard_error(seeds), seeds - 1
    reach = (scipy.stats.t.ppf(0.95, dof) + scipy.stats.t.ppf(0.9, dof)) * se
    generator, equivalent = np.random.default_rng(seeds), 0
    for _ in range(repeats):
        made = draw(generator, seeds=seeds, truth=0.0)
        variance = two_level_variance_of(made, seeds)
        equivalent += variance.p_equivalent(made.mean, reach) < 0.05
    assert 0.75 <= equivalent / repeats <= 0.95


def two_level_variance_of(made: stats.Difference, seeds: int) -> Variance:
    assert made.seed_stderr is not None
    return Variance(seeds=made.seed_stderr**2, examples=made.example_stderr**2, seed_dof=seeds - 1, example_dof=EXAMPLES - 1)


#: seeds -> detectable difference and TOST margin at 80 % power, in standard deviations of the seeds' differences.
PROTOCOL = {5: (1.68, 1.60), 8: (1.16, 1.15), 12: (0.89, 0.90), 16: (0.75, 0.77), 20: (0.66, 0.68)}


@pytest.mark.parametrize("seeds", PROTOCOL)
def test_the_power_of_the_protocol_where_seeds_alone_vary(seeds: int) -> None:
    """The protocol's table, computed with the noncentral t and by drawing, is what these words give."""
    repeats = 600
    detectable, margin = PROTOCOL[seeds]
    generator = np.random.default_rng(seeds)
    by_seed = generator.normal(size=(repeats, seeds))
    means, errors = by_seed.mean(axis=1), by_seed.std(axis=1, ddof=1) / math.sqrt(seeds)
    better = equivalent = 0
    for mean, error in zip(means, errors, strict=True):
        variance = Variance(seeds=float(error**2), examples=0.0, seed_dof=seeds - 1, example_dof=1000)
        better += variance.p_value(mean + detectable) < 0.05 and mean + detectable > 0
        equivalent += variance.p_equivalent(mean, margin) < 0.05
    assert better / repeats == pytest.approx(0.8, abs=4 * math.sqrt(0.16 / repeats))
    assert equivalent / repeats == pytest.approx(0.8, abs=4 * math.sqrt(0.16 / repeats))
    assert stats.minimum_detectable_difference(
        stats.Estimate(
            mean=0,
            stderr=1,
            seed_stderr=1 / math.sqrt(seeds),
            example_stderr=0.0,
            low=0,
            high=0,
            n_seeds=seeds,
            n_examples=1000,
        )  # fmt: skip
    ) == pytest.approx(detectable, rel=0.02)


def test_items_that_all_seeds_share_are_part_of_the_interval() -> None:
    """What a t test over seeds alone is blind to: at eight seeds it would reject 10 % here."""
    generator, seeds_alone, both = np.random.default_rng(12), 0, 0
    for _ in range(400):
        scores = 0.5 * generator.normal(size=(1, 40)) + 0.4 * generator.normal(size=(8, 40))
        seeds_alone += scipy.stats.ttest_1samp(scores.mean(axis=1), 0).pvalue < 0.05
        both += two_level_variance([scores]).p_value(float(scores.mean())) < 0.05
    assert both / 400 <= allowed(0.05, 400) < seeds_alone / 400
