"""LoRA (Hu et al. 2022, arXiv 2106.09685), from PEFT."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from methods.base import AdapterSettings, Method, TrainingContext
from methods.peft_support import add_adapter, save_adapter

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class Lora(Method[AdapterSettings]):
    """W = W0 + (lora_alpha / r) B A, with A drawn Kaiming-uniform and B = 0.

    From the BeamLoRA paper (A.2): rank 64 and all seven linear layers for math and code, rank 32 and q, k, v, up, down for
    commonsense. From its released script: lora_alpha = 2r and dropout 0.05, which the paper does not state.
    The adapter is float32 on every base; the released code kept it in bfloat16.
    """

    name = "lora"
    label = "LoRA"
    Settings = AdapterSettings
    prunable = True

    def peft_options(self) -> dict[str, Any]:
        """Arguments of ``peft.LoraConfig`` in which a variant of LoRA differs from LoRA."""
        return {}

    def trained_parameters(self, base: int, layers: Iterable[tuple[int, int]]) -> int:
        """A and B."""
        return sum(self.settings.r * (inputs + outputs) for inputs, outputs in layers)

    def wrap(self, model: PreTrainedModel, context: TrainingContext) -> torch.nn.Module:
        """Add the adapter to every target module and freeze the rest."""
        from peft import LoraConfig

        s = self.settings
        config = LoraConfig(
            r=s.r,
            lora_alpha=s.lora_alpha,
            lora_dropout=s.lora_dropout,
            bias="none",
            target_modules=list(s.target_modules),
            task_type="CAUSAL_LM",
            **self.peft_options(),
        )
        return add_adapter(model, config, seed=context.seed)

    def rank_importance(self, model: torch.nn.Module) -> dict[str, torch.Tensor] | None:
        """Of the adapter as it is trained: what was merged into the base, or moved from it, does not count."""
        from methods.importance import importance_by_module

        return importance_by_module(model)

    def finalize(self, model: torch.nn.Module, output_dir: Path) -> None:
        """Write the PEFT adapter."""
        save_adapter(model, output_dir)
