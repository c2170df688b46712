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
from harness.engine import generate, rows, tree
from harness.engine.generate import Completion
from harness.engine.process import VLLM
from harness.errors import ConfigError
from harness.schema.evaluation import InferenceSpec, TaskSpec

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
    how: InferenceSpec,
    report: Report,
    engine: VLLM | None = None,
) -> Answers:
    """The model's answers to examples, in their order; empty ones where the task generates nothing. Under the template
    ``continuation`` the reference is the right choice's text.

    Args:
        engine: what generates; None: the model itself.

    Raises:
        ConfigError: by the key in ``how``: the model cannot be asked so.
    """
    _check_state(model, how)
    scorer = _Scorer(model=model, tokenizer=tokenizer, batch_size=batch_size, how=how, report=report)
    if task.prompt_template == CONTINUATION:
        return _continue(scorer, asked)
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
                prefix_caching=how.prefix_caching,
                engine=engine,
                on_batch=lambda done, total: report(done, total, "answering"),
            )
    with timed() as scoring_s:
        references = [
            (prompt, continuation(task.prompt_template, e.reference)) for prompt, e in zip(prompts, asked, strict=True)
        ]
        state = sets.get(task.format).statement
        stated: list[list[Offer]] = [[] for _ in asked]
        if task.score_choices and state is not None:
            stated = stated_choices(asked, state, prompt_template=task.prompt_template)
        losses, scores = scorer.references_and_choices(references, stated)
        choices = _by_label(asked, stated, scores) if any(stated) else []
    seconds = {"generation": generation_s[0], "scoring": scoring_s[0]}
    return Answers(prompts=prompts, completions=completions, losses=losses, choices=choices, seconds=seconds)


def _check_state(model: PreTrainedModel, how: InferenceSpec) -> None:
    """Attention reads any set of tokens before it; a state that each token changes belongs to one row, padding and all."""
    if not getattr(model, "_is_stateful", False):  # as transformers marks them
        return
    for key, expected in (("scoring", "rows"), ("prefix_caching", False)):
        if getattr(how, key) != expected:
            found = f"found {getattr(how, key)!r} and {type(model).__name__}, which keeps a state beside its attention"
            raise ConfigError(f"{found}, expected {expected!r}", keys=("evaluation", key))


def _continue(scorer: _Scorer, asked: Sequence[Example]) -> Answers:
    texts = continued_choices(asked)
    with timed() as scoring_s:
        choices = _by_label(asked, texts, scorer.choices(texts))
    gold = [scores[str(example.gold)] for scores, example in zip(choices, asked, strict=True)]
    return Answers(
        prompts=[own[0][0] for own in texts],
        completions=_NOTHING * len(asked),
        losses=[(-score.loglikelihood, score.tokens) for score in gold],
        choices=choices,
        texts=texts,
        seconds={"generation": 0.0, "scoring": scoring_s[0]},
    )


#: (prompt, response)
Offer = tuple[str, str]


def stated_choices(asked: Sequence[Example], state: Callable[[str], str], *, prompt_template: str) -> list[list[Offer]]:
    """Of each example the statement of each choice's label, after the prompt."""
    template = TEMPLATES[prompt_template]
    return [
        [(template(example.query), continuation(prompt_template, state(label))) for label in example.choices]
        for example in asked
    ]


def continued_choices(asked: Sequence[Example]) -> list[list[Offer]]:
    """Of each example the text of each choice, after the text that it continues."""
    return [[(choice.context, f" {choice.text}") for choice in example.continuations] for example in asked]


#: (log-likelihood in nats, tokens) of each choice of each example.
Scores = list[list[tuple[float, int]]]


@dataclass(frozen=True, kw_only=True)
class _Scorer:
    """Scores responses as ``InferenceSpec.scoring`` says."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    batch_size: int
    how: InferenceSpec
    report: Report

    def references_and_choices(
        self, references: Sequence[Offer], offered: Sequence[Sequence[Offer]]
    ) -> tuple[list[tuple[float, int]], Scores]:
        """(negative log-likelihood, tokens) of each reference with its end, and the scores of the choices, if any."""
        if self.how.scoring == "tree":
            scores = self._trees([[one, *own] for one, own in zip(references, offered, strict=True)], ended=1)
            return [(-nats, tokens) for (nats, tokens), *_ in scores], [own for _, *own in scores]
        losses = rows.reference_nll(
            self.model,
            self.tokenizer,
            [prompt for prompt, _ in references],
            [response for _, response in references],
            batch_size=self.batch_size,
            on_batch=lambda done, total: self.report(done, total, "scoring gold answers"),
        )
        return losses, self.choices(offered) if any(offered) else []

    def choices(self, offered: Sequence[Sequence[Offer]]) -> Scores:
        """The scores of the choices of each example."""
        if self.how.scoring == "tree":
            return self._trees(offered, ended=0)
        return rows.choice_loglikelihoods(
            self.model, self.tokenizer, offered, batch_size=self.batch_size, on_batch=self._on_batch
        )

    def _trees(self, offered: Sequence[Sequence[Offer]], *, ended: int) -> Scores:
        """The first ``ended`` responses of each example are scored with their end."""
        asked = [
            [tree.response(self.tokenizer, *offer, ended=place < ended) for place, offer in enumerate(own)] for own in offered
        ]
        scores = tree.loglikelihoods(self.model, asked, batch_size=self.batch_size, on_batch=self._on_batch)
        return [
            [(nats, len(one.scored)) for nats, one in zip(sums, own, strict=True)]
            for sums, own in zip(scores, asked, strict=True)
        ]

    def _on_batch(self, done: int, total: int) -> None:
        self.report(done, total, "scoring choices")


def _by_label(asked: Sequence[Example], offered: Sequence[Sequence[Offer]], scores: Scores) -> list[dict[str, ChoiceScore]]:
    """The score of each choice by its label."""
    return [
        {
            label: ChoiceScore(loglikelihood=nats, tokens=tokens, characters=len(text.removeprefix(" ")))
            for label, (_, text), (nats, tokens) in zip(example.choices, texts, own, strict=True)
        }
        for example, texts, own in zip(asked, offered, scores, strict=True)
    ]
