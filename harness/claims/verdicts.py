"""What a claim is made of, and when it counts as supported. Definitions only: nothing here has seen a result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from harness.statistics import stats

Support = Literal["supported", "contradicted", "inconclusive", "untested"]

#: Level of every test, after Holm's correction where a claim's parts form a family.
ALPHA = 0.05


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A measured number with its 95 % interval; the limits are None where one seed cannot show them."""

    mean: float
    low: float | None
    high: float | None
    n_seeds: int
    #: points: differences of accuracies, as fractions; share, ratio or number: as they are.
    unit: Literal["points", "share", "ratio", "number"]
    #: Of "no difference"; None for what is judged by its interval alone.
    p_value: float | None = None
    #: The true difference that would be found with a probability of 80 %.
    detectable: float | None = None


def of_difference(difference: stats.Difference) -> Quantity:
    """A paired difference of accuracies."""
    return Quantity(
        mean=difference.mean,
        low=difference.low,
        high=difference.high,
        n_seeds=difference.n_seeds,
        unit="points",
        p_value=difference.p_value,
        detectable=stats.minimum_detectable_difference(difference),
    )


def over_seeds(values: Sequence[float], unit: Literal["share", "ratio", "number"]) -> Quantity:
    """One number per seed: their mean and Student's t interval."""
    interval = stats.mean_over_seeds(values)
    return Quantity(mean=interval.mean, low=interval.low, high=interval.high, n_seeds=len(values), unit=unit)


@dataclass(frozen=True, kw_only=True)
class Range:
    """Where the paper's claim puts a quantity; a missing limit is no limit."""

    above: float | None = None
    below: float | None = None

    def holds(self, value: float) -> bool:
        return (self.above is None or value > self.above) and (self.below is None or value < self.below)

    def verdict(self, quantity: Quantity, p_adjusted: float | None) -> Support:
        """A difference with a p-value: supported or contradicted by its sign where the corrected test finds it. Anything
        else: supported if the whole interval lies inside, contradicted if all of it lies outside on one side."""
        if p_adjusted is not None:
            if p_adjusted >= ALPHA:
                return "inconclusive"
            return "supported" if self.holds(quantity.mean) else "contradicted"
        if quantity.low is None or quantity.high is None:
            return "inconclusive"
        if self.holds(quantity.low) and self.holds(quantity.high):
            return "supported"
        outside = (self.above is not None and quantity.high <= self.above) or (
            self.below is not None and quantity.low >= self.below
        )
        return "contradicted" if outside else "inconclusive"


POSITIVE = Range(above=0)
NEGATIVE = Range(below=0)


@dataclass(frozen=True, kw_only=True)
class Part:
    """One number of a claim. A claim holds if all its parts do."""

    label: str
    expected: Range
    #: None where the runs or the measurement are missing; ``reason`` says what.
    quantity: Quantity | None
    reason: str | None = None
    #: Runs behind the number.
    runs: tuple[str, ...] = ()
    p_adjusted: float | None = None
    verdict: Support = "untested"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim of the paper."""

    key: str
    statement: str
    #: Section, table or figure.
    source: str
    #: The paper's own numbers or words.
    paper: str
    #: How it is tested here, in words.
    test: str
    #: The base model that ours were measured on; None where the claim has no runs at all.
    model: str | None
    parts: tuple[Part, ...]
    #: Claims of one family share Holm's correction.
    family: str
    verdict: Support = "untested"


def combine(verdicts: Iterable[Support]) -> Support:
    """Of parts that must all hold: contradicted if one is, untested if one is missing, supported if all are."""
    present = set(verdicts)
    for verdict in ("contradicted", "untested", "inconclusive"):
        if verdict in present:
            return verdict
    return "supported" if present else "untested"


def judged(claims: Sequence[Claim]) -> list[Claim]:
    """The claims with corrected p-values and verdicts. The correction runs over all differences of a family."""
    members: dict[str, list[tuple[str, int]]] = {}
    values: dict[tuple[str, int], float] = {}
    for claim in claims:
        for index, part in enumerate(claim.parts):
            if part.quantity is not None and part.quantity.p_value is not None:
                members.setdefault(claim.family, []).append((claim.key, index))
                values[claim.key, index] = part.quantity.p_value
    adjusted: dict[tuple[str, int], float] = {}
    for keys in members.values():
        adjusted |= dict(zip(keys, stats.holm([values[key] for key in keys]), strict=True))
    return [_judged(claim, adjusted) for claim in claims]


def _judged(claim: Claim, adjusted: Mapping[tuple[str, int], float]) -> Claim:
    parts = []
    for index, part in enumerate(claim.parts):
        if part.quantity is not None:
            p = adjusted.get((claim.key, index))
            part = replace(part, p_adjusted=p, verdict=part.expected.verdict(part.quantity, p))
        parts.append(part)
    return replace(claim, parts=tuple(parts), verdict=combine(part.verdict for part in parts))
