"""The settings behind planned runs: each with its source, and BeamLoRA's against the paper's Table 4. No torch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.experiment import table4
from harness.experiment.resolve import where_of
from harness.experiment.runs import is_subject, origins
from harness.experiment.sources import DEFAULT, Source, read_sources, source_of
from harness.schema.experiment import Experiment
from harness.schema.fields import canonical_json
from harness.schema.run import RunSpec


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One value of one setting, and the runs that have it from the same key. ``methods`` are the experiment's keys: runs of
    a sweep are called after the method that they vary."""

    name: str
    value: Any
    #: Dotted key of the experiment that gave it; None for a default.
    key: str | None
    source: Source
    domains: tuple[str, ...]
    models: tuple[str, ...]
    methods: tuple[str, ...]
    runs: int

    @property
    def is_default(self) -> bool:
        return self.source.tags == (DEFAULT,)

    @property
    def is_ours(self) -> bool:
        return "ours" in self.source.tags


def used_settings(
    experiment: Experiment, runs: Sequence[RunSpec], paths: Sequence[Path], overrides: Mapping[str, Any]
) -> list[Setting]:
    """Every setting of ``runs`` with its source, one entry per value and key that gave it."""
    sources = read_sources(paths, overrides)
    # Runs that differ by their seed have the same settings.
    seeds = Counter((run.domain, run.model_key, run.method.key) for run in runs)
    groups: dict[tuple[str, str, str], list[tuple[RunSpec, Any, Source]]] = {}
    for run in {(run.domain, run.model_key, run.method.key): run for run in runs}.values():
        values = {
            **{f"method.{name}": value for name, value in run.method.settings.items()},
            **{f"training.{name}": value for name, value in run.training.model_dump(mode="json").items()},
            **{f"data.{name}": value for name, value in run.data.model_dump(mode="json").items()},
            **{f"evaluation.{name}": value for name, value in run.evaluation.model_dump(mode="json").items()},
        }
        for name, path in origins(experiment, run).items():
            key = (name, canonical_json(values[name]), canonical_json(path))
            groups.setdefault(key, []).append((run, values[name], source_of(sources, path)))
    return [
        Setting(
            name=name,
            value=group[0][1],
            key=None if group[0][2].tags == (DEFAULT,) else ".".join(map(str, json.loads(path))),
            source=group[0][2],
            domains=tuple(dict.fromkeys(run.domain for run, _, _ in group)),
            models=tuple(dict.fromkeys(run.model_key for run, _, _ in group)),
            methods=tuple(dict.fromkeys(where_of(run)["method"] for run, _, _ in group)),
            runs=sum(seeds[run.domain, run.model_key, run.method.key] for run, _, _ in group),
        )
        for (name, _, path), group in groups.items()
    ]


def table4_check(runs: Sequence[RunSpec], paper: Mapping[tuple[str, str, str], float]) -> list[dict[str, Any]]:
    """BeamLoRA's rank, p_init and delta_t of every domain and model of the paper: ours, the paper's, whether they agree.

    Only runs on the paper's own models are compared: Table 4 says nothing about stand-ins.
    """
    compared = {}
    for run in filter(is_subject, runs):
        for one in table4.compare(run, run.method.settings, paper):
            if one.verdict in ("agrees", "differs"):
                compared[run.domain, run.model_key, one.name] = {
                    "domain": run.domain,
                    "model": run.model_key,
                    "setting": one.name,
                    "ours": one.ours,
                    "paper": one.paper,
                    "agrees": one.verdict == "agrees",
                }
    return list(compared.values())
