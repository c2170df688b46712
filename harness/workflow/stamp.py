"""One input of a job for all the source files behind it: what Snakemake does for each input of each job is most of its time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from harness import files
from harness.provenance import file_sha256

FOLDER = Path(".snakemake/code")


def stamp(label: str, sources: Sequence[Path]) -> Path:
    """A file that stands for these. Its name follows from their names and contents, so that an edit changes the input of a job,
    which runs again, and an edit that is taken back changes nothing. Where Snakemake knows no earlier inputs (the results of a
    clone), what counts is its date, the newest of theirs.

    Args:
        label: for a reader of Snakemake's messages.
    """
    listing = "".join(f"{file_sha256(path)}  {path}\n" for path in sources)
    path = FOLDER / f"{label}-{hashlib.sha256(listing.encode()).hexdigest()[:16]}"
    if not path.exists():
        files.write_text(path, listing)
        newest = max(source.stat().st_mtime_ns for source in sources)
        os.utime(path, ns=(newest, newest))
    return path
