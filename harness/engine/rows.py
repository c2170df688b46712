"""The log-likelihoods of responses to prompts, each a row of its own, but for choices that differ in their last token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from harness.data.tokens import encode_prompt, encode_response
from harness.engine.batches import SCORED_TOKENS, OnBatch, batches, evaluating
from harness.models.output_layer import Logits, logits_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class _Scored:
    """A sequence whose tokens from ``start`` on are scored, and tokens that could come next."""

    tokens: list[int]
    start: int
    nexts: list[int] = field(default_factory=list)


def reference_nll(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    references: Sequence[str],
    *,
    batch_size: int,
    on_batch: OnBatch | None = None,
) -> list[tuple[float, int]]:
    """(summed negative log-likelihood in nats, number of tokens) of each reference after its prompt, end-of-sequence
    token included. Tokens are those of training; logits are computed where a token is scored.

    Raises:
        ValueError: the tokenizer has no end-of-sequence token.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError("eos_token_id: found none in the tokenizer, expected one to end references")
    rows = []
    for prompt, reference in zip(prompts, references, strict=True):
        head = encode_prompt(tokenizer, prompt)
        tail = encode_response(tokenizer, prompt=prompt, head=head, response=reference)
        rows.append(_Scored(tokens=[*head, *tail, tokenizer.eos_token_id], start=len(head)))
    scores = _score_all(model, rows, batch_size=batch_size, on_batch=on_batch)
    return [(-score, len(row.tokens) - row.start) for row, (score, _) in zip(rows, scores, strict=True)]


def choice_loglikelihoods(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    offered: Sequence[Sequence[tuple[str, str]]],
    *,
    batch_size: int,
    on_batch: OnBatch | None = None,
) -> list[list[tuple[float, int]]]:
    """(summed log-likelihood in nats, number of tokens) of each choice after its prompt, without end-of-sequence token.

    Choices that share everything but their last token, as labels do, are scored in one pass; the same choice offered twice
    has the same score.

    Args:
        offered: for each example the (prompt, response) of each of its choices. Tokens are those of training.

    Raises:
        ValueError: an example with fewer than two choices.
    """
    rows: dict[tuple[int, tuple[int, ...]], _Scored] = {}
    #: For each choice of each example: its row and its place among the row's ``nexts``, or None where it has no tokens.
    places: list[list[tuple[_Scored, int] | None]] = []
    for choices in offered:
        if len(choices) < 2:
            raise ValueError(f"choices {list(choices)!r}: found {len(choices)} choices, expected at least two")
        places.append([])
        for prompt, response in choices:
            head = encode_prompt(tokenizer, prompt)
            tail = encode_response(tokenizer, prompt=prompt, head=head, response=response)
            tokens = head + tail
            row = rows.setdefault((len(head), tuple(tokens[:-1])), _Scored(tokens=tokens[:-1], start=len(head)))
            places[-1].append((row, len(row.nexts)) if tail else None)
            row.nexts.extend(tail[-1:])
    asked = [row for row in rows.values() if row.nexts]
    scores = dict(zip(map(id, asked), _score_all(model, asked, batch_size=batch_size, on_batch=on_batch), strict=True))

    def score(place: tuple[_Scored, int] | None) -> tuple[float, int]:
        if place is None:
            return 0.0, 0
        row, next_ = place
        shared, nexts = scores[id(row)]
        return shared + nexts[next_], len(row.tokens) + 1 - row.start

    return [[score(place) for place in own] for own in places]


@torch.inference_mode()
def _score_all(
    model: PreTrainedModel, rows: Sequence[_Scored], *, batch_size: int, on_batch: OnBatch | None
) -> list[tuple[float, list[float]]]:
    """For each row: the summed log-likelihood of its scored tokens, and that of each of its ``nexts`` after them."""
    results: dict[int, tuple[float, list[float]]] = {}
    with evaluating(model):
        logits = logits_of(model)
        for batch in batches([len(row.tokens) for row in rows], batch_size, max_tokens=SCORED_TOKENS):
            results |= zip(batch, _score(model, logits, [rows[index] for index in batch]), strict=True)
            if on_batch is not None:
                on_batch(len(results), len(rows))
    return [results[index] for index in range(len(rows))]


def _score(model: PreTrainedModel, logits: Logits, rows: list[_Scored]) -> list[tuple[float, list[float]]]:
    """Right-padded: padding comes after every scored token, where causal attention cannot see it."""
    width = max(len(row.tokens) for row in rows)
    ids = torch.tensor([row.tokens + [0] * (width - len(row.tokens)) for row in rows], device=model.device)
    mask = torch.tensor([[1] * len(row.tokens) + [0] * (width - len(row.tokens)) for row in rows], device=model.device)
    hidden = model.get_decoder()(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    results = []
    for place, row in enumerate(rows):
        log_p = logits(hidden[place, row.start - 1 : len(row.tokens)]).log_softmax(dim=-1)
        scored = log_p[:-1].gather(1, ids[place, row.start : len(row.tokens), None])
        results.append((float(scored.sum()), log_p[-1, row.nexts].tolist()))
    return results
