"""Evaluate one trained run on every task of its domain, or a base model as it is.

The model is loaded once. Each task writes ``predictions/<task>.jsonl``; ``metrics.json`` is written last and whole. Where a
task fails, the finished ones are kept for the next attempt.
"""

from __future__ import annotations

import datetime
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli import CACHE
from harness.engine import process
from harness.engine.process import VLLM
from harness.errors import ConfigError, within
from harness.evaluate.finished_tasks import FinishedTasks, task_key
from harness.evaluate.task import check_task, evaluate_task
from harness.files import write_json, write_jsonl
from harness.provenance import file_sha256
from harness.records.training import read_training, require_artefact
from harness.schema.evaluation import EvaluationSpec
from harness.schema.fields import SCHEMA_VERSION
from harness.schema.run import RunSpec
from harness.threads import limit_threads

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from harness.schema.evaluation import Protocol
    from harness.schema.experiment import Experiment

#: Where a run's folder keeps finished tasks until all are.
UNFINISHED = ".unfinished-evaluation"


class TaskError(RuntimeError):
    """A task failed. The message names it, why, and which finished tasks are kept for the next attempt."""


def evaluate_run(spec: RunSpec, *, run_dir: Path, models_dir: Path, data_dir: str | None) -> dict[str, Any]:
    """Evaluate every task and write predictions and metrics. A run whose training diverged gets its status and no
    numbers.

    Returns:
        What was written to metrics.json.

    Raises:
        ConfigError: no training record that can be used, or bad input of a task.
        TaskError: a task failed otherwise.
    """
    with _recorded(spec.evaluation, run_dir) as record:
        trained = read_training(run_dir)
        record |= {
            "run_id": spec.run_id,
            "experiment": spec.experiment,
            "status": trained["status"],
            "evaluation": spec.evaluation.model_dump(mode="json"),
        }
        if record["status"] == "diverged":
            (run_dir / "predictions").mkdir(parents=True, exist_ok=True)
            record["tasks"] = {}
        else:
            from harness.data.contamination import contamination_summary
            from harness.models.load import load_for_evaluation

            record |= evaluate_tasks(
                spec.evaluation,
                load=lambda: load_for_evaluation(spec, adapter_dir=require_artefact(run_dir, trained), models_dir=models_dir),
                # A training record is written once for each adapter, and holds times: another training, another record.
                weights=file_sha256(run_dir / "train.json"),
                folder=run_dir,
                data_dir=data_dir,
                title=f"evaluate {spec.run_id}",
                overlap=lambda records: contamination_summary(
                    spec.data,
                    spec.evaluation.tasks,
                    records,
                    data_dir=data_dir,
                    cache_dir=CACHE,
                    training_sha256=trained["data"]["sha256"],
                ),
            )
    return record


def evaluate_base(
    experiment: Experiment, *, model_key: str, protocol: Protocol, run_dir: Path, models_dir: Path
) -> dict[str, Any]:
    """Evaluate one base model, as it is, on the tasks of ``experiment.base_evaluation`` under one protocol.

    Returns:
        What was written to metrics.json.

    Raises:
        ConfigError: the experiment asks for no such evaluation, or bad input of a task.
        TaskError: a task failed otherwise; finished ones are kept for the next attempt.
    """
    from harness.models.load import base_model_hash, load_base_for_evaluation

    asked = experiment.base_evaluation
    if asked is None or model_key not in asked.models or protocol not in asked.protocols:
        stated = "nothing" if asked is None else f"models {list(asked.models)} and protocols {list(asked.protocols)}"
        raise ConfigError(f"base_evaluation: found {stated}, expected model {model_key!r} under protocol {protocol!r}")
    evaluation, model = asked.evaluation(protocol), experiment.models[model_key]
    with _recorded(evaluation, run_dir) as record:
        weights = base_model_hash(model_key, model, models_dir=models_dir)
        record |= {
            "run_id": f"base/{model_key}/{protocol}",
            "experiment": experiment.name,
            "status": "success",
            "model": model.model_dump(mode="json"),
            "base_model_hash": weights,
            "evaluation": evaluation.model_dump(mode="json"),
        }
        record |= evaluate_tasks(
            evaluation,
            load=lambda: load_base_for_evaluation(model_key, model, models_dir=models_dir, dtype=evaluation.dtype),
            weights=weights,
            folder=run_dir,
            data_dir=experiment.data_dir,
            title=f"evaluate {model_key} ({protocol})",
        )
    return record


@contextmanager
def _recorded(evaluation: EvaluationSpec, folder: Path) -> Iterator[dict[str, Any]]:
    """A record to fill in, of tasks that are checked first; afterwards it is written, with the time that it took."""
    for name, task in evaluation.tasks.items():
        with within("evaluation", "tasks", name):
            check_task(task)
    start, processor = time.perf_counter(), time.process_time()
    record: dict[str, Any] = {"schema_version": SCHEMA_VERSION}
    yield record
    record |= {"wall_time_s": time.perf_counter() - start, "cpu_time_s": time.process_time() - processor}
    write_json(folder / "metrics.json", record)
    FinishedTasks(folder / UNFINISHED).clear()


def evaluate_tasks(
    evaluation: EvaluationSpec,
    *,
    load: Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerBase]],
    weights: str,
    folder: Path,
    data_dir: str | None,
    title: str,
    overlap: Callable[[Mapping[str, Sequence[dict[str, Any]]]], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Evaluate every task of a suite, but for those that an earlier attempt finished, and write their predictions to
    ``folder/predictions``.

    Args:
        load: gives model and tokenizer; called once, if at all.
        weights: identifies the model's weights.
        overlap: of the records by task with what the model was fine-tuned on; None where there is no such set.

    Returns:
        The metrics by task, and what they were made with.

    Raises:
        ConfigError: bad input of a task.
        TaskError: a task failed otherwise.
    """

    from harness.data.load import load_records, source_fingerprint
    from harness.evaluate.lm_eval import load_tasks as load_lm_eval_tasks
    from harness.evaluate.lm_eval import run_lm_eval
    from harness.progress import Progress
    from harness.provenance import git_state, hardware, versions

    limit_threads()
    tasks = evaluation.tasks
    records = {name: load_records(task.source, data_dir=data_dir, limit=task.limit) for name, task in tasks.items()}
    shared = overlap(records) if overlap is not None else None
    with within("evaluation", "lm_eval"):
        outside = load_lm_eval_tasks(evaluation.lm_eval) if evaluation.lm_eval is not None else None
    progress = Progress(title)
    finished = FinishedTasks(folder / UNFINISHED)
    generated_by = _engine(evaluation)
    loaded = functools.cache(load)
    metrics: dict[str, Any] = {}
    with ExitStack() as stack:

        @functools.cache
        def engine() -> VLLM | None:
            if evaluation.engine != "vllm":
                return None
            server = VLLM(*loaded(), folder=folder / UNFINISHED, prefix_caching=evaluation.prefix_caching)
            return stack.enter_context(server)

        for name, task in tasks.items():
            fingerprint = source_fingerprint(records[name])
            key = task_key(task, how=evaluation, engine=generated_by, weights=weights, data_sha256=fingerprint)
            result = finished.load(name, key)
            if result is None:
                asked = (*loaded(), name, task, records[name], progress.update)
                server = engine()
                with _naming(name, kept=tuple(metrics)):
                    result = evaluate_task(*asked, how=evaluation, engine=server)
                finished.save(name, key, result)
            predictions = folder / "predictions" / f"{name}.jsonl"
            write_jsonl(predictions, result.predictions)
            metrics[name] = result.metrics | {"data_sha256": fingerprint, "predictions_bytes": predictions.stat().st_size}
    lm_eval: dict[str, Any] | None = None
    if evaluation.lm_eval is not None and outside is not None:
        model, tokenizer = loaded()
        with _naming("lm_eval", kept=tuple(metrics)):
            lm_eval = run_lm_eval(model, tokenizer, evaluation.lm_eval, tasks=outside)
        _write_lm_eval_samples(lm_eval, folder)
    return {
        "tasks": metrics,
        "lm_eval": lm_eval,
        "engine": generated_by,
        "contamination": shared,
        "created_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "hardware": hardware(),
        "git": git_state(Path(__file__).parent),
    }


def _engine(evaluation: EvaluationSpec) -> dict[str, str]:
    """What generates, and its release."""
    release = process.version() if evaluation.engine == "vllm" else metadata.version(evaluation.engine)
    return {"name": evaluation.engine, "version": release}


def _write_lm_eval_samples(results: dict[str, Any], folder: Path) -> None:
    """Move the samples of each task, which a group has none of, from its result to a file."""
    for name, result in results.items():
        samples = result.pop("samples")
        if "subtasks" not in result:
            write_jsonl(folder / "predictions" / "lm_eval" / f"{name}.jsonl", samples)


@contextmanager
def _naming(name: str, *, kept: Sequence[str]) -> Iterator[None]:
    """Say which task failed and which ones need not be repeated."""
    rest = f"; kept for the next attempt: {', '.join(kept)}" if kept else ""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{error}{rest}") from error
    except Exception as error:  # whatever it is, hours of finished work are named beside it
        raise TaskError(f"evaluation.tasks.{name} failed: {type(error).__name__}: {error}{rest}") from error
