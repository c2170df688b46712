"""Logits of hidden states: in float32, whatever the dtype of the model, and as the model has them, which may scale or cap what
its output layer gives.

bfloat16 has 8 bits of precision: logits between 8 and 16 are rounded to multiples of 1/16, so that the two best of a handful
of labels are often equal, and the first wins. The hidden state at a position is rounded too, but every label is scored
from the same one: its product with the head, in float32, tells them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: From hidden states, shape (n, width), to logits, shape (n, vocabulary).
Logits = Callable[[torch.Tensor], torch.Tensor]


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


@contextmanager
def instead(head: nn.Module, forward: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Let an output layer compute something else for a while."""
    head.forward = forward
    try:
        yield
    finally:
        del head.forward


def returned(model: PreTrainedModel, output: torch.Tensor, **inputs: Any) -> torch.Tensor:
    """The logits that a model returns where its output layer gives ``output``, shape (1, n, vocabulary). It is asked for one
    token, with ``inputs`` beside it."""
    ids = torch.zeros(1, 1, dtype=torch.long, device=output.device)
    with torch.no_grad(), instead(model.get_output_embeddings(), lambda hidden: output):
        return model(input_ids=ids, use_cache=False, **inputs).logits


@contextmanager
def evaluation_mode(model: PreTrainedModel) -> Iterator[None]:
    """The mode that the model had is restored."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def returns_its_output(model: PreTrainedModel, **inputs: Any) -> bool:
    """Whether the logits are what the output layer gives, neither scaled nor capped. Asks for one token, with ``inputs`` beside
    it, and marks in place of logits."""
    weight = model.get_output_embeddings().weight
    marks = torch.linspace(-1000, 1000, len(weight), dtype=weight.dtype, device=weight.device)[None, None]
    with evaluation_mode(model):
        return torch.equal(returned(model, marks, **inputs), marks)


def logits_of(model: PreTrainedModel) -> Logits:
    """The model's output layer and, where the model scales or caps what that gives (Gemma, Cohere, Granite), that as well."""
    head = model.get_output_embeddings()
    return head if returns_its_output(model) else lambda hidden: returned(model, head(hidden)[None])[0]
