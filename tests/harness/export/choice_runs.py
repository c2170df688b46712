"""A base model's record on questions with labelled choices, and its predictions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.schema.fields import SCHEMA_VERSION


def row(number: int, scores: dict[str, float], gold: str, **changes: Any) -> dict[str, Any]:
    likeliest = max(scores, key=scores.__getitem__) == gold
    return {
        "id": f"boolq/{number}",
        "prompt": f"question {number}\n               ",
        "completion": f"the correct answer is {gold}",
        "extracted": gold,
        "gold": gold,
        "correct": True,
        "truncated": False,
        "unparseable": False,
        "verdicts": {"llm_adapters": True, "label": True, "loglikelihood": likeliest},
        "choice_loglikelihoods": scores,
    } | changes


def write(folder: Path, **changes: Any) -> Path:
    rows = [
        row(0, {"true": -1.5, "false": -0.5}, "false"),
        row(1, {"true": -1.0, "false": -2.0}, "false"),
        row(2, {"true": -1.0, "false": -2.0}, "true", completion="bytes \ud800 \x00"),
    ]
    source = {"kind": "generated", "generator": "boolq", "rows": 3, "seed": 2}
    spec = {
        "source": source, "format": "boolq", "prompt_template": "commonsense", "max_new_tokens": 32, "stop_strings": ["\n"],
        "num_beams": 4, "batch_size": 8, "grader": "label",
    }  # fmt: skip
    task = {
        "n": 3, "grader": "label", "graders": {"llm_adapters": 1.0, "label": 1.0, "loglikelihood": 2 / 3},
        "gold_nll": 0.5, "truncated": 0.0, "unparseable": 0.0,
    }  # fmt: skip
    metrics = {
        "schema_version": SCHEMA_VERSION, "run_id": "base/m/sound", "experiment": "e",
        "created_at": "2026-01-02T03:04:05+01:00",
        "evaluation": {"protocol": "sound", "tasks": {"boolq": spec}, "dtype": "float32"}, "tasks": {"boolq": task},
        "versions": {"transformers": "5"}, "git": {"commit": "abc"}, "wall_time_s": 2.5,
    } | changes  # fmt: skip
    (folder / "predictions").mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "predictions/boolq.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
