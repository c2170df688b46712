"""What the runs of an experiment read from the Hugging Face hub. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from harness.errors import KeyPath
from harness.experiment.runs import all_asked, all_runs, model_keys, timing_runs
from harness.schema.base_models import HubModel
from harness.schema.data import DataSource, FileData, local_file
from harness.schema.experiment import Experiment


@dataclass(frozen=True, kw_only=True)
class HubSource:
    """A repository at a revision."""

    kind: Literal["model", "dataset"]
    name: str
    revision: str
    #: The first key of the experiment that names it.
    at: KeyPath = field(compare=False)


def hub_sources(experiment: Experiment) -> list[HubSource]:
    """Every model and data set on the hub that runs, base evaluations and measurements need, each once."""
    return list(dict.fromkeys([*_models(experiment), *_sets(experiment)]))


def _models(experiment: Experiment) -> Iterator[HubSource]:
    for key in model_keys(experiment):
        source = experiment.models[key].source
        if isinstance(source, HubModel):
            at = ("models", key, "source", "model_revision")
            yield HubSource(kind="model", name=source.model_name_or_path, revision=source.model_revision, at=at)


def _sets(experiment: Experiment) -> Iterator[HubSource]:
    runs = (*all_runs(experiment), *timing_runs(experiment).values())
    read: list[tuple[KeyPath, DataSource]] = [(("domains", run.domain, "train"), run.data.source) for run in runs]
    read += [(asked.keys, asked.task.source) for asked in all_asked(experiment, runs)]
    for keys, source in read:
        if isinstance(source, FileData) and local_file(source, data_dir=experiment.data_dir) is None:
            yield HubSource(kind="dataset", name=source.hub_id, revision=source.revision, at=(*keys, "source", "revision"))
