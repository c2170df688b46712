"""Reading what an evaluation left in a run's folder: ``metrics.json`` and ``predictions/<task>.jsonl``. No torch, no pandas.

For commands that are given a folder. What is given an experiment reads its runs through ``harness.records``, which also
checks them against the experiment's settings.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.config import SCHEMA_VERSION, ConfigError


def read_metrics(run_dir: Path) -> dict[str, Any]:
    """The content of metrics.json.

    Raises:
        ConfigError: it is missing, not JSON, of another schema version, or has no tasks.
    """
    path = run_dir / "metrics.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: found no such file, expected the folder of an evaluated run") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON: {error}") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise ConfigError(f"{path}: schema_version: found {version!r}, expected {SCHEMA_VERSION}")
    if not isinstance(content.get("tasks"), dict):
        raise ConfigError(f"{path}: tasks: found {type(content.get('tasks')).__name__}, expected one entry a task")
    return content


def read_predictions(run_dir: Path, task: str, *, fields: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of one task's predictions, in the order of the test set.

    Args:
        fields: what every row must have.

    Raises:
        ConfigError: the file is missing, or a line (numbered from 1) is no JSON object or lacks a field.
    """
    path = run_dir / "predictions" / f"{task}.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}), expected one prediction a line") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{path}:{number}: found no JSON ({error}), expected one prediction a line") from None
        missing = [field for field in fields if not isinstance(row, dict) or field not in row]
        if missing:
            raise ConfigError(f"{path}:{number}: field {missing[0]!r} is missing, expected {', '.join(fields)}")
        rows.append(row)
    return rows
