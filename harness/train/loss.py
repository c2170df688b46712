"""The loss of labelled positions without their logits in memory: made a few rows at a time, with the gradient beside it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from harness.models.output_layer import instead, returns_its_output
from harness.train import attention

#: Logits that exist at a time: 64 MiB of float32.
CHUNK_LOGITS = 1 << 24


def label_loss(hidden: torch.Tensor, head: nn.Linear, labels: torch.Tensor) -> torch.Tensor:
    """The sum over positions of -log softmax(head(hidden))[label], float32.

    Args:
        hidden: (n, width), what the output layer gets at the positions that predict a label.
        labels: (n,), token ids.
    """
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    return _LabelLoss.apply(hidden, head.weight, head.bias, labels, dtype)


def plain_head(model: nn.Module) -> nn.Linear | None:
    """The output layer, if the model returns its output as it is; None where it is of another kind, or where logits are scaled
    or capped behind it."""
    inner: Any = model
    head = inner.get_output_embeddings()
    if type(head) is not nn.Linear or type(head.weight) is not nn.Parameter or head._forward_hooks or head._forward_pre_hooks:
        return None
    packed = {"segment_lengths": [1]} if inner.config._attn_implementation == attention.NAME else {}
    return head if returns_its_output(inner, **packed) else None


def hidden_states(head: nn.Linear) -> AbstractContextManager[None]:
    """Let the model return what its output layer ``head`` gets in place of logits."""
    return instead(head, lambda hidden: hidden)


class _LabelLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        labels: torch.Tensor,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        rows = max(1, CHUNK_LOGITS // weight.shape[0])
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        d_hidden = torch.empty_like(hidden)
        d_weight = torch.zeros_like(weight) if weight.requires_grad else None
        d_bias = torch.zeros_like(bias) if bias is not None and bias.requires_grad else None
        with torch.autocast(hidden.device.type, enabled=False):
            cast = weight.to(dtype)
            for start in range(0, len(hidden), rows):
                part, ids = hidden[start : start + rows].to(dtype), labels[start : start + rows, None]
                logits = nn.functional.linear(part, cast, None if bias is None else bias.to(dtype)).float()
                log_sum = logits.logsumexp(1, keepdim=True)
                total += (log_sum - logits.gather(1, ids)).sum()
                d_logits = logits.sub_(log_sum).exp_().scatter_add_(1, ids, torch.full_like(log_sum, -1.0))
                if d_bias is not None:
                    d_bias += d_logits.sum(0)
                d_logits = d_logits.to(dtype)
                d_hidden[start : start + rows] = d_logits @ cast
                if d_weight is not None:
                    d_weight += d_logits.t() @ part
        ctx.gradients = d_hidden, d_weight, d_bias
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        d_hidden, d_weight, d_bias = ctx.gradients
        del ctx.gradients
        return (
            *(None if value is None else value.mul_(grad.to(value.dtype)) for value in (d_hidden, d_weight, d_bias)),
            None,
            None,
        )
