"""The BeamLoRA linear layer: y = W0 x + scaling B (s * A dropout(x)), with the scores s = r softmax(g / tau) (Eq.
4-5)."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from peft import LoraConfig
from peft.tuners import lora
from peft.tuners.lora.layer import LoraVariant
from peft.utils.other import transpose
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from beamlora.config import BeamLoraConfig
from beamlora.fused import FusedAdapter, Update, fuses, lora_update
from beamlora.operation import rank_scores


class Gate(nn.Module):
    """The score logits of one adapter, ``weight``, shape (1, r): as in the released code, and with two dimensions LoRA+ gives
    it A's rate. A module, so that ``lora_gate.default.weight`` is named as A and B are: TRL copies parameters whose name has
    ``.default.`` into its reference adapter, and no others."""

    def __init__(self, r: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, r))

    def forward(self, *, temperature: float, times_r: bool) -> torch.Tensor:
        """The scores, (r,), float32."""
        return rank_scores(self.weight, temperature=temperature, times_r=times_r)


class BeamLoraLinear(lora.Linear):
    """LoRA on ``nn.Linear`` or transformers' ``Conv1D`` with one trainable score logit per rank, ``lora_gate[adapter]``."""

    adapter_layer_names = (*lora.Linear.adapter_layer_names, "lora_gate")
    other_param_names = (*lora.Linear.other_param_names, "gate_temperature", "gate_times_r")

    @property
    def lora_variants(self) -> dict[tuple[str, ...], type[LoraVariant]]:
        return {(): BeamVariant}

    def update_layer(self, adapter_name: str, r: int, lora_alpha: float, config: BeamLoraConfig, **kwargs: Any) -> None:
        """Add an adapter. Equal logits: every score is 1 (``gate_times_r``) and the layer starts as LoRA.

        Raises:
            ValueError: the configuration of another kind of adapter.
        """
        if not isinstance(config, BeamLoraConfig):
            raise ValueError(mixed(adapter_name, config, layer=kwargs.get("target_name", "?")))
        if not hasattr(self, "lora_gate"):  # the first adapter is added by the base class's constructor
            self.lora_gate = nn.ModuleDict()
            self.gate_temperature: dict[str, float] = {}
            self.gate_times_r: dict[str, bool] = {}
        self.lora_gate[adapter_name] = Gate(r)
        self.gate_temperature[adapter_name] = config.gate_temperature
        self.gate_times_r[adapter_name] = config.gate_times_r
        super().update_layer(adapter_name, r, lora_alpha=lora_alpha, config=config, **kwargs)
        if config.operations:
            expect_operations(self, adapter_name)

    def rank_scores(self, adapter: str) -> torch.Tensor:
        """The scores s of the ranks, shape (r,), float32, differentiable. ``methods.importance`` asks for them."""
        return self.lora_gate[adapter](temperature=self.gate_temperature[adapter], times_r=self.gate_times_r[adapter])

    def scored_A(self, adapter: str) -> torch.Tensor:
        """s * A, shape (r, in), float32, or float64 as A: the A of the equivalent plain LoRA (section 3.4)."""
        return self.rank_scores(adapter)[:, None] * at_least_float32(self.lora_A[adapter].weight)

    def get_delta_weight(self, adapter: str) -> torch.Tensor:
        """scaling B (s * A) in the layout of the base weight, float32, or float64 as the adapter."""
        product = at_least_float32(self.lora_B[adapter].weight) @ self.scored_A(adapter)
        return transpose(product, self.fan_in_fan_out) * self.scaling[adapter]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Also reads ``lora_gate.ADAPTER``, the name of the logits before they were a module's."""
        for adapter in self.lora_gate:
            if (earlier := f"{prefix}lora_gate.{adapter}") in state_dict:
                state_dict[f"{earlier}.weight"] = state_dict.pop(earlier)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def __repr__(self) -> str:
        return "beam" + super().__repr__()


def mixed(adapter: str, config: LoraConfig, *, layer: str) -> str:
    """What is wrong where a layer would hold BeamLoRA adapters beside plain LoRA ones."""
    return (
        f"adapter {adapter!r}: found an adapter of another kind on target {layer}, expected none, or one of a "
        f"{type(config).__name__}; BeamLoRA and LoRA cannot share a layer"
    )


def at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in float32, or as it is in float64."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class BeamVariant(LoraVariant):
    """How PEFT's LoRA layer runs, merges and unmerges a BeamLoRA adapter. Merging adds in float32, or in the wider dtype of the
    base weight or the adapter, and casts once."""

    @staticmethod
    def init(module: BeamLoraLinear, adapter_name: str, **kwargs: Any) -> None:
        """Nothing: ``update_layer`` has made the logits."""

    @staticmethod
    def merge_safe(module: BeamLoraLinear, active_adapter: str, orig_weight: torch.Tensor) -> torch.Tensor:
        return (at_least_float32(orig_weight) + module.get_delta_weight(active_adapter)).to(orig_weight.dtype)

    @staticmethod
    def merge_unsafe(module: BeamLoraLinear, active_adapter: str, orig_weight: torch.Tensor) -> None:
        orig_weight.data = BeamVariant.merge_safe(module, active_adapter, orig_weight.data)

    @staticmethod
    def unmerge(module: BeamLoraLinear, active_adapter: str, orig_weight: torch.Tensor) -> torch.Tensor:
        return (at_least_float32(orig_weight) - module.get_delta_weight(active_adapter)).to(orig_weight.dtype)

    @staticmethod
    def forward(
        module: BeamLoraLinear, active_adapter: str, x: torch.Tensor, result: torch.Tensor, **kwargs: Any
    ) -> torch.Tensor:
        """The factors s and ``scaling`` are applied together to the r numbers of each token, in float32; that costs
        less than PEFT's LoRA, which scales the whole output."""
        weight_B = module.lora_B[active_adapter].weight
        factors = module.rank_scores(active_adapter) * module.scaling[active_adapter]
        hidden = module.lora_A[active_adapter](module.lora_dropout[active_adapter](x)) * factors
        return result + F.linear(hidden.to(weight_B.dtype), weight_B)


@fuses(BeamLoraLinear)
class FusedBeamLora(FusedAdapter, BeamLoraLinear):
    """The layer as one function: the scores as the factors of the ranks."""

    def update_of(self, adapter: str) -> Update:
        return lora_update(self, adapter, factors=self.rank_scores(adapter))


# ------------------------------------------------------------------------------------------------ trained, but not operated on

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
            if adapter in gates and id(gates[adapter].weight) in updated:
                trained.setdefault(adapter, []).append(layer)
    for adapter, layers in trained.items():
        attend(layers, adapter)
        warnings.warn(
            f"the BeamLoRA adapter {adapter!r} is trained without operations: its scores learn, but no rank is pruned or "
            "expanded; give the Trainer a BeamLoraCallback, or a loop of your own a BeamLora, or say operations=False",
            stacklevel=3,  # the loop that called optimizer.step()
        )
