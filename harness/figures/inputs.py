"""What a figure is drawn from: an experiment, its results folder, and the scores and files of its runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness import reported
from harness.errors import ConfigError
from harness.experiment.yaml_file import located
from harness.figures import Selection
from harness.records.matrices import measured_matrix
from harness.records.read import RunRecord, load_records
from harness.records.versioned import Recipe
from harness.schema.base_models import BaseModelSpec
from harness.schema.evaluation import Metric, Split
from harness.schema.experiment import Experiment
from harness.schema.run import RunSpec
from harness.statistics import stats
from harness.statistics.variance import seed_means


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """An experiment, where its results lie, and how it is run (for messages)."""

    experiment: Experiment
    configfiles: tuple[Path, ...]
    results: Path
    command: str
    selection: Selection = Selection()

    def unplanned(self, *keys: str, expected: str) -> ConfigError:
        """The error of a figure that the experiment does not plan, with the key of the YAML file that it wants."""
        return located(self.configfiles, keys, f"found nothing, expected {expected}")

    def load(self, runs: Sequence[RunSpec], *, target: str) -> dict[str, RunRecord]:
        """The records of all ``runs`` by run id; ``target`` is the figure that they are for.

        Raises:
            RecordError: a record is missing, stale or broken.
        """
        loaded = load_records(runs, results=self.results, command=self.command, target=target)
        return {record.run.run_id: record for record in loaded.records}

    def trained(self, record: RunRecord) -> Recipe:
        """How the files beside a run's train.json are made."""
        return Recipe.beside(self.command, record.folder / "train.json")


# -------------------------------------------------------------------------------------------------------------- scores


@dataclass(frozen=True, kw_only=True)
class Score:
    """Accuracy or NLL of one method in one place, over its seeds. Diverged seeds are in neither mean nor interval."""

    metric: Metric
    estimate: stats.Estimate | None
    by_seed: Mapping[int, float]
    diverged: tuple[int, ...]

    def rows(self, **common: Any) -> list[dict[str, Any]]:
        """Long form: a row ``mean`` with its interval, then a row per seed, ``seed`` or ``diverged``. The values stand in a
        column that is called as the metric."""
        rows = []
        if self.estimate is not None:
            e = self.estimate
            interval = {"low": e.low, "high": e.high, "n_seeds": e.n_seeds, "n_examples": e.n_examples}
            rows.append({**common, "row": "mean", "seed": None, self.metric: e.mean, **interval})
        rows += [{**common, "row": "seed", "seed": seed, self.metric: value} for seed, value in self.by_seed.items()]
        return rows + [{**common, "row": "diverged", "seed": seed, self.metric: None} for seed in self.diverged]


def long_form(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Rows as a table; numbers of seeds, examples and the like stay whole where some rows have none."""
    data = pd.DataFrame(rows, columns=columns)
    whole = ("seed", "n_seeds", "n_examples", "round", "layer", "decile", "step", "rank", "operation", "k")
    return data.astype({name: "Int64" for name in whole if name in data})


#: A test set: (domain, task).
Task = tuple[str, str]


def tasks_of(run: RunSpec, split: Split = "test") -> list[Task]:
    """The run's tasks of a split: by default its test sets."""
    return [(run.domain, name) for name in run.evaluation.on(split)]


def score(records: Sequence[RunRecord], tasks: Sequence[Task], metric: Metric) -> Score:
    """Mean accuracy or NLL over ``tasks``, seeds and examples (``stats.mean_score``).

    Args:
        records: records of one method on one model; one per domain and seed.

    Raises:
        ConfigError: no tasks.
        RecordError: two seeds answered different examples, or one did not measure the metric.
    """
    if not tasks:
        raise ConfigError("domains.evaluation.tasks: found no test set, expected one: this figure shows scores on it")
    by_seed: dict[int, dict[str, RunRecord]] = {}
    for record in records:
        by_seed.setdefault(record.run.seed, {})[record.run.domain] = record
    diverged = tuple(sorted(seed for seed, group in by_seed.items() if any(r.diverged for r in group.values())))
    done = sorted(set(by_seed) - set(diverged))
    if not done:
        return Score(metric=metric, estimate=None, by_seed={}, diverged=diverged)
    matrices = [measured_matrix([by_seed[seed][domain] for seed in done], task, metric) for domain, task in tasks]
    return Score(
        metric=metric,
        estimate=stats.mean_score(matrices, rng=np.random.default_rng(0), binary=metric == "accuracy"),
        by_seed=dict(zip(done, map(float, seed_means(matrices)), strict=True)),
        diverged=diverged,
    )


def paper_accuracy(run: RunSpec, tasks: Sequence[Task]) -> float | None:
    """The paper's mean accuracy for a run of its own model; a stand-in's axes have no place for it."""
    if run.model.stands_for is None or run.model.is_stand_in:
        return None
    values = [
        reported.value(
            table="table1",
            model=run.model.stands_for,
            method_names=(run.method.label, run.method.key),
            domain=domain,
            task=task,
        )
        for domain, task in tasks
    ]
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


# ------------------------------------------------------------------------------------------------------------ sentences


def model_title(model: BaseModelSpec) -> str:
    """A model's label, marked where it takes the place of one of the paper's."""
    return model.marked_label("(stand-in)")


def model_note(model: BaseModelSpec) -> str:
    """What a reader must know about a base model that is not the paper's."""
    if not model.is_stand_in:
        return ""
    if model.stands_for is None:
        return f"{model.label} is not a model of the paper."
    return f"{model.label}: stand-in, not the paper's {reported.MODEL_LABELS[model.stands_for]}."


def provenance_notes(runs: Sequence[RunSpec]) -> list[str]:
    """Sentences about stand-in models and generated test sets, each once."""
    notes = [model_note(run.model) for run in runs]
    if any(spec.source.kind == "generated" for run in runs for spec in run.evaluation.tasks.values()):
        notes.append("Test sets are generated, not the public ones.")
    return [note for note in dict.fromkeys(notes) if note]


def mean_note(metric: Metric, tasks: Iterable[str]) -> str:
    """What the scores of a figure are the mean of."""
    names = " and ".join(dict.fromkeys(map(task_label, tasks)))
    return f"Accuracy is the mean of {names}." if metric == "accuracy" else f"NLL is the mean of {names}; less is better."


def interval_note(scores: Sequence[Score], *, split: Split = "test", dots: bool = True) -> str:
    """How many seeds and examples are behind the intervals, and what they contain.

    Args:
        split: that of the tasks.
        dots: whether the figure shows single seeds.
    """
    estimates = [s.estimate for s in scores if s.estimate is not None]
    if not estimates:
        return "Every run diverged."
    examples = _range([e.n_examples for e in estimates])
    seeds = sorted({seed for s in scores for seed in s.by_seed})
    named = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    over = "examples only: one seed shows no noise of training" if len(seeds) == 1 else "seeds and examples"
    single = "" if len(seeds) == 1 or not dots else "; small dots: single seeds"
    remark = " Diverged runs are shown as such, in no mean." if any(s.diverged for s in scores) else ""
    return f"n = {examples} {split} examples, {named}; 95 % intervals over {over}{single}.{remark}"


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


def task_label(task: str) -> str:
    return reported.label(task)


def group_by(runs: Sequence[RunSpec], key: Callable[[RunSpec], Any]) -> dict[Any, list[RunSpec]]:
    """Runs by a key, in the order of first appearance."""
    groups: dict[Any, list[RunSpec]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    return groups
