"""Variance of a mean over seeds and examples, both of which are samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

#: (seeds, examples)
Matrix = NDArray[np.float64]


def t_quantile(alpha: float, dof: float) -> float:
    """Two-sided quantile of Student's t; of the normal distribution for infinite ``dof``."""
    return float(-special.ndtri(alpha / 2) if math.isinf(dof) else -special.stdtrit(dof, alpha / 2))


@dataclass(frozen=True, kw_only=True)
class Variance:
    """Variance of a grand mean, in two independent parts with their degrees of freedom. One seed has no seed part."""

    seeds: float
    examples: float
    seed_dof: float
    example_dof: float

    @property
    def total(self) -> float:
        return self.seeds + self.examples

    def half_width(self, alpha: float) -> float:
        """Half the 1 - ``alpha`` interval: sqrt(t1^2 V1 + t2^2 V2), each part with the t quantile of its own degrees
        of freedom. It covers at least nominally however the parts compare [S. K. Banerjee, Sankhya 22 (1960)].

        Satterthwaite's one number of degrees of freedom does not: at a nominal 5 %, simulated false positives reach 11 % at
        two seeds, 7 % at three and 6 % at five; this interval is up to 12 % wider there.
        """
        seeds = t_quantile(alpha, self.seed_dof) ** 2 * self.seeds if self.seeds else 0.0
        examples = t_quantile(alpha, self.example_dof) ** 2 * self.examples if self.examples else 0.0
        return math.sqrt(seeds + examples)

    def dof(self, alpha: float) -> float:
        """Degrees of freedom of the Student's t whose 1 - ``alpha`` interval is as wide; between those of the parts where both
        vary."""
        if not 0 < self.total < math.inf:
            return self.example_dof
        dofs = [dof for dof, part in ((self.seed_dof, self.seeds), (self.example_dof, self.examples)) if part]
        wide = self.half_width(alpha) / math.sqrt(self.total)

        def gap(dof: float) -> float:
            return t_quantile(alpha, dof) - wide

        low, high = min(dofs), max(dofs)
        if gap(low) <= 0 or gap(high) >= 0:  # one part has it all, to rounding
            return low if gap(low) <= 0 else high
        return float(optimize.brentq(gap, low, high))

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

    def p_equivalent(self, difference: float, margin: float) -> float:
        """The larger p-value of two one-sided tests that the true difference is beyond minus and beyond plus ``margin``
        [D. J. Schuirmann, Journal of Pharmacokinetics and Biopharmaceutics 15 (1987)]. Below 0.05 where the 90 % interval
        lies within the margin."""
        gap = margin - abs(difference)
        tail = self.p_value(gap) / 2
        return tail if gap > 0 else 1 - tail


def as_matrices(strata: Sequence[Matrix]) -> list[Matrix]:
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


def seed_means(matrices: Sequence[Matrix]) -> Matrix:
    """The mean of each seed over the examples of a task, then over tasks, shape (seeds,)."""
    means: Matrix = np.mean([matrix.mean(axis=1) for matrix in matrices], axis=0)
    return means


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
    matrices = as_matrices(strata)
    s, k, n = matrices[0].shape[0], len(matrices), sum(m.shape[1] for m in matrices)
    parts = [_example_part(m) + (1 / (m.shape[1] + 2) ** 2 if pad else 0.0) for m in matrices]
    seeds = float(seed_means(matrices).var(ddof=1)) / s if s > 1 else 0.0
    return Variance(
        seeds=seeds + (rounding(matrices) if pad else 0.0),
        examples=sum(parts) / k**2,
        seed_dof=s - 1,
        example_dof=max(n - k, 1),
    )


def rounding(matrices: Sequence[Matrix]) -> float:
    """Variance that rounding to multiples of 1/N adds to a mean over several seeds of binary scores; 0 for one seed."""
    seeds, k = matrices[0].shape[0], len(matrices)
    return sum(1 / (12 * m.shape[1] ** 2) for m in matrices) / k**2 / seeds if seeds > 1 else 0.0


def of_binary_scores(matrices: Sequence[Matrix]) -> Variance:
    """``two_level_variance`` of accuracies, where few errors can hide it: two seeds that each err once, on different examples,
    show no variance at all. Both parts together are at least those of S x N independent answers; answers that seeds share, or
    that a seed makes better or worse together, make them larger, never smaller."""
    variance = two_level_variance(matrices)
    independent = float(sum(m.mean() * (1 - m.mean()) / m.size for m in matrices)) / len(matrices) ** 2
    return replace(variance, examples=max(variance.examples, independent - variance.seeds))
