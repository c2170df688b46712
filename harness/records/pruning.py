"""pruning.json: accuracy after the least important ranks of every module have been pruned. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.records.credit import credit
from harness.records.versioned import Recipe, read_json

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
    #: What each answer is worth (``harness.records.credit``), shape (F, n).
    correct: NDArray[np.float64]
    #: Mean nats per token of the reference responses, shape (F,).
    gold_nll: NDArray[np.float64]

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """Shape (F,), in [0, 1]."""
        means: NDArray[np.float64] = self.correct.mean(axis=1)
        return means


def read(path: Path, recipe: Recipe = MADE) -> dict[str, PruningCurve]:
    """The curves in a ``pruning.json`` by task; none of a run that diverged.

    Args:
        recipe: how the caller's reader makes it, for messages.

    Raises:
        RecordError: the file is missing, broken, of another schema version, or an accuracy is not that of its answers.
    """
    record = read_json(path, recipe)
    try:
        return {name: _curve(task, record["fractions"], f"tasks.{name}") for name, task in record["tasks"].items()}
    except ValueError as error:
        raise recipe.broken(path, str(error)) from error
    except (KeyError, TypeError, AttributeError) as error:
        raise recipe.broken(path, f"found no record of pruning ({error!r}), expected tasks with their answers") from error


def _curve(task: dict[str, Any], fractions: list[float], at: str) -> PruningCurve:
    """One task's entry at the key ``at``; ValueError, with that key, where its values cannot all be right."""
    shape = (len(task["correct"]), {len(text) for text in task["correct"]})
    expected = (len(fractions), {len(task["ids"])})
    if shape != expected:
        raise ValueError(f"{at}.correct: found {shape[0]} rows of {shape[1]} answers, expected {expected[0]} of {expected[1]}")
    curve = PruningCurve(
        fractions=np.array(fractions, dtype=np.float64),
        ids=task["ids"],
        correct=np.array([[credit(answer) for answer in text] for text in task["correct"]], dtype=np.float64),
        gold_nll=np.array(task["gold_nll"], dtype=np.float64),
    )
    if not np.allclose(curve.accuracy, task["accuracy"], rtol=0, atol=1e-12):
        raise ValueError(f"{at}.accuracy: found {task['accuracy']}, expected the means of correct: {curve.accuracy.tolist()}")
    return curve
