"""What the paper says about the importance of ranks (sections 2.2 and 4.5), and how it is tested."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Literal, TypeVar

import numpy as np

from harness.claims.evidence import Evidence, Missing, part_of
from harness.claims.verdicts import NEGATIVE, POSITIVE, Claim, Quantity, Range, over_seeds
from harness.experiment.runs import pruning_metric, pruning_runs
from harness.records import importance
from harness.schema.evaluation import Metric

#: The most important tenth of a module's ranks against the least important one.
DIFFERENT = Range(above=2)
#: Share of the accuracy, or of the gain in NLL, that is left after pruning: "limited change", and "drops sharply".
LIMITED_CHANGE, SHARP_DROP = Range(above=0.9), Range(below=0.5)
FEW, MANY = 0.3, 0.9
#: Growth of the differences in the last third of training over all growth; a third would be a straight line.
SETTLED = Range(below=1 / 3)
#: The fewest snapshots after step 0 that show a growth and what is left of it: of two, every growth is a straight line.
SNAPSHOTS = 3


def _mean_decile_ratio(history: importance.ImportanceHistory) -> float:
    """Most over least important tenth, geometric mean over modules."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = [deciles[-1] / deciles[0] for deciles in map(importance.deciles, history.last.values())]
        return float(np.exp(np.mean(np.log(ratios))))


def _mean_variation(history: importance.ImportanceHistory) -> tuple[np.ndarray, np.ndarray]:
    """(steps, coefficient of variation as the mean over modules) of the snapshots after the first step.

    Raises:
        Missing: there are not enough to see whether a growth settles.
    """
    later = history.steps > 0
    if later.sum() < SNAPSHOTS:
        raise Missing(f"too few snapshots: {later.sum()} after step 0, expected {SNAPSHOTS} (training.importance_every)")
    return history.steps[later], np.mean([importance.variation(values[later]) for values in history.modules.values()], axis=0)


def _share_settling(history: importance.ImportanceHistory) -> float:
    steps, variation = _mean_variation(history)
    two_thirds = float(np.interp(2 / 3 * steps[-1], steps, variation))
    with np.errstate(divide="ignore", invalid="ignore"):
        return float((variation[-1] - two_thirds) / (variation[-1] - variation[0]))


def _growth(history: importance.ImportanceHistory) -> float:
    _, variation = _mean_variation(history)
    return float(variation[-1] - variation[0])


def _mean_evenness(history: importance.ImportanceHistory) -> float:
    return float(np.mean([importance.evenness(values) for values in history.last.values()]))


#: Metric -> what a share of is left after pruning.
LEFT: Mapping[Metric, str] = {"accuracy": "accuracy", "gold_nll": "gain in NLL"}


def _left(curve: Mapping[float, float], metric: Metric) -> dict[float, float]:
    """Share of pruned ranks -> share that is left: of the accuracy, or of what all ranks together take off the NLL:
    (NLL with all ranks pruned - NLL) / (NLL with all pruned - NLL with none pruned).

    Raises:
        Missing: nothing pruned, or of NLL all pruned, was not measured, or there is nothing to lose.
    """
    ends = (0.0,) if metric == "accuracy" else (0.0, 1.0)
    if not all(end in curve for end in ends):
        raise Missing(f"pruning.fractions lacks one of {', '.join(f'{end:g}' for end in ends)}")
    nothing = 0.0 if metric == "accuracy" else curve[1.0]
    if (nothing - curve[0.0]) * (-1 if metric == "accuracy" else 1) <= 0:
        raise Missing("the run solves nothing before pruning" if metric == "accuracy" else "the ranks take nothing off the NLL")
    return {share: (nothing - value) / (nothing - curve[0.0]) for share, value in sorted(curve.items())}


def _at(left: Mapping[float, float], share: float) -> float:
    """What is left with a share of the ranks pruned, between two measured shares on a line."""
    return float(np.interp(share, list(left), list(left.values())))


def _area(left: Mapping[float, float]) -> float:
    """Mean of what is left, over all shares of pruned ranks."""
    shares = list(left)
    return float(np.trapezoid(list(left.values()), shares) / (shares[-1] - shares[0]))


def _over_seeds(by_seed: Mapping[int, float], unit: Literal["share", "ratio", "number"]) -> Quantity:
    """One number per seed: their mean and interval.

    Raises:
        Missing: of a seed there is no number, such as a ratio to importances that are all 0, or a share of no growth.
    """
    lacking = [seed for seed, value in by_seed.items() if not np.isfinite(value)]
    if lacking:
        raise Missing(f"no such number of seed {', '.join(map(str, lacking))}: importances that are 0, or do not change")
    return over_seeds(list(by_seed.values()), unit)


ItemT = TypeVar("ItemT")


def _seedwise_difference(
    beamlora: Mapping[int, ItemT], lora: Mapping[int, ItemT], measure: Callable[[ItemT], float]
) -> Quantity:
    """The measure of BeamLoRA minus that of LoRA, over the seeds that both have.

    Raises:
        Missing: there are none, or of one there is no number.
    """
    shared = sorted(beamlora.keys() & lora.keys())
    if not shared:
        raise Missing("beamlora and lora have no seed in common")
    return _over_seeds({seed: measure(beamlora[seed]) - measure(lora[seed]) for seed in shared}, "number")


def importance_claims(evidence: Evidence) -> Iterator[Claim]:
    runs = pruning_runs(evidence.experiment)
    if not runs:
        return
    model = runs[0].model_key
    lora, beam = ([run for run in runs if run.method.key == key] for key in ("lora", "beamlora"))

    def seedwise(
        measure: Callable[[importance.ImportanceHistory], float], unit: Literal["share", "ratio", "number"]
    ) -> Quantity:
        return _over_seeds({seed: measure(history) for seed, history in evidence.histories("lora").items()}, unit)

    metric = pruning_metric(evidence.experiment)
    what = LEFT[metric]

    def curves(method: str) -> dict[int, dict[float, float]]:
        return {seed: _left(curve, metric) for seed, curve in evidence.pruning_curves(method).items()}

    def left(share: float) -> Quantity:
        return _over_seeds({seed: _at(curve, share) for seed, curve in curves("lora").items()}, "share")

    yield Claim(
        key="ranks_differ",
        statement="After LoRA training, ranks within a module differ in importance, and the less important ones can be pruned",
        source="section 2.2, Figure 1",
        paper="hierarchical deciles; limited change when less important ranks are pruned, a sharp drop for important ones",
        test=f"LoRA, over seeds: the most important tenth at least {DIFFERENT.above:g} times the least important one "
        f"(geometric mean over modules); at least {LIMITED_CHANGE.above:.0%} of the {what} left with {FEW:.0%} of the ranks "
        f"pruned, less than {SHARP_DROP.below:.0%} with {MANY:.0%} pruned.",
        model=model,
        parts=(
            part_of("most over least important tenth", DIFFERENT, lora, lambda: seedwise(_mean_decile_ratio, "ratio")),
            part_of(f"{what} left with {FEW:.0%} pruned", LIMITED_CHANGE, lora, lambda: left(FEW)),
            part_of(f"{what} left with {MANY:.0%} pruned", SHARP_DROP, lora, lambda: left(MANY)),
        ),
        family="ranks_differ",
    )
    yield Claim(
        key="differences_grow_and_settle",
        statement="Differences in importance grow during LoRA training, then settle",
        source="section 2.2, Figure 2",
        paper="differences increase with the steps and tend to stabilize",
        test="Coefficient of variation of a module's importances, mean over modules: it grows from the first snapshot to the "
        "last, and the last third of training has less than a third of the growth. LoRA, over seeds.",
        model=model,
        parts=(
            part_of("growth of the variation", POSITIVE, lora, lambda: seedwise(_growth, "number")),
            part_of("share of the growth in the last third", SETTLED, lora, lambda: seedwise(_share_settling, "share")),
        ),
        family="differences_grow_and_settle",
    )

    def even() -> Quantity:
        return _seedwise_difference(evidence.histories("beamlora"), evidence.histories("lora"), _mean_evenness)

    def faster() -> Quantity:
        return _seedwise_difference(curves("beamlora"), curves("lora"), _area)

    yield Claim(
        key="more_even",
        statement="BeamLoRA's importance is spread more evenly over ranks than LoRA's, and its pruning curve falls faster",
        source="section 4.5, Figure 4",
        paper="accuracy decreases more rapidly as ranks are pruned",
        test="BeamLoRA - LoRA, paired over seeds: normalised entropy of a module's importances (mean over modules) is larger; "
        f"the mean share of the {what} left, over all shares of pruned ranks, is smaller.",
        model=model,
        parts=(
            part_of("evenness of importance", POSITIVE, [*beam, *lora], even),
            part_of("area under the pruning curve", NEGATIVE, [*beam, *lora], faster),
        ),
        family="more_even",
    )
