"""What docs/upstream.md proposes to PEFT runs: the configuration of its method comparison, the conversion, the example."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
from peft import LoraModel, PeftConfig, PeftModel, convert_to_lora, get_peft_model, set_peft_model_state_dict
from transformers import AutoModelForCausalLM

from beamlora import BeamLoraConfig
from beamlora.model import beam_modules
from beamlora.schedule import Schedule
from tests import tiny_models
from tests.beamlora.beam_fixtures import beam_model, randomize, tiny_llama
from tests.paths import ROOT
from tests.rounding import assert_equal_but_for_rounding

UPSTREAM = ROOT / "packages/beamlora/upstream"


def test_the_configuration_for_metamathqa_has_the_papers_eight_operations_and_loras_settings() -> None:
    """5000 steps, as PEFT's comparison trains. Of PEFT's own fields, those of its LoRA of the same rank."""
    (file,) = UPSTREAM.glob("method_comparison/MetaMathQA/experiments/beamlora/*/adapter_config.json")
    config = PeftConfig.from_pretrained(file.parent)
    assert isinstance(config, BeamLoraConfig) and file.parent.name == f"llama-3.2-3B-rank{config.r}"
    written = json.loads(file.read_text())
    assert written.keys() <= config.to_dict().keys() and all(config.to_dict()[key] == written[key] for key in written)
    changed = {"p_init", "delta_t", "horizon_steps", "r", "lora_alpha", "task_type"}
    assert {key for key in written if written[key] != BeamLoraConfig().to_dict()[key]} == changed - {"p_init"}
    schedule = Schedule.for_run(config.beam_settings, total_steps=5000, steps_per_epoch=None)
    assert schedule.pruning_steps() == list(range(400, 3201, 400))


def test_pefts_conversion_is_exact_at_the_adapters_rank() -> None:
    """By a singular value decomposition of each update, whose rank is not above r."""
    model = beam_model()
    randomize(model)
    assert model.supports_lora_conversion()
    config, tensors = convert_to_lora(model, rank=8)
    converted = get_peft_model(tiny_llama(), config)
    set_peft_model_state_dict(converted, tensors)
    for name, module in beam_modules(model, "default"):
        expected = module.get_delta_weight("default")
        plain = converted.get_submodule(name).get_delta_weight("default")
        assert_equal_but_for_rounding(plain, expected, terms=32, layers=3)


def test_the_example_trains_and_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a tiny model and 30 rows: twelve steps, with operations in the first eight, at the least interval."""
    tiny_models.llama().save_pretrained(tmp_path / "base")
    tiny_models.byte_tokenizer().save_pretrained(tmp_path / "base")
    (tmp_path / "data.jsonl").write_text("".join(json.dumps({"text": f"{n} and {n} make {2 * n}"}) + "\n" for n in range(30)))
    monkeypatch.chdir(tmp_path)
    words = "--base_model base --data_path data.jsonl --output_dir out --batch_size 8 --rank 8 --p_init 0.9 --operations 3"
    monkeypatch.setattr(sys, "argv", ["beamlora_finetuning.py", *words.split()])
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    runpy.run_path(str(UPSTREAM / "examples/beamlora_finetuning/beamlora_finetuning.py"), run_name="__main__")
    log = [json.loads(line) for line in Path("out/operations.jsonl").read_text().splitlines()]
    assert [record["step"] for record in log if any(module["K"] for module in record["modules"])] == [4, 8]
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("base"), "out/lora")
    assert type(loaded.base_model) is LoraModel
    assert any(tensor.abs().max() > 0 for name, tensor in loaded.named_parameters() if "lora_B" in name)
