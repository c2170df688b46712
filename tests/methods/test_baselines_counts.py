"""Trainable parameters of the paper's models, counted on the meta device (no weights are made)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedModel

import methods
from methods.base import ALL_LINEAR
from tests.methods import toy

COMMONSENSE_LINEAR = ("q_proj", "k_proj", "v_proj", "up_proj", "down_proj")
SETTINGS = {
    "llama2-7b": {"r": 64, "target_modules": ALL_LINEAR},
    "mistral-7b": {"r": 64, "target_modules": ALL_LINEAR},
    "llama2-7b-commonsense": {"r": 32, "target_modules": COMMONSENSE_LINEAR},
    "llama2-13b-commonsense": {"r": 32, "target_modules": COMMONSENSE_LINEAR},
}
#: Parameters that are trained, by row: full, LoRA and its re-initialisations, BeamLoRA, DoRA, AdaLoRA at init_r = 1.5 r.
TABLE = {
    "llama2-7b": (6_738_415_616, 159_907_840, 159_922_176, 161_267_712, 239_883_264),
    "mistral-7b": (7_241_732_096, 167_772_160, 167_786_496, 169_148_416, 251_679_744),
    "llama2-7b-commonsense": (6_738_415_616, 56_098_816, 56_103_936, 56_975_360, 84_155_904),
    "llama2-13b-commonsense": (13_015_864_320, 87_818_240, 87_824_640, 89_190_400, 131_736_960),
}
COLUMN = {"full-ft": 0, "lora": 1, "pissa": 1, "milora": 1, "relora": 1, "beamlora": 2, "dora": 3, "adalora": 4}
#: Rank-one components per adapter: IncreLoRA stores 2 r of them, each with a weight; AdaLoRA ends with r.
SCORE_VECTORS = {"llama2-7b": 14_336, "mistral-7b": 14_336, "llama2-7b-commonsense": 5_120, "llama2-13b-commonsense": 6_400}


def meta_model(key: str) -> PreTrainedModel:
    with torch.device("meta"):
        if key == "mistral-7b":
            return MistralForCausalLM(MistralConfig(num_key_value_heads=8))
        if key.startswith("llama2-7b"):
            return LlamaForCausalLM(LlamaConfig())
        return LlamaForCausalLM(
            LlamaConfig(hidden_size=5120, intermediate_size=13824, num_hidden_layers=40, num_attention_heads=40)
        )


def trained(name: str, key: str, tmp_path: Path) -> int:
    """Trainable parameters of the named method with its defaults and the setting's rank and targets."""
    named = methods.get(name)
    wanted = {k: v for k, v in SETTINGS[key].items() if k in named.cls.Settings.model_fields}
    method = named.cls(named.cls.Settings(**named.preset, **wanted))
    with torch.device("meta"):
        wrapped = method.wrap(meta_model(key), toy.context(tmp_path, total_steps=9831, steps_per_epoch=3277))
    return sum(p.numel() for p in wrapped.parameters() if p.requires_grad)


#: The default tests count one model, and LoRA for those that train LoRA's own matrices.
KEYS = [key if key == "mistral-7b" else pytest.param(key, marks=pytest.mark.slow) for key in sorted(TABLE)]
LIKE_LORA = ("pissa", "milora", "relora")
NAMES = [pytest.param(name, marks=pytest.mark.slow) if name in LIKE_LORA else name for name in sorted(COLUMN)]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("name", NAMES)
def test_trainable_parameters(name, key, tmp_path):
    assert trained(name, key, tmp_path) == TABLE[key][COLUMN[name]]


@pytest.mark.parametrize("key", KEYS)
def test_increlora_stores_twice_the_target_rank(key, tmp_path):
    assert trained("increlora", key, tmp_path) == 2 * (TABLE[key][1] + SCORE_VECTORS[key])


@pytest.mark.parametrize("name", ["adalora", "increlora"])
def test_parameters_at_the_end_follow_the_ranks(name, tmp_path):
    """evidence() counts what is left: rank * (in + out + 1) per module."""
    loop = toy.start(name, tmp_path).run()
    evidence = loop.method.evidence(loop.model)
    base = toy.base_model()
    assert evidence["mean_rank"] == 4 and len(set(evidence["ranks"].values())) > 1
    assert evidence["parameters_at_end"] == sum(
        rank * (sum(base.get_submodule(module).weight.shape) + 1) for module, rank in evidence["ranks"].items()
    )
