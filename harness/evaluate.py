"""Evaluate one trained run on every task of its domain: ``python -m harness.evaluate --run ID --run-dir DIR``.

The model is loaded once. Each task writes ``predictions/<task>.jsonl``; ``metrics.json`` is written last and whole.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.grading import GRADERS, Grading, grade, graders_of
from evaluation.prompts import TEMPLATES
from evaluation.tasks import Example, examples
from harness.cli import add_config_arguments, add_models_argument, parse_config, run
from harness.config import SCHEMA_VERSION, ConfigError, RunSpec, TaskSpec
from harness.plan import load_run

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from harness.generate import Completion

#: Called with (done, total, note) as a task proceeds.
Report = Callable[[int, int, str], None]


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """One task's numbers, and one row per example in the order of the records."""

    metrics: dict[str, Any]
    predictions: list[dict[str, Any]]


def check_task(name: str, task: TaskSpec) -> None:
    """Refuse a task that names something unknown.

    Raises:
        ConfigError: the prompt template or the grader does not exist, or the grader is not for this format.
    """
    if task.prompt_template not in TEMPLATES:
        raise ConfigError(
            f"evaluation.tasks.{name}.prompt_template: found {task.prompt_template!r}, expected one of {', '.join(TEMPLATES)}"
        )
    if task.format not in GRADERS.get(task.grader, ()):
        raise ConfigError(
            f"evaluation.tasks.{name}.grader: found {task.grader!r}, expected one of {', '.join(graders_of(task.format))}"
        )


def evaluate_task(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    task: TaskSpec,
    records: list[dict[str, Any]],
    report: Report | None = None,
) -> TaskResult:
    """Ask, decode and grade ``records`` (already cut to the task's limit), and score their reference responses.

    Raises:
        ConfigError: an unknown template or grader, no records, or a record without a needed field.
    """
    from evaluation.sandbox import Limits
    from harness.generate import generate, reference_nll

    check_task(name, task)
    try:
        asked = examples(task.format, records)
    except ValueError as error:
        raise ConfigError(f"evaluation.tasks.{name}: {error}") from None
    if not asked:
        raise ConfigError(f"evaluation.tasks.{name}: found no records, expected at least one")
    prompts = [TEMPLATES[task.prompt_template](example.query) for example in asked]
    progress = report or (lambda done, total, note: None)
    with _timed() as generation_s:
        completions = generate(
            model,
            tokenizer,
            prompts,
            max_new_tokens=task.max_new_tokens,
            batch_size=task.batch_size,
            stop_strings=task.stop_strings,
            on_batch=lambda done, total: progress(done, total, f"{name}: answering"),
        )
    with _timed() as scoring_s:
        losses = reference_nll(
            model,
            tokenizer,
            prompts,
            [example.reference for example in asked],
            batch_size=task.batch_size,
            on_batch=lambda done, total: progress(done, total, f"{name}: scoring gold answers"),
        )
    progress(len(asked), len(asked), f"{name}: grading")
    with _timed() as grading_s:
        grading = grade(
            task.format,
            asked,
            [completion.text for completion in completions],
            limits=Limits(timeout_s=task.timeout_s, memory_mb=task.memory_mb),
        )
    rows = [
        _prediction(index, example, prompts[index], completions[index], losses[index], grading, task.grader)
        for index, example in enumerate(asked)
    ]
    seconds = {"generation": generation_s[0], "scoring": scoring_s[0], "grading": grading_s[0]}
    return TaskResult(metrics=_metrics(rows, grading, task, seconds=seconds), predictions=rows)


@contextmanager
def _timed() -> Iterator[list[float]]:
    elapsed = [0.0]
    start = time.perf_counter()
    yield elapsed
    elapsed[0] = time.perf_counter() - start


def _prediction(
    index: int,
    example: Example,
    prompt: str,
    completion: Completion,
    loss: tuple[float, int],
    grading: Grading,
    headline: str,
) -> dict[str, Any]:
    verdicts = {name: found[index] for name, found in grading.verdicts.items()}
    chosen = verdicts[headline]
    nll, tokens = loss
    return {
        "id": example.id,
        "prompt": prompt,
        "completion": completion.text,
        "extracted": chosen.extracted,
        "gold": example.gold,
        "correct": chosen.correct,
        "verdicts": {name: verdict.correct for name, verdict in verdicts.items()},
        "outcome": chosen.outcome,
        "unparseable": chosen.unparseable,
        "truncated": completion.truncated,
        "tokens": completion.tokens,
        "gold_nll": nll / tokens,
        "gold_tokens": tokens,
    }


def _share(rows: Sequence[dict[str, Any]], test: Callable[[dict[str, Any]], bool]) -> float:
    return sum(map(test, rows)) / len(rows)


def _metrics(rows: list[dict[str, Any]], grading: Grading, task: TaskSpec, *, seconds: dict[str, float]) -> dict[str, Any]:
    """Shares are of n. ``stderr`` is the binomial standard error. ``gold_nll`` is the mean over examples of nats per
    token of the reference response, ``gold_nll_stderr`` its standard error over examples (null for a single one)."""
    n = len(rows)
    accuracy = _share(rows, lambda row: row["correct"])
    losses = [row["gold_nll"] for row in rows]
    mean = math.fsum(losses) / n
    spread = math.sqrt(math.fsum((loss - mean) ** 2 for loss in losses) / (n - 1) / n) if n > 1 else None
    return {
        "accuracy": accuracy,
        "stderr": math.sqrt(accuracy * (1 - accuracy) / n),
        "n": n,
        "grader": task.grader,
        "graders": {name: sum(verdict.correct for verdict in found) / n for name, found in grading.verdicts.items()},
        "unparseable": _share(rows, lambda row: row["unparseable"]),
        "truncated": _share(rows, lambda row: row["truncated"]),
        "timed_out": _share(rows, lambda row: row["outcome"] == "timed_out"),
        "gold_nll": mean,
        "gold_nll_stderr": spread,
        "gold_tokens": sum(row["gold_tokens"] for row in rows),
        "generated_tokens": sum(row["tokens"] for row in rows),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "sandbox": {"level": grading.sandbox_level, **grading.limits} if grading.sandbox_level else None,
    }


# ------------------------------------------------------------------------------------------------------------- one run


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _json(value: Any, *, indent: int | None = None) -> str:
    # Lone surrogates (a model's broken bytes) are not UTF-8, so everything outside ASCII is escaped.
    return json.dumps(value, indent=indent, allow_nan=False, ensure_ascii=True)


def _training_status(run_dir: Path) -> str:
    path = run_dir / "train.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))["status"]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{path}: found no readable training record ({error!r}), expected one with a status") from None


def evaluate_run(spec: RunSpec, *, run_dir: Path, models_dir: Path, data_dir: str | None) -> dict[str, Any]:
    """Evaluate every task and write predictions and metrics. A run whose training diverged gets its status and no
    numbers.

    Returns:
        What was written to metrics.json.
    """
    for name, task in spec.evaluation.tasks.items():
        check_task(name, task)
    start, processor = time.perf_counter(), time.process_time()
    record: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "run_id": spec.run_id,
        "experiment": spec.experiment,
        "status": _training_status(run_dir),
        "evaluation": spec.evaluation.model_dump(mode="json"),
    }
    (run_dir / "predictions").mkdir(parents=True, exist_ok=True)
    if record["status"] == "diverged":
        record["tasks"] = {}
    else:
        record |= _evaluate_tasks(spec, run_dir=run_dir, models_dir=models_dir, data_dir=data_dir)
    record |= {"wall_time_s": time.perf_counter() - start, "cpu_time_s": time.process_time() - processor}
    _write(run_dir / "metrics.json", _json(record, indent=2) + "\n")
    return record


def _evaluate_tasks(spec: RunSpec, *, run_dir: Path, models_dir: Path, data_dir: str | None) -> dict[str, Any]:
    import torch

    from harness.data import load_records, source_fingerprint
    from harness.models import load_for_evaluation
    from harness.progress import Progress
    from harness.provenance import git_state, hardware, versions

    # One thread a job unless told otherwise: a second busy process would make two threads many times slower than one.
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    records = {
        name: load_records(task.source, data_dir=data_dir, limit=task.limit) for name, task in spec.evaluation.tasks.items()
    }
    model, tokenizer = load_for_evaluation(spec, adapter_dir=run_dir / "adapter", models_dir=models_dir)
    progress = Progress(f"evaluate {spec.run_id}")
    found: dict[str, Any] = {}
    for name, task in spec.evaluation.tasks.items():
        result = evaluate_task(model, tokenizer, name, task, records[name], progress.update)
        _write(run_dir / "predictions" / f"{name}.jsonl", "".join(_json(row) + "\n" for row in result.predictions))
        found[name] = result.metrics | {"data_sha256": source_fingerprint(records[name])}
    return {
        "tasks": found,
        "versions": versions(),
        "hardware": hardware(),
        "git": git_state(Path(__file__).resolve().parent.parent),
    }


def main(arguments: list[str] | None = None) -> int:
    """The command line. Exit status 0 means metrics.json is written."""
    parser = argparse.ArgumentParser(prog="python -m harness.evaluate", description=__doc__.split("\n")[0])
    add_config_arguments(parser)
    parser.add_argument("--run", required=True, metavar="ID", help="domain/model/method/seedN")
    parser.add_argument("--run-dir", type=Path, required=True, help="holds train.json and adapter/; gets the results")
    add_models_argument(parser)
    args = parser.parse_args(arguments)
    configfiles, overrides = parse_config(args)
    experiment, spec = load_run(configfiles, overrides, args.run)
    record = evaluate_run(spec, run_dir=args.run_dir, models_dir=args.models_dir, data_dir=experiment.data_dir)
    for name, task in record["tasks"].items():
        print(
            f"{spec.run_id} {name}: accuracy {100 * task['accuracy']:.1f} % of {task['n']} ({task['grader']}), "
            f"gold NLL {task['gold_nll']:.3f}"
        )
    if record["status"] == "success":
        from harness import model_card

        model_card.write(args.run_dir)
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
