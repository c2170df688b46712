"""Importance of the ranks of a LoRA adapter: the Frobenius norm of each rank's share of the weight update (section
2.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from methods.peft_support import PEFT_PREFIX

if TYPE_CHECKING:
    import torch


_ADAPTER = "default"


def importance_by_module(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """||scaling s_i b_i a_i||_F of every rank i of every adapted linear layer.

    The norm of an outer product is the product of the norms, so this is scaling s_i |b_i| |a_i|: no d x k matrix is
    built. ``scaling`` is lora_alpha / r; s_i is BeamLoRA's score (r softmax(g / tau)) and 1 for plain LoRA, so the
    values are those of the update that the layer really applies and can be compared between methods.

    Args:
        model: a model with LoRA or BeamLoRA layers, wrapped or not.

    Returns:
        Name of the module in the base model -> importances, shape (r,), float32, on the CPU.

    Raises:
        ValueError: no layer has the adapter ``default``, or one has a form whose ranks are not s_i b_i a_i (DoRA and the like).
    """
    from peft.tuners.lora import Linear

    result: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        if not isinstance(module, Linear) or _ADAPTER not in module.lora_A:
            continue
        rank_scores = getattr(module, "rank_scores", None)  # of BeamLoRA's layer
        if _ADAPTER in module.lora_variant and rank_scores is None:
            variant = type(module.lora_variant[_ADAPTER]).__name__
            raise ValueError(f"{name}: found the LoRA variant {variant}, expected plain LoRA or BeamLoRA")
        norm_a = module.lora_A[_ADAPTER].weight.detach().float().norm(dim=1)
        norm_b = module.lora_B[_ADAPTER].weight.detach().float().norm(dim=0)
        importance = module.scaling[_ADAPTER] * norm_a * norm_b
        if rank_scores is not None:
            importance = importance * rank_scores(_ADAPTER).detach()
        result[name.removeprefix(PEFT_PREFIX)] = importance.cpu()
    if not result:
        raise ValueError(f"rank_importance: found no LoRA layer with adapter {_ADAPTER!r} in a {type(model).__name__}")
    return result
