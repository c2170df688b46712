"""Logits in float32, whatever the dtype of the model.

bfloat16 has 8 bits of precision: logits between 8 and 16 are rounded to multiples of 1/16, so that the two best of a handful
of labels are often equal, and the first wins. The hidden state at a position is rounded too, but every label is scored
from the same one: its product with the head, in float32, tells them apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class _Float32Head(nn.Module):
    """The output layer on hidden states of any dtype. Its copy of the weights takes 4 bytes each, for as long as it lives: 0.5
    GiB for LLaMA2-7B."""

    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(head.weight.detach().float(), requires_grad=False)
        self.bias = None if head.bias is None else nn.Parameter(head.bias.detach().float(), requires_grad=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits, shape (..., vocabulary), of hidden states, shape (..., width)."""
        return nn.functional.linear(hidden.float(), self.weight, self.bias)


@contextmanager
def float32_head(model: PreTrainedModel) -> Iterator[None]:
    """Let the model's last layer compute in float32 for a while; a model in float32 does so anyway. Only where the model is
    asked for logits are there any, so memory is bounded by what the caller asks for."""
    head = cast(nn.Linear, model.get_output_embeddings())
    if head.weight.dtype == torch.float32:
        yield
        return
    model.set_output_embeddings(_Float32Head(head))
    try:
        yield
    finally:
        model.set_output_embeddings(head)
