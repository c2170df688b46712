"""Kept answers are graded again, without a model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import harness.models.load
from harness.answers import regrade
from harness.errors import ConfigError
from harness.evaluate import base
from harness.experiment.runs import load_experiment
from harness.files import write_json, write_jsonl
from harness.records.grader_sources import graded_otherwise
from harness.records.read import read_rows
from tests.harness.evaluate.test_base import experiment_file

GSM8K = {"format": "gsm8k", "source": {"kind": "generated", "generator": "gsm8k", "rows": 4, "seed": 2}, "max_new_tokens": 4}
PIQA = [
    {"goal": "keep bread", "sol1": "in a box of tin", "sol2": "out", "label": 0},
    {"goal": "count", "sol1": "up", "sol2": "down, slowly", "label": 1},
]


@pytest.fixture(params=["sound", "continuation"])
def evaluated(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The folder of an evaluation, of which nothing can be loaded any more."""
    piqa = tmp_path / "piqa.jsonl"
    write_jsonl(piqa, PIQA)
    tasks = {"gsm8k": GSM8K, "piqa": {"format": "piqa", "source": {"kind": "local", "path": str(piqa)}}}
    file = experiment_file(tmp_path, {"protocols": ["sound", "continuation"], "tasks": tasks})
    folder = tmp_path / "evaluated"
    base.main(["--configfile", str(file), "--model", "llama-mini", "--protocol", request.param, "--run-dir", str(folder)])
    return folder


def content(folder: Path) -> dict[str, Any]:
    """Numbers and verdicts, also as exported: what is written but for dates and seconds."""
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics.pop("regraded", None)
    for task in metrics["tasks"].values():
        task.pop("seconds")
    files = sorted([*(folder / "predictions").glob("*.jsonl"), *(folder / "lm_eval").glob("*/samples_*.jsonl")])
    return {"metrics": metrics, **{path.name: read_rows(path, fields=()) for path in files}}


def test_the_same_graders_give_the_same_numbers_and_others_are_replaced(evaluated: Path, monkeypatch) -> None:
    monkeypatch.setattr(harness.models.load, "load_base_for_evaluation", None)
    right = content(evaluated)
    assert set(right["metrics"]["tasks"]) == ({"gsm8k", "piqa"} if "gsm8k.jsonl" in right else {"piqa"})
    earlier = json.loads((evaluated / "metrics.json").read_text())
    for name, task in earlier["tasks"].items():
        task |= {"accuracy": 0.99, "graders": {"another": 0.99}, "sources": {"grader": "another", "metric": "another"}}
        rows = read_rows(evaluated / "predictions" / f"{name}.jsonl", fields=())
        others = [row | {"correct": True, "extracted": "another", "verdicts": {"another": True}} for row in rows]
        write_jsonl(evaluated / "predictions" / f"{name}.jsonl", others)
    write_json(evaluated / "metrics.json", earlier)
    shutil.rmtree(evaluated / "lm_eval")
    assert regrade.main([str(evaluated)]) == 0
    assert content(evaluated) == right
    record = json.loads((evaluated / "metrics.json").read_text())
    assert record["regraded"]["git"] and record["created_at"] == earlier["created_at"]
    asked = load_experiment([evaluated.parent / "experiment.yaml"]).base_evaluation
    assert asked is not None
    tasks = asked.evaluation(record["evaluation"]["protocol"]).tasks
    assert [graded_otherwise(task["sources"], tasks[name]) for name, task in record["tasks"].items()] == [""] * len(tasks)


def test_of_a_diverged_run_nothing_is_written(evaluated: Path) -> None:
    metrics = json.loads((evaluated / "metrics.json").read_text()) | {"status": "diverged", "tasks": {}}
    write_json(evaluated / "metrics.json", metrics)
    assert regrade.regrade(evaluated, data_dir=None) == {}
    assert json.loads((evaluated / "metrics.json").read_text()) == metrics


def test_other_rows_than_were_answered_are_refused_and_nothing_is_written(evaluated: Path) -> None:
    write_jsonl(evaluated.parent / "piqa.jsonl", PIQA[::-1])
    before = content(evaluated)
    with pytest.raises(ConfigError, match=r"evaluated: piqa: found other rows in the set than were answered"):
        regrade.regrade(evaluated, data_dir=None)
    assert content(evaluated) == before
