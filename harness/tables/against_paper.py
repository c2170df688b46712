"""Ours beside the paper's number: reproduced, within noise, not reproduced or not run. Fixed before results are seen.

*Score*: ours minus the paper's, with a 95 % interval for the noise of both. The interval excludes zero: not reproduced. It
lies within ``MARGIN`` of zero: reproduced. Else within noise: the runs are too few to tell.

*Difference* (to LoRA; of an ablation, to the full method), where the experiment decides on it: the interval of ours minus the
paper's excludes zero: not reproduced. Else, if ours is told apart from zero (better or worse) in the paper's direction:
reproduced. Else within noise: ours agrees with the paper's difference and with none.

No word where fewer seeds ran than the experiment's rule asks for.

Both are about one public test set, so that the noise is that of training runs, not of drawing examples. Ours is seen from the
spread of seeds (t interval); with one seed it is not seen, and the binomial error takes its place, as for the paper, which
gives no spread (``reported.stderr``).

With a stand-in for the paper's model, or on other examples than the public set's, absolute numbers cannot be compared at all;
what remains is whether the difference goes the paper's way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from harness.statistics import stats
from harness.statistics.variance import t_quantile

if TYPE_CHECKING:
    from harness.statistics.comparison import Comparison

#: How close to the paper's score counts as the same: two points.
MARGIN = 0.02
_Z = 1.959963984540054

ScoreVerdict = Literal["reproduced", "within noise", "not reproduced", "not decided", "not run", "stand-in", "other test set"]
#: The last four are for stand-ins and other test sets.
DifferenceVerdict = Literal[
    "reproduced", "within noise", "not reproduced", "not decided", "not run",
    "same direction", "opposite direction", "equivalent", "undecided",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Reported:
    """A number of the paper with its binomial standard error."""

    value: float
    stderr: float


@dataclass(frozen=True, kw_only=True)
class Gap:
    """Ours minus the paper's number with a 95 % interval for the noise of both."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return not self.low <= 0 <= self.high


@dataclass(frozen=True, kw_only=True)
class PaperCheck:
    """Ours beside the paper's. Numbers are fractions."""

    #: Whether absolute numbers can be compared: the paper's model on the whole public test set.
    comparable: bool
    score: ScoreVerdict
    #: Ours minus the paper's score; None where it cannot be compared.
    score_gap: Gap | None
    #: The row that the difference is to, by its label; None for the baseline, and where the paper has no number for it.
    other: str | None
    reported_difference: float | None
    difference: DifferenceVerdict | None
    difference_gap: Gap | None
    #: Seeds with which a true difference as large as the paper's would be found four times in five.
    seeds_to_settle: stats.SeedsNeeded | None
    #: Seeds behind ours.
    n_seeds: int


def check(
    ours: stats.Estimate | None,
    paper: Reported,
    *,
    incomparable: Literal["stand-in", "other test set"] | None,
    other: tuple[str, Reported] | None,
    comparison: Comparison | None,
    min_seeds: int,
) -> PaperCheck:
    """Compare one accuracy, and its difference to another row's, with the paper's.

    Args:
        incomparable: why absolute numbers mean nothing, if they do.
        other: the row that differences are to: its label and the paper's number.
        comparison: ours with that row.
        min_seeds: with fewer, no word.
    """
    score: ScoreVerdict
    gap: Gap | None
    if ours is None:
        score, gap = "not run", None
    elif incomparable is not None:
        score, gap = incomparable, None
    else:
        gap = _gap(ours, paper.value, paper.stderr)
        score = _score(gap) if ours.n_seeds >= min_seeds else "not decided"
    reported = None if other is None else round(paper.value - other[1].value, 6)
    difference_gap = settle = verdict = None
    if other is not None and reported is not None:
        if comparison is not None and incomparable is None:
            difference_gap = _gap(comparison.difference, reported, math.hypot(paper.stderr, other[1].stderr))
        if comparison is not None and reported:
            settle = stats.seeds_to_detect(comparison.difference, reported, fewest=min_seeds)
        verdict = _difference(comparison, reported, difference_gap)
    return PaperCheck(
        comparable=incomparable is None,
        score=score,
        score_gap=gap,
        other=None if other is None else other[0],
        reported_difference=reported,
        difference=verdict,
        difference_gap=difference_gap,
        seeds_to_settle=settle,
        n_seeds=0 if ours is None else ours.n_seeds,
    )


def _run_noise(ours: stats.Estimate) -> float:
    """Half the 95 % interval of a mean over seeds on a fixed test set."""
    if ours.seed_stderr is None:
        return _Z * ours.example_stderr
    return t_quantile(1 - stats.CONFIDENCE, ours.n_seeds - 1) * ours.seed_stderr


def _gap(ours: stats.Estimate, paper: float, paper_stderr: float) -> Gap:
    """Ours minus the paper's. The limits of independent parts add in squares [Zou and Donner, Statistics in Medicine 27
    (2008)]."""
    mean, half = ours.mean - paper, math.hypot(_run_noise(ours), _Z * paper_stderr)
    return Gap(mean=mean, low=mean - half, high=mean + half)


def _score(gap: Gap) -> ScoreVerdict:
    if gap.excludes_zero:
        return "not reproduced"
    return "reproduced" if -MARGIN <= gap.low and gap.high <= MARGIN else "within noise"


def _difference(comparison: Comparison | None, paper: float, gap: Gap | None) -> DifferenceVerdict | None:
    """None where the comparison is not decided on, and where only its direction could be compared and the paper's has none."""
    if comparison is None:
        return "not run"
    outcome = comparison.outcome
    if outcome is None:
        return None if comparison.family is None else "not decided"
    same = comparison.difference.mean * paper > 0
    if gap is None:
        if paper == 0:
            return None
        if outcome == "equivalent" or outcome == "undecided":
            return outcome
        return "same direction" if same else "opposite direction"
    if gap.excludes_zero:
        return "not reproduced"
    return "reproduced" if same and outcome in ("better", "worse") else "within noise"
