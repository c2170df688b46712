"""Training a stand-in from scratch: the same recipe gives the same weights, also through a kill, and it learns."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.errors import ConfigError
from harness.experiment.runs import load_experiment
from harness.models.pretrain import main
from harness.models.pretraining import build_base_model, learning_rate
from harness.models.stand_in import build_tokenizer, model_config
from harness.provenance import file_sha256
from harness.schema.base_models import BuiltModel
from tests.paths import ROOT
from tests.rounding import rounding_bound, sums_of

RECIPE: dict[str, Any] = {
    "max_steps": 6,
    "per_device_train_batch_size": 4,
    "sequence_length": 32,
    "learning_rate": 3e-3,
    "vocab_size": 420,
    "corpus_documents": 300,
}


def recipe(*, architecture: str = "llama", **changes: Any) -> BuiltModel:
    mistral = {"num_key_value_heads": 1, "sliding_window": 16} if architecture == "mistral" else {"num_key_value_heads": 2}
    return BuiltModel(
        kind="built",
        architecture=architecture,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        pretraining={**RECIPE, **changes},
        **mistral,
    )


def build(source: BuiltModel, folder: Path, **kwargs: Any) -> dict[str, Any]:
    return build_base_model(source, output_dir=folder / "model", scratch_dir=folder / "scratch", **kwargs)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("built")
    return folder / "model", build(recipe(), folder)


@pytest.fixture
def small_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.models.pretraining.CHECKPOINT_STEPS", 2)


class Killed(Exception):
    pass


def kill_at(step: int) -> Any:
    def report(done: int, total: int, loss: float) -> None:
        if done == step:
            raise Killed

    return report


def test_the_same_recipe_gives_the_same_weights_and_another_seed_others(built: Any, tmp_path: Path) -> None:
    _, record = built
    torch.manual_seed(99)
    assert build(recipe(), tmp_path / "again")["weights_sha256"] == record["weights_sha256"]
    assert build(recipe(seed=1), tmp_path / "other")["weights_sha256"] != record["weights_sha256"]


def test_a_killed_training_resumes_bit_for_bit(built: Any, tmp_path: Path, small_interval: None) -> None:
    with pytest.raises(Killed):
        build(recipe(), tmp_path, report=kill_at(5))
    assert not (tmp_path / "model").exists()
    seen: list[int] = []
    record = build(recipe(), tmp_path, report=lambda done, total, loss: seen.append(done))
    assert seen == [5, 6]
    assert record["weights_sha256"] == built[1]["weights_sha256"]
    assert not list((tmp_path / "scratch").iterdir())


def test_the_checkpoint_of_another_recipe_is_not_used(tmp_path: Path, small_interval: None) -> None:
    with pytest.raises(Killed):
        build(recipe(), tmp_path, report=kill_at(5))
    seen: list[int] = []
    build(recipe(learning_rate=1e-3), tmp_path, report=lambda done, total, loss: seen.append(done))
    assert seen[0] == 1


def test_an_existing_output_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "stale").touch()
    (tmp_path / ".model.tmp").mkdir()  # what a kill during the last write leaves
    build(recipe(max_steps=1), tmp_path)
    assert not (tmp_path / "model" / "stale").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "scratch"]


def test_the_folder_is_a_hugging_face_model_whose_cache_is_on(built: Any) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, record = built
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.config.use_cache and model.generation_config.use_cache is True
    ids = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    config = model.config
    assert ids == (config.bos_token_id, config.eos_token_id, config.pad_token_id)
    generation = model.generation_config
    assert ids == (generation.bos_token_id, generation.eos_token_id, generation.pad_token_id)
    assert len(tokenizer) == config.vocab_size == 420
    assert json.loads((folder / "pretrain.json").read_text()) == record
    assert record["tokens"] == 6 * 4 * 32 and record["parameters"] == model.num_parameters()


@pytest.mark.numeric
def test_mistral_has_grouped_queries_and_its_window_changes_the_output(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    source = recipe(architecture="mistral", max_steps=2)
    build(source, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    assert model.config.model_type == "mistral" and model.config.sliding_window == 16
    assert model.model.layers[0].self_attn.k_proj.out_features == 16
    ids = torch.arange(3, 67)[None]
    with torch.inference_mode():
        windowed = model(ids).logits
        model.config.sliding_window = None
        full = model(ids).logits
    difference = (windowed - full).abs()
    bound = rounding_bound(float(full.abs().max()), **sums_of(model))
    assert float(difference[:, :16].max()) <= bound < float(difference[:, 40:].max())


def test_the_loss_falls_and_every_step_is_reported(tmp_path: Path) -> None:
    losses: list[float] = []
    record = build(recipe(max_steps=60), tmp_path, report=lambda done, total, loss: losses.append(loss))
    assert len(losses) == 60
    assert losses[0] > 0.9 * math.log(420)
    assert sum(losses[-5:]) / 5 < losses[0] - 1.5
    assert record["held_out_loss"] < losses[0] - 1.5


def test_learning_rate_warms_up_and_decays_to_zero() -> None:
    spec = recipe(max_steps=100, warmup_ratio=0.1).pretraining
    rates = [learning_rate(step, spec) for step in range(101)]
    assert rates[0] == pytest.approx(3e-4) and rates[9] == rates[10] == pytest.approx(3e-3)
    assert all(a > b for a, b in zip(rates[10:], rates[11:], strict=False))
    assert rates[55] == pytest.approx(1.5e-3) and rates[100] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("documents, message", [(1, "expected at least one sequence"), (4, "expected a batch of 4")])
def test_too_little_text_is_refused(tmp_path: Path, documents: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(recipe(corpus_documents=documents, sequence_length=100), tmp_path)


def test_model_config_is_that_of_the_built_model(built: Any) -> None:
    stored = json.loads((built[0] / "config.json").read_text())
    expected = model_config(recipe()).to_dict()
    for name in ("vocab_size", "hidden_size", "num_key_value_heads", "tie_word_embeddings", "eos_token_id"):
        assert stored[name] == expected[name]


EXPERIMENT = """
name: base
title: base
seeds: [0]
gpu: false
models:
  small:
    label: small
    stands_for: null
    source:
      kind: built
      architecture: llama
      hidden_size: 32
      intermediate_size: 48
      num_hidden_layers: 2
      num_attention_heads: 2
      num_key_value_heads: 2
      pretraining: {max_steps: 6, per_device_train_batch_size: 4, sequence_length: 32, learning_rate: 3.0e-3,
                    vocab_size: 420, corpus_documents: 300}
domains:
  math:
    train: {source: {kind: generated, generator: metamath, rows: 10, seed: 0}, format: metamath}
    evaluation:
      tasks:
        gsm8k: {source: {kind: generated, generator: gsm8k, rows: 10, seed: 1}, format: gsm8k, prompt_template: alpaca,
                max_new_tokens: 8, grader: sound}
training: {learning_rate: 1.0e-3, per_device_train_batch_size: 8, max_steps: 2}
methods: {lora: {}}
tables: {table1: {domains: [math], methods: {small: [lora]}}}
"""


def test_the_command_builds_the_model_of_an_experiment(built: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configfile = tmp_path / "base.yaml"
    configfile.write_text(EXPERIMENT)
    command = ["--configfile", str(configfile), "--output", str(tmp_path / "model"), "--scratch", str(tmp_path / "scratch")]
    main([*command, "--model", "small"])
    assert json.loads((tmp_path / "model/pretrain.json").read_text())["weights_sha256"] == built[1]["weights_sha256"]
    printed = capsys.readouterr().out
    assert "6/6" in printed and "held-out equations" in printed
    with pytest.raises(ConfigError, match="--model: found 'big', expected one of small"):
        main([*command, "--model", "big"])


def test_the_committed_demo_base_is_what_its_recipe_and_the_generators_say() -> None:
    folder = ROOT / "config/demo_base"
    record = json.loads((folder / "pretrain.json").read_text())
    source = load_experiment([folder / "experiment.yaml"]).models["llama-demo"].source
    assert isinstance(source, BuiltModel)
    assert record["source"] == source.model_dump(mode="json")
    weights = folder / "model.safetensors"
    assert record["weights_sha256"] == file_sha256(weights) and weights.stat().st_size <= 1_500_000
    # The tokenizer is trained on the generated text: it changes if the generators do, and the base must be built again.
    stored = json.loads((folder / "tokenizer.json").read_text())
    built_now = json.loads(build_tokenizer(source.pretraining).backend_tokenizer.to_str())
    assert stored | {"padding": None} == built_now | {"padding": None}  # set by the last call before saving
    equations = record["held_out_equations"]
    assert equations["exact_match"] > 2 * equations["chance"]
