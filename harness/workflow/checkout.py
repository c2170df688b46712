"""Records of runs that came by git, which dates files in the order in which it writes them, and without weights. No torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from harness.records.training import FILE, has_weights

#: Snakemake leaves it in each folder that a rule made; git ignores it.
_MADE_HERE = ".snakemake_timestamp"


def _folders(run: Path) -> list[Path]:
    return [path for path in (run / "adapter", run / "predictions") if path.is_dir()]


def came_by_git(run: Path) -> bool:
    """Whether none of the folders in a run's folder was made by a workflow here."""
    return not any((path / _MADE_HERE).exists() for path in _folders(run))


def even_dates(run: Path) -> None:
    """Give the records in a run's folder one date, their newest, if they came by git: then none is older than another."""
    records = [*run.glob("*.json"), *_folders(run)]
    if records and came_by_git(run):
        newest = max(path.stat().st_mtime_ns for path in records)
        for path in records:
            os.utime(path, ns=(newest, newest))


def without_weights(run: Path) -> bool:
    """Whether a run's record came by git, without its weights."""
    return (run / FILE).exists() and came_by_git(run) and not has_weights(run)


def adapter_if_needed(output: Path, code: Sequence[Path]) -> list[str]:
    """The adapter of a run as an input of what is made from it. None where the run is without weights and ``output`` no older
    than its record and the files that stand for its code: it is not to be made again.

    Args:
        output: in the run's folder.
    """
    run = output.parent
    if without_weights(run) and output.exists():
        date = output.stat().st_mtime_ns
        if all(path.stat().st_mtime_ns <= date for path in (run / FILE, *code)):
            return []
    return [str(run / "adapter")]
