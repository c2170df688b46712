"""The BeamLoRA linear layer: y = W0 x + scaling B (s * A dropout(x)), with the scores s = r softmax(g / tau) (Eq.
4-5)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners import lora
from peft.tuners.lora.layer import LoraVariant
from peft.utils.other import transpose
from torch import nn

from methods.beamlora.config import BeamLoraConfig
from methods.beamlora.operation import rank_scores
from methods.beamlora.reminder import expect_operations
from methods.fused import Fused, Update, fuses, only_adapter


class BeamLoraLinear(lora.Linear):
    """LoRA on ``nn.Linear`` or transformers' ``Conv1D`` with one trainable score logit per rank,
    ``lora_gate[adapter]``, shape (1, r): as in the released code, and with two dimensions LoRA+ gives it A's rate."""

    adapter_layer_names = (*lora.Linear.adapter_layer_names, "lora_gate")
    other_param_names = (*lora.Linear.other_param_names, "gate_temperature", "gate_times_r")

    @property
    def lora_variants(self) -> dict[tuple[str, ...], type[LoraVariant]]:
        return {(): BeamVariant}

    def update_layer(self, adapter_name: str, r: int, lora_alpha: float, config: BeamLoraConfig, **kwargs: Any) -> None:
        """Add an adapter. Equal logits: every score is 1 (``gate_times_r``) and the layer starts as LoRA."""
        if not hasattr(self, "lora_gate"):  # the first adapter is added by the base class's constructor
            self.lora_gate = nn.ParameterDict()
            self.gate_temperature: dict[str, float] = {}
            self.gate_times_r: dict[str, bool] = {}
        self.lora_gate[adapter_name] = nn.Parameter(torch.zeros(1, r))
        self.gate_temperature[adapter_name] = config.gate_temperature
        self.gate_times_r[adapter_name] = config.gate_times_r
        super().update_layer(adapter_name, r, lora_alpha=lora_alpha, config=config, **kwargs)
        if config.operations:
            expect_operations(self, adapter_name)

    def rank_scores(self, adapter: str) -> torch.Tensor:
        """The scores s of the ranks, shape (r,), float32, differentiable. ``methods.importance`` asks for them."""
        return rank_scores(
            self.lora_gate[adapter], temperature=self.gate_temperature[adapter], times_r=self.gate_times_r[adapter]
        )

    def scored_A(self, adapter: str) -> torch.Tensor:
        """s * A, shape (r, in), float32: the A of the equivalent plain LoRA (section 3.4)."""
        return self.rank_scores(adapter)[:, None] * self.lora_A[adapter].weight.float()

    def get_delta_weight(self, adapter: str) -> torch.Tensor:
        """scaling B (s * A) in the layout of the base weight, float32 whatever the adapter's dtype."""
        product = self.lora_B[adapter].weight.float() @ self.scored_A(adapter)
        return transpose(product, self.fan_in_fan_out) * self.scaling[adapter]

    def __repr__(self) -> str:
        return "beam" + super().__repr__()


class BeamVariant(LoraVariant):
    """How PEFT's LoRA layer runs, merges and unmerges a BeamLoRA adapter. Merging adds in float32 and casts once."""

    @staticmethod
    def init(module: BeamLoraLinear, adapter_name: str, **kwargs: Any) -> None:
        """Nothing: ``update_layer`` has made the logits."""

    @staticmethod
    def merge_safe(module: BeamLoraLinear, active_adapter: str, orig_weight: torch.Tensor) -> torch.Tensor:
        return (orig_weight.float() + module.get_delta_weight(active_adapter)).to(orig_weight.dtype)

    @staticmethod
    def merge_unsafe(module: BeamLoraLinear, active_adapter: str, orig_weight: torch.Tensor) -> None:
        orig_weight.data = BeamVariant.merge_safe(module, active_adapter, orig_weight.data)

    @staticmethod
    def unmerge(module: BeamLoraLinear, active_adapter: str, orig_weight: torch.Tensor) -> torch.Tensor:
        return (orig_weight.float() - module.get_delta_weight(active_adapter)).to(orig_weight.dtype)

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
class FusedBeamLora(Fused, BeamLoraLinear):
    """The layer as one function: the scores as the factors of the ranks."""

    def update(self) -> Update | None:
        layer: Any = self
        adapter = only_adapter(layer)
        if adapter is None:
            return None
        return Update(
            a=layer.lora_A[adapter].weight,
            b=layer.lora_B[adapter].weight,
            scaling=layer.scaling[adapter],
            dropout=layer.lora_dropout[adapter],
            factors=layer.rank_scores(adapter),
        )
