"""One evaluation task: asked, decoded, graded, scored."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from evaluation import sets
from evaluation.example import Example
from evaluation.graders.labels import LOGLIKELIHOOD, likeliest
from evaluation.graders.verdicts import Grading, Verdict
from evaluation.grading import check_available, grade, graders_of
from evaluation.sets.prompts import TEMPLATES, continuation
from harness.cli import CACHE
from harness.config import ConfigError, TaskSpec
from harness.evaluate.finished_tasks import TaskResult

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from harness.evaluate.generate import Completion

#: Called with (done, total, note) as a task proceeds.
Report = Callable[[int, int, str], None]


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
    if task.score_choices and sets.get(task.format).statement is None:
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
    from harness.evaluate.generate import generate

    check_task(name, task)
    try:
        asked = sets.examples(task.format, records)
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
    from harness.evaluate.generate import choice_loglikelihoods, reference_nll

    losses = reference_nll(
        model,
        tokenizer,
        prompts,
        [continuation(task.prompt_template, example.reference) for example in asked],
        batch_size=task.batch_size,
        on_batch=lambda done, total: progress(done, total, f"{name}: scoring gold answers"),
    )
    state = sets.get(task.format).statement
    if not task.score_choices or state is None:
        return losses, []
    scores = choice_loglikelihoods(
        model,
        tokenizer,
        prompts,
        [[continuation(task.prompt_template, state(label)) for label in example.choices] for example in asked],
        batch_size=task.batch_size,
        on_batch=lambda done, total: progress(done, total, f"{name}: scoring choices"),
    )
    return losses, [dict(zip(example.choices, values, strict=True)) for example, values in zip(asked, scores, strict=True)]


def _grade(
    task: TaskSpec, asked: Sequence[Example], completions: Sequence[Completion], choices: Sequence[dict[str, float]]
) -> Grading:
    """Every grader's verdicts; that of the likeliest choice too, where choices are scored."""
    from evaluation.sandbox.run import Limits

    limits = Limits(timeout_s=task.timeout_s, memory_mb=task.memory_mb)
    texts = [completion.text for completion in completions]
    grading = grade(
        task.format,
        asked,
        texts,
        truncated=[completion.truncated for completion in completions],
        limits=limits,
        cache_dir=CACHE,
        allow_unsafe=task.allow_unsafe,
    )
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
    verdicts = {name: column[index] for name, column in grading.verdicts.items()}
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
    offers_choices = sets.get(task.format).statement is not None
    accuracy = _share(rows, lambda row: row["correct"])
    losses = [row["gold_nll"] for row in rows]
    mean = math.fsum(losses) / n
    spread = math.sqrt(math.fsum((loss - mean) ** 2 for loss in losses) / (n - 1) / n) if n > 1 else None
    return {
        "accuracy": accuracy,
        "stderr": math.sqrt(accuracy * (1 - accuracy) / n),
        "n": n,
        "grader": task.grader,
        "graders": {name: sum(verdict.correct for verdict in column) / n for name, column in grading.verdicts.items()},
        "floor": max(Counter(row["gold"] for row in rows).values()) / n if offers_choices else None,
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
