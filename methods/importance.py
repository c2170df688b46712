"""Importance of the ranks of a LoRA adapter: the Frobenius norm of each rank's share of the weight update (section
2.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from methods.peft_support import PEFT_PREFIX

if TYPE_CHECKING:
    import torch


def rank_importance(model: torch.nn.Module, *, adapter_name: str = "default") -> dict[str, torch.Tensor]:
    """||scaling s_i b_i a_i||_F of every rank i of every adapted linear layer.

    The norm of an outer product is the product of the norms, so this is scaling s_i |b_i| |a_i|: no d x k matrix is
    built. ``scaling`` is lora_alpha / r; s_i is BeamLoRA's score (r softmax(g / tau)) and 1 for plain LoRA, so the
    values are those of the update that the layer really applies and can be compared between methods.

    Args:
        model: a model with LoRA or BeamLoRA layers, wrapped or not.
        adapter_name: which adapter.

    Returns:
        Module name -> importances, shape (r,), float32, on the CPU.

    Raises:
        ValueError: no layer has the adapter, or one has a form whose ranks are not s_i b_i a_i (DoRA and the like).
    """
    from peft.tuners.lora import Linear

    result: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        if not isinstance(module, Linear) or adapter_name not in module.lora_A:
            continue
        rank_scores = getattr(module, "rank_scores", None)  # of BeamLoRA's layer
        if adapter_name in module.lora_variant and rank_scores is None:
            variant = type(module.lora_variant[adapter_name]).__name__
            raise ValueError(f"{name}: found the LoRA variant {variant}, expected plain LoRA or BeamLoRA")
        norm_a = module.lora_A[adapter_name].weight.detach().float().norm(dim=1)
        norm_b = module.lora_B[adapter_name].weight.detach().float().norm(dim=0)
        importance = module.scaling[adapter_name] * norm_a * norm_b
        if rank_scores is not None:
            importance = importance * rank_scores(adapter_name).detach()
        result[name] = importance.cpu()
    if not result:
        raise ValueError(f"rank_importance: found no LoRA layer with adapter {adapter_name!r} in a {type(model).__name__}")
    return result


def importance_by_module(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """``rank_importance`` of a model that PEFT wraps, under the modules' names in the base model."""
    return {name.removeprefix(PEFT_PREFIX): values for name, values in rank_importance(model).items()}
