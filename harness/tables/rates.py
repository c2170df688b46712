"""Learning rates chosen fairly: every method over the same grid, judged on validation tasks, which are in no table.

One rate for all methods can decide who wins. Here each method gets the same number of tries, its best rate is the one with the
highest mean accuracy on the domain's validation tasks (where not all are answered: the lowest NLL of the gold answer), and the
test scores at that rate stand beside those at the shared rate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from harness.errors import ConfigError
from harness.experiment.runs import SweepRun, metric_of, sweep_runs, unique
from harness.records.matrices import paired_matrices
from harness.records.read import Loaded, RunRecord, load_records
from harness.schema.evaluation import Metric, Split
from harness.schema.experiment import Experiment
from harness.schema.fields import BASELINE
from harness.schema.run import RunSpec
from harness.statistics import stats

#: The sweep of an experiment that varies ``learning_rate``.
SWEEP = "learning_rate"
TARGET = "reproduce_learning_rate"
Where = tuple[str, str, str]  # domain, model, method


@dataclass(frozen=True, kw_only=True)
class Point:
    """One learning rate of one method: what its seeds scored on validation, and nothing of the test sets."""

    rate: float
    #: The key of its runs, which differs from the method's unless the rate is the method's own.
    run_key: str
    seeds: tuple[int, ...]
    n_diverged: int
    n_missing: int
    #: Means over seeds and validation tasks: of accuracy (a fraction) and of the gold answer's NLL, in nats per token.
    accuracy: float | None
    gold_nll: float | None
    #: By which rates are chosen.
    metric: Metric

    @property
    def score(self) -> float | None:
        return self.accuracy if self.metric == "accuracy" else self.gold_nll

    @property
    def can_win(self) -> bool:
        """All of its seeds ran and none diverged: a rate that breaks one seed in three is not a good rate."""
        return bool(self.seeds) and self.n_diverged == self.n_missing == 0


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The grid of one method on one model and domain, and its best rate: None where no rate can win."""

    points: tuple[Point, ...]
    best: Point | None

    @property
    def edge(self) -> Literal["lowest", "highest"] | None:
        """Whether the best rate ends the grid: a better one may lie beyond it."""
        rates = [point.rate for point in self.points]
        if self.best is None or min(rates) < self.best.rate < max(rates):
            return None
        return "lowest" if self.best.rate == min(rates) else "highest"


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """A sweep with its records and what follows from them."""

    points: tuple[SweepRun, ...]
    loaded: Loaded
    choices: Mapping[Where, Choice]


def baseline(tuning: Tuning, domain: str, model: str) -> str | None:
    """The method that the others are compared with there; None where the grid has no plain LoRA."""
    own = (point for point in tuning.points if _where(point)[:2] == (domain, model))
    return next((point.method for point in own if point.run.method.name == BASELINE), None)


def differences(tuning: Tuning, split: Split, metric: Metric) -> dict[tuple[Where, float], stats.Difference]:
    """(where, rate) -> the mean of a method minus that of plain LoRA at the same rate, paired by the seeds that both finished
    and by the examples of the tasks of ``split``; without those that share no seed.

    Raises:
        RecordError: two runs answered different examples, or one did not measure the metric.
    """
    records = {record.run.run_id: record for record in tuning.loaded.records if not record.diverged}
    grid: dict[tuple[Where, float], dict[int, RunRecord]] = {}
    for point in tuning.points:
        if point.run.run_id in records:
            at = _where(point), point.run.training.learning_rate
            grid.setdefault(at, {})[point.run.seed] = records[point.run.run_id]
    found = {}
    for ((domain, model, method), rate), own in grid.items():
        other = baseline(tuning, domain, model)
        others = {} if other in (None, method) else grid.get(((domain, model, other), rate), {})
        tasks = next(iter(own.values())).run.evaluation.on(split)
        ours, theirs, shared = paired_matrices(own, others, tasks, metric)
        if shared:
            rng = np.random.default_rng(0)
            found[(domain, model, method), rate] = stats.paired_difference(ours, theirs, rng=rng, binary=metric == "accuracy")
    return found


def _where(point: SweepRun) -> Where:
    return point.run.domain, point.run.model_key, point.method


def _validation(record: RunRecord) -> tuple[float | None, float | None]:
    """Means over validation tasks of a run's accuracy and of the gold answer's NLL, each where all measured it."""
    predictions = [record.predictions[task] for task in record.run.evaluation.on("validation")]
    losses = [p.gold_nll.mean() for p in predictions if p.gold_nll is not None]
    shares = [p.correct.mean() for p in predictions if p.correct is not None]
    accuracy, nll = (float(np.mean(own)) if len(own) == len(predictions) else None for own in (shares, losses))
    return accuracy, nll


def _point(runs: Sequence[SweepRun], records: Mapping[str, RunRecord]) -> Point:
    by_seed = {point.run.seed: records.get(point.run.run_id) for point in runs}
    done = {seed: _validation(r) for seed, r in by_seed.items() if r is not None and not r.diverged}
    shares = [accuracy for accuracy, _ in done.values() if accuracy is not None]
    losses = [nll for _, nll in done.values() if nll is not None]
    return Point(
        rate=runs[0].run.training.learning_rate,
        run_key=runs[0].run.method.key,
        seeds=tuple(done),
        n_diverged=sum(r is not None and r.diverged for r in by_seed.values()),
        n_missing=sum(r is None for r in by_seed.values()),
        accuracy=float(np.mean(shares)) if done and len(shares) == len(done) else None,
        gold_nll=float(np.mean(losses)) if done and len(losses) == len(done) else None,
        metric=metric_of([runs[0].run], "validation"),
    )


def _better(point: Point) -> tuple[float, float, float]:
    """Sort key, best first: accuracy where rates are chosen by it, then the gold answer's NLL, then the smaller rate.
    Accuracies are rounded far below one example, so that the order in which numbers were added does not break a tie."""
    losses = np.inf if point.gold_nll is None else point.gold_nll
    accuracy = point.accuracy if point.metric == "accuracy" else None
    return -round(accuracy or 0.0, 9), losses, point.rate


def best_rates(points: Sequence[SweepRun], records: Sequence[RunRecord]) -> dict[Where, Choice]:
    """The best learning rate of each method on each model and domain.

    Chosen by the mean accuracy over seeds on validation tasks only; ties, and where not all are answered the choice itself, go
    to the lower NLL of the gold answer. A rate at which a seed diverged or has not run cannot win.

    Args:
        points: the sweep's runs (``plan.sweep_runs``).
        records: those that finished, in any order.

    Raises:
        ConfigError: a domain of the sweep has no validation task.
    """
    by_id = {record.run.run_id: record for record in records}
    grids: dict[Where, dict[float, list[SweepRun]]] = {}
    for point in points:
        if not point.run.evaluation.on("validation"):
            at = f"domains: {point.run.domain}: evaluation: tasks"
            raise ConfigError(f"{at}: found no task with split: validation, expected one to choose learning rates on")
        grids.setdefault(_where(point), {}).setdefault(point.run.training.learning_rate, []).append(point)
    choices = {}
    for where, grid in grids.items():
        candidates = tuple(_point(grid[rate], by_id) for rate in sorted(grid))
        choices[where] = Choice(points=candidates, best=min((p for p in candidates if p.can_win), key=_better, default=None))
    return choices


def load_tuning(experiment: Experiment, *, results: Path, command: str, allow_missing: bool) -> Tuning:
    """Read the records of an experiment's learning-rate sweep and choose.

    Raises:
        ConfigError: the experiment plans none, or its records are missing (unless allowed) or broken.
    """
    if SWEEP not in experiment.sweeps:
        raise ConfigError(
            f"sweeps: found {sorted(experiment.sweeps)} in experiment {experiment.name!r}, expected {SWEEP!r}: without its "
            "runs no learning rate can be chosen"
        )
    points = sweep_runs(experiment, SWEEP)
    runs = unique(point.run for point in points)
    loaded = load_records(runs, results=results, command=command, target=TARGET, allow_missing=allow_missing)
    return Tuning(points=tuple(points), loaded=loaded, choices=best_rates(points, loaded.records))


def tuned_runs(runs: Sequence[RunSpec], tuning: Tuning) -> tuple[list[RunSpec], Loaded, list[str]]:
    """A table's runs with each method at its best rate, under the method's own key.

    Returns:
        the runs that the table plans: the sweep's seeds where it covers a method, else the table's own runs, all missing; their
        records; and sentences for the table's notes.
    """
    by_id = {record.run.run_id: record for record in tuning.loaded.records}
    planned: list[RunSpec] = []
    records: list[RunRecord] = []
    rows = {(run.domain, run.model_key, run.method.key): run for run in runs}
    for where, row in rows.items():
        choice = tuning.choices.get(where)
        if choice is None or choice.best is None:
            planned += [run for run in runs if (run.domain, run.model_key, run.method.key) == where]
            continue
        for point in tuning.points:
            if _where(point) == where and point.run.method.key == choice.best.run_key:
                own = point.run.model_copy(update={"method": point.run.method.model_copy(
                    update={"key": row.method.key, "label": row.method.label})})  # fmt: skip
                planned.append(own)
                records.append(replace(by_id[point.run.run_id], run=own))
    done = {record.run.run_id for record in records}
    missing = [run for run in planned if run.run_id not in done]
    return planned, Loaded(records=records, missing=missing, stale=[]), _rate_notes(rows, tuning)


def _rate_notes(rows: Mapping[Where, RunSpec], tuning: Tuning) -> list[str]:
    """Which rate each method got, per domain and model; which lie at the end of the grid; which are not covered."""
    chosen: dict[tuple[str, str], list[str]] = {}
    uncovered: dict[tuple[str, str], list[str]] = {}
    for where, run in rows.items():
        choice = tuning.choices.get(where)
        if choice is None or choice.best is None:
            uncovered.setdefault(where[:2], []).append(run.method.label)
        else:
            end = "" if choice.edge is None else f" (the {choice.edge} of its grid)"
            chosen.setdefault(where[:2], []).append(f"{run.method.label} {choice.best.rate:g}{end}")
    notes = [f"Best rates, {domain} on {model}: {', '.join(rates)}." for (domain, model), rates in chosen.items()]
    for place, labels in uncovered.items():
        who = ", ".join(labels) if place in chosen else "every method"
        notes.append(f"Not run, {place[0]} on {place[1]}: {who}: the learning-rate sweep has no finished rate for it.")
    return notes
