"""Trainer checkpoints that are either complete or refused by name.

A checkpoint counts only when ``complete.json``, written last and atomically, lists every file with its size. A kill during a
save therefore leaves a folder that is ignored, and the one before it is used.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from harness import files

MARKER = "complete.json"

#: Files without which a run cannot go on exactly, and what they hold.
REQUIRED = {
    "trainable.safetensors": "trained tensors",
    "method_state.pt": "method state",
    "optimizer.pt": "optimizer",
    "scheduler.pt": "learning-rate scheduler",
    "trainer_state.json": "trainer state",
}


def mark_complete(checkpoint: Path) -> None:
    """List the checkpoint's files and sizes in its marker, atomically."""
    sizes = {
        str(file.relative_to(checkpoint)): file.stat().st_size
        for file in sorted(checkpoint.rglob("*"))
        if file.is_file() and file.name != MARKER
    }
    files.write_text(checkpoint / MARKER, json.dumps(sizes))


def what_is_missing(checkpoint: Path) -> str | None:
    """Why a checkpoint cannot be used, or None."""
    marker = checkpoint / MARKER
    if not marker.is_file():
        return f"{MARKER} is missing: the save was interrupted"
    for name, content in REQUIRED.items():
        if not (checkpoint / name).is_file():
            return f"{name} ({content}) is missing"
    if not list(checkpoint.glob("rng_state*.pth")):
        return "rng_state.pth (random streams) is missing"
    for name, size in json.loads(marker.read_text()).items():
        file = checkpoint / name
        actual = file.stat().st_size if file.is_file() else None
        if actual != size:
            return f"{name} has {actual} bytes, expected {size}"
    return None


def latest_complete(folder: Path, *, report: Callable[[str], None]) -> Path | None:
    """The newest usable ``checkpoint-N`` in ``folder``; each refused one is reported by name with the reason."""
    checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]), reverse=True)
    for checkpoint in checkpoints:
        reason = what_is_missing(checkpoint)
        if reason is None:
            return checkpoint
        report(f"refused {checkpoint}: {reason}")
    return None
