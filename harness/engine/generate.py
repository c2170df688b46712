"""Batched generation, greedy or by beam search.

Logits are float32 whatever the model's dtype. With a float32 model the answers are the same for any batch size and order of
prompts. With a bfloat16 model they are not: the kernel that multiplies two matrices depends on the batch, and with it the
last of the 8 bits of a hidden state. ``harness.evaluate.batch_effect`` measures what that changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from harness.data.tokens import decode_response, encode_prompt
from harness.engine.batches import OnBatch, batches, evaluating
from harness.engine.prefix import Prefix, sees_all
from harness.engine.process import EngineError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from harness.engine.process import VLLM


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


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    batch_size: int,
    stop_strings: Sequence[str] = (),
    num_beams: int = 1,
    prefix_caching: bool = True,
    on_batch: OnBatch | None = None,
    engine: VLLM | None = None,
) -> list[Completion]:
    """Completions in the order of the prompts: greedy, or the best of ``num_beams`` beams. Prompts are left-padded with an
    attention mask; a row ends at an end-of-sequence token, before the first stop string, after ``max_new_tokens``, or where
    the model's positions end. Greedy rows leave the batch when they end.

    Args:
        prefix_caching: what all prompts begin with is computed once; not for beams, nor where a row may grow longer than the
            model's sliding window, whose padding would then stand between the two.
        engine: decodes all prompts at once, greedily, in the model's place; prefixes are its own affair.

    Raises:
        ValueError: a prompt without tokens, or that leaves the model no position to answer in.
        harness.engine.process.EngineError: the engine failed.
        RuntimeError: the model does not use its cache, which would recompute every prefix.
    """
    encoded = _prompt_tokens(model, tokenizer, prompts)
    # int(), for the model's own limit may be infinity, a float, which is never the least of the two.
    limits = [int(min(max_new_tokens, _positions(model) - len(tokens))) for tokens in encoded]
    if engine is not None:
        return _by_engine(engine, model, tokenizer, encoded, limits, tuple(stop_strings))
    completions: dict[int, Completion] = {}
    with evaluating(model):
        if num_beams > 1:
            decode: Callable[..., list[Completion]] = partial(_beam_search, num_beams=num_beams)
        else:
            longest = max((len(tokens) + limit for tokens, limit in zip(encoded, limits, strict=True)), default=0)
            shares = prefix_caching and sees_all(model, longest)
            # The last token of a prompt is read with the rows, for the logits after it begin the answer.
            decode = partial(_greedy, prefix=Prefix.read(model, [tokens[:-1] for tokens in encoded] if shares else []))
        # A batch has one limit: beam search ranks hypotheses by their length, so one row's limit must not be another's.
        for rows in batches([len(tokens) for tokens in encoded], batch_size, kinds=limits):
            decoded = decode(model, tokenizer, [encoded[row] for row in rows], limits[rows[0]], tuple(stop_strings))
            completions |= zip(rows, decoded, strict=True)
            if on_batch is not None:
                on_batch(len(completions), len(prompts))
    return [completions[row] for row in range(len(prompts))]


def _left_padded(model: PreTrainedModel, encoded: list[list[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(token ids, attention mask), each of shape (rows, longest)."""
    width = max(map(len, encoded))
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in encoded], device=model.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in encoded], device=model.device)
    return ids, mask


def _completion(
    tokenizer: PreTrainedTokenizerBase, prompt: list[int], generated: list[int], ends: set[int], stop_strings: tuple[str, ...]
) -> Completion:
    """``generated`` ends in an end-of-sequence token, at a stop string, or at the limit."""
    ended = bool(generated) and generated[-1] in ends
    text = decode_response(tokenizer, prompt, generated[:-1] if ended else generated)
    cuts = [position for stop in stop_strings if (position := text.find(stop)) >= 0]
    return Completion(text=text[: min(cuts)] if cuts else text, tokens=len(generated), truncated=not ended and not cuts)


def _at_stop_string(tokenizer: PreTrainedTokenizerBase, generated: list[int], stop_strings: tuple[str, ...]) -> bool:
    if not stop_strings:
        return False
    # A stop string of n characters lies within the last n tokens, but for bytes still waiting for their character.
    window = max(map(len, stop_strings)) + 4
    tail = tokenizer.decode(generated[-window:], skip_special_tokens=True)
    return any(stop in tail for stop in stop_strings)


# -------------------------------------------------------------------------------------------------------------- greedy


def _greedy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    encoded: list[list[int]],
    limit: int,
    stop_strings: tuple[str, ...],
    *,
    prefix: Prefix,
) -> list[Completion]:
    return _Batch(model, tokenizer, encoded, limit, stop_strings, prefix).run()


class _Batch:
    """Decoding of one batch. Row r of the tensors belongs to prompt ``self.alive[r]``; padding stands between the prefix and
    the rest of a prompt."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        encoded: list[list[int]],
        limit: int,
        stop_strings: tuple[str, ...],
        prefix: Prefix,
    ) -> None:
        self.model, self.tokenizer, self.stop_strings, self.limit = model, tokenizer, stop_strings, limit
        self.ends = _end_tokens(model, tokenizer)
        self.prompts = encoded
        self.generated: list[list[int]] = [[] for _ in encoded]
        self.alive = list(range(len(encoded)))
        self.ids, mask = _left_padded(model, [tokens[prefix.length :] for tokens in encoded], pad=min(self.ends, default=0))
        self.mask = torch.cat([mask.new_ones(len(encoded), prefix.length), mask], dim=1)
        self.positions = (self.mask.cumsum(1) - 1).clamp(min=0)[:, prefix.length :]
        self.cache: Any = prefix.cache(len(encoded))

    @torch.inference_mode()
    def run(self) -> list[Completion]:
        """The completions, in the order of the prompts."""
        while True:
            output = self.model(
                input_ids=self.ids,
                attention_mask=self.mask,
                position_ids=self.positions,
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
            )
            self.cache = output.past_key_values
            if self.cache is None or self.cache.get_seq_length() != self.mask.shape[1]:
                raise RuntimeError(f"the model returned no cache of {self.mask.shape[1]} positions, although use_cache=True")
            tokens = output.logits[:, -1].argmax(dim=-1)
            kept = self._take(tokens.tolist())
            if not kept:
                break
            if len(kept) < len(self.alive):
                tokens = self._compact(kept, tokens)
            self.ids = tokens[:, None]
            self.mask = torch.cat([self.mask, self.mask.new_ones(len(kept), 1)], dim=1)
            self.positions = self.positions[:, -1:] + 1
        rows = zip(self.prompts, self.generated, strict=True)
        return [_completion(self.tokenizer, *row, self.ends, self.stop_strings) for row in rows]

    def _take(self, tokens: list[int]) -> list[int]:
        """Append one token to each row. Returns the tensor rows that go on."""
        kept = []
        for row, (index, token) in enumerate(zip(self.alive, tokens, strict=True)):
            generated = self.generated[index]
            generated.append(token)
            if (
                token not in self.ends
                and len(generated) < self.limit
                and not _at_stop_string(self.tokenizer, generated, self.stop_strings)
            ):
                kept.append(row)
        return kept

    def _compact(self, kept: list[int], tokens: torch.Tensor) -> torch.Tensor:
        """Drop finished rows."""
        rows = torch.tensor(kept, device=tokens.device)
        self.cache.batch_select_indices(rows)
        self.alive = [self.alive[row] for row in kept]
        self.mask, self.positions = self.mask[rows], self.positions[rows]
        return tokens[rows]


# ------------------------------------------------------------------------------------------------------ another engine


def _by_engine(
    engine: VLLM,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    encoded: list[list[int]],
    limits: list[int],
    stop_strings: tuple[str, ...],
) -> list[Completion]:
    """What an engine generates, cut where ``_greedy`` would have ended: an engine may see a stop string later.

    Raises:
        harness.engine.process.EngineError: a row ended before ``_greedy`` would have ended it.
    """
    ends = _end_tokens(model, tokenizer)
    rows = engine.tokens(encoded, limits=limits, ends=sorted(ends), stop_strings=stop_strings)
    completions = []
    for row, (prompt, tokens, limit) in enumerate(zip(encoded, rows, limits, strict=True)):
        sizes = range(1, len(tokens) + 1)
        ended = (n for n in sizes if tokens[n - 1] in ends or _at_stop_string(tokenizer, tokens[:n], stop_strings))
        tokens = tokens[: next(ended, len(tokens))]
        completion = _completion(tokenizer, prompt, tokens, ends, stop_strings)
        if completion.truncated and len(tokens) < limit:
            raise EngineError(f"row {row} ended after {len(tokens)} of {limit} tokens, at no end and no stop string")
        completions.append(completion)
    return completions


# --------------------------------------------------------------------------------------------------------- beam search


@torch.inference_mode()
def _beam_search(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    encoded: list[list[int]],
    limit: int,
    stop_strings: tuple[str, ...],
    *,
    num_beams: int,
) -> list[Completion]:
    """transformers' beam search with the settings that LLM-Adapters' GenerationConfig leaves at their defaults: a
    hypothesis scores its mean log-probability a generated token (length_penalty 1), and a row ends when no running beam can
    beat its finished ones at their present length (early_stopping False)."""
    from transformers import GenerationConfig

    ends = _end_tokens(model, tokenizer)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(ends, default=0)
    ids, mask = _left_padded(model, encoded, pad)
    own = model.generation_config
    # The model's own settings (sampling, repetition penalty) would fill whatever is left out here.
    model.generation_config = GenerationConfig(
        num_beams=num_beams,
        do_sample=False,
        early_stopping=False,
        length_penalty=1.0,
        max_new_tokens=limit,
        eos_token_id=sorted(ends) or None,
        pad_token_id=pad,
        use_cache=True,
    )
    try:
        sequences = model.generate(input_ids=ids, attention_mask=mask)[:, ids.shape[1] :].tolist()
    finally:
        model.generation_config = own
    rows = zip(encoded, sequences, strict=True)
    return [_completion(tokenizer, prompt, _up_to_end(row, ends), ends, stop_strings) for prompt, row in rows]


def _up_to_end(generated: list[int], ends: set[int]) -> list[int]:
    """The tokens up to the first end-of-sequence token, that included; what follows is padding."""
    first = next((place for place, token in enumerate(generated) if token in ends), len(generated))
    return generated[: first + 1]
