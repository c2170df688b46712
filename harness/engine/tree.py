"""The log-likelihoods of several responses to each of many prompts, without computing a shared token twice.

The sequences of an example (a prompt with its choices and its reference) are one tree: a token's ancestors are the tokens
before it. Trees are packed end to end into rows, where each token attends to its ancestors only and has its depth as its
position. What all sequences begin with, a template's words, is computed once and read from the cache. The sums are those of
each sequence alone, only their rounding differs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from harness.data.tokens import encode_prompt, encode_response
from harness.engine.batches import SCORED_TOKENS, OnBatch, batches, evaluating
from harness.engine.prefix import Prefix, sees_all
from harness.models.output_layer import Logits, logits_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: Tokens of a row of packed trees: longer ones leave less padding, and more pairs of tokens that do not see each other.
_ROW = 256
#: Positions whose logits are in memory at once: 50 MB for a vocabulary of 49,152.
_LOGITS = 256


@dataclass(frozen=True, kw_only=True)
class Response:
    """The tokens of a prompt and of what follows it, which begins at ``start``, at least 1."""

    tokens: list[int]
    start: int

    @property
    def scored(self) -> list[int]:
        """The tokens that are scored."""
        return self.tokens[self.start :]


def response(tokenizer: PreTrainedTokenizerBase, prompt: str, text: str, *, ended: bool) -> Response:
    """A prompt and its response with the tokens of training, the end-of-sequence token among them if ``ended``.

    Raises:
        ValueError: the prompt has no tokens, or the tokenizer no end-of-sequence token.
    """
    head = encode_prompt(tokenizer, prompt)
    if not head:
        raise ValueError(f"prompt {prompt!r}: found no tokens, expected at least one")
    if ended and tokenizer.eos_token_id is None:
        raise ValueError("eos_token_id: found none in the tokenizer, expected one to end references")
    tail = encode_response(tokenizer, prompt=prompt, head=head, response=text)
    return Response(tokens=[*head, *tail, *[tokenizer.eos_token_id] * ended], start=len(head))


class _Tree:
    """The sequences of one example without their last tokens, after ``skip`` tokens that are computed elsewhere."""

    def __init__(self, responses: Sequence[Response], *, skip: int) -> None:
        places: dict[tuple[int, int], int] = {}
        #: For each response: the place of the token before each scored one, and that one.
        self.scored: list[list[tuple[int, int]]] = []
        for response in responses:
            path = [-1]
            for token in response.tokens[skip:-1] if response.scored else []:
                path.append(places.setdefault((path[-1], token), len(places)))
            before = path[response.start - skip :] if response.scored else []
            self.scored.append(list(zip(before, response.scored, strict=True)))
        self.tokens = [token for _, token in places]
        seen = np.eye(len(places), dtype=bool)
        for place, (parent, _) in enumerate(places):
            if parent >= 0:
                seen[place] |= seen[parent]
        #: (tokens, tokens): whether the token of the column is the row's own or an ancestor of it.
        self.seen = torch.from_numpy(seen)

    def __len__(self) -> int:
        return len(self.tokens)


@torch.inference_mode()
def loglikelihoods(
    model: PreTrainedModel,
    asked: Sequence[Sequence[Response]],
    *,
    batch_size: int,
    on_batch: OnBatch | None = None,
) -> list[list[float]]:
    """The summed log-likelihood in nats of each response's tokens from ``start`` on; 0 where there are none.

    Args:
        asked: the responses of each example.
        batch_size: examples in one pass.

    Raises:
        ValueError: the model has layers with and without a sliding window, and a sequence is longer than the window.
    """
    window = _window(model, asked)
    results: list[list[float]] = [[0.0] * len(responses) for responses in asked]
    done = 0
    with evaluating(model):
        prefix, logits = Prefix.read(model, _beginnings(asked) if window is None else []), logits_of(model)
        trees = [_Tree(responses, skip=prefix.length) for responses in asked]
        for batch in batches(list(map(len, trees)), batch_size, max_tokens=SCORED_TOKENS):
            if len(trees[batch[0]]):
                members = [trees[index] for index in batch]
                scored = _score(model, logits, members, prefix=prefix, window=window)
                for index, sums in zip(batch, scored, strict=True):
                    results[index] = sums
            done += len(batch)
            if on_batch is not None:
                on_batch(done, len(asked))
    return results


def _beginnings(asked: Sequence[Sequence[Response]]) -> list[list[int]]:
    """The sequences that are scored, each up to before the token from which the first score is read; of one example none, for
    its tree already has every token once."""
    return [one.tokens[: one.start - 1] for responses in asked for one in responses if one.scored] if len(asked) > 1 else []


def _window(model: PreTrainedModel, asked: Sequence[Sequence[Response]]) -> int | None:
    """How many of the last tokens each token attends to; None: all of them."""
    longest = max((len(one.tokens) for responses in asked for one in responses), default=0)
    if sees_all(model, longest):
        return None
    window = model.config.sliding_window
    kinds = set(getattr(model.config, "layer_types", None) or ("sliding_attention",))
    if kinds == {"sliding_attention"}:
        return int(window)
    raise ValueError(
        f"evaluation.scoring: found tree, sequences of up to {longest} tokens and a model with layers of {sorted(kinds)}, "
        f"expected rows: only some of its layers attend to the last {window} tokens alone"
    )


def _packed(lengths: Sequence[int]) -> list[list[int]]:
    """Rows of indices, as few as ``_ROW`` or the longest asks for and about equally long; lengths are in descending order."""
    rows: list[list[int]] = [[] for _ in range(math.ceil(sum(lengths) / max(lengths[0], _ROW)))]
    filled = [0] * len(rows)
    for index, length in enumerate(lengths):
        row = filled.index(min(filled))
        rows[row].append(index)
        filled[row] += length
    return rows


def _score(
    model: PreTrainedModel, logits: Logits, trees: Sequence[_Tree], *, prefix: Prefix, window: int | None
) -> list[list[float]]:
    rows = _packed(list(map(len, trees)))
    width = max(sum(len(trees[index]) for index in members) for members in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    positions = torch.zeros_like(ids)
    # Padding sees itself, for a softmax over nothing is no number.
    mask = torch.eye(width, dtype=torch.bool).repeat(len(rows), 1, 1)
    starts: dict[int, tuple[int, int]] = {}
    for row, members in enumerate(rows):
        start = 0
        for index in members:
            tree = trees[index]
            span = slice(start, start + len(tree))
            ids[row, span] = torch.tensor(tree.tokens)
            positions[row, span] = depths = prefix.length + tree.seen.sum(1) - 1
            near = depths[:, None] - depths < window if window is not None else True
            mask[row, span, span] = tree.seen & near
            starts[index] = row, start
            start += len(tree)
    mask = torch.cat([mask.new_ones(len(rows), width, prefix.length), mask], dim=2)[:, None]
    hidden = model.get_decoder()(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        position_ids=positions.to(model.device),
        past_key_values=prefix.cache(len(rows)),
        use_cache=prefix.length > 0,
    ).last_hidden_state
    wanted = [
        (starts[index][0], starts[index][1] + place, token)
        for index, tree in enumerate(trees)
        for pairs in tree.scored
        for place, token in pairs
    ]
    found = _log_p(logits, hidden, wanted)
    return [[sum(next(found) for _ in pairs) for pairs in tree.scored] for tree in trees]


def _log_p(logits: Logits, hidden: torch.Tensor, wanted: Sequence[tuple[int, int, int]]) -> Iterator[float]:
    """The log-probability of each token after its position.

    Args:
        hidden: (rows, width, hidden size).
        wanted: (row, place in it, token).
    """
    positions: dict[tuple[int, int], list[int]] = {}
    for row, place, token in wanted:
        positions.setdefault((row, place), []).append(token)
    found: dict[tuple[int, int, int], float] = {}
    asked = list(positions.items())
    for start in range(0, len(asked), _LOGITS):
        chunk = asked[start : start + _LOGITS]
        rows, places = torch.tensor([position for position, _ in chunk], device=hidden.device).T
        # Its error on 49,152 tokens is ten times that of logsumexp, but it is everybody's: lm-eval's sums, and those of rows.
        log_p = logits(hidden[rows, places]).log_softmax(dim=-1)
        here = [(number, token) for number, (_, tokens) in enumerate(chunk) for token in tokens]
        numbers, tokens = torch.tensor(here, device=hidden.device).T
        values = log_p[numbers, tokens].tolist()
        found |= {(*chunk[number][0], token): value for (number, token), value in zip(here, values, strict=True)}
    return (found[one] for one in wanted)
