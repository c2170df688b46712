"""What a model computes with is the same whether training or evaluation loads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from transformers import PreTrainedModel

from harness.experiment.runs import load_run
from harness.models.load import cast_weights, load_base, load_base_for_evaluation, load_for_evaluation
from harness.schema.base_models import BaseModelSpec
from harness.schema.run import RunSpec
from tests.experiments import miniature, write
from tests.tiny_models import byte_tokenizer, llama

FREQUENCIES = "model.rotary_emb.inv_freq"


@pytest.fixture
def spec(tmp_path: Path) -> RunSpec:
    """A run in bfloat16 whose base is a folder, with an adapter and a full model beside it."""
    # 64 dimensions a head: the frequencies go down to 1e-4, and bfloat16 holds few of them exactly.
    model = llama(hidden_size=128, num_attention_heads=2, num_key_value_heads=2)
    model.save_pretrained(tmp_path / "base")
    byte_tokenizer().save_pretrained(tmp_path / "base")
    model.save_pretrained(tmp_path / "full")
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    peft.get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    changes = {
        "models.llama-mini.source": {"kind": "local", "path": str(tmp_path / "base")},
        "domains.math.evaluation.dtype": "bfloat16",
    }
    return load_run([write(tmp_path, miniature(**changes))], {}, "math/llama-mini/lora/seed0")[1]


def _base(spec: RunSpec, folder: Path, dtype: torch.dtype = torch.bfloat16) -> PreTrainedModel:
    return load_base(spec.model_key, spec.model, models_dir=folder, dtype=dtype, attn_implementation="sdpa")[0]


def _evaluated_base(spec: RunSpec, folder: Path) -> PreTrainedModel:
    return load_base_for_evaluation(spec.model_key, spec.model, models_dir=folder, dtype=spec.evaluation.dtype)[0]


def _merged(spec: RunSpec, folder: Path) -> PreTrainedModel:
    return load_for_evaluation(spec, adapter_dir=folder / "adapter", models_dir=folder)[0]


def _full(spec: RunSpec, folder: Path) -> PreTrainedModel:
    return load_for_evaluation(spec, adapter_dir=folder / "full", models_dir=folder)[0]


@pytest.mark.parametrize("load", [_base, _evaluated_base, _merged, _full])
def test_the_rotary_frequencies_stay_float32_whoever_loads_the_model_in_bfloat16(
    spec: RunSpec, tmp_path: Path, load: Callable[[RunSpec, Path], PreTrainedModel]
) -> None:
    model = load(spec, tmp_path)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    exact = _base(spec, tmp_path, torch.float32).get_buffer(FREQUENCIES)
    assert not torch.equal(exact, exact.bfloat16().float()), "rounding must show"
    frequencies = model.get_buffer(FREQUENCIES)
    assert frequencies.dtype == torch.float32 and torch.equal(frequencies, exact)


@pytest.mark.parametrize("tied", [False, True])
def test_casting_gives_what_loading_in_that_dtype_gives(tied: bool, tmp_path: Path) -> None:
    llama(tie_word_embeddings=tied).save_pretrained(tmp_path / "base")
    byte_tokenizer().save_pretrained(tmp_path / "base")
    source = {"kind": "local", "path": str(tmp_path / "base")}
    base = BaseModelSpec.model_validate({"label": "M", "stands_for": None, "source": source})
    wide, narrow = (
        load_base("m", base, models_dir=tmp_path, dtype=dtype, attn_implementation="sdpa")[0]
        for dtype in (torch.float32, torch.bfloat16)
    )
    cast_weights(wide, torch.bfloat16)
    expected = dict(narrow.named_parameters()) | dict(narrow.named_buffers())
    tensors = dict(wide.named_parameters()) | dict(wide.named_buffers())
    assert tensors.keys() == expected.keys()
    assert all(tensors[name].dtype == other.dtype and torch.equal(tensors[name], other) for name, other in expected.items())
    assert (wide.lm_head.weight is wide.model.embed_tokens.weight) is tied


@pytest.mark.parametrize("trained_in", ["float32", "bfloat16"])
def test_an_update_is_added_in_float32_to_the_base_it_was_trained_on_and_the_sum_rounded_once(
    spec: RunSpec, tmp_path: Path, trained_in: str
) -> None:
    spec = spec.model_copy(update={"training": spec.training.model_copy(update={"dtype": trained_in})})
    base = _base(spec, tmp_path, getattr(torch, trained_in))
    adapted = peft.PeftModel.from_pretrained(_base(spec, tmp_path, torch.float32), tmp_path / "adapter")
    name = "model.layers.0.self_attn.q_proj"
    update = adapted.base_model.model.get_submodule(name).get_delta_weight("default")
    expected = (base.get_submodule(name).weight.float() + update).bfloat16()
    model = _merged(spec, tmp_path)
    assert torch.equal(model.get_submodule(name).weight, expected)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert not any("lora" in name for name, _ in model.named_modules())


class Asked(Exception):
    """In the place of a model that is read."""


@pytest.mark.parametrize("load", [_base, _evaluated_base, _merged, _full])
def test_every_model_is_read_onto_the_device_and_never_on_the_host_first(
    spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load: Callable[[RunSpec, Path], PreTrainedModel]
) -> None:
    """A 7B in the host's memory first is 13 GB that a node may not have. The second of two GPUs, as of one of two processes."""
    asked: list[tuple[torch.dtype, dict[str, str]]] = []

    def from_pretrained(name: str, *, dtype: torch.dtype, device_map: dict[str, str], **_: object) -> None:
        asked.append((dtype, device_map))
        raise Asked

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", from_pretrained)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    bfloat16 = spec.training.model_copy(update={"dtype": "bfloat16"})
    with pytest.raises(Asked):
        load(spec.model_copy(update={"training": bfloat16}), tmp_path)
    assert asked == [(torch.bfloat16, {"": "cuda:1"})]
