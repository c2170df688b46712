"""LoRA-FA: A stays, B learns, and the rest is LoRA."""

from __future__ import annotations

from pathlib import Path

import torch

from methods.peft_support import ADAPTER, adapted_layers
from tests.methods import toy


def test_a_stays_as_drawn_and_b_learns(tmp_path: Path) -> None:
    frozen, lora = toy.start("lora-fa", tmp_path / "fa"), toy.start("lora", tmp_path / "lora")
    drawn = {name: layer.lora_A[ADAPTER].weight.clone() for name, layer in adapted_layers(lora.model).items()}
    frozen.run()
    layers = adapted_layers(frozen.model)
    assert len(layers) == toy.MODULES
    for name, layer in layers.items():
        assert torch.equal(layer.lora_A[ADAPTER].weight, drawn[name]), (
            "A is LoRA's of the same seed, from the first step to the last"
        )
        assert layer.lora_B[ADAPTER].weight.abs().max() > 0


def test_its_first_step_is_that_of_lora(tmp_path: Path) -> None:
    """B = 0 at the start: A has no gradient in the first step, and B the same one."""
    frozen, lora = toy.start("lora-fa", tmp_path / "fa").run(1), toy.start("lora", tmp_path / "lora").run(1)
    layers = adapted_layers(lora.model)
    for name, layer in adapted_layers(frozen.model).items():
        assert torch.equal(layer.lora_B[ADAPTER].weight, layers[name].lora_B[ADAPTER].weight)


def test_trained_parameters_are_those_of_b(tmp_path: Path) -> None:
    loop = toy.start("lora-fa", tmp_path)
    layers = [(layer.in_features, layer.out_features) for layer in adapted_layers(loop.model).values()]
    trained = [parameter for parameter in loop.model.parameters() if parameter.requires_grad]
    assert sum(p.numel() for p in trained) == loop.method.trained_parameters(0, layers) == sum(4 * out for _, out in layers)
