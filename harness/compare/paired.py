"""The comparison itself, by the statistics of the tables: paired by item, and by seed or in the order given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.compare.answers import Model, check_same_items, matrix
from harness.compare.copies import check_no_copies
from harness.errors import ConfigError
from harness.records.grader_sources import graded_unlike
from harness.schema.comparisons import ComparisonsSpec
from harness.schema.evaluation import Metric
from harness.statistics import stats
from harness.statistics.comparison import Comparison, Family, decide

MIN_SEEDS = ComparisonsSpec().min_seeds
#: Whether more is better, where no file says so: as lm-eval registers it (0.4.13, ``lm_eval/api/metrics.py``), and by the names
#: that its tasks and Inspect AI's scorers give to shares of right answers and to ROUGE.
HIGHER_IS_BETTER = {
    **dict.fromkeys(("acc", "acc_norm", "acc_mutual_info", "acc_bytes", "acc_all", "exact_match", "likelihood", "mcc"), True),
    **dict.fromkeys(("f1", "bleu", "chrf", "chrf++"), True),
    **dict.fromkeys(("accuracy", "em", "exact", "pass@1", "pass_at_1", "rouge1", "rouge2", "rougeL"), True),
    **dict.fromkeys(("brier_score", "perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "ter"), False),
}


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Both sides' means and the difference, A minus B."""

    first: stats.Estimate
    second: stats.Estimate
    difference: stats.Difference


@dataclass(frozen=True, kw_only=True)
class Task:
    """One test set, described: it gets no word of its own."""

    name: str
    metric: str
    #: Metrics that both sides have and that were not asked for.
    other_metrics: tuple[str, ...]
    scores: Scores
    #: Item -> in how many pairs A's score is the higher one, or B's, where there is any; with right and wrong, the flips.
    higher: Mapping[str, int]
    lower: Mapping[str, int]
    #: Whether every score is right or wrong, or 1/k where the right one of k choices ties.
    binary: bool
    #: Whether some of the answers are known to have been graded by other code than the rest.
    graded_unlike: bool


@dataclass(frozen=True, kw_only=True)
class Result:
    """Everything that is shown."""

    pairs: tuple[tuple[Model, Model], ...]
    #: Whether models of one seed are paired, or those that stand in the same place.
    by_seed: bool
    tasks: tuple[Task, ...]
    #: The average over the test sets, which the comparison decides; with one test set, its own scores.
    scores: Scores
    comparison: Comparison
    less_is_better: bool
    #: Whether scores are shown in per cent: all lie between 0 and 1, and more is better.
    fractions: bool
    margin: float | None
    #: The margin, or else the size of the difference measured.
    target: float
    #: At which a true difference of size ``target`` would be found four times in five; None where that is 0.
    seeds_needed: stats.SeedsNeeded | None


def _paired(first: Sequence[Model], second: Sequence[Model]) -> tuple[list[tuple[Model, Model]], bool]:
    """The models side by side, and whether by seed: where each path names one of its own. These must be the same on both sides,
    except of a single pair, which leaves no choice."""
    ours, theirs = ({model.seed: model for model in side} for side in (first, second))
    named = [seed for seed in (*ours, *theirs) if seed is not None]
    if len(named) == len(first) + len(second):
        alone = [model for model in (*first, *second) if model.seed not in ours or model.seed not in theirs]
        if not alone:
            return [(ours[seed], theirs[seed]) for seed in sorted(ours, key=lambda seed: seed or 0)], True
        if len(named) > 2:
            raise ConfigError(
                f"found {', '.join(f'seed {model.seed} ({model.path})' for model in alone)} on one side only, expected each "
                "seed on both: models are paired by seed"
            )
    if len(first) != len(second):
        raise ConfigError(
            f"found {len(first)} models on the first side and {len(second)} on the second, expected as many: each is one seed"
        )
    return list(zip(first, second, strict=True)), False


def _higher_is_better(models: Sequence[Model], chosen: Mapping[str, str], asked: bool | None) -> bool:
    """Whether more is better by the metric of every test set: as the files say, or else its name, or else ``asked``."""
    found = set() if asked is None else {asked}
    for task, metric in chosen.items():
        said = {better for model in models if (better := model.tasks[task].higher_is_better.get(metric)) is not None}
        by_name = HIGHER_IS_BETTER.get(metric.partition(",")[0], asked)
        if not said and by_name is None:
            raise ConfigError(
                f"--better: found nothing, expected more or less: no file says which is better of {metric} of {task}, as "
                "lm-eval's results_*.json does where it lies beside the samples"
            )
        found |= said or {bool(by_name)}
    if len(found) > 1:
        raise ConfigError(
            f"--metric: found {', '.join(chosen.values())}, of which less is better by one name, file or --better and more by "
            "another; expected one for all"
        )
    return found.pop()


def _is_binary(values: NDArray[np.float64]) -> bool:
    shares = 1 / np.where(values > 0, values, 1.0)
    return bool(((values >= 0) & (values <= 1) & np.isclose(shares, np.round(shares))).all())


def _scores(first: list[NDArray[np.float64]], second: list[NDArray[np.float64]], margin: float | None) -> Scores:
    binary = all(map(_is_binary, [*first, *second]))
    # A fresh generator for each number: none depends on which others are computed before it.
    means = [stats.mean_score(side, rng=np.random.default_rng(0), binary=binary) for side in (first, second)]
    rng = np.random.default_rng(0)
    difference = stats.paired_difference(first, second, rng=rng, binary=binary, margin=margin)
    return Scores(first=means[0], second=means[1], difference=difference)


def _task(name: str, metric: str, models: Sequence[Model], own: list[NDArray[np.float64]], margin: float | None) -> Task:
    items = list(models[0].tasks[name].items)
    delta = own[0] - own[1]
    higher, lower = (
        {item: int(count) for item, count in zip(items, (sign * delta > 0).sum(axis=0), strict=True) if count}
        for sign in (1, -1)
    )
    shared = [other for other in models[0].tasks[name].scores if all(other in model.tasks[name].scores for model in models)]
    return Task(
        name=name,
        metric=metric,
        other_metrics=tuple(other for other in shared if other != metric),
        scores=_scores([own[0]], [own[1]], margin),
        higher=higher,
        lower=lower,
        binary=all(map(_is_binary, own)),
        graded_unlike=graded_unlike([model.tasks[name].graded_by for model in models]),
    )


def compare(
    first: Sequence[Model],
    second: Sequence[Model],
    *,
    metric: str | None = None,
    margin: float | None = None,
    higher_is_better: bool | None = None,
) -> Result:
    """A minus B. The one thing decided is the average over the test sets; fewer than ``MIN_SEEDS`` seeds decide nothing.

    Args:
        first: A, one model for each seed.
        second: B, as many.
        metric: by its name in every test set; None takes each one's first.
        margin: smallest difference of interest, in the metric's own unit: 0.01 is one point of accuracy.
        higher_is_better: by the metric, where neither a file nor its name says so.

    Raises:
        ConfigError: the sides have different numbers of models, other seeds, other items, no such metric, or one item only;
            models of a side are copies of one; or which way is better is unknown, or not the same for all.
    """
    if margin is not None and not 0 < margin < float("inf"):
        raise ConfigError(f"--margin: found {margin}, expected a number above 0")
    pairs, by_seed = _paired(first, second)
    sides = [list(side) for side in zip(*pairs, strict=True)]
    models = [*sides[0], *sides[1]]
    check_same_items(models)
    chosen = {name: answers.named(metric) for name, answers in sides[0][0].tasks.items()}
    less_is_better = not _higher_is_better(models, chosen, higher_is_better)
    matrices = {}
    for name, own in chosen.items():
        items = list(models[0].tasks[name].items)
        if len(items) < 2:
            raise ConfigError(f"{models[0].path}: {name}: found 1 item, expected at least 2")
        matrices[name] = [matrix(side, name, own, items) for side in sides]
    for side in sides:
        check_no_copies(side)
    scores = _scores([own[0] for own in matrices.values()], [own[1] for own in matrices.values()], margin)
    # A family's measure says which way is better: more by accuracy, less by NLL.
    measure: Metric = "gold_nll" if less_is_better else "accuracy"
    family = Family(name="comparison", metric=measure, size=1, margin=margin, min_seeds=MIN_SEEDS)
    difference = scores.difference
    target = abs(difference.mean) if margin is None else margin
    return Result(
        pairs=tuple(pairs),
        by_seed=by_seed,
        tasks=tuple(_task(name, chosen[name], models, own, margin) for name, own in matrices.items()),
        scores=scores,
        comparison=decide({"": difference}, family)[""],
        less_is_better=less_is_better,
        fractions=not less_is_better and all(((side >= 0) & (side <= 1)).all() for own in matrices.values() for side in own),
        margin=margin,
        target=target,
        seeds_needed=stats.seeds_to_detect(difference, target, fewest=MIN_SEEDS) if target else None,
    )
