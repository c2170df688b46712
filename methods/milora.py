"""MiLoRA (Wang et al. 2024, arXiv 2406.09044): LoRA started from the minor singular triplets."""

from __future__ import annotations

from methods.svd import SvdInitialisedLora


class Milora(SvdInitialisedLora):
    """LoRA with the r smallest singular triplets of W as its start (section 3.2), W keeping the principal part.

    From the BeamLoRA paper: the settings shared with LoRA; lora_alpha and dropout are those of its released script
    (2r, 0.05), which the paper does not state for MiLoRA. MiLoRA's own runs use lora_alpha = r, dropout 0.05, learning
    rate 3e-4 and batch 16: set ``lora_alpha`` in the experiment to follow them. PEFT has no such initialisation.
    """

    name = "milora"
    label = "MiLoRA"
    part = "bottom"
