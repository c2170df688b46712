"""What every pass through a model shares: batches of similar length, evaluation mode, logits in float32."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from harness.models.output_layer import evaluation_mode, float32_head

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Called with (prompts done, prompts in all) after each batch.
OnBatch = Callable[[int, int], None]
#: Tokens of one scoring pass: a few long references must not make every other one as long.
SCORED_TOKENS = 16_384


def batches(
    lengths: Sequence[int], batch_size: int, *, kinds: Sequence[float] | None = None, max_tokens: float = math.inf
) -> list[list[int]]:
    """Indices in batches of similar length, longest first, so that memory runs out at once or never. Indices of different
    ``kinds`` are never in one batch; a batch of several has at most ``max_tokens`` tokens, padding included."""
    made: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        last = made[-1] if made else []
        fits = last and len(last) < batch_size and (len(last) + 1) * lengths[last[0]] <= max_tokens
        if fits and (kinds is None or kinds[last[0]] == kinds[index]):
            last.append(index)
        else:
            made.append([index])
    return made


@contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode and logits in float32; the mode and the head that the model had are restored."""
    with evaluation_mode(model), float32_head(model):
        yield
