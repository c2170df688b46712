"""A warning for an adapter that an optimizer trains while nothing takes its snapshots and operates on its ranks."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

#: Layer -> its adapters whose settings ask for operations, and for which no ``BeamLora`` has been made.
_waiting: WeakKeyDictionary[nn.Module, set[str]] = WeakKeyDictionary()
_hooks: list[Any] = []


def expect_operations(layer: nn.Module, adapter: str) -> None:
    """Warn, once for all layers together, when an optimizer updates the scores of ``adapter`` before ``attend``."""
    if not _hooks:
        _hooks.append(register_optimizer_step_post_hook(_after_step))
    _waiting.setdefault(layer, set()).add(adapter)


def attend(layers: Iterable[nn.Module], adapter: str) -> None:
    """The layers' ``adapter`` is in good hands, or its user has been told."""
    for layer in layers:
        _waiting.get(layer, set()).discard(adapter)


def _after_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    """Runs after each step of any optimizer in this process."""
    if not any(_waiting.values()):
        return
    updated = {id(p) for group in optimizer.param_groups for p in group["params"] if p.grad is not None}
    trained: dict[str, list[nn.Module]] = {}
    for layer, adapters in _waiting.items():
        gates: Any = layer.lora_gate
        for adapter in adapters:
            if adapter in gates and id(gates[adapter]) in updated:
                trained.setdefault(adapter, []).append(layer)
    for adapter, layers in trained.items():
        attend(layers, adapter)
        warnings.warn(
            f"the BeamLoRA adapter {adapter!r} is trained without operations: its scores learn, but no rank is pruned or "
            "expanded; give the Trainer a BeamLoraCallback, or a loop of your own a BeamLora, or say operations=False",
            stacklevel=3,  # the loop that called optimizer.step()
        )
