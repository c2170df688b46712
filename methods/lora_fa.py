"""LoRA-FA (Zhang et al. 2023, arXiv 2308.03303): LoRA that trains B alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from methods.base import TrainingContext
from methods.lora import Lora
from methods.peft_support import ADAPTER, adapted_layers

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class LoraFrozenA(Lora):
    """LoRA whose A stays as it was drawn (LoRA-FA, section 3.1), with the settings of LoRA.

    Beside LoRA and BeamLoRA it is the null of rank importance: its ranks differ at the start by the rows that chance drew, and
    keep them.
    """

    name = "lora-fa"
    label = "LoRA-FA"

    def trained_parameters(self, base: int, layers: Iterable[tuple[int, int]]) -> int:
        """B."""
        return sum(self.settings.r * outputs for _, outputs in layers)

    def wrap(self, model: PreTrainedModel, context: TrainingContext) -> torch.nn.Module:
        """Add LoRA's adapter and freeze its A."""
        wrapped = super().wrap(model, context)
        for layer in adapted_layers(wrapped).values():
            layer.lora_A[ADAPTER].requires_grad_(False)
        return wrapped
