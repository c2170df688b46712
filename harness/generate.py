"""Batched greedy generation, and the log-likelihood of reference responses.

Both give the same result for any batch size and order of prompts (up to floating-point ties).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from harness.data import IGNORE_INDEX, encode_example, encode_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: Called with (prompts done, prompts in all) after each batch.
OnBatch = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What the model wrote after one prompt."""

    #: Decoded without special tokens and cut before the first stop string.
    text: str
    #: Generated tokens, the end-of-sequence token included.
    tokens: int
    #: Whether ``max_new_tokens`` ended it.
    truncated: bool


def _end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    configured = [
        tokenizer.eos_token_id,
        getattr(model.generation_config, "eos_token_id", None),
        model.config.eos_token_id,
    ]
    return {token for value in configured if value is not None for token in (value if isinstance(value, list) else [value])}


def _prompt_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> list[list[int]]:
    encoded = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    limit = _positions(model)
    for prompt, tokens in zip(prompts, encoded, strict=True):
        if not tokens:
            raise ValueError(f"prompt {prompt!r}: found no tokens, expected at least one")
        if len(tokens) >= limit:
            raise ValueError(
                f"prompt {prompt[:40]!r}...: found {len(tokens)} tokens, expected fewer than the model's {limit} positions"
            )
    return encoded


def _positions(model: PreTrainedModel) -> int | float:
    return getattr(model.config, "max_position_embeddings", None) or math.inf


def _batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Indices in batches of similar length, longest first, so that memory runs out at once or never."""
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    batch_size: int,
    stop_strings: Sequence[str] = (),
    on_batch: OnBatch | None = None,
) -> list[Completion]:
    """Greedy completions in the order of the prompts. Prompts are left-padded with an attention mask; a row ends at an
    end-of-sequence token, before the first stop string, after ``max_new_tokens``, or where the model's positions end;
    finished rows leave the batch.

    Raises:
        ValueError: a prompt without tokens, or that leaves the model no position to answer in.
        RuntimeError: the model does not use its cache, which would recompute every prefix.
    """
    encoded = _prompt_tokens(model, tokenizer, prompts)
    completions: list[Completion | None] = [None] * len(prompts)
    done = 0
    was_training = model.training
    model.eval()
    try:
        for rows in _batches([len(tokens) for tokens in encoded], batch_size):
            batch = _Batch(model, tokenizer, [encoded[row] for row in rows], max_new_tokens, stop_strings)
            for row, completion in zip(rows, batch.run(), strict=True):
                completions[row] = completion
            done += len(rows)
            if on_batch is not None:
                on_batch(done, len(prompts))
    finally:
        model.train(was_training)
    return [completion for completion in completions if completion is not None]


class _Batch:
    """Decoding of one batch. Row r of the tensors belongs to prompt ``self.alive[r]``."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        encoded: list[list[int]],
        max_new_tokens: int,
        stop_strings: Sequence[str],
    ) -> None:
        self.model, self.tokenizer, self.stop_strings = model, tokenizer, tuple(stop_strings)
        self.ends = _end_tokens(model, tokenizer)
        self.limits = [min(max_new_tokens, _positions(model) - len(row)) for row in encoded]
        self.generated: list[list[int]] = [[] for _ in encoded]
        self.completions: list[Completion | None] = [None] * len(encoded)
        self.alive = list(range(len(encoded)))
        width = max(map(len, encoded))
        device = model.device
        pad = next(iter(self.ends), 0)
        self.ids = torch.tensor([[pad] * (width - len(row)) + row for row in encoded], device=device)
        self.mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in encoded], device=device)
        self.positions = (self.mask.cumsum(1) - 1).clamp(min=0)
        # A stop string of n characters lies within the last n tokens, but for bytes still waiting for their character.
        self.window = max(map(len, self.stop_strings), default=0) + 4

    @torch.inference_mode()
    def run(self) -> list[Completion]:
        """The completions, in the order of the prompts."""
        cache: Any = None
        while True:
            output = self.model(
                input_ids=self.ids,
                attention_mask=self.mask,
                position_ids=self.positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache = output.past_key_values
            if cache is None or cache.get_seq_length() != self.mask.shape[1]:
                raise RuntimeError(f"the model returned no cache of {self.mask.shape[1]} positions, although use_cache=True")
            tokens = output.logits[:, -1].argmax(dim=-1)
            kept = self._take(tokens.tolist())
            if not kept:
                break
            if len(kept) < len(self.alive):
                tokens, cache = self._compact(kept, tokens, cache)
            self.ids = tokens[:, None]
            self.mask = torch.cat([self.mask, self.mask.new_ones(len(kept), 1)], dim=1)
            self.positions = self.positions[:, -1:] + 1
        return [completion for completion in self.completions if completion is not None]

    def _take(self, tokens: list[int]) -> list[int]:
        """Append one token to each row and finish the rows that end. Returns the tensor rows that go on."""
        kept = []
        for row, (index, token) in enumerate(zip(self.alive, tokens, strict=True)):
            generated = self.generated[index]
            generated.append(token)
            ended = token in self.ends
            if ended or self._at_stop_string(generated):
                self._finish(index, truncated=False, ended=ended)
            elif len(generated) >= self.limits[index]:
                self._finish(index, truncated=True, ended=False)
            else:
                kept.append(row)
        return kept

    def _at_stop_string(self, generated: list[int]) -> bool:
        if not self.stop_strings:
            return False
        tail = self.tokenizer.decode(generated[-self.window :], skip_special_tokens=True)
        return any(stop in tail for stop in self.stop_strings)

    def _finish(self, index: int, *, truncated: bool, ended: bool) -> None:
        generated = self.generated[index]
        text = self.tokenizer.decode(generated[:-1] if ended else generated, skip_special_tokens=True)
        cuts = [position for stop in self.stop_strings if (position := text.find(stop)) >= 0]
        self.completions[index] = Completion(
            text=text[: min(cuts)] if cuts else text, tokens=len(generated), truncated=truncated
        )

    def _compact(self, kept: list[int], tokens: torch.Tensor, cache: Any) -> tuple[torch.Tensor, Any]:
        """Drop finished rows."""
        rows = torch.tensor(kept, device=tokens.device)
        cache.batch_select_indices(rows)
        self.alive = [self.alive[row] for row in kept]
        self.mask, self.positions = self.mask[rows], self.positions[rows]
        return tokens[rows], cache


@torch.inference_mode()
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
    pairs = [
        encode_example(tokenizer, prompt=prompt, response=reference, loss_on="response", max_length=sys.maxsize)
        for prompt, reference in zip(prompts, references, strict=True)
    ]
    encoded = [tokens for tokens, _ in pairs]
    starts = [labels.count(IGNORE_INDEX) for _, labels in pairs]
    results: list[tuple[float, int]] = [(0.0, 0)] * len(prompts)
    was_training = model.training
    model.eval()
    done = 0
    for rows in _batches([len(tokens) for tokens in encoded], batch_size):
        for row, result in zip(rows, _score(model, [encoded[r] for r in rows], [starts[r] for r in rows]), strict=True):
            results[row] = result
        done += len(rows)
        if on_batch is not None:
            on_batch(done, len(prompts))
    model.train(was_training)
    return results


def _score(model: PreTrainedModel, encoded: list[list[int]], starts: list[int]) -> list[tuple[float, int]]:
    """Right-padded: padding comes after every scored token, where causal attention cannot see it."""
    width = max(map(len, encoded))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in encoded], device=model.device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in encoded], device=model.device)
    hidden = model.get_decoder()(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    head = model.get_output_embeddings()
    results = []
    for row, (tokens, start) in enumerate(zip(encoded, starts, strict=True)):
        logits = head(hidden[row, start - 1 : len(tokens) - 1]).float()
        loss = torch.nn.functional.cross_entropy(logits, ids[row, start : len(tokens)], reduction="sum")
        results.append((float(loss), len(tokens) - start))
    return results
