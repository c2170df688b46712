"""DoRA (Liu et al. 2024, arXiv 2402.09353), from PEFT."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from methods.lora import Lora

if TYPE_CHECKING:
    import torch


class Dora(Lora):
    """W' = m * (W0 + s B A) / |W0 + s B A|, rows normalised, m a trained magnitude per output, initially |W0| (Eq. 5).

    The norm is held constant in the backward pass (section 4.3), as in PEFT and in NVlabs' code. With dropout above 0 the
    base product of the dropped input is computed again, so DoRA is slower than without; the value is kept for fidelity.
    From the BeamLoRA paper: the settings shared with LoRA. NVlabs' commonsense runs use lora_alpha = 2r, dropout 0.05 and
    learning rate 2e-4, the same lora_alpha and dropout as here.
    The saved adapter is PEFT's native one (``use_dora``): DoRA has no exact plain-LoRA form.
    """

    name = "dora"
    label = "DoRA"
    prunable = False

    def trained_parameters(self, base: int, layers: Iterable[tuple[int, int]]) -> int:
        """LoRA's, and a magnitude for each output."""
        return sum(self.settings.r * (inputs + outputs) + outputs for inputs, outputs in layers)

    def peft_options(self) -> dict[str, Any]:
        return {"use_dora": True}

    def rank_importance(self, model: torch.nn.Module) -> dict[str, torch.Tensor] | None:
        """None: the rows' norms make each rank's share depend on all the others."""
        return None
