"""The metrics of one task, from its predictions. An edit here marks every earlier number as averaged by other sources."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from evaluation import sets
from evaluation.graders.choices import ChoiceVerdict
from evaluation.graders.verdicts import Grading
from harness.schema.evaluation import TaskSpec


def averages(
    rows: Sequence[dict[str, Any]],
    grading: Grading,
    chosen: Mapping[str, Sequence[ChoiceVerdict]],
    task: TaskSpec,
    *,
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """What metrics.json says of a task.

    Shares are of n, and null where nothing was answered. ``stderr`` is the standard error of the mean of what the answers are
    worth, of right and wrong ones the binomial one. ``gold_nll`` is the mean over examples of nats per token of the reference
    response, ``gold_nll_stderr`` its standard error over examples (null for a single one). ``floor`` is what the best constant
    answer would score: the share of the commonest label (null for open answers). ``ties`` has for each grader of choices the
    share of examples whose best choices score exactly alike.
    """
    n = len(rows)
    offers_choices = sets.get(task.format).statement is not None
    answered = task.grader is not None
    accuracy = _share(rows, lambda row: row["correct"]) if answered else None
    losses = [row["gold_nll"] for row in rows]
    mean = math.fsum(losses) / n
    spread = math.sqrt(math.fsum((loss - mean) ** 2 for loss in losses) / (n - 1) / n) if n > 1 else None
    return {
        "accuracy": accuracy,
        "stderr": None if accuracy is None else math.sqrt(_share(rows, lambda row: (row["correct"] - accuracy) ** 2) / n),
        "n": n,
        "grader": task.grader,
        "graders": {name: sum(row["verdicts"][name] for row in rows) / n for name in rows[0]["verdicts"]},
        "ties": {name: sum(len(verdict.best) > 1 for verdict in column) / n for name, column in chosen.items()},
        "floor": max(Counter(row["gold"] for row in rows).values()) / n if offers_choices and answered else None,
        "unparseable": _share(rows, lambda row: row["unparseable"]) if answered else None,
        "truncated": _share(rows, lambda row: row["truncated"]) if answered else None,
        "timed_out": _share(rows, lambda row: row["outcome"] == "timed_out") if answered else None,
        "gold_nll": mean,
        "gold_nll_stderr": spread,
        "gold_tokens": sum(row["gold_tokens"] for row in rows),
        "generated_tokens": sum(row["tokens"] for row in rows),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "sandbox": {"level": grading.sandbox_level, **grading.limits} if grading.sandbox_level else None,
    }


def _share(rows: Sequence[dict[str, Any]], test: Callable[[dict[str, Any]], float]) -> float:
    return sum(map(test, rows)) / len(rows)
