"""Two methods compared: the difference, and in a family of comparisons the word that it deserves."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from harness.schema.evaluation import Metric
from harness.statistics.stats import Difference, holm

#: Level of every decision, after Holm's correction within its family.
ALPHA = 0.05

#: better, worse: told apart from no difference. equivalent: not, and told apart from every difference beyond the margin.
Outcome = Literal["better", "worse", "equivalent", "undecided"]
OUTCOMES: tuple[Outcome, ...] = ("better", "worse", "equivalent", "undecided")
#: In place of an outcome, where fewer seeds ran than a word needs, or than were planned.
NOT_DECIDED = "not decided"


@dataclass(frozen=True, kw_only=True)
class Family:
    """Comparisons that are decided together, by one measure: fixed before results."""

    name: str
    metric: Metric
    #: Comparisons planned. One without a word counts in Holm's correction as p = 1.
    size: int
    #: Smallest difference of interest: a fraction of accuracy, nats per token of NLL; None: nothing is called equivalent.
    margin: float | None
    #: With fewer there is no word.
    min_seeds: int

    def decides(self, difference: Difference) -> bool:
        """Whether a difference gets a word: all pairs of runs that were planned have finished, and they are enough. A word from
        a part of them would be chosen by what is left: by the runs that did not diverge, or by when somebody looked."""
        return self.min_seeds <= difference.n_seeds == difference.n_planned


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A method minus another on matching seeds and examples; descriptive where it is in no family."""

    difference: Difference
    family: Family | None = None
    #: After Holm's correction within the family: of "no difference", and of "a difference beyond the margin" (TOST). None
    #: for what is not decided.
    p_adjusted: float | None = None
    p_equivalent: float | None = None
    outcome: Outcome | None = None

    @property
    def word(self) -> str | None:
        """The outcome, where it is one of direction with what is known of its size; or ``not decided (3 seeds)``; None for a
        comparison that is only described."""
        if self.family is None:
            return None
        if self.outcome is None:
            return not_decided(self.difference.n_seeds, self.difference.n_planned)
        return self.outcome + self.remark

    @property
    def remark(self) -> str:
        """Behind a direction, where the size of the difference is shown to count as none."""
        return " (by less than the margin)" if self.outcome in ("better", "worse") and self.within_margin else ""

    @property
    def within_margin(self) -> bool:
        """Whether the difference is shown to be smaller than the smallest one of interest, also where it is not zero."""
        return self.p_equivalent is not None and self.p_equivalent < ALPHA

    def mirrored(self) -> Comparison:
        """The same seen from the other side."""
        d = self.difference
        turned: dict[Outcome, Outcome] = {"better": "worse", "worse": "better"}
        outcome = turned.get(self.outcome, self.outcome) if self.outcome else None
        seeds = tuple(-value for value in d.by_seed)
        return replace(self, difference=replace(d, mean=-d.mean, low=-d.high, high=-d.low, by_seed=seeds), outcome=outcome)


def out_of(done: int, planned: int) -> str:
    """How many are done, and of how many if not all."""
    return str(done) if done == planned else f"{done} of {planned}"


def count_seeds(seeds: int, planned: int | None = None) -> str:
    """Such as 1 seed, 5 seeds and 2 of 3 seeds; ``planned``: by default these."""
    planned = planned or seeds
    return f"{out_of(seeds, planned)} seed{'' if planned == 1 else 's'}"


def not_decided(seeds: int, planned: int | None = None) -> str:
    """What stands in the place of a word; as ``count_seeds``."""
    return f"{NOT_DECIDED} ({count_seeds(seeds, planned)})"


Key = TypeVar("Key", bound=Hashable)


def decide(differences: Mapping[Key, Difference], family: Family) -> dict[Key, Comparison]:
    """The comparisons of a family with their words.

    Both tests of each comparison are corrected by Holm's method over the ``family.size`` planned ones: false claims of a
    difference, and false claims of equivalence, are each made in at most 5 % of families.
    """
    enough = [key for key, d in differences.items() if family.decides(d) and d.p_value is not None]
    lost = [1.0] * (family.size - len(enough))

    def adjusted(p_values: list[float | None]) -> list[float | None]:
        known = [1.0 if p is None else p for p in p_values]
        return [None if p is None else q for p, q in zip(p_values, holm([*known, *lost]), strict=False)]

    unlike = adjusted([differences[key].p_value for key in enough])
    alike = adjusted([differences[key].p_equivalent for key in enough])
    decided = {
        key: Comparison(
            difference=differences[key],
            family=family,
            p_adjusted=p,
            p_equivalent=q,
            outcome=_outcome(differences[key].mean, p, q, family.metric),
        )
        for key, p, q in zip(enough, unlike, alike, strict=True)
    }
    return {key: decided.get(key, Comparison(difference=d, family=family)) for key, d in differences.items()}


def _outcome(mean: float, p: float | None, p_equivalent: float | None, metric: Metric) -> Outcome:
    """Of NLL, less is better. A difference that is not zero is named by its direction, however small."""
    if p is not None and p < ALPHA and mean != 0:
        return "better" if (mean > 0) == (metric == "accuracy") else "worse"
    return "equivalent" if p_equivalent is not None and p_equivalent < ALPHA else "undecided"
