"""Simulated scores of two methods whose true means are known, and how often the statistics are right about them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from harness.statistics import stats

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(81)
#: Standard deviations, in logits, of what both methods share about an example, and of what each makes of it.
SHARED_SD, OWN_SD = 1.0, 0.5


def true_mean(logit: float, sd: float) -> float:
    """Mean of expit(logit + sd Z) with Z normal, by Gauss-Hermite quadrature."""
    return float((_WEIGHTS * expit(logit + sd * _NODES)).sum() / math.sqrt(2 * math.pi))


@dataclass(frozen=True, kw_only=True)
class Setup:
    """``tasks`` test sets of ``examples`` each. The logit of the method is ``level + shift``, that of the baseline ``level``;
    every seed of a method moves all of them by a normal number with standard deviation ``seed_sd``."""

    seeds: int
    examples: int
    level: float = 0.0
    shift: float = 0.0
    seed_sd: float = 0.5
    tasks: int = 1

    def draw(self, rng: np.random.Generator) -> tuple[list[NDArray], list[NDArray], tuple[float, float]]:
        """Score matrices of method and baseline, one per task, and the true means of both.

        With several seeds the truth is about new seeds; with one it is about these two trained models.
        """
        moves = self.seed_sd * rng.normal(size=(2, self.seeds, 1))
        scores: tuple[list[NDArray], list[NDArray]] = ([], [])
        for _ in range(self.tasks):
            shared = SHARED_SD * rng.normal(size=(1, self.examples))
            for i, logit in enumerate((self.level + self.shift, self.level)):
                own = OWN_SD * rng.normal(size=(1, self.examples))
                chance = expit(logit + shared + own + moves[i])
                scores[i].append((rng.random((self.seeds, self.examples)) < chance).astype(float))
        items = math.hypot(SHARED_SD, OWN_SD)
        if self.seeds == 1:
            truth = [true_mean(self.level + s + float(moves[i, 0, 0]), items) for i, s in enumerate((self.shift, 0.0))]
        else:
            truth = [true_mean(self.level + s, math.hypot(items, self.seed_sd)) for s in (self.shift, 0.0)]
        return scores[0], scores[1], (truth[0], truth[1])


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Shares of simulations."""

    #: 95 % intervals that contain the true mean of the method, and the true difference.
    mean_covered: float
    difference_covered: float
    #: Tests of the difference below 5 %: power, or false positives where there is none.
    rejected: float


def measure(setup: Setup, *, repeats: int, seed: int) -> Rates:
    rng = np.random.default_rng(seed)
    mean = difference = rejected = 0
    for _ in range(repeats):
        first, second, (truth, other) = setup.draw(rng)
        estimate = stats.mean_score(first, rng=rng, binary=True)
        compared = stats.paired_difference(first, second, rng=rng, binary=True)
        mean += estimate.low <= truth <= estimate.high
        difference += compared.low <= truth - other <= compared.high
        rejected += compared.p_value is not None and compared.p_value < 0.05
    return Rates(mean_covered=mean / repeats, difference_covered=difference / repeats, rejected=rejected / repeats)


#: Accuracies of about 0.5, 0.04 and 0.96.
LEVELS = (0.0, -4.0, 4.0)


def grid() -> list[Setup]:
    """Numbers of seeds, examples and levels; one task and an average over four."""
    return [
        Setup(seeds=seeds, examples=examples, level=level, seed_sd=seed_sd, tasks=tasks)
        for seeds in (1, 2, 3, 5, 12)
        for examples in (20, 150)
        for level in LEVELS
        for seed_sd in (0.0, 0.5)
        for tasks in (1, 4)
        if not (seeds == 1 and seed_sd == 0.0)
    ]
