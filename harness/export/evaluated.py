"""What every export takes from the records of an evaluated run."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from harness import cli, reported
from harness.errors import ConfigError
from harness.records.read import read_metrics, read_predictions, recorded_evaluation
from harness.records.training import FILE, read_training
from harness.schema.base_models import BaseModelSpec, HubModel
from harness.schema.evaluation import TaskSpec
from harness.schema.run import RunSpec


@dataclass(frozen=True)
class Evaluated:
    """The records in the folder of an evaluated run, or of a base model that was evaluated as it is."""

    folder: Path

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The content of metrics.json, as ``read_metrics`` gives it."""
        return read_metrics(self.folder)

    @cached_property
    def train(self) -> dict[str, Any] | None:
        """The content of train.json; None of a base model, or where the folder holds none."""
        is_base = self.metrics.get("model") is not None
        return None if is_base or not (self.folder / FILE).is_file() else read_training(self.folder)

    @cached_property
    def spec(self) -> RunSpec | None:
        """What was trained; None where ``train`` is."""
        return None if self.train is None else RunSpec.model_validate(self.train["spec"])

    @cached_property
    def model(self) -> BaseModelSpec:
        """What was fine-tuned, or evaluated as it is.

        Raises:
            MissingRecord: metrics.json does not say, and there is no train.json.
        """
        content = self.metrics.get("model") or read_training(self.folder)["spec"]["model"]
        return BaseModelSpec.model_validate(content)

    @property
    def stand_in(self) -> str | None:
        """What the numbers do not say, of a stand-in; None also where the records do not say what the model is."""
        return stand_in_notice(self.model) if self.train or self.metrics.get("model") else None

    @cached_property
    def tasks(self) -> dict[str, TaskSpec]:
        """What was asked.

        Raises:
            ConfigError: metrics.json does not say, or not in this form.
        """
        return recorded_evaluation(self.folder / "metrics.json", self.metrics.get("evaluation")).tasks

    @cached_property
    def created(self) -> datetime:
        """When the run was evaluated, or else trained.

        Raises:
            ConfigError: neither record has a date.
        """
        text = self.metrics.get("created_at") or (self.train or {}).get("created_at")
        try:
            return datetime.fromisoformat(str(text)).astimezone(UTC)
        except ValueError:
            at = self.folder / "metrics.json"
            raise ConfigError(f"{at}: created_at: found {text!r}, expected an ISO 8601 date") from None

    def rows(self, task: str, *, fields: Sequence[str]) -> list[dict[str, Any]]:
        """A task's predictions, as ``read_predictions`` gives them.

        Raises:
            ConfigError: also where they are not as many as were asked.
        """
        rows, n = read_predictions(self.folder, task, fields=fields), self.metrics["tasks"][task]["n"]
        if len(rows) != n:
            raise ConfigError(f"{self.folder / 'predictions' / task}.jsonl: found {len(rows)} rows, expected n = {n}")
        return rows


def hub_id(model: BaseModelSpec) -> str | None:
    """The base model's id on the hub, None for one that is not there. (transformers also takes folders in its place.)"""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, but not in an __all__

    if not isinstance(model.source, HubModel):
        return None
    name = model.source.model_name_or_path
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return None if Path(name).is_dir() else name


def stand_in_notice(model: BaseModelSpec) -> str | None:
    """What the numbers of a model that is not the paper's do not say; None for the paper's own models."""
    if not model.is_stand_in:
        return None
    if model.stands_for is None:
        return f"{model.label} is none of the paper's models; its numbers say nothing about {_names()}."
    label = reported.MODEL_LABELS[model.stands_for]
    return (
        f"{model.label} takes the place of {label} so that the whole path can be tried at little cost. Its numbers "
        f"say nothing about {label}."
    )


def _names() -> str:
    *first, last = reported.MODEL_LABELS.values()
    return f"{', '.join(first)} or {last}"


#: Of a test set that is generated.
GENERATED_NOTICE = (
    "The questions are generated, not those of the public set, and the numbers cannot be compared with anyone's on it."
)


def command(module: str, description: str, write: Callable[[Path], list[Path]]) -> cli.Command:
    """The command that writes an export's files for each of some runs; none for one that diverged."""

    def execute(args: argparse.Namespace) -> int:
        for run_dir in args.run_dirs:
            written = write(run_dir)
            print(f"{run_dir}: {f'{len(written)} files in {written[0].parent}' if written else 'the run diverged, no files'}")
        return 0

    return cli.Command(module, description.split("\n")[0], cli.add_run_dirs, execute)
