"""The records of a training by themselves, for those who need nothing else of a run. No torch, no pandas."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import files
from harness.errors import ConfigError
from harness.provenance import file_sha256
from harness.records.versioned import Recipe, read_json

FILE = "train.json"
OPERATIONS = Path("adapter") / "operations.jsonl"


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One pruning and expansion of BeamLoRA after ``step`` optimizer steps, with the threshold p of Eq. 14."""

    step: int
    p: float
    #: Module -> how many of its ranks were pruned and replaced by copies of others.
    ranks: dict[str, int]
    #: Training losses as logged around it.
    loss_before: float | None
    loss_after: float | None


def read_operations(path: Path, recipe: Recipe) -> list[Operation]:
    """The operations of a run of BeamLoRA, in order.

    Raises:
        RecordError: the file is missing or broken.
    """
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [
            Operation(
                step=int(row["step"]),
                p=float(row["p"]),
                ranks={str(module["name"]): int(module["K"]) for module in row["modules"]},
                loss_before=row.get("loss_before"),
                loss_after=row.get("loss_after"),
            )
            for row in rows
        ]
    except FileNotFoundError:
        raise recipe.missing(path) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise recipe.broken(path, f"found an incomplete or foreign line ({error!r})") from error


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


def has_weights(run_dir: Path) -> bool:
    """Whether what a run trained lies beside its records, which git keeps without it."""
    return any((run_dir / "adapter").rglob("*.safetensors"))


def check_artefact(run_dir: Path) -> None:
    """What a look at the names says of a run's artefact: a training that ended well leaves the weights that train.json lists.
    They may be gone where all that is left is to show the numbers made from them, as long as anything else of it is there.

    Raises:
        MissingRecord: there is no train.json.
        BrokenRecord: the folder is empty; or a file of weights is missing and the run is not evaluated.
    """
    folder, names = run_dir / "adapter", read_training(run_dir).get("artefact", {})
    recipe = Recipe.command("python -m harness.train")
    if names and folder.is_dir() and not any(file.is_file() and not file.name.startswith(".") for file in folder.rglob("*")):
        raise recipe.broken(folder, f"found an empty folder, expected {', '.join(names)} as in {FILE}")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing and not (run_dir / "metrics.json").exists():
        raise recipe.broken(folder / missing[0], f"found no such file, expected it as in {FILE}")


def require_artefact(run_dir: Path, trained: Mapping[str, Any]) -> Path:
    """The folder of a run's artefact, whose weights are the ones that were trained. Another one is set aside.

    Args:
        trained: the content of train.json.

    Raises:
        ConfigError: a file of weights is missing or has another hash than recorded.
    """
    folder = run_dir / "adapter"
    for name, expected in trained["artefact"].items():
        path = folder / name
        found = f"sha256 {file_sha256(path)[:16]}..." if path.is_file() else "no such file"
        if not path.is_file() or file_sha256(path) != expected:
            why = f"{name}: found {found}, expected sha256 {expected[:16]}... as in {FILE}"
            if folder.is_dir():
                files.set_aside(folder, why)
            raise ConfigError(f"{folder}: {why}; repeat the command, which trains the run again")
    return folder
