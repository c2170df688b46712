"""PiSSA (Meng et al. 2024, arXiv 2404.02948): LoRA started from the principal singular triplets."""

from __future__ import annotations

from methods.svd import SvdInitialisedLora


class Pissa(SvdInitialisedLora):
    """LoRA with the r largest singular triplets of W as its start (Eq. 2-4), W keeping the rest.

    From the BeamLoRA paper: the settings shared with LoRA; lora_alpha and dropout are those of its released script
    (2r, 0.05), which the paper does not state for PiSSA. PiSSA's own runs use lora_alpha = r, dropout 0, learning rate
    2e-5 and batch 128, and MiLoRA's runs of PiSSA lora_alpha = r: set ``lora_alpha`` in the experiment to follow them.
    Exact decomposition, not PiSSA's fast randomised one.
    """

    name = "pissa"
    label = "PiSSA"
    part = "top"
