"""One evaluation task: asked, decoded, graded, scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evaluation import sets
from evaluation.example import Example
from evaluation.graders.choices import CHOICE_GRADERS, ChoiceScore, ChoiceVerdict, judge
from evaluation.graders.labels import LOGLIKELIHOOD
from evaluation.graders.verdicts import Grading, Verdict
from evaluation.grading import check_available, grade, graders_of
from evaluation.sets.prompts import CONTINUATION, TEMPLATE_NAMES
from harness.cli import CACHE
from harness.data.load import rows_named
from harness.errors import ConfigError, within
from harness.evaluate.finished_tasks import TaskResult
from harness.records.grader_sources import grader_sources
from harness.schema.evaluation import InferenceSpec, TaskSpec
from harness.statistics.averages import averages

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from harness.engine.process import VLLM
    from harness.evaluate.answers import Answers, Report


def check_task(task: TaskSpec) -> None:
    """Refuse a task that names something unknown, or whose settings have no effect.

    Raises:
        ConfigError: by the task's key: the prompt template or the grader does not exist, or the grader is not for this format;
            choices are to be scored where there are none; or a task without completions has settings of completions, or the
            reverse.
    """
    if task.prompt_template not in TEMPLATE_NAMES:
        found = f"found {task.prompt_template!r}, expected one of {', '.join(TEMPLATE_NAMES)}"
        raise ConfigError(found, keys=("prompt_template",))
    if task.score_choices and sets.get(task.format).statement is None:
        raise ConfigError(f"found true for {task.format}, which offers no choices", keys=("score_choices",))
    if task.prompt_template == CONTINUATION:
        because = f"under prompt_template {CONTINUATION} nothing is generated"
        _refuse_others(task, {"score_choices": True, **_NO_COMPLETIONS}, because=because)
    elif task.grader is None:
        _refuse_others(task, {"score_choices": False, **_NO_COMPLETIONS}, because="with grader null nothing is answered")
    elif task.max_new_tokens < 1:
        raise ConfigError(f"found {task.max_new_tokens}, expected at least 1, or grader null", keys=("max_new_tokens",))
    graders = _graders(task)
    if task.grader is not None and task.grader not in graders:
        raise ConfigError(f"found {task.grader!r}, expected one of {', '.join(graders)}", keys=("grader",))


#: The settings of a task that asks for no completions.
_NO_COMPLETIONS = {"max_new_tokens": 0, "stop_strings": (), "num_beams": 1}


def _refuse_others(task: TaskSpec, expected: dict[str, Any], *, because: str) -> None:
    for key, value in expected.items():
        if getattr(task, key) != value:
            raise ConfigError(f"found {getattr(task, key)!r}, expected {value!r}: {because}", keys=(key,))


def check_examples(task: TaskSpec, asked: Sequence[Example]) -> None:
    """Refuse examples that a task cannot ask or grade.

    Raises:
        ConfigError: by the task's key: there are none, or one lacks the tests that the grader runs, or the form as running text
            that the task asks for.
    """
    if not asked:
        raise ConfigError("found no records, expected at least one", keys=("source",))
    for example in asked if task.prompt_template == CONTINUATION else ():
        if not example.continuations:
            raise ConfigError(f"{example.id}: found no form as running text, expected one", keys=("prompt_template",))
    if task.grader is not None:
        with within("grader"):
            check_available(task.format, task.grader, asked)


def _choice_graders(task: TaskSpec) -> tuple[str, ...]:
    if task.prompt_template == CONTINUATION:
        return CHOICE_GRADERS
    return (LOGLIKELIHOOD,) if task.score_choices else ()


def _graders(task: TaskSpec) -> tuple[str, ...]:
    completions = graders_of(task.format) if task.max_new_tokens else ()
    return (*completions, *_choice_graders(task))


def evaluate_task(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    task: TaskSpec,
    records: list[dict[str, Any]],
    report: Report | None = None,
    *,
    how: InferenceSpec | None = None,
    engine: VLLM | None = None,
) -> TaskResult:
    """Ask, decode and grade ``records`` (already cut to the task's limit), and score their reference responses.

    Args:
        how: how the answers are computed; None: by the defaults. Its ``dtype`` and ``engine`` are those of ``model`` and
            ``engine``.
        engine: what generates; None: the model itself.

    Raises:
        ConfigError: an unknown template or grader, no records, a record without a needed field, or a model that cannot be
            asked so.
    """
    from harness.evaluate.answers import answer, timed
    from harness.evaluate.batch_effect import batch_effect

    with within("evaluation", "tasks", name):
        check_task(task)
        with rows_named(task.source):
            asked = sets.examples(task.format, records)
        check_examples(task, asked)
    progress = report or (lambda done, total, note: None)

    def ask(examples: Sequence[Example], batch_size: int, what: str) -> Answers:
        return answer(
            model, tokenizer, task, examples, batch_size=batch_size, how=how or InferenceSpec(), engine=engine,
            report=lambda done, total, note: progress(done, total, f"{name}: {what}{note}"),
        )  # fmt: skip

    answers = ask(asked, task.batch_size, "")
    progress(len(asked), len(asked), f"{name}: grading")
    graded = grade_answers(
        task, asked, [_answer(index, example, answers) for index, example in enumerate(asked)], answers.choices, answers.seconds
    )
    with timed() as effect_s:
        effect = batch_effect(
            task, asked, answers, ask, graders=_choice_graders(task), dtype=str(model.dtype).removeprefix("torch.")
        )
    if effect:
        graded.metrics["seconds"]["batch_effect"] = round(effect_s[0], 3)
    return TaskResult(metrics=graded.metrics | {"batch_effect": effect}, predictions=graded.predictions)


def grade_answers(
    task: TaskSpec,
    asked: Sequence[Example],
    answered: Sequence[dict[str, Any]],
    choices: Sequence[Mapping[str, ChoiceScore]],
    seconds: Mapping[str, float],
) -> TaskResult:
    """Grade what a model has answered. Needs no model.

    Args:
        answered: of each example, the fields of its prediction that no grader changes.
        choices: of each example, the score of each choice; empty where choices are not scored.
        seconds: what the answers took; the time of grading is added.
    """
    from harness.evaluate.answers import timed

    with timed() as grading_s:
        grading, chosen = _grade(task, asked, answered, choices)
    rows = [_prediction(index, row, grading, chosen, task.grader) for index, row in enumerate(answered)]
    metrics = averages(rows, grading, chosen, task, seconds={**seconds, "grading": grading_s[0]})
    return TaskResult(metrics=metrics | {"sources": grader_sources(task)}, predictions=rows)


def _grade(
    task: TaskSpec,
    asked: Sequence[Example],
    answered: Sequence[dict[str, Any]],
    choices: Sequence[Mapping[str, ChoiceScore]],
) -> tuple[Grading, dict[str, list[ChoiceVerdict]]]:
    """The verdicts of every grader of completions, and of every grader of choices, where there are such."""
    from evaluation.sandbox.run import Limits

    chosen = {
        name: [judge(scores, example.gold, grader=name) for scores, example in zip(choices, asked, strict=True)]
        for name in _choice_graders(task)
    }
    if not task.max_new_tokens:
        return Grading(verdicts={}), chosen
    grading = grade(
        task.format,
        asked,
        [row["completion"] for row in answered],
        truncated=[row["truncated"] for row in answered],
        limits=Limits(timeout_s=task.timeout_s, memory_mb=task.memory_mb),
        cache_dir=CACHE,
        allow_unsafe=task.allow_unsafe,
    )
    return grading, chosen


def _answer(index: int, example: Example, answers: Answers) -> dict[str, Any]:
    """What a prediction says of one example's answers."""
    completion, (nll, tokens) = answers.completions[index], answers.losses[index]
    row: dict[str, Any] = {
        "id": example.id,
        "prompt": answers.prompts[index],
        "completion": completion.text,
        "gold": example.gold,
        "truncated": completion.truncated,
        "tokens": completion.tokens,
        "gold_nll": nll / tokens,
        "gold_tokens": tokens,
    }
    if not answers.choices:
        return row
    scores = answers.choices[index]
    row |= {"choice_loglikelihoods": {label: score.loglikelihood for label, score in scores.items()}}
    if answers.texts:
        texts = zip(scores.items(), answers.texts[index], strict=True)
        row |= {"choice_texts": {label: [*text, score.tokens] for (label, score), text in texts}}
    return row


def _prediction(
    index: int, answer: dict[str, Any], grading: Grading, chosen: dict[str, list[ChoiceVerdict]], headline: str | None
) -> dict[str, Any]:
    """The answers to one example with their verdicts."""
    verdicts: dict[str, Verdict | ChoiceVerdict] = {name: column[index] for name, column in (grading.verdicts | chosen).items()}
    verdict = None if headline is None else verdicts[headline]
    row = answer | {
        "extracted": verdict and verdict.extracted,
        "correct": verdict and verdict.correct,
        "verdicts": {name: verdict.correct for name, verdict in verdicts.items()},
        "outcome": verdict and verdict.outcome,
        "unparseable": verdict and verdict.unparseable,
    }
    if chosen:
        row["best_choices"] = {name: list(column[index].best) for name, column in chosen.items()}
    return row
