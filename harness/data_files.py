"""Where a set's local copy lies. Apart from ``harness.data``, so that the Snakefile can ask without loading anything."""

from __future__ import annotations

from pathlib import Path

from harness.config import DataSource, FileData


def local_file(source: DataSource, *, data_dir: str | None) -> Path | None:
    """The local file of a set, or None where it is generated or read from the hub."""
    if isinstance(source, FileData) and data_dir is not None and source.local is not None:
        return Path(data_dir) / source.local
    return None
