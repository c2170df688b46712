"""BeamLoRA as a method of the shared loop, and its ablations: each lacks exactly its mechanism."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import Trainer

import methods
from beamlora.callback import BeamLoraCallback
from beamlora.model import beam_modules
from methods.base import MechanismError, TrainingContext
from methods.beamlora import BeamLoRA
from tests.beamlora.beam_fixtures import TARGETS, TokenData, adapter_tensors, logits, tiny_llama, training_arguments
from tests.rounding import assert_equal_but_for_rounding, sums_of

#: With r = 8 and nearly equal scores, p = .8 prunes two ranks of a module and p > .875 one.
SETTINGS = {
    "r": 8,
    "lora_alpha": 16,
    "lora_dropout": 0.0,
    "target_modules": TARGETS,
    "p_init": 0.8,
    "delta_t": 6,
    "horizon_steps": 16,
}


def context(folder: Path, **changes: Any) -> TrainingContext:
    values = TrainingContext(
        total_steps=24,
        steps_per_epoch=16,
        seed=3,
        learning_rate=1e-2,
        weight_decay=0.0,
        gradient_accumulation_steps=1,
        world_size=1,
        cache_dir=folder,
        base_model_hash="0",
        log_dir=folder,
    )
    return replace(values, **changes)


def method(name: str = "beamlora", **settings: Any) -> BeamLoRA:
    entry = methods.get(name)
    return entry.cls(entry.cls.Settings(**{**SETTINGS, **entry.preset, **settings}))


class Observer(BeamLoraCallback):
    """Keeps what the adapter was before and after each operation; ends the run after step ``stop``."""

    def on_step_end(self, args, state, control, **kwargs: Any) -> None:
        operation = self.beam.schedule.is_operation_step(state.global_step)
        before, snapshot = self._copies() if operation else None, self.beam.snapshot
        super().on_step_end(args, state, control, **kwargs)
        if operation:
            self.seen = [*getattr(self, "seen", []), (before, snapshot, self._copies())]
        control.should_training_stop |= state.global_step == self.stop

    def _copies(self) -> dict[str, dict[str, torch.Tensor]]:
        return {n: {k: t.clone() for k, t in m.items()} for n, m in self.beam.adapter.items()}


def train(folder: Path, name: str = "beamlora", *, stop: int | None = None, **settings: Any) -> tuple[BeamLoRA, Any, Observer]:
    """Wrap, train in a stock Trainer 24 steps, or the first ``stop`` of them; method, model and the observing callback."""
    folder.mkdir(exist_ok=True)
    beam = method(name, **settings)
    model = beam.wrap(tiny_llama(), context(folder))
    callback = beam.callbacks()[0]
    callback.__class__ = Observer
    callback.stop = stop
    torch.manual_seed(3)
    Trainer(model=model, args=training_arguments(folder), train_dataset=TokenData(), callbacks=[callback]).train()
    return beam, model, callback


def counts(callback: BeamLoraCallback) -> list[list[int]]:
    return [[module["K"] for module in record["modules"]] for record in callback.records]


# ---- the contract


def test_wrap_starts_as_the_base_model_with_the_counted_parameters(tmp_path: Path) -> None:
    model = method().wrap(tiny_llama(), context(tmp_path))
    assert torch.equal(logits(model), logits(tiny_llama()))
    lora = 8 * (2 * (32 + 32) + 2 * (32 + 16) + 2 * (32 + 48) + (48 + 32))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == lora + len(TARGETS) * 8


@pytest.mark.numeric
def test_evidence_says_what_happened_and_finalize_writes_both_adapters(tmp_path: Path) -> None:
    beam, model, _ = train(tmp_path)
    evidence = json.loads(json.dumps(beam.evidence(model)))
    assert (evidence["operations"], evidence["pruning_operations"], evidence["steps"]) == (3, 2, [6, 12, 18])
    assert evidence["operated_ranks"][0] >= len(TARGETS) and evidence["operated_ranks"][2] == 0
    assert evidence["operated_share"][0] == evidence["operated_ranks"][0] / (len(TARGETS) * 8)
    assert 0 < evidence["mean_score_entropy"] < 1
    log = [json.loads(line) for line in (tmp_path / "operations.jsonl").read_text().splitlines()]
    assert [sum(m["K"] for m in record["modules"]) for record in log] == evidence["operated_ranks"]

    beam.finalize(model, tmp_path / "adapter")
    tuned = logits(model)
    assert torch.equal(logits(PeftModel.from_pretrained(tiny_llama(), tmp_path / "adapter")), tuned)
    plain = PeftModel.from_pretrained(tiny_llama(), tmp_path / "adapter" / "lora")
    assert plain.peft_config["default"].peft_type == "LORA"
    assert_equal_but_for_rounding(logits(plain), tuned, **sums_of(plain))


def test_a_run_without_its_operations_is_not_evidence(tmp_path: Path) -> None:
    beam = method()
    model = beam.wrap(tiny_llama(), context(tmp_path))
    with pytest.raises(MechanismError, match=r"due after steps \[6, 12, 18\], but took place after \[\]"):
        beam.evidence(model)
    callback = beam.callbacks()[0]
    callback.load_state_dict({"records": json.dumps([{"step": t, "p": 0.9, "modules": [{"K": 0}]} for t in (6, 12, 18)])})
    with pytest.raises(MechanismError, match="no rank was pruned"):
        beam.evidence(model)


def test_a_run_too_short_is_refused_in_wrap(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="delta_t: found 6 in a run of 11"):
        method().wrap(tiny_llama(), context(tmp_path, total_steps=11))
    method("beamlora-gate-only").wrap(tiny_llama(), context(tmp_path, total_steps=11))


def test_horizon_comes_from_the_context(tmp_path: Path) -> None:
    beam = method(horizon_steps=None)
    beam.wrap(tiny_llama(), context(tmp_path, steps_per_epoch=8))
    assert beam._schedule.horizon == 16 and beam.callbacks()[0].steps_per_epoch == 8


def test_state_round_trips_through_torch_save(tmp_path: Path) -> None:
    beam, _, callback = train(tmp_path, stop=7)
    callback.beam.snapshot, callback.beam.snapshot_step = callback.seen[0][1], 4
    torch.save(beam.state_dict(), tmp_path / "state.pt")
    other = method()
    other.wrap(tiny_llama(), context(tmp_path))
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    restored = other.callbacks()[0]
    assert restored.records == callback.records
    state = other.state_dict()
    assert state["snapshot_step"] == 4, "saving again before the first resumed step must lose nothing"
    name = next(iter(state["snapshot"]))
    assert torch.equal(state["snapshot"][name]["B.exp_avg"], callback.seen[0][1][name]["B.exp_avg"])


def test_checkpoints_keep_the_names_of_the_scores(tmp_path: Path) -> None:
    beam = method()
    names = set(beam.checkpoint_tensors(beam.wrap(tiny_llama(), context(tmp_path))))
    layer = "base_model.model.model.layers.0.self_attn.q_proj"
    assert {f"{layer}.lora_A.default.weight", f"{layer}.lora_B.default.weight", f"{layer}.lora_gate.default"} <= names
    assert len(names) == 3 * len(TARGETS)


def test_adapter_dtype(tmp_path: Path) -> None:
    """bfloat16: parameters and Adam moments, as in the released math and code scripts; operations work on them."""
    beam, model, callback = train(tmp_path, adapter_dtype="bfloat16")
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.bfloat16}
    assert {t.dtype for t in next(iter(callback.beam.adapter.values())).values()} == {torch.bfloat16}
    assert beam.evidence(model)["pruning_operations"] == 2


# ---- ablations (Table 3) and variants


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[BeamLoRA, Any, Observer]]:
    folder = tmp_path_factory.mktemp("ablations")
    names = [name for name in methods.registry() if name.startswith("beamlora")]
    return {name: train(folder / name, name) for name in names}


def test_all_variants_train_and_give_different_adapters(runs: dict) -> None:
    tensors = {name: adapter_tensors(model) for name, (_, model, _) in runs.items()}
    for name, (beam, model, _) in runs.items():
        beam.evidence(model)
        for other in tensors.keys() - {name}:
            assert not all(torch.equal(tensors[name][key], tensors[other][key]) for key in tensors[name]), (
                name,
                other,
            )


def first_operation(callback: Observer) -> list[tuple[dict, dict, dict, dict | None]]:
    """Per module: the plan, tensors before, tensors after, snapshot."""
    before, snapshot, after = callback.seen[0]
    return [
        (module, before[module["name"]], after[module["name"]], (snapshot or {}).get(module["name"]))
        for module in callback.records[0]["modules"]
    ]


def test_without_expansion_the_same_ranks_are_pruned_but_stay_dead(runs: dict) -> None:
    _, model, callback = runs["beamlora-no-expansion"]
    for (module, before, after, _), full in zip(
        first_operation(callback), runs["beamlora"][2].records[0]["modules"], strict=True
    ):
        assert module["pruned"] == full["pruned"] and module["K"] > 0 and module["sources"] == []
        assert torch.equal(after["g"], before["g"]) and not after["g.exp_avg"].any()
        assert before["A"][module["pruned"]].any() and not after["A"][module["pruned"]].any()
    dead = {m["name"]: set(m["pruned"]) for m in callback.records[0]["modules"]}
    for name, module in beam_modules(model, "default"):
        for rank in dead[name]:
            assert not module.lora_A["default"].weight[rank].any(), "12 steps later a pruned rank came back to life"
            assert not module.lora_B["default"].weight[:, rank].any()


def test_masked_dead_ranks_stay_out_of_the_scores_and_of_the_later_operations(runs: dict, tmp_path: Path) -> None:
    beam, model, callback = runs["beamlora-no-expansion-masked"]
    dead = [
        {rank for record in callback.records for rank in record["modules"][i]["pruned"]}
        for i in range(len(counts(callback)[0]))
    ]
    assert len(callback.records) > 1 and sum(map(len, dead)) == sum(map(sum, counts(callback))), "no rank dies twice"
    for ranks, (_, module) in zip(dead, beam_modules(model, "default"), strict=True):
        assert {i for i, score in enumerate(module.rank_scores("default").tolist()) if score == 0} == ranks
    beam.finalize(model, tmp_path)
    exported = logits(PeftModel.from_pretrained(tiny_llama(), tmp_path / "lora"))
    assert torch.isfinite(exported).all()
    assert_equal_but_for_rounding(exported, logits(model), **sums_of(model))


def test_without_assessment_k_is_kept_and_ranks_are_not_chosen_by_score(runs: dict) -> None:
    _, model, callback = runs["beamlora-no-assessment"]
    full = runs["beamlora"][2]
    assert counts(callback)[0] == counts(full)[0]
    assert [m["pruned"] for m in callback.records[0]["modules"]] != [m["pruned"] for m in full.records[0]["modules"]]
    for module, _, after, snapshot in first_operation(callback):
        assert not set(module["pruned"]) & set(module["sources"])
        assert torch.equal(after["A"][module["pruned"]], snapshot["A"][module["sources"]])
    assert all(m.lora_gate["default"].weight.any() for _, m in beam_modules(model, "default")), "scores are still trained"


def test_without_dynamic_p_the_threshold_is_constant_until_the_horizon(runs: dict) -> None:
    _, _, callback = runs["beamlora-no-dynamic-p"]
    assert sum(counts(callback)[1]) > sum(counts(runs["beamlora"][2])[1]) and sum(counts(callback)[2]) == 0
    assert [record["p"] for record in callback.records] == [0.8, 0.8, 1.0]
    for module, _, after, snapshot in first_operation(callback):
        assert torch.equal(after["A"][module["pruned"]], snapshot["A"][module["sources"]])


def test_gate_only_trains_scores_and_never_operates(runs: dict) -> None:
    beam, model, callback = runs["beamlora-gate-only"]
    assert callback.records == [] and callback.beam.snapshot is None and not hasattr(callback, "seen")
    assert beam.evidence(model)["operations"] == 0
    assert all(m.lora_gate["default"].weight.any() for _, m in beam_modules(model, "default"))


def test_copy_current_copies_the_ranks_and_moments_of_now(runs: dict) -> None:
    _, _, callback = runs["beamlora-copy-current"]
    assert callback.beam.snapshot is None
    for module, before, after, _ in first_operation(callback):
        pruned, sources = module["pruned"], module["sources"]
        for key in ("A", "A.exp_avg", "A.exp_avg_sq"):
            assert torch.equal(after[key][pruned], before[key][sources])
        assert torch.equal(after["B"][:, pruned], before["B"][:, sources])


def test_released_has_one_top_p_and_leaves_moments_alone(runs: dict) -> None:
    _, _, callback = runs["beamlora-released"]
    total = sum(counts(callback)[0])
    assert total < sum(counts(runs["beamlora"][2])[0]), "a share of the summed scores, not of each module's"
    for _, before, after, _ in first_operation(callback):
        for key in ("A.exp_avg", "A.exp_avg_sq", "B.exp_avg", "B.exp_avg_sq"):
            assert torch.equal(after[key], before[key])
        assert not after["g.exp_avg"].any()


# ---- every setting of the adapter and the schedule changes a run


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The adapter one step after the first operation."""
    return adapter_tensors(train(tmp_path_factory.mktemp("usual"), stop=7)[1])


@pytest.mark.parametrize(
    "changes",
    [
        {"gate_temperature": 0.2},
        {"gate_times_r": False},
        {"snapshot_step_offset": 0},
        {"moment_transfer": "keep"},
        {"moment_transfer": "zero"},
        {"score_average": "scores"},
        {"reset_gate_moments": False},
        {"delta_t": 8},
        {"lora_alpha": 8},
        {"r": 4},
        {"lora_dropout": 0.2},
    ],
    ids=str,
)
def test_setting_changes_the_trained_adapter(usual: dict[str, torch.Tensor], tmp_path: Path, changes: dict) -> None:
    _, model, _ = train(tmp_path, stop=7, **changes)
    changed, default = adapter_tensors(model), usual
    assert any(changed[key].shape != default[key].shape or not torch.equal(changed[key], default[key]) for key in default)


def test_the_same_settings_give_the_same_adapter_file(tmp_path: Path) -> None:
    files = []
    for name in ("one", "two"):
        beam, model, _ = train(tmp_path / name, stop=7)
        beam.finalize(model, tmp_path / name / "adapter")
        files.append((tmp_path / name / "adapter" / "adapter_model.safetensors").read_bytes())
    assert files[0] == files[1]


def test_callbacks_before_wrap_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="wrap"):
        method().callbacks()
