"""The record of a training by itself, for those who need nothing else of a run. No torch, no pandas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.records.versioned import Recipe, read_json

FILE = "train.json"


def read_training(run_dir: Path) -> dict[str, Any]:
    """The content of train.json.

    Raises:
        RecordError: it is missing, not JSON, of another schema version, or not that of a training that has ended.
    """
    path, recipe = run_dir / FILE, Recipe.command("python -m harness.train")
    content = read_json(path, recipe)
    if content.get("status") not in ("success", "diverged"):
        raise recipe.broken(path, f"status: found {content.get('status')!r}, expected success or diverged")
    return content
