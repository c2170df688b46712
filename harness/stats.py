"""How sure one can be: intervals, paired comparisons and corrections for records of several seeds on shared examples.

Numbers here are plain fractions or nats, never per cent. A *score matrix* has one row per seed and one column per
example of the same test set; several tasks are several matrices with the same rows (strata). Random numbers come from
a generator that the caller gives, so that every result can be repeated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

Matrix = NDArray[np.float64]

CONFIDENCE = 0.95
#: Resamples of a bootstrap: the Monte-Carlo error of a 95 % limit is then about 2 % of the interval's width.
RESAMPLES = 4000


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


@dataclass(frozen=True, kw_only=True)
class Difference(Estimate):
    """A paired difference, method minus baseline, and the p-value of "no difference" (two-sided, not corrected)."""

    p_value: float
    test: str


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean and its confidence limits, which are None where they cannot be known."""

    mean: float
    low: float | None
    high: float | None


def mean_over_seeds(values: Sequence[float], *, confidence: float = CONFIDENCE) -> Interval:
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
    half = _t_quantile(1 - confidence, len(data) - 1) * float(data.std(ddof=1)) / math.sqrt(len(data))
    return Interval(mean=mean, low=mean - half, high=mean + half)


def wilson_interval(
    successes: float, n: float, *, confidence: float = CONFIDENCE, quantile: float | None = None
) -> tuple[float, float]:
    """Wilson's score interval of a proportion [E. B. Wilson, JASA 22 (1927)]; honest at 0 of n and n of n.

    Args:
        successes: between 0 and n; a fraction where n is an effective sample size.
        n: number of independent trials.
        quantile: takes the place of the normal quantile that belongs to ``confidence``.

    Raises:
        ValueError: no trials, or successes outside [0, n].
    """
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"found {successes} successes of {n}, expected 0 <= successes <= n and n > 0")
    z = quantile if quantile is not None else _t_quantile(1 - confidence, math.inf)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (0.0 if p == 0 else max(0.0, centre - half)), (1.0 if p == 1 else min(1.0, centre + half))


def _t_quantile(alpha: float, dof: float) -> float:
    """Two-sided quantile of Student's t; of the normal distribution for infinite ``dof``."""
    return float(-special.ndtri(alpha / 2) if math.isinf(dof) else -special.stdtrit(dof, alpha / 2))


# ---------------------------------------------------------------------------------------- seeds and examples, crossed


@dataclass(frozen=True, kw_only=True)
class Variance:
    """Variance of a grand mean, in two independent parts with their degrees of freedom. One seed has no seed part."""

    seeds: float
    examples: float
    seed_dof: int
    example_dof: int

    @property
    def total(self) -> float:
        return self.seeds + self.examples

    def half_width(self, alpha: float) -> float:
        """Half the 1 - ``alpha`` interval: sqrt(t1^2 V1 + t2^2 V2), each part with the t quantile of its own degrees
        of freedom. It covers at least nominally however the parts compare [S. K. Banerjee, Sankhya 22 (1960)]."""
        seeds = _t_quantile(alpha, self.seed_dof) ** 2 * self.seeds if self.seeds else 0.0
        examples = _t_quantile(alpha, self.example_dof) ** 2 * self.examples if self.examples else 0.0
        return math.sqrt(seeds + examples)

    def p_value(self, difference: float) -> float:
        """The level, at least 1e-12, at which the interval around ``difference`` just touches zero."""
        if difference == 0 or math.isinf(self.total):
            return 1.0
        if self.total == 0:
            return 0.0
        smallest = 1e-12
        if self.half_width(smallest) <= abs(difference):
            return smallest

        def gap(log_p: float) -> float:
            return self.half_width(math.exp(log_p)) - abs(difference)

        return math.exp(optimize.brentq(gap, math.log(smallest), 0.0, xtol=1e-9))


def _as_matrices(strata: Sequence[Matrix]) -> list[Matrix]:
    matrices = [np.atleast_2d(np.asarray(matrix, dtype=float)) for matrix in strata]
    shapes = [matrix.shape for matrix in matrices]
    if not matrices or len({rows for rows, _ in shapes}) != 1 or min(min(shape) for shape in shapes) < 1:
        raise ValueError(f"found matrices of shapes {shapes}, expected (seeds, examples), the same seeds >= 1 in all")
    if not all(np.isfinite(matrix).all() for matrix in matrices):
        raise ValueError("found a missing or infinite value, expected a finite value per seed and example")
    return matrices


def _example_part(matrix: Matrix) -> float:
    """Variance of the matrix's mean from the choice of examples, beyond what varies with the seed."""
    s, n = matrix.shape
    if n < 2:
        return math.inf
    means = matrix.mean(axis=0)
    if s < 2:
        return float(means.var(ddof=1) / n)
    residual = matrix - means - matrix.mean(axis=1, keepdims=True) + matrix.mean()
    interaction = (residual**2).sum() / ((s - 1) * (n - 1)) / (s * n)
    return float(max(means.var(ddof=1) / n - interaction, 0.0))


def two_level_variance(strata: Sequence[Matrix], *, pad: bool = False) -> Variance:
    """Variance of the mean over strata, seeds and examples, where both seeds and examples are samples.

    Every seed answers the same examples, so the two are crossed. With row (seed) means r, column (example) means c and
    the residual mean square e of the two-way layout, the parts for one S x N matrix are var(r)/S and max(var(c)/N -
    e/(S N), 0): e is inside both variances and counts once. Examples of different strata are independent; seeds are
    shared, so that the first part comes from each seed's mean over the strata.

    Args:
        strata: one (seeds, examples) matrix per task, the same seeds in the same order.
        pad: for differences of binary scores, where few examples can hide variance. The second part of each stratum
            grows by 1/(N + 2)^2, as if one more example were half won and half lost [after Agresti and Min, Statistics
            in Medicine 24 (2005)]: no disagreement is no proof of none. The first grows by 1/(12 N^2) per seed, the
            variance of rounding to multiples of 1/N [Sheppard's correction]: seeds that agree exactly agree by rounding.
    """
    matrices = _as_matrices(strata)
    s, k, n = matrices[0].shape[0], len(matrices), sum(m.shape[1] for m in matrices)
    parts = [_example_part(m) + (1 / (m.shape[1] + 2) ** 2 if pad else 0.0) for m in matrices]
    seed_means = np.mean([m.mean(axis=1) for m in matrices], axis=0)
    rounding = sum(1 / (12 * m.shape[1] ** 2) for m in matrices) / k**2 if pad else 0.0
    return Variance(
        seeds=(float(seed_means.var(ddof=1)) + rounding) / s if s > 1 else 0.0,
        examples=sum(parts) / k**2,
        seed_dof=s - 1,
        example_dof=max(n - k, 1),
    )


def stratified_bootstrap(
    strata: Sequence[Matrix], *, rng: np.random.Generator, resamples: int = RESAMPLES
) -> NDArray[np.float64]:
    """Bootstrap distribution of the mean over strata: examples are drawn with replacement inside each stratum.

    Seeds are not drawn: two or three of them show less than their spread, so a bootstrap over them is too sure.

    Returns:
        ``resamples`` means.
    """
    total = np.zeros(resamples)
    matrices = _as_matrices(strata)
    for matrix in matrices:
        values, counts = np.unique(matrix.mean(axis=0), return_counts=True)
        n = matrix.shape[1]
        block = max(1, 2_000_000 // len(values))
        for start in range(0, resamples, block):
            size = min(block, resamples - start)
            total[start : start + size] += rng.multinomial(n, counts / n, size=size) @ values / n
    return total / len(matrices)


def _percentile_interval(means: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
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
    }


def mean_score(strata: Sequence[Matrix], *, rng: np.random.Generator, binary: bool, confidence: float = CONFIDENCE) -> Estimate:
    """The mean over tasks, seeds and examples, with an interval for a new seed and new examples of the same kind.

    Binary scores of one task get Wilson's interval; with several seeds its number of trials is the effective sample
    size mean (1 - mean) / variance, as for surveys [Korn and Graubard, Survey Methodology 24 (1998)], its quantile
    that of the two-level variance, and where no variance shows, as at 0 of 8, the number of trials is the number of
    examples. With one seed, the average over tasks or of a continuous score gets the percentile interval of a
    stratified bootstrap. Everything else gets mean +- ``Variance.half_width``.
    """
    matrices = _as_matrices(strata)
    variance = two_level_variance(matrices)
    common = _common(matrices, variance)
    mean, usable = common["mean"], 0 < variance.total < math.inf
    half = variance.half_width(1 - confidence)
    if binary and not usable:
        trials = min(m.shape[1] for m in matrices)
        low, high = wilson_interval(mean * trials, trials, confidence=confidence)
    elif binary and len(matrices) == 1:
        several = common["n_seeds"] > 1
        trials = mean * (1 - mean) / variance.total if several else matrices[0].shape[1]
        quantile = half / common["stderr"] if several else None
        low, high = wilson_interval(mean * trials, trials, confidence=confidence, quantile=quantile)
    elif common["n_seeds"] == 1 and usable:
        low, high = _percentile_interval(stratified_bootstrap(matrices, rng=rng), confidence)
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


def _bootstrap_p(means: NDArray[np.float64]) -> float:
    """Two-sided p-value by inverting the percentile interval; never zero."""
    tail = min(int((means <= 0).sum()), int((means >= 0).sum()))
    return min(1.0, 2 * (tail + 1) / (len(means) + 1))


def paired_difference(
    method: Sequence[Matrix],
    baseline: Sequence[Matrix],
    *,
    rng: np.random.Generator,
    binary: bool,
    confidence: float = CONFIDENCE,
) -> Difference:
    """Method minus baseline over the same seeds and examples, averaged over tasks.

    Two or more seeds: the two-level variance of the matrix of differences, and the interval and test that belong to
    it. Where seeds dominate, this is the paired t test over seeds; where examples do, it is wider than one that
    ignores seeds, because three seeds cannot show that they do not matter. Rejected: a hierarchical bootstrap (with
    three seeds it understates their variance by a third and uses normal quantiles) and Satterthwaite's degrees of
    freedom (at a nominal 5 %, simulated false positives reach 11 % at two seeds and 7 % at three).
    tests/unit/test_stats.py measures coverage and false positives of what is used.

    One seed: what can be said about these two trained models, not about the methods. Binary scores of one task: exact
    McNemar test; else a stratified paired bootstrap over examples.

    Args:
        method: one (seeds, examples) matrix per task.
        baseline: the same of the baseline, with the same seeds and examples in the same order.
    """
    first, second = _as_matrices(method), _as_matrices(baseline)
    if [m.shape for m in first] != [m.shape for m in second]:
        shapes = [m.shape for m in first], [m.shape for m in second]
        raise ValueError(f"found shapes {shapes[0]} and {shapes[1]}, expected equal shapes")
    delta = [a - b for a, b in zip(first, second, strict=True)]
    variance = two_level_variance(delta, pad=binary)
    common = _common(delta, variance)
    half = variance.half_width(1 - confidence)
    low, high = common["mean"] - half, common["mean"] + half
    if common["n_seeds"] > 1:
        p_value, test = variance.p_value(common["mean"]), "two-level paired t"
    elif binary and len(delta) == 1:
        p_value = mcnemar_exact(only_first=int((delta[0] > 0).sum()), only_second=int((delta[0] < 0).sum()))
        test = "exact McNemar"
    else:
        means = stratified_bootstrap(delta, rng=rng)
        if np.ptp(means) > 0:
            low, high = _percentile_interval(means, confidence)
        p_value, test = _bootstrap_p(means), "stratified paired bootstrap"
    if binary:
        low, high = max(low, -1.0), min(high, 1.0)
    return Difference(**common, low=low, high=high, p_value=p_value, test=test)


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
    variance = Variance(
        seeds=(estimate.seed_stderr or 0.0) ** 2,
        examples=estimate.example_stderr**2,
        seed_dof=estimate.n_seeds - 1,
        example_dof=max(estimate.n_examples - 1, 1),
    )
    return variance.half_width(alpha) + variance.half_width(2 * (1 - power))
