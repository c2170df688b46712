"""Attention over examples that are packed end to end, each attending to itself only.

Registered with transformers as ``packed_sdpa``. Exact: the same numbers as the padded form, without work on padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

NAME = "packed_sdpa"


def _sliding_mask(length: int, window: int, device: torch.device) -> torch.Tensor:
    """(length, length) boolean: position i attends to the last ``window`` positions up to and including i."""
    distance = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)[None]
    return (distance >= 0) & (distance < window)


def packed_sdpa(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    segment_lengths: Sequence[int] | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside each segment.

    Args:
        query: (1, heads, total tokens, head size); ``key`` and ``value`` may have fewer heads (grouped queries).
        segment_lengths: tokens of each packed example, in order; they add up to the total.

    Returns:
        (1, total tokens, heads, head size), and None for the attention weights.

    Raises:
        ValueError: the batch is not packed.
    """
    if segment_lengths is None:
        raise ValueError(f"{NAME} needs segment_lengths, expected a batch from PackedCollator")
    outputs = []
    segments = zip(*(tensor.split(list(segment_lengths), dim=2) for tensor in (query, key, value)), strict=True)
    for q, k, v in segments:
        length = q.shape[2]
        mask = None
        if sliding_window is not None and length > sliding_window:
            mask = _sliding_mask(length, sliding_window, q.device)
        outputs.append(
            scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=mask,
                dropout_p=dropout,
                is_causal=mask is None,
                scale=scaling,
                enable_gqa=q.shape[1] != k.shape[1],
            )
        )
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def register() -> None:
    """Make ``attn_implementation="packed_sdpa"`` known to transformers. It builds its masks itself."""
    AttentionInterface.register(NAME, packed_sdpa)
    AttentionMaskInterface.register(NAME, lambda *_, **__: None)
