"""The paper's figures, and four of ours, from the records of finished runs: ``python -m harness.figures``. No torch.

A figure is one module with a function ``build(inputs) -> Plot``: it gathers the data as one long table (``Plot.data``, which is
written as CSV beside the pictures) and draws nothing but what is in it; a function ``plots(data)`` draws it for the report.
``catalogue`` lists them, ``inputs`` reads records, ``style`` holds the colours of the methods and everything that all pictures
share, ``interactive`` what all plots share.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness import files

if TYPE_CHECKING:
    from harness.records.versioned import Recipe

#: The word of a PNG that says from which data it was drawn: the SHA-256 of the CSV beside it.
DRAWN_FROM = "Data-SHA256"


def check_drawn(picture: Path, recipe: Recipe) -> None:
    """Hold a figure's PNG and the CSV beside it against each other, as far as they are there. Pictures of earlier releases do
    not say from which data they were drawn.

    Args:
        recipe: how they are made, for messages.

    Raises:
        BrokenRecord: one of them is empty or cut off, or the data are not those of the picture.
    """
    data = picture.with_suffix(".csv")
    for path in (picture, data):
        if (why := files.fault(path)) is not None:
            raise recipe.broken(path, why)
    if picture.is_file() and data.is_file():
        said = re.search(DRAWN_FROM.encode() + rb"\0([0-9a-f]{64})", picture.read_bytes()[:4096])
        if said is not None and said[1].decode() != hashlib.sha256(data.read_bytes()).hexdigest():
            raise recipe.broken(data, f"found other data than {picture.name} was drawn from")


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What ``rank_importance`` shows of all runs, modules and layers. None: its own choice."""

    method: str | None = None
    seed: int | None = None
    #: Ends of module names, such as up_proj.
    modules: tuple[str, ...] = ("up_proj", "v_proj")
    layer: int | None = None
