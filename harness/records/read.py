"""Records of finished runs: found, checked and gathered.

A run's folder ``results/{experiment}/{run_id}/`` holds ``train.json``, ``metrics.json`` and
``predictions/<task>.jsonl``. They are the source of truth; ``runs.parquet`` is rebuilt from them. Commands that are given an
experiment read its runs with ``load_records``, which checks them against the experiment's settings; those that are given a
folder use ``read_metrics`` and ``read_predictions``. No torch.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

import methods
from harness import cli
from harness.errors import ConfigError
from harness.experiment.runs import Asked
from harness.records.versioned import MissingRecord, Recipe, RecordError, read_json, validated
from harness.schema.evaluation import EvaluationSpec, Metric
from harness.schema.run import RunSpec
from harness.statistics.collapse import has_lost_answers, is_at_floor

DEFAULT_RESULTS = cli.RESULTS
SNAKEMAKE = "snakemake --cores all"
#: Settings of training and of evaluation that came into the schema later, and whose default is not what was done before.
_EARLIER = {"fused": False}
_EARLIER_EVALUATION = {"scoring": "rows", "prefix_caching": False}


class StaleRecord(RecordError):
    """The record was made with other settings than the experiment has now."""


class _Record(BaseModel):
    """What is read here; a record may hold more."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class TrainRecord(_Record):
    """train.json."""

    schema_version: int
    run_id: str
    spec: dict[str, Any]
    status: Literal["success", "diverged"]
    trainable_parameters: int = Field(ge=0)
    base_parameters: int = Field(ge=1)
    wall_time_s: float = Field(ge=0)
    cpu_time_s: float | None = Field(None, ge=0)
    peak_memory_bytes: int | None = Field(ge=0)
    steps: int | None = Field(None, ge=0, description="optimizer steps done")


class TaskMetrics(_Record):
    """One task of metrics.json. Shares are fractions of n; NLL is in nats per token of the gold answer."""

    accuracy: float | None = Field(ge=0, le=1, description="null: nothing was answered")
    n: int = Field(ge=1)
    stderr: float | None = None
    unparseable: float | None = None
    truncated: float | None = None
    timed_out: float | None = None
    gold_nll: float | None = None
    gold_nll_stderr: float | None = None
    floor: float | None = Field(None, ge=0, le=1, description="null: open answers")
    grader: str | None
    sources: dict[str, str] | None = Field(None, description="hashes of the graders' code and of the metric's, where recorded")
    predictions_bytes: int | None = Field(None, description="size of the task's file of predictions, where recorded")


class MetricsRecord(_Record):
    """metrics.json. A diverged run has no tasks: it has no numbers."""

    schema_version: int
    run_id: str
    status: Literal["success", "diverged"]
    tasks: dict[str, TaskMetrics]
    evaluation: dict[str, Any] | None = Field(None, description="the evaluation spec behind the numbers")
    wall_time_s: float | None = Field(None, ge=0)
    cpu_time_s: float | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _numbers_of_a_success(self) -> MetricsRecord:
        if bool(self.tasks) != (self.status == "success"):
            raise ValueError(f"tasks: found {sorted(self.tasks)} of a run with status {self.status}")
        return self


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Per-example scores of one task, in the order of the test set. ``correct`` is 1 or 0, or 1/k for the right one of k
    choices that tie, and None where nothing was answered. ``gold_nll`` is None where it was not measured. ``sources`` says what
    graded (``harness.records.grader_sources``); None in older records."""

    ids: tuple[str, ...]
    correct: NDArray[np.float64] | None
    gold_nll: NDArray[np.float64] | None
    sources: Mapping[str, str] | None
    #: Share of the commonest reference answer; 1 where they are not recorded.
    constant: float

    def scores(self, metric: Metric) -> NDArray[np.float64] | None:
        """What the metric is the mean of, shape (examples,); None where it was not measured."""
        return self.correct if metric == "accuracy" else self.gold_nll


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A finished run. ``predictions`` is empty for a diverged one."""

    run: RunSpec
    folder: Path
    train: TrainRecord
    metrics: MetricsRecord
    predictions: dict[str, Predictions]

    @property
    def diverged(self) -> bool:
        return self.train.status == "diverged"

    def collapsed_on(self, tasks: Iterable[str], base: Mapping[Asked, Predictions | None]) -> list[str]:
        """Those of the tasks that it answers no better than a constant; of tasks with open answers, where its base model did.

        Args:
            base: what base models answered, where it is known.
        """
        return [task for task in tasks if task in self.predictions and self._has_collapsed(task, base)]

    def _has_collapsed(self, task: str, base: Mapping[Asked, Predictions | None]) -> bool:
        metrics, own = self.metrics.tasks[task], self.predictions[task]
        if metrics.floor is not None or own.correct is None:
            return is_at_floor(metrics.accuracy, metrics.floor, metrics.n)
        before = base.get((self.run.model_key, self.run.domain, task))
        if before is None or before.ids != own.ids:
            return False
        return has_lost_answers(own.correct, before.correct, constant=own.constant)


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """The records of some runs, and the runs that have none."""

    records: list[RunRecord]
    missing: list[RunSpec]
    stale: list[RunSpec]


# ------------------------------------------------------------------------------------------------------------- reading

RecordT = TypeVar("RecordT", TrainRecord, MetricsRecord)


def run_folder(run: RunSpec, *, results: Path = DEFAULT_RESULTS) -> Path:
    """Where the records of a run lie."""
    return results / run.experiment / run.run_id


def read_record(path: Path, model: type[RecordT], run_id: str, command: str = SNAKEMAKE) -> RecordT:
    """A record by itself, whatever the experiment's settings are now.

    Raises:
        MissingRecord: it is not there.
        BrokenRecord: it cannot be read, does not fit its model, or is another run's.
    """
    recipe = Recipe.workflow(command, path)
    record = validated(path, read_json(path, recipe), model, recipe)
    if record.run_id != run_id:
        raise recipe.broken(path, f"run_id: found {record.run_id!r}, expected {run_id!r}")
    return record


def _check_spec(path: Path, train: TrainRecord, run: RunSpec, command: str) -> None:
    """The record's settings are the experiment's, as far as they change the trained artefact; one that came into the schema
    later has its default, or ``_EARLIER``'s value."""
    try:
        recorded = json.loads(_completed(train.spec).training_json())
    except (ValidationError, KeyError):
        recorded = None
    expected = json.loads(run.training_json())
    if recorded != expected:
        what = "a spec of another form" if recorded is None else _first_difference(recorded, expected)
        raise StaleRecord(f"{path}: spec: {what}; the record is stale, rerun: {Recipe.workflow(command, path).make}")


def _completed(spec: dict[str, Any]) -> RunSpec:
    training = spec.get("training")
    run = RunSpec.model_validate(spec | {"training": _EARLIER | training} if isinstance(training, dict) else spec)
    method = run.method
    settings = methods.get(method.name).cls.Settings.model_validate(method.settings).model_dump(mode="json")
    return run.model_copy(update={"method": method.model_copy(update={"settings": settings})})


def recorded_evaluation(path: Path, content: Any) -> EvaluationSpec:
    """``evaluation`` of the metrics.json at ``path``; settings that came into the schema later have their defaults, or
    ``_EARLIER_EVALUATION``'s value.

    Raises:
        ConfigError: it is none; the message names the first key that is wrong.
    """
    try:
        return EvaluationSpec.model_validate(_EARLIER_EVALUATION | content if isinstance(content, dict) else content)
    except ValidationError as error:
        first = error.errors()[0]
        wrong = ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
        found = f"found no settings of this form ({wrong}), expected those of a run"
        raise ConfigError(f"{path}: evaluation: {found}") from None


def _check_evaluation(path: Path, metrics: MetricsRecord, evaluation: EvaluationSpec, rerun: str) -> None:
    """The record's evaluation is the experiment's."""
    if metrics.evaluation is None:
        return
    expected = evaluation.model_dump(mode="json")
    try:
        recorded = recorded_evaluation(path, metrics.evaluation).model_dump(mode="json")
    except ConfigError:
        recorded = metrics.evaluation
    if recorded != expected:
        raise StaleRecord(f"{path}: evaluation: {_first_difference(recorded, expected)}; {rerun}")


def _first_difference(recorded: Any, expected: Any, at: str = "") -> str:
    if isinstance(recorded, dict) and isinstance(expected, dict):
        for key in sorted(recorded.keys() | expected.keys()):
            if recorded.get(key) != expected.get(key):
                return _first_difference(recorded.get(key), expected.get(key), f"{at}.{key}" if at else key)
    return f"found {at} = {recorded!r}, expected {expected!r}"


def _read_predictions(path: Path, metrics: TaskMetrics, command: str) -> Predictions:
    source = path.parent.parent / "metrics.json"
    recipe = Recipe.workflow(command, source)
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        ids = tuple(str(row["id"]) for row in rows)
        correct = None if metrics.accuracy is None else np.array([float(row["correct"]) for row in rows])
        losses = [row.get("gold_nll") for row in rows]
    except FileNotFoundError:
        raise recipe.broken(path, f"found no such file beside {source.name}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise recipe.broken(path, f"found an incomplete or foreign line ({error!r})") from error
    if len(ids) != metrics.n or len(set(ids)) != metrics.n:
        raise recipe.broken(path, f"found {len(ids)} rows, {len(set(ids))} ids, expected n = {metrics.n}")
    if correct is not None and not math.isclose(float(correct.mean()), metrics.accuracy or 0.0, abs_tol=1e-9):
        raise recipe.broken(path, f"found accuracy {correct.mean():.6g}, {source.name} says {metrics.accuracy:.6g}")
    measured = all(isinstance(value, int | float) and math.isfinite(value) for value in losses)
    gold_nll = np.array(losses, dtype=float) if measured else None
    constant = max(Counter(str(row.get("gold")) for row in rows).values()) / len(rows)
    return Predictions(ids=ids, correct=correct, gold_nll=gold_nll, sources=metrics.sources, constant=constant)


def check_predictions(folder: Path, metrics: MetricsRecord) -> None:
    """Hold the predictions beside a ``metrics.json`` against it, as far as a look takes no time: by their size, or where it is
    not recorded, by the number of lines and what stands in the first and the last. ``_read_predictions`` reads them all.

    Raises:
        BrokenRecord: the file of a task is missing, or is not what the evaluation wrote.
    """
    recipe = Recipe.workflow(SNAKEMAKE, folder.parent / "metrics.json")
    for name, task in metrics.tasks.items():
        path = folder / f"{name}.jsonl"
        if not path.is_file():
            raise recipe.broken(path, f"found no such file, metrics.json has {task.n} answers")
        if task.predictions_bytes is not None:
            if (size := path.stat().st_size) != task.predictions_bytes:
                raise recipe.broken(path, f"found {size} bytes, metrics.json says {task.predictions_bytes}")
            continue
        lines = path.read_bytes().splitlines()
        if len(lines) != task.n:
            raise recipe.broken(path, f"found {len(lines)} lines, metrics.json says {task.n}")
        try:
            for row in map(json.loads, (lines[0], lines[-1])):
                _ = row["id"], None if task.accuracy is None else float(row["correct"])
        except (ValueError, KeyError, TypeError) as error:
            raise recipe.broken(path, f"found an incomplete or foreign line ({error!r})") from error


def load_train_record(run: RunSpec, *, results: Path = DEFAULT_RESULTS, command: str = SNAKEMAKE) -> TrainRecord:
    """Read and check one run's train.json.

    Raises:
        MissingRecord: it is not there.
        StaleRecord: it was made with other settings.
        RecordError: it cannot be read or has another schema version.
    """
    path = run_folder(run, results=results) / "train.json"
    train = read_record(path, TrainRecord, run.run_id, command)
    _check_spec(path, train, run, command)
    return train


def load_record(run: RunSpec, *, results: Path = DEFAULT_RESULTS, command: str = SNAKEMAKE) -> RunRecord:
    """Read and check one run's record.

    Raises:
        MissingRecord: not all of the record is there.
        StaleRecord: it was made with other settings.
        RecordError: it cannot be read, has another schema version, or contradicts itself.
    """
    folder = run_folder(run, results=results)
    train = load_train_record(run, results=results, command=command)
    path = folder / "metrics.json"
    metrics = read_record(path, MetricsRecord, run.run_id, command)
    rerun = _rerun(command, path)
    if metrics.status != train.status:
        raise StaleRecord(f"{path}: status: found {metrics.status!r}, train.json says {train.status!r}; {rerun}")
    _check_evaluation(path, metrics, run.evaluation, rerun)
    if train.status == "diverged":
        return RunRecord(run=run, folder=folder, train=train, metrics=metrics, predictions={})
    predictions = _all_predictions(path, metrics, run.evaluation, command)
    return RunRecord(run=run, folder=folder, train=train, metrics=metrics, predictions=predictions)


def load_base_predictions(
    folder: Path, evaluation: EvaluationSpec, *, run_id: str, command: str = SNAKEMAKE
) -> dict[str, Predictions]:
    """Read and check what a base model answered without fine-tuning, task by task (``harness.evaluate.base``).

    Args:
        run_id: base/model/protocol.

    Raises:
        RecordError: as ``load_record``.
    """
    path = folder / "metrics.json"
    metrics = read_record(path, MetricsRecord, run_id, command)
    _check_evaluation(path, metrics, evaluation, _rerun(command, path))
    return _all_predictions(path, metrics, evaluation, command)


def _rerun(command: str, path: Path) -> str:
    return f"the record is stale, rerun: {Recipe.workflow(command, path).make}"


def _all_predictions(path: Path, metrics: MetricsRecord, evaluation: EvaluationSpec, command: str) -> dict[str, Predictions]:
    """The predictions beside the ``metrics.json`` at ``path``, of every task of the evaluation."""
    found, expected = sorted(metrics.tasks), sorted(evaluation.tasks)
    if found != expected:
        raise StaleRecord(f"{path}: tasks: found {found}, expected {expected}; {_rerun(command, path)}")
    folder = path.parent / "predictions"
    return {task: _read_predictions(folder / f"{task}.jsonl", metrics.tasks[task], command) for task in evaluation.tasks}


def load_records(
    runs: Sequence[RunSpec],
    *,
    results: Path = DEFAULT_RESULTS,
    command: str = SNAKEMAKE,
    target: str | None = None,
    allow_missing: bool = False,
) -> Loaded:
    """Read and check the records of ``runs``.

    Args:
        command: how the experiment is run, for error messages (``Config.snakemake``).
        target: what makes all of them, such as ``reproduce_table1``; without it, messages name the first record's path.
        allow_missing: leave out runs without a record or with a stale one. Broken records are errors in any case.

    Raises:
        RecordError: a record is broken; or records are missing or stale (the message names the first few).
    """
    records: list[RunRecord] = []
    missing: list[tuple[RunSpec, MissingRecord]] = []
    stale: list[tuple[RunSpec, StaleRecord]] = []
    for run in runs:
        try:
            records.append(load_record(run, results=results, command=command))
        except MissingRecord as error:
            missing.append((run, error))
        except StaleRecord as error:
            stale.append((run, error))
    if not allow_missing and stale:
        everything = "" if target is None else f"; make all: {command} -- {target}"
        raise (
            stale[0][1]
            if len(stale) == 1
            else StaleRecord(f"{len(stale)} of {len(runs)} runs are stale; the first: {stale[0][1]}{everything}")
        )
    if not allow_missing and missing:
        first = run_folder(missing[0][0], results=results) / "metrics.json"
        make = f"make the first: {Recipe.workflow(command, first).make}"
        if target is not None:
            make = f"make them: {command} -- {target}"
        raise _missing_error([run for run, _ in missing], len(runs), results, make)
    return Loaded(records=records, missing=[run for run, _ in missing], stale=[run for run, _ in stale])


def _missing_error(runs: Sequence[RunSpec], total: int, results: Path, make: str) -> MissingRecord:
    names = ", ".join(run.run_id for run in runs[:3]) + (", ..." if len(runs) > 3 else "")
    folder = results / runs[0].experiment
    return MissingRecord(f"{folder}: found no complete record for {len(runs)} of {total} runs: {names}; {make}")


# ---------------------------------------------------------------------------------------------- a folder by itself


def read_metrics(run_dir: Path) -> dict[str, Any]:
    """The content of metrics.json.

    Raises:
        RecordError: it is missing, not JSON, of another schema version, or has no tasks.
    """
    path, recipe = run_dir / "metrics.json", Recipe.command("python -m harness.evaluate")
    content = read_json(path, recipe)
    if not isinstance(content.get("tasks"), dict):
        raise recipe.broken(path, f"tasks: found {type(content.get('tasks')).__name__}, expected one entry a task")
    return content


def read_predictions(run_dir: Path, task: str, *, fields: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of one task's predictions, in the order of the test set.

    Args:
        fields: what every row must have.

    Raises:
        ConfigError: the file is missing, or a line (numbered from 1) is no JSON object or lacks a field.
    """
    return read_rows(run_dir / "predictions" / f"{task}.jsonl", fields=fields)


def read_rows(path: Path, *, fields: Sequence[str]) -> list[dict[str, Any]]:
    """The JSON objects of a file with one a line.

    Args:
        fields: what every row must have.

    Raises:
        ConfigError: the file is missing, or a line (numbered from 1) is no JSON object or lacks a field.
    """
    try:
        # Not splitlines: JSON that is not escaped to ASCII may hold U+2028 and other ends of lines inside a string.
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}), expected one prediction a line") from error
    rows = []
    for number, line in enumerate(lines if lines[-1] else lines[:-1], start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{path}:{number}: found no JSON ({error}), expected one prediction a line") from None
        missing = [field for field in fields if not isinstance(row, dict) or field not in row]
        if missing:
            raise ConfigError(f"{path}:{number}: field {missing[0]!r} is missing, expected {', '.join(fields)}")
        rows.append(row)
    return rows
