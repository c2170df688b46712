"""The paper's figures, and four of ours, from the records of finished runs: ``python -m harness.figures``. No torch.

A figure is one module with a function ``build(inputs) -> Plot``: it gathers the data as one long table (``Plot.data``, which is
written as CSV beside the pictures) and draws nothing but what is in it; a function ``plots(data)`` draws it for the report.
``catalogue`` lists them, ``inputs`` reads records, ``style`` holds the colours of the methods and everything that all pictures
share, ``interactive`` what all plots share.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What ``rank_importance`` shows of all runs, modules and layers. None: its own choice."""

    method: str | None = None
    seed: int | None = None
    #: Ends of module names, such as up_proj.
    modules: tuple[str, ...] = ("up_proj", "v_proj")
    layer: int | None = None
