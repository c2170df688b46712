"""The settings that the paper's Table 4 states for BeamLoRA, held against those of a run. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from harness.schema.run import RunSpec

#: The paper's name of a setting -> the method's.
SETTINGS = {"rank": "r", "p_init": "p_init", "delta_t": "delta_t"}

#: ``stand-in``: another model than the paper's, for which its settings are not meant.
SettingVerdict = Literal["agrees", "differs", "stand-in", "not run", "not in the paper"]


@dataclass(frozen=True, kw_only=True)
class PaperSetting:
    """One of the paper's settings on one domain and model. None: the paper has none (``paper``), nothing has run (``ours``)."""

    #: The method's name of it.
    name: str
    paper: float | None
    ours: float | None
    verdict: SettingVerdict


def compare(run: RunSpec, ours: Mapping[str, Any], paper: Mapping[tuple[str, str, str], float]) -> list[PaperSetting]:
    """Each of ``SETTINGS``, in their order.

    Args:
        ours: the method's settings by name: those planned, or those that a record says were used.
        paper: (domain, model, the paper's name) -> value, as ``harness.reported.settings`` reads them.
    """
    settings = []
    for setting, name in SETTINGS.items():
        theirs, value = paper.get((run.domain, str(run.model.stands_for), setting)), ours.get(name)
        settings.append(PaperSetting(name=name, paper=theirs, ours=value, verdict=_verdict(run, theirs, value)))
    return settings


def _verdict(run: RunSpec, paper: float | None, ours: float | None) -> SettingVerdict:
    if paper is None:
        return "not in the paper"
    if ours is None:
        return "not run"
    return "stand-in" if run.model.is_stand_in else "agrees" if ours == paper else "differs"
