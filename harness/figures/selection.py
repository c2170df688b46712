"""What of an experiment the figure of rank importance shows."""

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
