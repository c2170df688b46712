"""Which models a path on the command line stands for, and in which format their answers are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from harness.compare import inspect_log, lm_eval, runs
from harness.compare.answers import Answers, Model, seed_of
from harness.errors import ConfigError

_EXPECTED = (
    "expected sample files of lm-eval (samples_TASK_DATE.jsonl, from --log_samples), logs of Inspect AI (.eval, .json), a "
    "folder of either, or runs of this project (folders with metrics.json)"
)


def sides(first: Sequence[Path], second: Sequence[Path]) -> tuple[list[Model], list[Model]]:
    """The models of both sides, each one seed. A path is one model; a folder of run folders stands for all of these runs.

    Raises:
        ConfigError: a path is not there, is in no known format, is broken, or is given twice.
    """
    found = [[model for path in paths for model in _models(path)] for paths in (first, second)]
    seen: set[Path] = set()
    for model in [*found[0], *found[1]]:
        place = model.path.resolve()
        if place in seen:
            raise ConfigError(f"{model.path}: found it twice, expected each model once")
        seen.add(place)
    return found[0], found[1]


def _models(path: Path) -> list[Model]:
    if path.is_file():
        return [_model(path, [_read(path)])]
    if not path.is_dir():
        raise ConfigError(f"{path}: found no such file or folder, {_EXPECTED}")
    if (path / "metrics.json").is_file():
        return [runs.read_run(path)]
    below = sorted(metrics.parent for metrics in path.glob("*/metrics.json"))
    if below:
        return [runs.read_run(folder) for folder in below]
    samples = sorted(path.rglob(lm_eval.PATTERN))
    logs = sorted(
        one for suffix in inspect_log.SUFFIXES for one in path.rglob(f"*{suffix}") if not one.name.startswith(lm_eval.RESULTS)
    )
    if not samples and not logs:
        raise ConfigError(f"{path}: found none of them in this folder, {_EXPECTED}")
    return [_model(path, map(lm_eval.read, samples) if samples else map(inspect_log.read, logs))]


def _model(path: Path, answers: Iterable[Answers]) -> Model:
    tasks: dict[str, Answers] = {}
    for one in answers:
        if one.task in tasks:
            raise ConfigError(
                f"{path}: found {one.task} in {tasks[one.task].path.name} and in {one.path.name}, expected each test set once; "
                "name the file instead of the folder"
            )
        tasks[one.task] = one
    return Model(path=path, tasks=tasks, seed=seed_of(str(path)))


def _read(path: Path) -> Answers:
    if path.suffix in inspect_log.SUFFIXES:
        return inspect_log.read(path)
    return lm_eval.read(path) if "doc_hash" in _first_row(path) else runs.read(path)


def _first_row(path: Path) -> dict[str, Any]:
    try:
        with path.open(encoding="utf-8") as stream:
            row = json.loads(stream.readline())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as one JSON object a line ({error}), {_EXPECTED}") from None
    if not isinstance(row, dict):
        raise ConfigError(f"{path}: found {type(row).__name__} in the first line, {_EXPECTED}")
    return row
