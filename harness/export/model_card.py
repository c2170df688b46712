"""The model card of a run, written from its records alone: ``adapter/README.md`` and ``adapter/.eval_results/*.yaml``.

``harness.evaluate`` writes it; ``python -m harness.export.model_card RUN_DIR ...`` writes the cards of finished runs anew,
without a model. A card can be uploaded as it is: it names hub ids where there are any, and no path of the machine that trained.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, ModelCardData, eval_result_entries_to_yaml

import methods
from harness import cli
from harness.errors import ConfigError
from harness.export.evaluated import Evaluated, stand_in_notice
from harness.export.model_card_text import EVAL_RESULTS, EXPORT, Card, body, dataset_name, metric_type, percent
from harness.files import write_json
from harness.records.training import read_training
from harness.schema.data import FileData, LocalData
from harness.schema.evaluation import TaskSpec
from harness.schema.run import RunSpec

CARD = "README.md"


def write(run_dir: Path) -> None:
    """Write the card of a finished run over the template that PEFT leaves, and its results for the hub.

    Also takes absolute paths out of the adapters' ``adapter_config.json``, whose ``base_model_name_or_path`` becomes null
    then: the base model is not to be had under that name elsewhere.

    Args:
        run_dir: holds ``train.json``, ``metrics.json`` and ``adapter/``.

    Raises:
        ConfigError: a record is missing, or is not that of a successful run, or there is no artefact.
    """
    card = _read(run_dir)
    adapter = run_dir / "adapter"
    shutil.rmtree(adapter / EVAL_RESULTS, ignore_errors=True)
    for task, entry in _entries(card).items():
        path = adapter / EVAL_RESULTS / f"{task}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False), encoding="utf-8")
    ModelCard(f"---\n{_data(card).to_yaml()}\n---\n\n{body(card)}").save(adapter / CARD)
    for config in (adapter / "adapter_config.json", adapter / EXPORT / "adapter_config.json"):
        if config.is_file():
            _forget_local_base(config)


# ------------------------------------------------------------------------------------------------------------- the records


def _read(run_dir: Path) -> Card:
    train, run = read_training(run_dir), Evaluated(run_dir)
    if train["status"] != "success":
        raise ConfigError(
            f"{run_dir / 'train.json'}: status: found {train['status']!r}, expected 'success': there is no model to describe"
        )
    adapter = run_dir / "adapter"
    exported = (adapter / EXPORT / "adapter_config.json").is_file()
    is_adapter = exported or (adapter / "adapter_config.json").is_file()
    if not is_adapter and not (adapter / "config.json").is_file():
        raise ConfigError(f"{adapter}: found neither adapter_config.json nor config.json, expected an adapter or a model")
    return Card(
        spec=RunSpec.model_validate(train["spec"]),
        tasks=run.tasks,
        train=train,
        metrics=run.metrics,
        artefact="adapter" if is_adapter else "model",
        subfolder=EXPORT if exported else None,
    )


def _forget_local_base(path: Path) -> None:
    config = json.loads(path.read_text(encoding="utf-8"))
    if Path(config.get("base_model_name_or_path") or "").is_absolute():
        write_json(path, {**config, "base_model_name_or_path": None})


# ------------------------------------------------------------------------------------------------------ what machines read


def _commit(source: FileData) -> str | None:
    """The revision if it is a commit; a branch says nothing about which rows these were."""
    return source.revision if re.fullmatch(r"[0-9a-f]{40}", source.revision) else None


def _data(card: Card) -> ModelCardData:
    """The card's metadata. Keys that have no true value are left out."""
    spec, is_adapter = card.spec, card.artefact == "adapter"
    relation = None if card.base_id is None else "adapter" if is_adapter else "finetune"
    tags = [methods.get(spec.method.name).cls.name, spec.method.name, "transformers"]
    if is_adapter:
        tags += ["lora", *([f"base_model:adapter:{card.base_id}"] if card.base_id else [])]
    if spec.model.is_stand_in:
        tags.append("stand-in")
    return ModelCardData(
        library_name="peft" if is_adapter else "transformers",
        base_model=card.base_id,
        base_model_relation=relation,
        pipeline_tag="text-generation",
        datasets=[spec.data.source.hub_id] if isinstance(spec.data.source, FileData) else None,
        metrics=sorted({metric_type(task) for task in _answered(card).values()}),
        tags=tags,
        model_name=card.name,
        eval_results=[_eval_result(name, task, card.metrics["tasks"][name]) for name, task in _answered(card).items()],
    )


def _answered(card: Card) -> dict[str, TaskSpec]:
    return {name: task for name, task in card.tasks.items() if task.grader is not None}


def _eval_result(name: str, task: TaskSpec, metrics: dict[str, Any]) -> EvalResult:
    source = task.source
    shared: dict[str, Any] = {
        "task_type": "text-generation",
        "dataset_name": dataset_name(source, format=task.format, limit=task.limit),
        "metric_type": metric_type(task),
        "metric_value": percent(metrics),
        "metric_name": f"{name}: {metric_type(task)}, %",
    }
    if isinstance(source, FileData):
        return EvalResult(
            **shared,
            dataset_type=source.hub_id,
            dataset_split=source.split,
            dataset_revision=_commit(source),
            dataset_config=source.hub_config if isinstance(source.hub_config, str) else None,
        )
    if isinstance(source, LocalData):
        return EvalResult(**shared, dataset_type="local")
    return EvalResult(**shared, dataset_type="generated", dataset_config=source.generator)


def _entries(card: Card) -> dict[str, EvalResultEntry]:
    """Task -> its result in the hub's form. Generated sets have no place there: the form asks for a hub data set."""
    return {
        name: EvalResultEntry(
            dataset_id=task.source.hub_id,
            task_id=str(task.format),
            value=percent(card.metrics["tasks"][name]),
            dataset_revision=_commit(task.source),
            notes=_notes(task, card.metrics["tasks"][name], spec=card.spec),
        )
        for name, task in _answered(card).items()
        if isinstance(task.source, FileData)
    }


def _notes(task: TaskSpec, metrics: dict[str, Any], *, spec: RunSpec) -> str:
    first = "" if task.limit is None else " (the first rows only)"
    graded = f" ({metrics['sources']['grader'][:12]})" if metrics.get("sources") else ""
    notice = stand_in_notice(spec.model)
    return (
        f"{metric_type(task)} in %, n = {metrics['n']}{first}, standard error {100 * metrics['stderr']:.2f}, one training "
        f"seed ({spec.seed}); zero-shot, greedy, prompt {task.prompt_template}, grader {metrics['grader']}{graded}"
        + (f"; stand-in: {notice}" if notice else "")
    )


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m harness.export.model_card", description=__doc__.split("\n")[0])
    parser.add_argument("run_dirs", type=Path, nargs="+", metavar="RUN_DIR", help="holds train.json, metrics.json and adapter/")
    for run_dir in parser.parse_args(arguments).run_dirs:
        write(run_dir)
    return 0


if __name__ == "__main__":
    cli.run(main)
