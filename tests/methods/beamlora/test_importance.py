"""Rank importance against the built matrices."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model

from beamlora.model import beam_modules
from methods.importance import importance_by_module
from methods.peft_support import PEFT_PREFIX
from tests.beamlora.beam_fixtures import TARGETS, beam_model, randomize, tiny_llama
from tests.rounding import assert_equal_but_for_rounding


@pytest.mark.numeric
def test_beamlora_importance_is_the_norm_of_each_ranks_matrix() -> None:
    model = beam_model()
    randomize(model)
    importance = importance_by_module(model)
    modules = {name.removeprefix(PEFT_PREFIX): module for name, module in beam_modules(model, "default")}
    assert importance.keys() == modules.keys() and len(importance) == len(TARGETS)
    for name, module in modules.items():
        scores = module.rank_scores("default")
        parts = [
            2.0 * scores[i] * torch.outer(module.lora_B["default"].weight[:, i], module.lora_A["default"].weight[i])
            for i in range(8)
        ]
        norms = torch.stack([part.norm() for part in parts])
        assert_equal_but_for_rounding(importance[name], norms, terms=parts[0].numel())
        assert_equal_but_for_rounding(sum(parts), module.get_delta_weight("default"), terms=8)


@pytest.mark.numeric
def test_lora_importance_is_the_norm_of_each_ranks_matrix() -> None:
    model = get_peft_model(tiny_llama(), LoraConfig(r=4, lora_alpha=12, target_modules=TARGETS, init_lora_weights=False))
    for name, values in importance_by_module(model).items():
        module = model.get_base_model().get_submodule(name)
        a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
        matrices = torch.stack([3.0 * torch.outer(b[:, i], a[i]) for i in range(4)])
        assert_equal_but_for_rounding(values, matrices.norm(dim=(1, 2)), terms=matrices[0].numel())


def test_what_has_no_such_ranks_is_refused() -> None:
    with pytest.raises(ValueError, match="found no LoRA layer with adapter 'default'"):
        importance_by_module(tiny_llama())
    dora = get_peft_model(tiny_llama(), LoraConfig(r=4, target_modules=["q_proj"], use_dora=True))
    with pytest.raises(ValueError, match="DoraLinearVariant"):
        importance_by_module(dora)
