"""Full fine-tuning: every parameter of the base model is trained."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from methods.base import Method, MethodSettings, TrainingContext
from methods.peft_support import save_full_model

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class FullFineTuning(Method[MethodSettings]):
    """Full-FT. It has no settings of its own.

    From the paper (A.2), and set in the experiment's training section: learning rate 2e-5 for LLaMA2-7B and 5e-6 for
    Mistral-7B, batch 128, 3 epochs. Weights and moments have the base's dtype; at such rates bfloat16 alone would lose most of
    the update, and ``training.bf16_update`` says how it does not.
    """

    name = "full-ft"
    label = "Full-FT"
    Settings = MethodSettings
    sharded = True

    def trained_parameters(self, base: int, layers: Iterable[tuple[int, int]]) -> int:
        """All."""
        return base

    def wrap(self, model: PreTrainedModel, context: TrainingContext) -> torch.nn.Module:
        """Make every parameter trainable."""
        return model.requires_grad_(True)

    def finalize(self, model: torch.nn.Module, output_dir: Path) -> None:
        """Write the full model in Hugging Face form."""
        save_full_model(model, output_dir)
