"""What a model answers to the examples of a task: completions, and how likely references and choices are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from evaluation import sets
from evaluation.example import Example
from evaluation.graders.choices import ChoiceScore
from evaluation.sets.prompts import CONTINUATION, TEMPLATES, continuation
from harness.config import TaskSpec
from harness.evaluate import generate
from harness.evaluate.generate import Completion

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_NOTHING = [Completion(text="", tokens=0, truncated=False)]
#: Called with (done, total, what is being done).
Report = Callable[[int, int, str], None]


@dataclass(frozen=True, kw_only=True)
class Answers:
    """One entry an example in each list; ``choices`` is empty where choices are not scored, ``texts`` where they are not
    scored as running text."""

    prompts: list[str]
    completions: list[Completion]
    #: (negative log-likelihood in nats, tokens) of each reference response.
    losses: list[tuple[float, int]]
    #: Label -> score.
    choices: list[dict[str, ChoiceScore]]
    #: (context, scored text) of each choice.
    texts: list[list[tuple[str, str]]] = field(default_factory=list)
    seconds: dict[str, float]


@contextmanager
def timed() -> Iterator[list[float]]:
    """A list whose only entry is, afterwards, how many seconds the block took."""
    elapsed = [0.0]
    start = time.perf_counter()
    yield elapsed
    elapsed[0] = time.perf_counter() - start


def answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: TaskSpec,
    asked: Sequence[Example],
    *,
    batch_size: int,
    report: Report,
) -> Answers:
    """The model's answers to examples, in their order; empty ones where the task generates nothing. Under the template
    ``continuation`` the reference is the right choice's text."""
    if task.prompt_template == CONTINUATION:
        return _continue(model, tokenizer, asked, batch_size=batch_size, report=report)
    prompts = [TEMPLATES[task.prompt_template](example.query) for example in asked]
    with timed() as generation_s:
        completions = _NOTHING * len(asked)
        if task.max_new_tokens:
            completions = generate.generate(
                model,
                tokenizer,
                prompts,
                max_new_tokens=task.max_new_tokens,
                batch_size=batch_size,
                stop_strings=task.stop_strings,
                num_beams=task.num_beams,
                on_batch=lambda done, total: report(done, total, "answering"),
            )
    with timed() as scoring_s:
        losses = generate.reference_nll(
            model,
            tokenizer,
            prompts,
            [continuation(task.prompt_template, example.reference) for example in asked],
            batch_size=batch_size,
            on_batch=lambda done, total: report(done, total, "scoring gold answers"),
        )
        choices: list[dict[str, ChoiceScore]] = []
        state = sets.get(task.format).statement
        if task.score_choices and state is not None:
            stated = [
                [(prompt, continuation(task.prompt_template, state(label))) for label in example.choices]
                for prompt, example in zip(prompts, asked, strict=True)
            ]
            choices = _score(model, tokenizer, asked, stated, batch_size=batch_size, report=report)
    seconds = {"generation": generation_s[0], "scoring": scoring_s[0]}
    return Answers(prompts=prompts, completions=completions, losses=losses, choices=choices, seconds=seconds)


def _continue(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[Example],
    *,
    batch_size: int,
    report: Report,
) -> Answers:
    texts = [[(choice.context, f" {choice.text}") for choice in example.continuations] for example in asked]
    with timed() as scoring_s:
        choices = _score(model, tokenizer, asked, texts, batch_size=batch_size, report=report)
    gold = [scores[str(example.gold)] for scores, example in zip(choices, asked, strict=True)]
    return Answers(
        prompts=[own[0][0] for own in texts],
        completions=_NOTHING * len(asked),
        losses=[(-score.loglikelihood, score.tokens) for score in gold],
        choices=choices,
        texts=texts,
        seconds={"generation": 0.0, "scoring": scoring_s[0]},
    )


def _score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[Example],
    offered: Sequence[Sequence[tuple[str, str]]],
    *,
    batch_size: int,
    report: Report,
) -> list[dict[str, ChoiceScore]]:
    """The score of each choice by its label; ``offered`` has each one's (prompt, response)."""
    scores = generate.choice_loglikelihoods(
        model,
        tokenizer,
        offered,
        batch_size=batch_size,
        on_batch=lambda done, total: report(done, total, "scoring choices"),
    )
    return [
        {
            label: ChoiceScore(loglikelihood=nats, tokens=tokens, characters=len(text.removeprefix(" ")))
            for label, (_, text), (nats, tokens) in zip(example.choices, texts, own, strict=True)
        }
        for example, texts, own in zip(asked, offered, scores, strict=True)
    ]
