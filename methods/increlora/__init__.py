"""IncreLoRA (Zhang et al. 2023, arXiv 2308.12043): ranks are added to important modules during training."""

from methods.increlora.method import IncreLora

__all__ = ["IncreLora"]
