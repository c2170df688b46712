"""What a claim is made of, and when it counts as supported. Definitions only: nothing here has seen a result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from harness.schema.comparisons import MarginSpec
from harness.schema.evaluation import Metric
from harness.statistics import stats
from harness.statistics.comparison import NOT_DECIDED, Comparison, Family, decide, not_decided

#: Of a difference: supported or contradicted where it is better or worse; else the words of the tables.
Support = Literal["supported", "contradicted", "equivalent", "undecided", "not decided", "untested"]


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A measured number with its 95 % interval; the limits are None where one seed cannot show them."""

    mean: float
    low: float | None
    high: float | None
    #: None for what is measured without training: rounds of a benchmark are no seeds.
    n_seeds: int | None
    #: points: differences of accuracies, as fractions; nats: of NLL, per token; share, ratio or number: as they are.
    unit: Literal["points", "nats", "share", "ratio", "number"]
    #: Degrees of freedom of the interval, where it has two parts (``stats.Estimate.dof``).
    dof: float | None = None
    #: The true difference that would be found with a probability of 80 %.
    detectable: float | None = None


#: Unit of a difference -> what it is of.
METRICS: Mapping[str, Metric] = {"points": "accuracy", "nats": "gold_nll"}


def of_difference(difference: stats.Difference, metric: Metric) -> Quantity:
    """A paired difference."""
    return Quantity(
        mean=difference.mean,
        low=difference.low,
        high=difference.high,
        n_seeds=difference.n_seeds,
        unit="points" if metric == "accuracy" else "nats",
        dof=difference.dof,
        detectable=stats.minimum_detectable_difference(difference) if difference.n_seeds > 1 else None,
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

    def verdict(self, quantity: Quantity, *, min_seeds: int) -> Support:
        """Of what its interval judges: supported if it lies inside, contradicted if all of it lies outside on one side."""
        if quantity.n_seeds is not None and quantity.n_seeds < min_seeds:
            return "not decided"
        if quantity.low is None or quantity.high is None:
            return "undecided"
        if self.holds(quantity.low) and self.holds(quantity.high):
            return "supported"
        outside = (self.above is not None and quantity.high <= self.above) or (
            self.below is not None and quantity.low >= self.below
        )
        return "contradicted" if outside else "undecided"

    def verdict_of(self, comparison: Comparison) -> Support:
        """Of a difference: by the word that the tables give it."""
        if comparison.outcome == "better" or comparison.outcome == "worse":
            return "supported" if self.holds(comparison.difference.mean) else "contradicted"
        return comparison.outcome or "not decided"


POSITIVE = Range(above=0)
NEGATIVE = Range(below=0)


#: Where a difference lies if the first is better; if it is worse. Of NLL, less is better.
BETTER: Mapping[Metric, Range] = {"accuracy": POSITIVE, "gold_nll": NEGATIVE}
WORSE: Mapping[Metric, Range] = {"accuracy": NEGATIVE, "gold_nll": POSITIVE}


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
    #: What a difference is decided by: that of a table's family, or, decided here, of the claims of its own family.
    comparison: Comparison | None = None
    verdict: Support = "untested"

    @property
    def word(self) -> str:
        """The verdict, and as in the tables how many seeds ran where it is none, and what is known of the difference's size."""
        if self.verdict == NOT_DECIDED and self.comparison is not None:
            return self.comparison.word or self.verdict
        seeds = self.quantity.n_seeds if self.quantity is not None else None
        if self.verdict == NOT_DECIDED and seeds is not None:
            return not_decided(seeds)
        return self.verdict + (self.comparison.remark if self.comparison is not None else "")


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
    #: Claims of one family share Holm's correction, unless a family of the experiment's file decides them.
    family: str
    verdict: Support = "untested"


def combine(verdicts: Iterable[Support]) -> Support:
    """Of parts that must all hold: contradicted if one is, untested if one is missing, supported if all are."""
    present = set(verdicts)
    order: tuple[Support, ...] = ("contradicted", "untested", "not decided", "undecided", "equivalent")
    return next((verdict for verdict in order if verdict in present), "supported" if present else "untested")


def judged(claims: Sequence[Claim], *, margin: MarginSpec, min_seeds: int) -> list[Claim]:
    """The claims with their verdicts. Differences that no family of a table has decided are decided here, family by family,
    where those of another metric count in the correction as p = 1.

    Args:
        margin: within which a difference counts as none.
        min_seeds: with fewer, nothing is decided.
    """
    members: dict[tuple[str, Metric], dict[tuple[str, int], stats.Difference]] = {}
    sizes = Counter(claim.family for claim in claims for _ in claim.parts)
    for claim in claims:
        for index, part in enumerate(claim.parts):
            if part.comparison is not None and part.comparison.family is None:
                metric = METRICS[part.quantity.unit] if part.quantity else "accuracy"
                members.setdefault((claim.family, metric), {})[claim.key, index] = part.comparison.difference
    decided: dict[tuple[str, int], Comparison] = {}
    for (name, metric), differences in members.items():
        size, smallest = sizes[name], getattr(margin, metric)
        family = Family(name=name, metric=metric, size=size, margin=smallest, min_seeds=min_seeds)
        decided |= decide(differences, family)
    return [_judged(claim, decided, min_seeds=min_seeds) for claim in claims]


def _judged(claim: Claim, decided: Mapping[tuple[str, int], Comparison], *, min_seeds: int) -> Claim:
    parts = []
    for index, part in enumerate(claim.parts):
        comparison = decided.get((claim.key, index), part.comparison)
        if comparison is not None:
            part = replace(part, comparison=comparison, verdict=part.expected.verdict_of(comparison))
        elif part.quantity is not None:
            part = replace(part, verdict=part.expected.verdict(part.quantity, min_seeds=min_seeds))
        parts.append(part)
    return replace(claim, parts=tuple(parts), verdict=combine(part.verdict for part in parts))
