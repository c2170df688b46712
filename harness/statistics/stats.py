"""How sure one can be: intervals, paired comparisons and corrections for records of several seeds on shared examples.

Numbers here are plain fractions or nats, never per cent. A *score matrix* has one row per seed and one column per
example of the same test set; several tasks are several matrices with the same rows (strata). Random numbers come from
a generator that the caller gives, so that every result can be repeated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from harness.statistics.variance import (
    Matrix,
    Variance,
    as_matrices,
    of_binary_scores,
    rounding,
    seed_means,
    t_quantile,
    two_level_variance,
)

CONFIDENCE = 0.95
#: Resamples of a bootstrap: the Monte-Carlo error of a 95 % limit is then about 2 % of the interval's width.
RESAMPLES = 4000
#: What is smaller is the rounding of a sum whose value is zero.
ZERO = 1e-12


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean with its uncertainty.

    ``stderr`` combines ``seed_stderr`` (another seed would give another model; None with one seed, which cannot show
    it) and ``example_stderr`` (another test set of the same kind). ``n_examples`` counts each example once, over all
    tasks.
    """

    mean: float
    stderr: float
    seed_stderr: float | None
    example_stderr: float
    low: float
    high: float
    n_seeds: int
    n_examples: int
    #: Degrees of freedom of the interval: of the Student's t that is as wide. None where one seed leaves out the seeds' part.
    dof: float | None = None


@dataclass(frozen=True, kw_only=True)
class Difference(Estimate):
    """A paired difference, method minus baseline, and its p-values, not corrected. One seed has none: it shows the difference
    of two trained models, and nothing of how far two others would differ."""

    #: Of "no difference", two-sided.
    p_value: float | None = None
    #: Of "a difference beyond the margin" (TOST); None without a margin.
    p_equivalent: float | None = None
    #: Of "no difference" by flipping the signs of the seeds' differences in all ways; with five seeds at least 1/16.
    p_sign_flip: float | None = None
    #: Of each seed by itself, the exact McNemar test; None for averages over tasks and for scores that are not binary.
    p_by_seed: tuple[float, ...] | None = None
    #: The difference of each seed, in their order; ``mean`` is its mean.
    by_seed: tuple[float, ...] = ()
    #: Pairs of runs that were planned; ``n_seeds`` of them finished on both sides.
    n_planned: int


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean and its confidence limits, which are None where they cannot be known."""

    mean: float
    low: float | None
    high: float | None


def mean_over_seeds(values: Sequence[float]) -> Interval:
    """Mean and Student's t interval of one number per run; a single run shows no spread and has no interval.

    Raises:
        ValueError: no values, or one that is not finite.
    """
    data = np.asarray(values, dtype=float)
    if len(data) == 0 or not np.isfinite(data).all():
        raise ValueError(f"found {data.tolist()}, expected one or more finite values")
    mean = float(data.mean())
    if len(data) == 1:
        return Interval(mean=mean, low=None, high=None)
    half = t_quantile(1 - CONFIDENCE, len(data) - 1) * float(data.std(ddof=1)) / math.sqrt(len(data))
    return Interval(mean=mean, low=mean - half, high=mean + half)


def wilson_interval(successes: float, n: float, *, quantile: float | None = None) -> tuple[float, float]:
    """Wilson's score interval of a proportion [E. B. Wilson, JASA 22 (1927)]; honest at 0 of n and n of n.

    Args:
        successes: between 0 and n; a fraction where n is an effective sample size.
        n: number of independent trials.
        quantile: takes the place of the normal quantile that belongs to ``CONFIDENCE``.

    Raises:
        ValueError: no trials, or successes outside [0, n].
    """
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"found {successes} successes of {n}, expected 0 <= successes <= n and n > 0")
    z = quantile if quantile is not None else t_quantile(1 - CONFIDENCE, math.inf)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (0.0 if p == 0 else max(0.0, centre - half)), (1.0 if p == 1 else min(1.0, centre + half))


# ----------------------------------------------------------------------------------------------------------- estimates


def stratified_bootstrap(
    strata: Sequence[Matrix], *, rng: np.random.Generator, resamples: int = RESAMPLES, pad: bool = False
) -> NDArray[np.float64]:
    """Bootstrap distribution of the mean over strata: examples are drawn with replacement inside each stratum.

    Seeds are not drawn: two or three of them show less than their spread, so a bootstrap over them is too sure.

    Args:
        pad: for differences of binary scores, as in ``two_level_variance``: draw from one more example in each stratum, half
            won and half lost, around the unpadded mean.

    Returns:
        ``resamples`` means.
    """
    total = np.zeros(resamples)
    matrices = as_matrices(strata)
    for matrix in matrices:
        values, counts = np.unique(matrix.mean(axis=0), return_counts=True)
        n = matrix.shape[1]
        chances = counts / n
        if pad:
            chances = np.concatenate([counts, [0.5, 0.5]]) / (n + 1)
            values = np.concatenate([values, [1.0, -1.0]])
            values = values + matrix.mean() - chances @ values
        block = max(1, 2_000_000 // len(values))
        for start in range(0, resamples, block):
            size = min(block, resamples - start)
            total[start : start + size] += rng.multinomial(n, chances, size=size) @ values / n
    return total / len(matrices)


def _expansion(matrices: Sequence[Matrix], alpha: float) -> float:
    """How much further than the normal quantile an interval must reach: by the t quantile, and since a bootstrap's variance
    divides by n and not n - 1 [T. C. Hesterberg, The American Statistician 69 (2015): the expanded percentile interval]."""
    smallest = min(m.shape[1] for m in matrices)
    dof = max(sum(m.shape[1] for m in matrices) - len(matrices), 1)
    return math.sqrt(smallest / max(smallest - 1, 1)) * t_quantile(alpha, dof) / t_quantile(alpha, math.inf)


def _percentile_interval(means: NDArray[np.float64], matrices: Sequence[Matrix]) -> tuple[float, float]:
    """The expanded percentile interval of a stratified bootstrap."""
    alpha = 1 - CONFIDENCE
    tail = float(special.ndtr(-_expansion(matrices, alpha) * t_quantile(alpha, math.inf)))
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def _common(matrices: Sequence[Matrix], variance: Variance) -> dict[str, Any]:
    """The fields of an Estimate that do not depend on how its interval is made."""
    seeds = matrices[0].shape[0]
    return {
        "mean": float(np.mean([matrix.mean() for matrix in matrices])),
        "stderr": math.sqrt(variance.total),
        "seed_stderr": math.sqrt(variance.seeds) if seeds > 1 else None,
        "example_stderr": math.sqrt(variance.examples),
        "n_seeds": seeds,
        "n_examples": sum(m.shape[1] for m in matrices),
        "dof": variance.dof(1 - CONFIDENCE) if seeds > 1 else None,
    }


def mean_score(strata: Sequence[Matrix], *, rng: np.random.Generator, binary: bool) -> Estimate:
    """The mean over tasks, seeds and examples, with an interval for a new seed and new examples of the same kind.

    Binary scores get Wilson's interval. For one task and seed its number of trials is the number of examples; else the
    effective sample size mean (1 - mean) / variance, as for surveys [Korn and Graubard, Survey Methodology 24 (1998)], and
    with several seeds its quantile is that of the two-level variance. Where no variance shows, as at 0 of 8, the number of
    trials is that of the smallest task. (A percentile bootstrap of an average over four tasks of 20 examples each covers 85 %
    at accuracies near 0 and 1, this 96 %.) Continuous scores: with one seed the expanded percentile interval of a stratified
    bootstrap, with several mean +- ``Variance.half_width``.
    """
    matrices = as_matrices(strata)
    variance = of_binary_scores(matrices) if binary else two_level_variance(matrices)
    common = _common(matrices, variance)
    mean, usable = common["mean"], 0 < variance.total < math.inf
    several = common["n_seeds"] > 1
    # Seeds that agree exactly agree by rounding.
    widened = replace(variance, seeds=variance.seeds + rounding(matrices)) if binary else variance
    half = widened.half_width(1 - CONFIDENCE)
    if binary and not usable:
        trials = min(m.shape[1] for m in matrices)
        low, high = wilson_interval(mean * trials, trials)
    elif binary:
        plain = not several and len(matrices) == 1
        trials = matrices[0].shape[1] if plain else mean * (1 - mean) / variance.total
        quantile = half / common["stderr"] if several else None
        low, high = wilson_interval(mean * trials, trials, quantile=quantile)
    elif not several and usable:
        low, high = _percentile_interval(stratified_bootstrap(matrices, rng=rng), matrices)
    else:
        low, high = mean - half, mean + half
    if binary:
        low, high = max(low, 0.0), min(high, 1.0)
    return Estimate(**common, low=low, high=high)


# --------------------------------------------------------------------------------------------------------- comparisons


def mcnemar_exact(*, only_first: int, only_second: int) -> float:
    """Exact two-sided McNemar test: p-value of the discordant pairs under a fair coin.

    Args:
        only_first: examples that only the first method solves.
        only_second: examples that only the second method solves.
    """
    discordant = only_first + only_second
    if discordant == 0:
        return 1.0
    return float(min(1.0, 2 * stats.binom.cdf(min(only_first, only_second), discordant, 0.5)))


#: Seeds up to which every flip of signs is counted: 2^16 of them.
_MOST_FLIPPED = 16


def sign_flip(differences: Sequence[float]) -> float | None:
    """Exact two-sided permutation p-value of "no difference": the share of sign flips whose mean is at least as far from zero
    [R. A. Fisher, The Design of Experiments (1935), section 21]. None with more than 16 values."""
    values = np.asarray(differences, dtype=float)
    if len(values) > _MOST_FLIPPED:
        return None
    signs = 1 - 2 * ((np.arange(2 ** len(values))[:, None] >> np.arange(len(values))) & 1)
    sums = np.abs(signs @ values)
    return float(np.mean(sums >= abs(values.sum()) * (1 - 1e-9)))


def paired_difference(
    method: Sequence[Matrix],
    baseline: Sequence[Matrix],
    *,
    rng: np.random.Generator,
    binary: bool,
    margin: float | None = None,
    planned: int | None = None,
) -> Difference:
    """Method minus baseline over the same seeds and examples, averaged over tasks.

    Two or more seeds: the two-level variance of the matrix of differences, and the interval and tests that belong to
    it. Where seeds dominate, this is the paired t test over seeds; where examples do, it is wider than one that
    ignores seeds, because few seeds cannot show that they do not matter. Rejected: a t test over seeds alone (blind to the
    examples that all seeds share: 10 % false positives at eight seeds), a hierarchical bootstrap (with three seeds it
    understates their variance by a third and uses normal quantiles) and Satterthwaite's degrees of freedom
    (``Variance.half_width``). tests/harness/statistics measures coverage, false positives, power and equivalence.

    One seed: an interval over examples, about these two trained models and not about the methods. No test.

    Args:
        method: one (seeds, examples) matrix per task.
        baseline: the same of the baseline, with the same seeds and examples in the same order.
        margin: within plus and minus which a difference counts as none.
        planned: pairs of runs that were planned; None: these.
    """
    first, second = as_matrices(method), as_matrices(baseline)
    if [m.shape for m in first] != [m.shape for m in second]:
        shapes = [m.shape for m in first], [m.shape for m in second]
        raise ValueError(f"found shapes {shapes[0]} and {shapes[1]}, expected equal shapes")
    delta = [a - b for a, b in zip(first, second, strict=True)]
    variance = two_level_variance(delta, pad=binary)
    common = _common(delta, variance)
    half = variance.half_width(1 - CONFIDENCE)
    low, high = common["mean"] - half, common["mean"] + half
    by_seed = seed_means(delta).tolist()
    p_by_seed = None
    if binary and len(delta) == 1:
        wins = [(int((row > 0).sum()), int((row < 0).sum())) for row in delta[0]]
        p_by_seed = tuple(mcnemar_exact(only_first=first, only_second=second) for first, second in wins)
    tests: dict[str, Any] = {}
    if common["n_seeds"] > 1:
        tests = {
            "p_value": variance.p_value(common["mean"]),
            "p_equivalent": None if margin is None else variance.p_equivalent(common["mean"], margin),
            "p_sign_flip": sign_flip(by_seed),
        }
    elif p_by_seed is None:
        means = stratified_bootstrap(delta, rng=rng, pad=binary)
        if np.ptp(means) > 0:
            low, high = _percentile_interval(means, delta)
    if binary:
        low, high = max(low, -1.0), min(high, 1.0)
    tests |= {"p_by_seed": p_by_seed, "by_seed": tuple(by_seed)}
    return Difference(**common, low=low, high=high, **tests, n_planned=len(by_seed) if planned is None else planned)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction [Scandinavian Journal of Statistics 6 (1979)]: adjusted p-values in the given
    order."""
    m = len(p_values)
    adjusted, running = [0.0] * m, 0.0
    for step, index in enumerate(sorted(range(m), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (m - step) * p_values[index]))
        adjusted[index] = running
    return adjusted


def minimum_detectable_difference(estimate: Estimate, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """The true difference that a test at level ``alpha`` finds with probability ``power``, given the noise of
    ``estimate``: about (t[1 - alpha/2] + t[power]) standard errors."""
    return _detectable(estimate, seeds=estimate.n_seeds, alpha=alpha, power=power)


def _detectable(estimate: Estimate, *, seeds: float, alpha: float, power: float) -> float:
    """As ``minimum_detectable_difference``, if as many seeds had run: their part shrinks, that of the examples stays."""
    variance = Variance(
        seeds=(estimate.seed_stderr or 0.0) ** 2 * (estimate.n_seeds / seeds),
        examples=estimate.example_stderr**2,
        seed_dof=seeds - 1,
        example_dof=max(estimate.n_examples - 1, 1),
    )
    return variance.half_width(alpha) + variance.half_width(2 * (1 - power))


#: A number of seeds, or why there is none: more than ``MOST_SEEDS``; not with any number of seeds, since the examples are too
#: few; or unknown, since a single seed does not show how much seeds differ.
SeedsNeeded = int | Literal["more", "too few examples", "unknown"]
MOST_SEEDS = 100


def seeds_to_detect(
    estimate: Estimate, difference: float, *, fewest: int = 2, alpha: float = 0.05, power: float = 0.8
) -> SeedsNeeded:
    """The smallest number of seeds, at least ``fewest``, at which the minimum detectable difference is at most ``difference``.

    Args:
        estimate: a difference that has been measured, for its two parts of the variance.
        difference: the true difference to find; its sign does not matter.
    """
    if estimate.seed_stderr is None:
        return "unknown"
    target = abs(difference)
    if _detectable(estimate, seeds=math.inf, alpha=alpha, power=power) > target:
        return "too few examples"
    for seeds in range(fewest, MOST_SEEDS + 1):
        if _detectable(estimate, seeds=seeds, alpha=alpha, power=power) <= target:
            return seeds
    return "more"
