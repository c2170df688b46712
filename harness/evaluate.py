"""Evaluate one trained run on every task of its domain: ``python -m harness.evaluate --run ID --run-dir DIR``.

The model is loaded once. Each task writes ``predictions/<task>.jsonl``; ``metrics.json`` is written last and whole. Where a
task fails, the finished ones are kept for the next attempt.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.commonsense import statement
from evaluation.grading import Grading, Verdict, check_available, grade, graders_of
from evaluation.labels import LOGLIKELIHOOD, likeliest
from evaluation.prompts import TEMPLATES, continuation
from evaluation.protocols import COMMONSENSE
from evaluation.tasks import Example, examples
from harness.cli import CACHE, add_config_arguments, add_models_argument, parse_config, run
from harness.config import SCHEMA_VERSION, ConfigError, EvaluationSpec, RunSpec, TaskSpec
from harness.files import write_json, write_jsonl
from harness.finished_tasks import FinishedTasks, TaskResult, task_key
from harness.plan import load_run
from harness.provenance import file_sha256

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from harness.generate import Completion

#: Where a run's folder keeps finished tasks until all are.
UNFINISHED = ".unfinished-evaluation"
#: Called with (done, total, note) as a task proceeds.
Report = Callable[[int, int, str], None]


class TaskError(RuntimeError):
    """A task failed. The message names it, why, and which finished tasks are kept for the next attempt."""


def check_task(name: str, task: TaskSpec) -> None:
    """Refuse a task that names something unknown.

    Raises:
        ConfigError: the prompt template or the grader does not exist, or the grader is not for this format; or choices are
            to be scored where there are none.
    """
    if task.prompt_template not in TEMPLATES:
        raise ConfigError(
            f"evaluation.tasks.{name}.prompt_template: found {task.prompt_template!r}, expected one of {', '.join(TEMPLATES)}"
        )
    if task.score_choices and task.format not in COMMONSENSE:
        raise ConfigError(f"evaluation.tasks.{name}.score_choices: found true for {task.format}, which offers no choices")
    graders = graders_of(task.format) + ((LOGLIKELIHOOD,) if task.score_choices else ())
    if task.grader not in graders:
        raise ConfigError(f"evaluation.tasks.{name}.grader: found {task.grader!r}, expected one of {', '.join(graders)}")


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
    from harness.generate import generate

    check_task(name, task)
    try:
        asked = examples(task.format, records)
        check_available(task.format, task.grader, asked)
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
            num_beams=task.num_beams,
            on_batch=lambda done, total: progress(done, total, f"{name}: answering"),
        )
    with _timed() as scoring_s:
        losses, choices = _score(model, tokenizer, name, task, asked, prompts, progress)
    progress(len(asked), len(asked), f"{name}: grading")
    with _timed() as grading_s:
        grading = _grade(task, asked, completions, choices)
    rows = [
        _prediction(index, example, prompts[index], completions[index], losses[index], grading, task.grader)
        | ({"choice_loglikelihoods": choices[index]} if choices else {})
        for index, example in enumerate(asked)
    ]
    seconds = {"generation": generation_s[0], "scoring": scoring_s[0], "grading": grading_s[0]}
    return TaskResult(metrics=_metrics(rows, grading, task, seconds=seconds), predictions=rows)


def _score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    task: TaskSpec,
    asked: Sequence[Example],
    prompts: Sequence[str],
    progress: Report,
) -> tuple[list[tuple[float, int]], list[dict[str, float]]]:
    """(negative log-likelihood, tokens) of each reference response; log-likelihood of each choice by its label, for all
    examples or, where choices are not scored, for none."""
    from harness.generate import choice_loglikelihoods, reference_nll

    losses = reference_nll(
        model,
        tokenizer,
        prompts,
        [continuation(task.prompt_template, example.reference) for example in asked],
        batch_size=task.batch_size,
        on_batch=lambda done, total: progress(done, total, f"{name}: scoring gold answers"),
    )
    if not task.score_choices:
        return losses, []
    scores = choice_loglikelihoods(
        model,
        tokenizer,
        prompts,
        [[continuation(task.prompt_template, statement(label)) for label in example.choices] for example in asked],
        batch_size=task.batch_size,
        on_batch=lambda done, total: progress(done, total, f"{name}: scoring choices"),
    )
    return losses, [dict(zip(example.choices, found, strict=True)) for example, found in zip(asked, scores, strict=True)]


def _grade(
    task: TaskSpec, asked: Sequence[Example], completions: Sequence[Completion], choices: Sequence[dict[str, float]]
) -> Grading:
    """Every grader's verdicts; that of the likeliest choice too, where choices are scored."""
    from evaluation.sandbox import Limits

    limits = Limits(timeout_s=task.timeout_s, memory_mb=task.memory_mb)
    texts = [completion.text for completion in completions]
    grading = grade(task.format, asked, texts, limits=limits, cache_dir=CACHE, allow_unsafe=task.allow_unsafe)
    if not choices:
        return grading
    chosen = map(likeliest, choices)
    verdicts = [Verdict(correct=label == example.gold, extracted=label) for label, example in zip(chosen, asked, strict=True)]
    return replace(grading, verdicts={**grading.verdicts, LOGLIKELIHOOD: verdicts})


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
    token of the reference response, ``gold_nll_stderr`` its standard error over examples (null for a single one).
    ``floor`` is what the best constant answer would score: the share of the commonest label (null for open answers)."""
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
        "floor": max(Counter(row["gold"] for row in rows).values()) / n if task.format in COMMONSENSE else None,
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

    Raises:
        ConfigError: no training record, or bad input of a task.
        TaskError: a task failed otherwise.
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
    if record["status"] == "diverged":
        (run_dir / "predictions").mkdir(parents=True, exist_ok=True)
        record["tasks"] = {}
    else:
        from harness.models import load_for_evaluation

        record |= evaluate_tasks(
            spec.evaluation,
            load=lambda: load_for_evaluation(spec, adapter_dir=run_dir / "adapter", models_dir=models_dir),
            # A training record is written once for each adapter, and holds times: another training, another record.
            weights=file_sha256(run_dir / "train.json"),
            folder=run_dir,
            data_dir=data_dir,
            title=f"evaluate {spec.run_id}",
            overlap=lambda records: _contamination(spec, records, run_dir=run_dir, data_dir=data_dir),
        )
    record |= {"wall_time_s": time.perf_counter() - start, "cpu_time_s": time.process_time() - processor}
    write_json(run_dir / "metrics.json", record)
    FinishedTasks(run_dir / UNFINISHED).clear()
    return record


def _contamination(
    spec: RunSpec, records: Mapping[str, Sequence[dict[str, Any]]], *, run_dir: Path, data_dir: str | None
) -> dict[str, Any]:
    """What of each test set the run was trained on."""
    from harness.cli import CACHE
    from harness.contamination import contamination_summary

    trained_on = json.loads((run_dir / "train.json").read_text(encoding="utf-8"))["data"]["sha256"]
    return contamination_summary(
        spec.data, spec.evaluation.tasks, records, data_dir=data_dir, cache_dir=CACHE, training_sha256=trained_on
    )


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
    ``folder/predictions``. The caller writes the record and then clears ``FinishedTasks``.

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
    import torch

    from harness.data import load_records, source_fingerprint
    from harness.lm_eval_tasks import load_tasks as load_lm_eval_tasks
    from harness.lm_eval_tasks import run_lm_eval
    from harness.progress import Progress
    from harness.provenance import git_state, hardware, versions

    # One thread a job unless told otherwise: a second busy process would make two threads many times slower than one.
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    tasks = evaluation.tasks
    records = {name: load_records(task.source, data_dir=data_dir, limit=task.limit) for name, task in tasks.items()}
    shared = overlap(records) if overlap is not None else None
    outside = load_lm_eval_tasks(evaluation.lm_eval) if evaluation.lm_eval is not None else None
    progress = Progress(title)
    finished = FinishedTasks(folder / UNFINISHED)
    model = tokenizer = None
    found: dict[str, Any] = {}
    for name, task in tasks.items():
        fingerprint = source_fingerprint(records[name])
        key = task_key(task, dtype=evaluation.dtype, weights=weights, data_sha256=fingerprint)
        result = finished.load(name, key)
        if result is None:
            if model is None:
                model, tokenizer = load()
            with _naming(name, kept=tuple(found)):
                result = evaluate_task(model, tokenizer, name, task, records[name], progress.update)
            finished.save(name, key, result)
        write_jsonl(folder / "predictions" / f"{name}.jsonl", result.predictions)
        found[name] = result.metrics | {"data_sha256": fingerprint}
    lm_eval: dict[str, Any] | None = None
    if evaluation.lm_eval is not None:
        if model is None:
            model, tokenizer = load()
        with _naming("lm_eval", kept=tuple(found)):
            lm_eval = run_lm_eval(model, tokenizer, evaluation.lm_eval, tasks=outside)
        for name, result in lm_eval.items():
            samples = result.pop("samples")
            if "subtasks" not in result:
                write_jsonl(folder / "predictions" / "lm_eval" / f"{name}.jsonl", samples)
    return {
        "tasks": found,
        "lm_eval": lm_eval,
        "contamination": shared,
        "created_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "hardware": hardware(),
        "git": git_state(Path(__file__).resolve().parent.parent),
    }


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
