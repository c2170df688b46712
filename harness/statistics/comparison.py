"""Two methods compared: the difference with its corrected p-value, and the verdict in a word."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from harness.statistics import stats

#: Significance level of verdicts, after Holm's correction.
ALPHA = 0.05

Outcome = Literal["better", "worse", "tie"]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A method minus another on matching seeds and examples."""

    difference: stats.Difference
    #: After Holm's correction over the table.
    p_adjusted: float
    verdict: Outcome
