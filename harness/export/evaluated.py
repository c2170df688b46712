"""What every export takes from the records of an evaluated run."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evaluation import sets
from evaluation.sets.base import EvaluationSet
from evaluation.sets.columns import Columns
from harness import cli, reported
from harness.errors import ConfigError
from harness.records.training import FILE, read_training
from harness.schema.base_models import BaseModelSpec, HubModel


def created(run_dir: Path, metrics: Mapping[str, Any]) -> datetime:
    """When the run was evaluated, or else trained.

    Raises:
        ConfigError: neither record has a date.
    """
    text = metrics.get("created_at")
    if text is None and (run_dir / FILE).is_file():
        text = read_training(run_dir).get("created_at")
    try:
        return datetime.fromisoformat(str(text)).astimezone(UTC)
    except ValueError:
        raise ConfigError(f"{run_dir / 'metrics.json'}: created_at: found {text!r}, expected an ISO 8601 date") from None


def set_of(run_dir: Path, task: str, spec: Mapping[str, Any]) -> EvaluationSet:
    """The evaluation set of a task as ``metrics.json`` has it.

    Raises:
        ConfigError: there is none of that name.
    """
    try:
        format = spec["format"]
        return sets.get(format if isinstance(format, str) else Columns.model_validate(format))
    except KeyError as error:
        raise ConfigError(f"{run_dir / 'metrics.json'}: evaluation.tasks.{task}.format: {error.args[0]}") from None


def base_model(run_dir: Path, metrics: Mapping[str, Any]) -> BaseModelSpec | None:
    """What was fine-tuned, or evaluated as it is. None: the records do not say."""
    content = metrics.get("model")
    if content is None and (run_dir / FILE).is_file():
        content = read_training(run_dir)["spec"]["model"]
    return None if content is None else BaseModelSpec.model_validate(content)


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
