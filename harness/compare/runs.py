"""This project's own runs: ``metrics.json`` with ``predictions/<task>.jsonl``, or one such file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, Field

from harness.compare.answers import Answers, Model, checked, fingerprint, finite, outputs_of, seed_of
from harness.errors import ConfigError
from harness.records.read import read_metrics, read_rows

_NLL = "gold_nll"


class _Row(BaseModel):
    """A line of predictions."""

    id: str = Field(coerce_numbers_to_str=True)
    correct: Any
    prompt: Any = None
    gold: Any = None
    completion: Any = None
    choice_loglikelihoods: Any = None
    verdicts: dict[str, Any] | None = None
    gold_nll: Any = None


class _Task(BaseModel):
    sources: dict[str, str] | None = None


class _TaskSpec(BaseModel):
    split: str = "test"


class _Evaluation(BaseModel):
    tasks: dict[str, _TaskSpec] = {}


class _Metrics(BaseModel):
    """metrics.json."""

    run_id: str | None = None
    status: str | None = None
    tasks: dict[str, _Task]
    evaluation: _Evaluation | None = None


def read(path: Path) -> Answers:
    """The answers of one file of predictions. Metrics: ``accuracy`` (the headline grader's), each grader by its name, and
    ``gold_nll``.

    Raises:
        ConfigError: it is broken, an id stands there twice, or nothing in it has a number for every example.
    """
    listed = [checked(f"{path}:{n}", row, _Row) for n, row in enumerate(read_rows(path, fields=()), start=1)]
    rows = {row.id: row for row in listed}
    if not rows or len(rows) != len(listed):
        raise ConfigError(f"{path}: found {len(listed)} rows with {len(rows)} ids, expected one row for each id")
    verdicts = {name: [(row.verdicts or {}).get(name) for row in listed] for name in listed[0].verdicts or {}}
    columns = {"accuracy": [row.correct for row in listed], **verdicts, _NLL: [row.gold_nll for row in listed]}
    scores = {name: np.array(values, dtype=float) for name, values in columns.items() if all(map(finite, values))}
    if not scores:
        raise ConfigError(f"{path}: found neither verdicts nor {_NLL} for every example, expected one of them")
    return Answers(
        path=path,
        task=path.stem,
        items={item: {"prompt": fingerprint(row.prompt), "target": fingerprint(row.gold)} for item, row in rows.items()},
        scores=scores,
        higher_is_better={name: name != _NLL for name in scores},
        outputs=outputs_of({item: (row.completion, row.choice_loglikelihoods, row.gold_nll) for item, row in rows.items()}),
    )


def read_run(folder: Path) -> Model:
    """The answers of a run to its test sets; its validation sets are for choosing, not for comparing.

    Raises:
        ConfigError: it diverged, or its record is broken.
    """
    path = folder / "metrics.json"
    metrics = checked(path, read_metrics(folder), _Metrics)
    specs = metrics.evaluation.tasks if metrics.evaluation else {}
    tasks = [task for task in metrics.tasks if specs.get(task, _TaskSpec()).split == "test"]
    if not tasks:
        why = "a run that diverged" if metrics.status == "diverged" else "no test sets"
        raise ConfigError(f"{path}: found {why}, expected answers to test sets")
    answers = {
        task: replace(read(folder / "predictions" / f"{task}.jsonl"), graded_by=metrics.tasks[task].sources) for task in tasks
    }
    return Model(path=folder, tasks=answers, seed=seed_of(metrics.run_id or ""))
