"""pruning.json: scores after the least important ranks of every module have been pruned. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.experiment.runs import pruning_metric
from harness.records.credit import credit
from harness.records.matrices import check_same_examples
from harness.records.read import run_folder
from harness.records.versioned import Recipe, read_json
from harness.schema.evaluation import Metric
from harness.schema.experiment import Experiment
from harness.schema.run import RunSpec

#: Name of the record in a run's folder.
FILE = "pruning.json"
MADE = Recipe.command("python -m harness.measure.pruning")


@dataclass(frozen=True, kw_only=True)
class PruningCurve:
    """One task of one run. F shares were pruned, n examples asked each time."""

    #: Shares of ranks that were pruned, in the order of the experiment, shape (F,).
    fractions: NDArray[np.float64]
    #: Ids of the examples, in the order of the test set.
    ids: list[str]
    #: Of accuracy what each answer is worth (``harness.records.credit``), of the NLL nats per token of each reference response,
    #: shape (F, n).
    scores: NDArray[np.float64]

    @property
    def means(self) -> NDArray[np.float64]:
        """Over the examples, shape (F,)."""
        means: NDArray[np.float64] = self.scores.mean(axis=1)
        return means


def read(path: Path, metric: Metric, recipe: Recipe = MADE) -> dict[str, PruningCurve]:
    """The curves in a ``pruning.json`` by task; none of a run that diverged.

    Args:
        metric: what the curves are of.
        recipe: how the caller's reader makes it, for messages.

    Raises:
        RecordError: the file is missing, broken, of another schema version, lacks the metric's scores, or a mean is not theirs.
    """
    return _curves(path, read_json(path, recipe), metric, recipe)


def load(experiment: Experiment, runs: Sequence[RunSpec], *, results: Path, command: str) -> dict[str, dict[str, PruningCurve]]:
    """The curves of runs by run id and task: by ``pruning_metric``, of their own training, with the shares and tasks of the
    experiment, and all on the same examples.

    Args:
        runs: some of those that the experiment prunes, none of them diverged.
        command: how the experiment is run, for messages (``Config.snakemake``).

    Raises:
        RecordError: as ``read``; or a file is stale, or two runs answered different examples.
    """
    spec, metric = experiment.pruning, pruning_metric(experiment)
    if spec is None:
        return {}
    loaded: dict[str, dict[str, PruningCurve]] = {}
    ids: dict[str, dict[str, list[str]]] = {}
    for run in runs:
        path = run_folder(run, results=results) / FILE
        recipe = Recipe.workflow(command, path)
        record = read_json(path, recipe)
        for key, due in {"training_hash": run.training_hash(), "fractions": list(spec.fractions)}.items():
            if record.get(key) != due:
                raise recipe.broken(path, f"{key}: found {record.get(key)}, expected {due}; the record is stale")
        curves, planned = _curves(path, record, metric, recipe), spec.tasks_of(run.evaluation)
        if curves.keys() != planned.keys():
            fault = f"tasks: found {sorted(curves)}, expected {sorted(planned)}; the record is stale"
            raise recipe.broken(path, fault)
        for task, curve in curves.items():
            ids.setdefault(task, {})[f"{path}, {task}"] = curve.ids
        loaded[run.run_id] = curves
    for by_place in ids.values():
        check_same_examples(by_place)
    return loaded


def _curves(path: Path, record: dict[str, Any], metric: Metric, recipe: Recipe) -> dict[str, PruningCurve]:
    try:
        return {name: _curve(task, metric, record["fractions"], f"tasks.{name}") for name, task in record["tasks"].items()}
    except ValueError as error:
        raise recipe.broken(path, str(error)) from error
    except (KeyError, TypeError, AttributeError) as error:
        raise recipe.broken(path, f"found no record of pruning ({error!r}), expected tasks with their answers") from error


#: Metric -> the key of the examples' scores.
_SCORES: dict[Metric, str] = {"accuracy": "correct", "gold_nll": "losses"}


def _curve(task: dict[str, Any], metric: Metric, fractions: list[float], at: str) -> PruningCurve:
    """One task's entry at the key ``at``; ValueError, with that key, where its values cannot all be right."""
    key = _SCORES[metric]
    rows = task.get(key)
    if rows is None:
        raise ValueError(f"{at}.{key}: found nothing, expected a value of each example")
    shape = (len(rows), {len(row) for row in rows})
    expected = (len(fractions), {len(task["ids"])})
    if shape != expected:
        raise ValueError(f"{at}.{key}: found {shape[0]} rows of {shape[1]} answers, expected {expected[0]} of {expected[1]}")
    worth = [[credit(answer) for answer in row] for row in rows] if metric == "accuracy" else rows
    curve = PruningCurve(
        fractions=np.array(fractions, dtype=np.float64), ids=task["ids"], scores=np.array(worth, dtype=np.float64)
    )
    if not np.allclose(curve.means, task[metric], rtol=1e-12, atol=1e-12):
        raise ValueError(f"{at}.{metric}: found {task[metric]}, expected the means of {key}: {curve.means.tolist()}")
    return curve
