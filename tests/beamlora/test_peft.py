"""BeamLoRA inside PEFT: everything that users of PEFT rely on, and clear refusals of what is not supported."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.integrations.bitnet import AutoBitLinear
from transformers.models.falcon.modeling_falcon import FalconLinear
from transformers.pytorch_utils import Conv1D

from beamlora import BeamLoraConfig, BeamLoraLinear, BeamLoraModel, export_lora
from beamlora.model import beam_modules, refuse_target, register
from tests.beamlora.beam_fixtures import (
    SIZES,
    TARGETS,
    VOCAB,
    beam_config,
    beam_model,
    logits,
    randomize,
    tiny_llama,
    token_batch,
)
from tests.paths import ROOT
from tests.rounding import assert_equal_but_for_rounding, rounding_bound, sums_of


def tiny(architecture: str) -> tuple[PreTrainedModel, list[str]]:
    """A random model and its target modules."""
    torch.manual_seed(0)
    if architecture == "gpt2":
        config = GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=0, eos_token_id=0)
        return GPT2LMHeadModel(config), ["c_attn", "c_proj", "c_fc"]
    models = {
        "llama": lambda: tiny_llama(),
        "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=8)),
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
    }
    return models[architecture](), TARGETS


@pytest.mark.numeric
@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen2", "gpt2"])
def test_life_of_an_adapter(architecture: str, tmp_path: Path) -> None:
    """Identity at the start, save and load, merge and unmerge, disable, merge_and_unload, export."""
    base, targets = tiny(architecture)
    plain, rounding = logits(base), sums_of(base)
    model = get_peft_model(base, beam_config(target_modules=targets))
    assert torch.equal(logits(model), plain), "B = 0: the adapter must start as the identity"
    randomize(model)
    tuned = logits(model)
    assert (tuned - plain).abs().max() > 1e-2
    model.save_pretrained(tmp_path / "native")
    export_lora(model, tmp_path / "lora")

    reloaded = PeftModel.from_pretrained(tiny(architecture)[0], tmp_path / "native")
    assert torch.equal(logits(reloaded), tuned)
    stock = PeftModel.from_pretrained(tiny(architecture)[0], tmp_path / "lora")
    assert not any(isinstance(m, BeamLoraLinear) for m in stock.modules())
    assert_equal_but_for_rounding(logits(stock), tuned, **rounding)

    model.merge_adapter(safe_merge=architecture == "llama")
    assert_equal_but_for_rounding(logits(model), tuned, **rounding)
    model.unmerge_adapter()
    assert_equal_but_for_rounding(logits(model), tuned, **rounding)
    with model.disable_adapter():
        assert_equal_but_for_rounding(logits(model), plain, **rounding)
    merged = model.merge_and_unload()
    assert_equal_but_for_rounding(logits(merged), tuned, **rounding)
    assert not any(isinstance(m, BeamLoraLinear) for m in merged.modules())


@pytest.mark.numeric
def test_forward_is_equation_4_and_5() -> None:
    model = beam_model(lora_dropout=0.0, gate_temperature=0.07)
    randomize(model)
    _, module = next(beam_modules(model, "default"))
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    a, b, g = module.lora_A["default"].weight, module.lora_B["default"].weight, module.lora_gate["default"].weight[0]
    scores = 8 * torch.softmax(g / 0.07, dim=0)
    expected = module.base_layer(x) + (16 / 8) * (b @ torch.diag(scores) @ a @ x.T).T
    assert_equal_but_for_rounding(module(x), expected, terms=32, layers=3)


def test_scores_change_the_output_and_are_trained() -> None:
    model = beam_model()
    randomize(model)
    model.train()(input_ids=token_batch(), labels=token_batch()).loss.backward()
    for _, module in beam_modules(model, "default"):
        assert module.lora_gate["default"].weight.grad.abs().sum() > 0
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(trained) == 3 * len(TARGETS) and all("lora_" in name for name in trained)


def test_without_the_factor_r_the_update_is_r_times_smaller() -> None:
    with_r, without = beam_model(), beam_model(gate_times_r=False)
    for model in (with_r, without):
        randomize(model)
    for (_, one), (_, other) in zip(beam_modules(with_r, "default"), beam_modules(without, "default"), strict=True):
        assert torch.equal(one.get_delta_weight("default"), 8 * other.get_delta_weight("default")), "8 is a power of two"


def test_settings_travel_in_the_adapter_config(tmp_path: Path) -> None:
    model = beam_model(gate_temperature=0.03, flavor="released", delta_t=8, pairing="ranked")
    randomize(model)
    model.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    assert written["peft_type"] == "BEAMLORA" and written["target_modules"] == sorted(TARGETS)
    config = PeftConfig.from_pretrained(tmp_path)
    assert isinstance(config, BeamLoraConfig)
    assert config.beam_settings == model.peft_config["default"].beam_settings
    assert (config.gate_temperature, config.beam_settings.topp_scope, config.delta_t) == (0.03, "global", 8)
    assert torch.equal(logits(PeftModel.from_pretrained(tiny_llama(), tmp_path)), logits(model))


def test_auto_model_and_low_memory_load(tmp_path: Path) -> None:
    tiny_llama().save_pretrained(tmp_path / "base")
    model = get_peft_model(LlamaForCausalLM.from_pretrained(tmp_path / "base"), beam_config())
    randomize(model)
    model.save_pretrained(tmp_path / "adapter")
    assert torch.equal(logits(AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")), logits(model))
    lean = PeftModel.from_pretrained(tiny_llama(), tmp_path / "adapter", low_cpu_mem_usage=True)
    assert torch.equal(logits(lean), logits(model))
    assert not any(p.is_meta for p in lean.parameters())


@pytest.mark.numeric
def test_second_adapter_switching_and_deletion(tmp_path: Path) -> None:
    model = beam_model()
    randomize(model)
    first = logits(model)
    model.add_adapter("other", beam_config(r=4, gate_temperature=0.1))
    model.set_adapter("other")
    randomize(model, "other", seed=2)
    second = logits(model)
    assert (second - first).abs().max() > 1e-2
    model.set_adapter("default")
    assert torch.equal(logits(model), first)
    mixed = model.eval()(token_batch(), adapter_names=["default", "other", "__base__"]).logits
    for row, alone in enumerate((first, second, logits(tiny_llama()))):
        assert_equal_but_for_rounding(mixed[row], alone[row], **sums_of(model))
    model.save_pretrained(tmp_path, selected_adapters=["other"])
    assert torch.equal(logits(PeftModel.from_pretrained(tiny_llama(), tmp_path / "other")), second)
    model.delete_adapter("other")
    assert torch.equal(logits(model), first)
    assert not any("other" in name for name, _ in model.named_parameters())


def test_bfloat16_base(tmp_path: Path) -> None:
    """Adapters are float32 beside a bfloat16 base unless the user says otherwise; merging rounds once."""
    model = get_peft_model(tiny_llama(dtype=torch.bfloat16), beam_config())
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    randomize(model)
    tuned = logits(model)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(PeftModel.from_pretrained(tiny_llama(dtype=torch.bfloat16), tmp_path)), tuned)
    _, module = next(beam_modules(model, "default"))
    exact = module.base_layer.weight.float() + module.get_delta_weight("default")
    merged = model.merge_and_unload()
    assert torch.equal(merged.model.layers[0].self_attn.q_proj.weight, exact.to(torch.bfloat16))
    assert (logits(merged) - tuned).abs().max() < 0.1
    pure = get_peft_model(tiny_llama(dtype=torch.bfloat16), beam_config(), autocast_adapter_dtype=False)
    assert {p.dtype for p in pure.parameters() if p.requires_grad} == {torch.bfloat16}
    pure(input_ids=token_batch(), labels=token_batch()).loss.backward()


def test_the_scores_are_a_module_in_the_model_and_keep_their_name_in_files(tmp_path: Path) -> None:
    """As PEFT's ``lora_magnitude_vector``; a whole model's state with the earlier name is read as well."""
    model = beam_model()
    randomize(model)
    gates = [name for name, _ in model.named_parameters() if "lora_gate" in name]
    assert len(gates) == len(TARGETS) and all(name.endswith(".lora_gate.default.weight") for name in gates)
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert {name.replace("default.", "") for name in gates} == {f"{key}.weight" for key in saved if "lora_gate" in key}
    earlier = {key.replace("lora_gate.default.weight", "lora_gate.default"): t for key, t in model.state_dict().items()}
    fresh = beam_model()
    fresh.load_state_dict(earlier)
    assert torch.equal(logits(fresh), logits(model))


def test_a_float64_model_is_merged_in_float64() -> None:
    """Merging and unmerging leave roundings of float64, of 2^-53; float32 left 2^-24."""
    model = get_peft_model(tiny_llama(dtype=torch.float64), beam_config())
    randomize(model)
    before = {name: module.base_layer.weight.clone() for name, module in beam_modules(model, "default")}
    model.merge_adapter()
    for name, module in beam_modules(model, "default"):
        scores = module.rank_scores("default").double()
        a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
        assert a.dtype == b.dtype == torch.float64
        torch.testing.assert_close(
            module.base_layer.weight, before[name] + 2 * b @ torch.diag(scores) @ a, rtol=1e-14, atol=1e-14
        )
    model.unmerge_adapter()
    for name, module in beam_modules(model, "default"):
        torch.testing.assert_close(module.base_layer.weight, before[name], rtol=1e-14, atol=1e-14)


def test_transformers_own_adapter_interface(tmp_path: Path) -> None:
    model = tiny_llama()
    model.add_adapter(beam_config())
    randomize(model)
    tuned = logits(model)
    model.save_pretrained(tmp_path)
    reloaded = tiny_llama()
    reloaded.load_adapter(str(tmp_path))
    assert torch.equal(logits(reloaded), tuned)


@pytest.mark.numeric
def test_rank_pattern_and_modules_to_save(tmp_path: Path) -> None:
    model = beam_model(rank_pattern={"q_proj": 4}, modules_to_save=["lm_head"])
    randomize(model)
    with torch.no_grad():
        model.base_model.model.lm_head.modules_to_save["default"].weight.mul_(1.5)
    assert {tuple(m.lora_gate["default"].weight.shape) for _, m in beam_modules(model, "default")} == {(1, 4), (1, 8)}
    export_lora(model, tmp_path)
    exported = PeftModel.from_pretrained(tiny_llama(), tmp_path)
    assert_equal_but_for_rounding(logits(exported), logits(model), **sums_of(model))


def test_a_copied_config_follows_its_own_flavor(tmp_path: Path) -> None:
    """Only values that the user gave are kept; the others are the new flavor's. Also after a file."""
    config = beam_config(moment_transfer="zero")
    config.save_pretrained(tmp_path)
    for known in (config, BeamLoraConfig.from_pretrained(tmp_path)):
        released = replace(known, flavor="released").beam_settings
        assert (released.topp_scope, released.max_prune_fraction, released.moment_transfer) == ("global", 1.0, "zero")
        assert known.beam_settings.topp_scope == "module"
    assert replace(config, flavor="released", topp_scope="module").beam_settings.topp_scope == "module"


def test_status_names_the_type() -> None:
    assert beam_model().get_model_status().peft_types == {"default": "BEAMLORA"}
    kind = beam_config().peft_type
    assert (kind, kind.value, str(kind), type(kind.value)) == ("BEAMLORA", "BEAMLORA", "PeftType.BEAMLORA", str)


@pytest.mark.parametrize("how", ["asked for", "trained", "resized"])
def test_saved_embeddings_are_exported(how: str, tmp_path: Path) -> None:
    tiny_llama().save_pretrained(tmp_path / "base")
    model = get_peft_model(LlamaForCausalLM.from_pretrained(tmp_path / "base"), beam_config())
    if how == "resized":
        model.get_base_model().resize_token_embeddings(VOCAB + 2)
    randomize(model)
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        layer.weight.data.mul_(1.5)
        layer.weight.requires_grad_(how == "trained")
    export_lora(model, tmp_path / "lora", **({"save_embedding_layers": True} if how == "asked for" else {}))
    base = LlamaForCausalLM.from_pretrained(tmp_path / "base")
    base.resize_token_embeddings(model.get_input_embeddings().weight.shape[0])
    exported = PeftModel.from_pretrained(base, tmp_path / "lora")
    assert torch.equal(exported.get_input_embeddings().weight, model.get_input_embeddings().weight)
    assert_equal_but_for_rounding(logits(exported), logits(model), **sums_of(model))
    export_lora(model, tmp_path / "without", save_embedding_layers=False)
    assert not any("embed" in key for key in load_file(tmp_path / "without" / "adapter_model.safetensors"))


# ---- refusals


@pytest.mark.parametrize(
    "values", [{"r": 1}, {"r": 4, "max_prune_fraction": 0.2}, {"r": 1, "rank_pattern": {"q_proj": 1}}], ids=str
)
def test_ranks_that_can_never_be_pruned_are_refused(values: dict) -> None:
    with pytest.raises(ValueError, match=r"BeamLoraConfig: max_prune_fraction: found .* expected r \* max_prune_fraction >= 1"):
        BeamLoraConfig(**values)
    BeamLoraConfig(**values, operations=False)
    assert BeamLoraConfig(**{**values, "rank_pattern": {"k_proj": 8}}).r == values["r"], "one module is enough"


@pytest.mark.parametrize(
    "option", [{"use_dora": True}, {"use_rslora": True}, {"lora_bias": True}, {"init_lora_weights": "pissa"}]
)
def test_lora_options_that_do_not_fit_are_refused_by_name(option: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(option))):
        beam_config(**option)


def test_quantised_layers_and_embeddings_are_refused() -> None:
    model = tiny_llama()
    quantised = nn.Parameter(torch.zeros(32, 32, dtype=torch.int8), requires_grad=False)
    model.model.layers[0].self_attn.q_proj.weight = quantised
    with pytest.raises(ValueError, match="q_proj: found .* torch.int8, expected .*does not adapt quantised"):
        get_peft_model(model, beam_config())
    with pytest.raises(ValueError, match="embed_tokens: found .*Embedding"):
        get_peft_model(tiny_llama(), beam_config(target_modules=["embed_tokens"]))

    class PackedParameter(nn.Parameter):
        """A weight class of its own, as quantisation libraries have them."""

    layer = nn.Linear(4, 4)
    layer.weight = PackedParameter(torch.zeros(4, 4))
    with pytest.raises(ValueError, match="layer: found .* PackedParameter"):
        refuse_target(layer, name="layer")
    refuse_target(nn.Linear(4, 4), name="layer")


def test_linear_layers_with_a_forward_pass_of_their_own_are_refused() -> None:
    """They may quantise; merging would give another model. Subclasses that compute W x + b are linear layers."""
    with pytest.raises(
        ValueError, match="q_proj: found .*AutoBitLinear with a forward pass of its own, expected torch.nn.Linear"
    ):
        refuse_target(AutoBitLinear(4, 4, bias=False, online_quant=True), name="q_proj")

    class Named(nn.Linear):
        """As libraries have them for other initial values."""

    layer, x = FalconLinear(4, 4), torch.randn(3, 4)
    assert_equal_but_for_rounding(layer(x), nn.functional.linear(x, layer.weight, layer.bias), terms=4, layers=1)
    for linear in (layer, Named(4, 4), Conv1D(4, 4)):
        refuse_target(linear, name="layer")


@pytest.mark.parametrize("kind", [LoraConfig, BeamLoraConfig])
def test_modules_of_mamba_that_lora_cannot_adapt_are_refused_for_beamlora_too(kind: type[LoraConfig]) -> None:
    """Mamba's fast path uses the weight of ``out_proj`` alone: an adapter there would train without a gradient."""

    def mamba() -> MambaForCausalLM:
        torch.manual_seed(0)
        return MambaForCausalLM(MambaConfig(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=1, state_size=4))

    with pytest.raises(ValueError, match="'out_proj' is incompatible with Mamba-based models"):
        get_peft_model(mamba(), kind(target_modules=["in_proj", "out_proj"]))
    get_peft_model(mamba(), kind(target_modules=["in_proj"]))


@pytest.mark.parametrize("first", ["LoRA", "BeamLoRA"])
def test_a_layer_of_lora_and_beamlora_adapters_is_refused(first: str) -> None:
    """PEFT would make the second adapter of the first one's kind, as transformers' interface lets it."""
    configs = [LoraConfig(r=4, target_modules=["k_proj"]), beam_config(target_modules=["q_proj", "k_proj"])]
    if first == "BeamLoRA":
        configs.reverse()
    model = tiny_llama()
    model.add_adapter(configs[0], "a")
    kind = type(configs[1]).__name__
    with pytest.raises(ValueError, match=rf"adapter 'b': found an adapter of another kind on target .*k_proj, .* a {kind};"):
        model.add_adapter(configs[1], "b")
    apart = tiny_llama()
    apart.add_adapter(beam_config(target_modules=["q_proj"]), "a")
    apart.add_adapter(LoraConfig(r=4, target_modules=["k_proj"]), "b")
    assert [name.rpartition(".")[2] for name, _ in beam_modules(apart, "a")] == ["q_proj"]


def test_combining_adapters_is_refused_because_scores_would_be_lost() -> None:
    model = beam_model()
    with pytest.raises(ValueError, match="export_lora"):
        model.add_weighted_adapter(["default"], [1.0], "sum", combination_type="linear")


def test_an_adapter_file_without_scores_is_refused(tmp_path: Path) -> None:
    model = beam_model()
    model.save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    save_file({key: t for key, t in load_file(path).items() if "lora_gate" not in key}, path)
    with pytest.raises(ValueError, match="6 more without a lora_gate"):
        PeftModel.from_pretrained(tiny_llama(), tmp_path)


def test_export_refuses_other_adapters(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="expected a PeftModel with BeamLoRA"):
        export_lora(tiny_llama(), tmp_path)
    with pytest.raises(TypeError, match="LoraConfig"):
        export_lora(get_peft_model(tiny_llama(), LoraConfig(target_modules=["q_proj"])), tmp_path)


def test_registration_is_idempotent_and_checks_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    register()
    register()
    assert PEFT_TYPE_TO_CONFIG_MAPPING["BEAMLORA"] is BeamLoraConfig
    assert PEFT_TYPE_TO_TUNER_MAPPING["BEAMLORA"] is BeamLoraModel
    for version in ("0.20.3", "0.22.0"):
        monkeypatch.setattr(peft, "__version__", version)
        with pytest.raises(ImportError, match=f"found peft {version}"):
            register()


def test_loading_without_the_plug_in_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beam_model().save_pretrained(tmp_path)
    for mapping in (PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING):
        monkeypatch.delitem(mapping, "BEAMLORA")
    with pytest.raises(KeyError, match="BEAMLORA"):
        PeftModel.from_pretrained(tiny_llama(), tmp_path)


def test_export_is_plain_lora_and_the_same_bytes_twice(tmp_path: Path) -> None:
    model = beam_model()
    randomize(model)
    for name in ("one", "two"):
        export_lora(model, tmp_path / name)
    one, two = ({f.name: f.read_bytes() for f in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two and one.keys() == {"adapter_config.json", "adapter_model.safetensors"}
    config = json.loads(one["adapter_config.json"])
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 8, 16)
    assert not set(config) & {"gate_temperature", "p_init"}
    tensors = load_file(tmp_path / "one" / "adapter_model.safetensors")
    assert len(tensors) == 2 * len(TARGETS) and all(key.endswith(("lora_A.weight", "lora_B.weight")) for key in tensors)


@pytest.mark.slow
def test_fresh_process_without_the_plug_in(tmp_path: Path) -> None:
    """The export loads and gives the same logits; the native adapter fails with its type's name."""
    model = beam_model()
    randomize(model)
    tiny_llama().save_pretrained(tmp_path / "base")
    model.save_pretrained(tmp_path / "native")
    export_lora(model, tmp_path / "native" / "lora")
    torch.save({"ids": token_batch(), "logits": logits(model)}, tmp_path / "expected.pt")
    script = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
base = AutoModelForCausalLM.from_pretrained("base")
expected = torch.load("expected.pt")
model = PeftModel.from_pretrained(base, "native/lora").eval()
print("difference", float((model(expected["ids"]).logits - expected["logits"]).abs().max()))
assert not any(name.startswith("beamlora") for name in sys.modules)
PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("base"), "native")
"""
    result = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    difference = float(result.stdout.split("difference")[1].split()[0])
    assert difference <= rounding_bound(float(logits(model).abs().max()), **sums_of(model))
    assert result.returncode == 1 and "KeyError: 'BEAMLORA'" in result.stderr
    assert str(ROOT) not in result.stderr.split("KeyError")[-1]
