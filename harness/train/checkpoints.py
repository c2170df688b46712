"""Trainer checkpoints that are either whole or set aside by name, and what is noted beside them.

A checkpoint counts only when ``complete.json``, written last and atomically, lists every file with its size and SHA-256. A kill
during a save, or damage later on, therefore leaves a folder that is set aside, and the one before it is used.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness import files
from harness.provenance import file_sha256

MARKER = "complete.json"
#: Beside the checkpoints: one line for each time that memory ran out.
OUT_OF_MEMORY = "out_of_memory.jsonl"

#: Files without which a run cannot go on exactly, and what they hold.
REQUIRED = {
    "trainable.safetensors": "trained tensors",
    "method_state.pt": "method state",
    "optimizer.pt": "optimizer",
    "scheduler.pt": "learning-rate scheduler",
    "trainer_state.json": "trainer state",
}


def _describe(file: Path) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, "sha256": file_sha256(file)}


def mark_complete(checkpoint: Path) -> None:
    """List the checkpoint's files, sizes and hashes in its marker, atomically."""
    content = {
        str(file.relative_to(checkpoint)): _describe(file)
        for file in sorted(checkpoint.rglob("*"))
        if file.is_file() and file.name != MARKER
    }
    files.write_text(checkpoint / MARKER, json.dumps(content))


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
    try:
        listed = {name: (entry["bytes"], entry["sha256"]) for name, entry in json.loads(marker.read_text()).items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MARKER} cannot be read ({error})"
    for name, (size, digest) in listed.items():
        file = checkpoint / name
        actual = file.stat().st_size if file.is_file() else None
        if actual != size:
            return f"{name} has {actual} bytes, expected {size}"
        if file_sha256(file) != digest:
            return f"{name} has another SHA-256 than {MARKER} says"
    return None


def take_latest(folder: Path) -> Path | None:
    """The newest usable ``checkpoint-N`` in ``folder``; newer ones that cannot be used are set aside. In one process only."""
    checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]), reverse=True)
    for checkpoint in checkpoints:
        reason = what_is_missing(checkpoint)
        if reason is None:
            return checkpoint
        files.set_aside(checkpoint, reason)
    return None


def note_out_of_memory(folder: Path, entry: Mapping[str, int]) -> None:
    """Add to what ``out_of_memory`` returns. Several processes may do so at once: a line is written in one piece."""
    with (folder / OUT_OF_MEMORY).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(entry) + "\n")


def out_of_memory(folder: Path) -> list[dict[str, int]]:
    """Each time that memory ran out for a run, its earlier starts included: the optimizer step, the tokens of the part of a
    micro-batch that did not fit (``tokens``), and how many are tried from then on (``micro_batch_tokens``)."""

    def read(file: Path) -> list[dict[str, int]]:
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]

    return files.read_or_set_aside(folder / OUT_OF_MEMORY, read) or []
