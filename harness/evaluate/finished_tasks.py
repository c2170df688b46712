"""Results of finished evaluation tasks that wait for the rest of their suite. No torch.

A suite takes hours on a real model, and its last task may fail. What is done is kept beside the outputs (which a workflow
deletes after a failure) and used by the next attempt, as long as nothing that it depends on has changed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation import sets
from harness.files import json_text, read_or_set_aside, write_text
from harness.provenance import versions
from harness.schema.evaluation import InferenceSpec, TaskSpec
from harness.schema.fields import content_hash
from harness.source_files import source_hash

#: What turns a model and records into numbers, with the module of the set; the workflow reruns evaluations for the same files.
_MODULE = "harness.evaluate.run"


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """One task's numbers, and one row per example in the order of the records."""

    metrics: dict[str, Any]
    predictions: list[dict[str, Any]]


@dataclass(frozen=True)
class FinishedTasks:
    """``folder`` holds one file a task."""

    folder: Path

    def load(self, name: str, key: str) -> TaskResult | None:
        """The kept result of a task, or None where there is none with this key."""

        def read(path: Path) -> tuple[str, TaskResult]:
            kept = json.loads(path.read_text(encoding="utf-8"))
            return kept["key"], TaskResult(metrics=kept["metrics"], predictions=kept["predictions"])

        kept = read_or_set_aside(self.folder / f"{name}.json", read)
        return kept[1] if kept is not None and kept[0] == key else None

    def save(self, name: str, key: str, result: TaskResult) -> None:
        """Keep a result."""
        content = {"key": key, "metrics": result.metrics, "predictions": result.predictions}
        write_text(self.folder / f"{name}.json", json_text(content))

    def clear(self) -> None:
        """Forget everything: the suite is complete."""
        shutil.rmtree(self.folder, ignore_errors=True)


def task_key(task: TaskSpec, *, how: InferenceSpec, engine: Mapping[str, str], weights: str, data_sha256: str) -> str:
    """A hash of everything that a task's result depends on: settings, engine, weights, records, code and releases."""
    return content_hash(
        {
            "task": task,
            "how": how.inference(),
            "engine": engine,
            "weights": weights,
            "data": data_sha256,
            "code": source_hash(_MODULE, sets.module_of(task.format)),
            "versions": versions(),
        }
    )
