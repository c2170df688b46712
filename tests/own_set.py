"""The README's set in a package of someone else's, as if it were installed."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evaluation import sets
from tests import readme

#: In the fields of MultiArith.
RECORDS = [{"question": f"Ann has {n} pens and buys {n} more. How many?", "final_ans": str(2 * n)} for n in range(3, 9)]


@contextmanager
def installed(folder: Path, text: str | None = None) -> Iterator[Path]:
    """Put the README's example, or ``text``, into ``folder`` as the package my-sets and import from there.

    Yields:
        The module's file.
    """
    module = folder / "my_sets.py"
    module.write_text(readme.example("set") if text is None else text)
    info = folder / "my_sets-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-sets\nVersion: 1.0\n")
    entry_point = next(block for block in readme.blocks("toml") if sets.ENTRY_POINT_GROUP in block)
    (info / "entry_points.txt").write_text(entry_point.replace("project.entry-points.", "").replace('"', ""))
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    sets._by_name.cache_clear()
    try:
        yield module
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("my_sets", None)
        sets._by_name.cache_clear()
