"""This project's own runs: ``metrics.json`` with ``predictions/<task>.jsonl``, or one such file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from harness.compare.answers import Answers, Model, fingerprint, finite, seed_of
from harness.errors import ConfigError
from harness.records.read import read_metrics, read_rows

_FIELDS = ("id", "correct")
_NLL = "gold_nll"


def read(path: Path) -> Answers:
    """The answers of one file of predictions. Metrics: ``accuracy`` (the headline grader's), each grader by its name, and
    ``gold_nll``.

    Raises:
        ConfigError: it is broken, an id stands there twice, or nothing in it has a number for every example.
    """
    listed = read_rows(path, fields=_FIELDS)
    rows = {str(row["id"]): row for row in listed}
    if not rows or len(rows) != len(listed):
        raise ConfigError(f"{path}: found {len(listed)} rows with {len(rows)} ids, expected one row for each id")
    verdicts = {name: [(row.get("verdicts") or {}).get(name) for row in listed] for name in listed[0].get("verdicts") or {}}
    columns = {"accuracy": [row["correct"] for row in listed], **verdicts, _NLL: [row.get(_NLL) for row in listed]}
    scores = {name: np.array(values, dtype=float) for name, values in columns.items() if all(map(finite, values))}
    if not scores:
        raise ConfigError(f"{path}: found neither verdicts nor {_NLL} for every example, expected one of them")
    parts = {"prompt": "prompt", "target": "gold"}
    return Answers(
        path=path,
        task=path.stem,
        items={item: {part: fingerprint(row.get(key)) for part, key in parts.items()} for item, row in rows.items()},
        scores=scores,
        less_is_better=frozenset({_NLL} & scores.keys()),
    )


def read_run(folder: Path) -> Model:
    """The answers of a run to its test sets; its validation sets are for choosing, not for comparing.

    Raises:
        ConfigError: it diverged, or its record is broken.
    """
    metrics = read_metrics(folder)
    specs = (metrics.get("evaluation") or {}).get("tasks") or {}
    tasks = [task for task in metrics["tasks"] if specs.get(task, {}).get("split", "test") == "test"]
    if not tasks:
        why = "a run that diverged" if metrics.get("status") == "diverged" else "no test sets"
        raise ConfigError(f"{folder / 'metrics.json'}: found {why}, expected answers to test sets")
    answers = {
        task: replace(read(folder / "predictions" / f"{task}.jsonl"), graded_by=metrics["tasks"][task].get("sources"))
        for task in tasks
    }
    return Model(path=folder, tasks=answers, seed=seed_of(str(metrics.get("run_id"))))
