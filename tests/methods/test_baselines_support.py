"""The helpers that the baselines share."""

from __future__ import annotations

import json

import pytest
import torch
from pydantic import BaseModel, ValidationError
from safetensors.torch import load_file

import methods
from methods.base import ALL_LINEAR
from methods.peft_support import (
    LoraFactors,
    OperationLog,
    Steps,
    orthogonality,
    private_generator,
    resolve_steps,
    save_plain_lora,
    seeded_initialisation,
)
from tests.methods import toy
from tests.rounding import assert_equal_but_for_rounding, sums_of


class Schedule(BaseModel):
    steps: Steps


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (7, 7), (300, 300), (0.0, 0), (0.1, 20), (0.0049, 1), (0.999, 200)])
def test_steps_are_counts_or_fractions(value, expected):
    assert resolve_steps(Schedule(steps=value).steps, total_steps=200) == expected


@pytest.mark.parametrize("value", [-1, -0.1, 1.0, 2.5])
def test_ambiguous_steps_are_refused(value):
    with pytest.raises(ValidationError, match=f"found {value}, expected a whole number of optimizer steps or a fraction"):
        Schedule(steps=value)


def test_private_generators_depend_on_their_identity_only():
    draws = [torch.rand(3, generator=private_generator(*identity)) for identity in (("a", 1), ("a", 1), ("a", 2), ("b", 1))]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2]) and not torch.equal(draws[0], draws[3])


def test_seeded_initialisation_leaves_the_global_stream_alone():
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    with seeded_initialisation(1):
        first = torch.rand(2)
    assert torch.equal(torch.rand(2), expected)
    with seeded_initialisation(1):
        assert torch.equal(torch.rand(2), first)


def test_low_rank_methods_start_from_the_same_a(tmp_path):
    """Whatever was drawn before: comparisons between methods are paired."""
    starts = []
    for name, noise in (("lora", 0), ("dora", 5), ("relora", 9)):
        method, base = toy.make(name), toy.base_model()
        torch.rand(noise)
        starts.append(
            {
                key.split(".lora_A")[0]: tensor
                for key, tensor in method.wrap(base, toy.context(tmp_path)).state_dict().items()
                if "lora_A" in key
            }
        )
    assert all(torch.equal(starts[0][key], other[key]) for other in starts[1:] for key in starts[0])


@pytest.mark.numeric
def test_orthogonality_is_zero_for_orthonormal_rows_and_columns():
    eye = torch.eye(3, 5)
    assert orthogonality([(eye, eye.T)]).item() == 0
    assert_equal_but_for_rounding(orthogonality([(2 * eye, eye.T), (eye, eye.T)]), 3 * 3**0.5 / 4, terms=9)


@pytest.mark.numeric
def test_plain_lora_keeps_different_ranks_exactly(tmp_path):
    """Ranks 0, 1 and 3 in modules whose names are prefixes of one another; equal to adding b @ a to the weights."""
    base, expected = toy.base_model(layers=2), toy.base_model(layers=2)
    factors = {}
    for index, name in enumerate(["model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj", "model.layers.0.mlp.gate_proj"]):
        weight = base.get_submodule(name).weight
        rank = (0, 1, 3)[index]
        factors[name] = LoraFactors(a=torch.randn(rank, weight.shape[1]) / 5, b=torch.randn(weight.shape[0], rank) / 5)
        expected.get_submodule(name).weight.data += factors[name].b @ factors[name].a
    complete = {**factors, "model.layers.1.mlp.gate_proj": LoraFactors(a=torch.zeros(0, 32), b=torch.zeros(48, 0))}
    save_plain_lora(complete, tmp_path, base_name="somewhere/base")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["target_modules"] == ["gate_proj", "up_proj"] and config["base_model_name_or_path"] == "somewhere/base"
    assert config["rank_pattern"] == config["alpha_pattern"] and config["r"] == config["lora_alpha"] == 3
    assert len(load_file(tmp_path / "adapter_model.safetensors")) == 8
    for merge in (False, True):
        logits = toy.logits(toy.reload(tmp_path, merge=merge, layers=2))
        assert_equal_but_for_rounding(logits, toy.logits(expected), **sums_of(expected))


def test_saved_configuration_does_not_depend_on_the_order_of_sets(tmp_path):
    """Python orders sets of strings differently in every process; equal runs must give equal files."""
    loop = toy.start("lora", tmp_path)
    loop.method.finalize(loop.model, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(ALL_LINEAR)


def test_log_forgets_what_a_kill_made_obsolete(tmp_path):
    first = OperationLog(tmp_path)
    for step in (2, 4, 6):
        first.write({"step": step, "process": 1})
    resumed = OperationLog(tmp_path)
    resumed.write({"step": 4, "process": 2})
    resumed.write({"step": 6, "process": 2})
    lines = [json.loads(line) for line in (tmp_path / "operations.jsonl").read_text().splitlines()]
    assert [(line["step"], line["process"]) for line in lines] == [(2, 1), (4, 2), (6, 2)]
    OperationLog(None).write({"step": 1})


def test_full_model_keeps_the_cache_on(tmp_path):
    """Gradient checkpointing turns use_cache off; a model saved so would generate without a cache for ever."""
    loop = toy.start("full-ft", tmp_path)
    loop.model.config.use_cache = loop.model.generation_config.use_cache = False
    loop.method.finalize(loop.model, tmp_path / "out")
    saved = toy.reload(tmp_path / "out")
    assert saved.config.use_cache is True and saved.generation_config.use_cache is True


def test_full_ft_trains_everything(tmp_path):
    loop = toy.start("full-ft", tmp_path).run(2)
    before = dict(toy.base_model().named_parameters())
    assert [name for name, p in loop.model.named_parameters() if torch.equal(p, before[name])] == []


def test_modules_that_the_registry_reads_do_not_import_torch():
    """Importing PEFT and transformers costs seconds; the Snakefile reads settings through the registry."""
    import subprocess
    import sys

    code = "import sys, methods; methods.registry(); print([m for m in ('torch', 'peft', 'transformers') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("full-ft", "Full-FT"),
        ("lora", "LoRA"),
        ("dora", "DoRA"),
        ("pissa", "PiSSA"),
        ("milora", "MiLoRA"),
        ("relora", "ReLoRA"),
        ("adalora", "AdaLoRA"),
        ("increlora", "IncreLoRA"),
    ],
)
def test_labels_are_the_papers(name, label):
    assert methods.get(name).label == label
