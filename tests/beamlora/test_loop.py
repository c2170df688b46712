"""``BeamLora`` in loops of one's own: the same bits as under a Trainer, accelerate, parameters without gradients, amsgrad."""

from __future__ import annotations

import gc
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from torch import nn

from beamlora import BeamLora, BeamLoraCallback, BeamLoraConfig
from beamlora.adapter_state import AdapterTensors, check_replicas, trainable_adapter
from beamlora.model import beam_modules
from beamlora.operation import MOMENTS
from tests.beamlora.beam_fixtures import (
    adapter_tensors,
    beam_model,
    beam_trainer,
    logits,
    randomize,
    tiny_llama,
    token_batch,
)


def adam(model: nn.Module, **arguments: Any) -> torch.optim.AdamW:
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, **arguments)


def batch(step: int) -> torch.Tensor:
    return token_batch(4, 12, seed=100 + step)


def run(model: PeftModel, optimizer: torch.optim.Optimizer, beam: BeamLora | None, steps: range = range(24)) -> PeftModel:
    """A plain loop."""
    model.train()
    for step in steps:
        model(input_ids=batch(step), labels=batch(step)).loss.backward()
        optimizer.step()
        if beam is not None:
            beam.step()
        optimizer.zero_grad()
    return model


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# ---- a plain loop


def test_a_plain_loop_gives_the_bits_of_a_trainer(tmp_path: Path) -> None:
    seen: list[torch.Tensor] = []
    callback = BeamLoraCallback()
    trainer = beam_trainer(tmp_path, callback=callback, max_grad_norm=0.0, lr_scheduler_type="constant")
    trainer.data_collator = lambda rows: (
        seen.append(torch.stack([r["input_ids"] for r in rows]))
        or {
            "input_ids": seen[-1],
            "labels": seen[-1],
        }
    )
    trainer.train()

    model = beam_model()
    optimizer = adam(model, weight_decay=0.0)
    beam = BeamLora(model, optimizer, total_steps=24, seed=3)
    operated = []
    model.train()
    for ids in seen[:24]:
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        plan = beam.step()
        operated += [] if plan is None else [plan.step]
        optimizer.zero_grad()
    assert operated == [6, 12, 18]
    assert equal(adapter_tensors(model), adapter_tensors(trainer.model))
    without_losses = [{k: v for k, v in record.items() if not k.startswith("loss")} for record in callback.records]
    assert beam.records == without_losses and beam.records[0]["modules"][0]["K"] > 0


def test_the_operations_change_the_run() -> None:
    tuned, plain = beam_model(), beam_model(operations=False)
    for model in (tuned, plain):
        optimizer = adam(model)
        run(model, optimizer, BeamLora(model, optimizer, total_steps=24))
    assert not equal(adapter_tensors(tuned), adapter_tensors(plain))


def test_the_horizon_without_epochs_is_the_whole_run() -> None:
    model = beam_model(horizon_steps=None)
    optimizer = adam(model)
    assert BeamLora(model, optimizer, total_steps=24).schedule.horizon == 24
    assert BeamLora(model, optimizer, total_steps=24, steps_per_epoch=8).schedule.horizon == 16
    given = beam_model(horizon_steps=11)
    assert BeamLora(given, adam(given), total_steps=24).schedule.horizon == 11


def test_the_seed_draws_the_pairing() -> None:
    def sources(seed: int) -> list[Any]:
        model = beam_model(max_prune_fraction=1.0, p_init=0.5)
        optimizer = adam(model)
        beam = BeamLora(model, optimizer, total_steps=24, seed=seed)
        run(model, optimizer, beam, range(6))
        return [module["sources"] for module in beam.records[0]["modules"]]

    assert sources(1) == sources(1) != sources(2)


def test_what_cannot_work_is_refused_when_it_is_made() -> None:
    model = beam_model()
    with pytest.raises(ValueError, match="delta_t: found 6 in a run of 11"):
        BeamLora(model, adam(model), total_steps=11)
    with pytest.raises(TypeError, match=r"found the optimizer torch\.optim\.sgd\.SGD, expected"):
        BeamLora(model, torch.optim.SGD(model.parameters(), lr=0.1), total_steps=24)
    with pytest.raises(TypeError, match="found trainable BeamLoRA adapters"):
        BeamLora(tiny_llama(), adam(model), total_steps=24)

    class AdamW(torch.optim.SGD):
        """As other packages have optimizers of this name."""

    with pytest.raises(TypeError, match=rf"found the optimizer {__name__}\..*\.AdamW, expected torch"):
        BeamLora(model, AdamW(model.parameters(), lr=0.1), total_steps=24)
    small = get_peft_model(tiny_llama(), BeamLoraConfig(r=8, target_modules=["q_proj"], rank_pattern={"q_proj": 1}, delta_t=6))
    with pytest.raises(ValueError, match="max_prune_fraction: found 0.5 with r 1"):
        BeamLora(small, adam(small), total_steps=24)


class Parts(nn.Module):
    """A model whose parts are others, as encoders with a head of one's own are."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, **batch: torch.Tensor) -> Any:
        return self.parts[0](**batch)


def test_the_adapter_may_be_that_of_a_part_of_the_model() -> None:
    """The same bits as in a model of its own, also beside a part with a plain LoRA adapter of the same name."""
    alone = beam_model()
    run(alone, optimizer := adam(alone), BeamLora(alone, optimizer, total_steps=24))
    part, other = beam_model(), get_peft_model(tiny_llama(), LoraConfig(target_modules=["q_proj"]))
    whole = Parts(part, other, nn.Linear(4, 1))
    beam = BeamLora(whole, optimizer := adam(part), total_steps=24)
    run(whole, optimizer, beam)
    assert [record["step"] for record in beam.records] == [6, 12, 18] and equal(adapter_tensors(part), adapter_tensors(alone))
    assert trainable_adapter(whole) == ("default", part.peft_config["default"])
    with pytest.raises(TypeError, match="in a Parts, expected exactly one"):
        trainable_adapter(Parts(part, beam_model(delta_t=4)))
    with pytest.raises(TypeError, match=r"found trainable BeamLoRA adapters \[\] in a Parts"):
        trainable_adapter(Parts(other))


def test_nan_on_all_processes_alike_is_not_called_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if another process held the same adapter, or one whose sums are larger by ``difference``."""
    difference = 0.0

    def all_reduce(sums: torch.Tensor, op: Any) -> None:
        if op == torch.distributed.ReduceOp.MAX:
            sums[0] += difference

    for name, fake in (("is_initialized", lambda: True), ("get_world_size", lambda: 2), ("all_reduce", all_reduce)):
        monkeypatch.setattr(torch.distributed, name, fake)
    model = beam_model()
    adapter = AdapterTensors.of(model, adam(model), adapter="default")
    check_replicas(adapter, step=6)
    difference = 1.0
    with pytest.raises(RuntimeError, match="step 6: the adapter differs between processes"):
        check_replicas(adapter, step=6)
    difference = 0.0
    name, tensors = next(iter(adapter.items()))
    tensors["B"][0, 0] = torch.nan
    with pytest.raises(RuntimeError, match=rf"step 6: found NaN in {name}.B and 0 more tensors of the adapter, .* diverged"):
        check_replicas(adapter, step=6)


def test_masked_ranks_want_a_weight_decay_that_stays_out_of_the_moments() -> None:
    masked = {"expansion": False, "dead_ranks": "masked"}
    model = beam_model(**masked)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    l2 = torch.optim.Adam(parameters.values(), lr=1e-2, weight_decay=0.1)
    with pytest.raises(ValueError, match="dead_ranks: found 'masked' with weight_decay 0.1 of torch.optim.Adam, .*AdamW"):
        BeamLora(model, l2, total_steps=24)
    BeamLora(scored := beam_model(expansion=False), torch.optim.Adam(scored.parameters(), weight_decay=0.1), total_steps=24)

    gates = [p for name, p in parameters.items() if "lora_gate" in name]
    others = [p for name, p in parameters.items() if "lora_gate" not in name]
    apart = torch.optim.Adam([{"params": others, "weight_decay": 0.1}, {"params": gates}], lr=1e-2)
    for optimizer in (apart, adam(again := beam_model(**masked), weight_decay=0.1)):
        trained = model if optimizer is apart else again
        beam = BeamLora(trained, optimizer, total_steps=24)
        run(trained, optimizer, beam, range(14))
        pruned = sum(module["K"] for record in beam.records for module in record["modules"])
        logits_of_scores = torch.cat([tensors["g"].flatten() for tensors in beam.adapter.values()])
        assert pruned > 0 and int((logits_of_scores == -torch.inf).sum()) == pruned
        assert not any(tensor.isnan().any() for tensor in adapter_tensors(trained).values())


@pytest.mark.parametrize("step", [2, 4, 5, 6, 11])
def test_resume_is_bit_identical(tmp_path: Path, step: int) -> None:
    whole = beam_model()
    optimizer = adam(whole)
    beam = BeamLora(whole, optimizer, total_steps=24)
    run(whole, optimizer, beam, range(step))
    saved = {"model": adapter_tensors(whole), "optimizer": optimizer.state_dict(), "beam": beam.state_dict()}
    torch.save(saved, tmp_path / "saved.pt")
    run(whole, optimizer, beam, range(step, 13))  # two operations

    saved = torch.load(tmp_path / "saved.pt", weights_only=True)
    resumed = beam_model(seed=7)
    optimizer = adam(resumed)
    again = BeamLora(resumed, optimizer, total_steps=24)
    if step > 2:
        with pytest.raises(ValueError, match="state of other weights"):
            again.load_state_dict(saved["beam"])
    resumed.load_state_dict(whole.state_dict())  # the frozen base of another seed
    resumed.load_state_dict(saved["model"], strict=False)
    optimizer.load_state_dict(saved["optimizer"])
    again.load_state_dict(saved["beam"])
    run(resumed, optimizer, again, range(step, 13))
    assert equal(adapter_tensors(resumed), adapter_tensors(whole)) and again.records == beam.records


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"delta_t": 8}, "delta_t: found 8, expected 6"),
        ({"p_init": 0.9}, "p_init: found 0.9, expected 0.95"),
        ({"gate_temperature": 0.2}, "gate_temperature: found 0.2, expected 0.05"),
        ({"flavor": "released"}, "flavor: found 'released', expected 'paper'"),
        ({"horizon_steps": 17}, "horizon: found 17, expected 16"),
    ],
    ids=str,
)
def test_another_setting_is_refused_by_name(changes: dict[str, Any], name: str) -> None:
    model = beam_model()
    state = BeamLora(model, adam(model), total_steps=24).state_dict()
    other = beam_model(**changes)
    with pytest.raises(ValueError, match=name):
        BeamLora(other, adam(other), total_steps=24).load_state_dict(state)
    with pytest.raises(ValueError, match="seed: found 1, expected 0"):
        BeamLora(model, adam(model), total_steps=24, seed=1).load_state_dict(state)


def test_where_the_horizon_comes_from_does_not_matter_to_a_resumed_run() -> None:
    epochs = beam_model(horizon_steps=None)
    state = BeamLora(epochs, adam(epochs), total_steps=24, steps_per_epoch=8).state_dict()
    steps = beam_model(horizon_steps=16)
    resumed = BeamLora(steps, adam(steps), total_steps=24)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state and resumed.schedule.horizon == 16


# ---- accelerate


def test_under_accelerate_only_updates_count() -> None:
    """Two micro-batches to an update; the calls between updates are no steps."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = beam_model()
    model, optimizer = accelerator.prepare(model, adam(model))
    beam = BeamLora(model, optimizer, total_steps=12)
    operated = []
    model.train()
    for micro in range(24):
        with accelerator.accumulate(model):
            accelerator.backward(model(input_ids=batch(micro), labels=batch(micro)).loss)
            optimizer.step()
            plan = beam.step()
            operated += [] if plan is None else [(micro, plan.step)]
            optimizer.zero_grad()
    assert operated == [(11, 6)] and beam.steps == 12


# ---- parameters that no gradient has reached


class TwoTowers(nn.Module):
    """A language tower, and a vision tower that text does not pass."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.text, self.vision = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: torch.Tensor, *, image: bool = False) -> torch.Tensor:
        return self.vision(self.text(x)) if image else self.text(x)


def towers(**changes: Any) -> PeftModel:
    values = {"r": 8, "lora_alpha": 16, "target_modules": ["text", "vision"], "delta_t": 6, "horizon_steps": 20}
    return get_peft_model(TwoTowers(), BeamLoraConfig(**(values | changes)))


def train_towers(model: PeftModel, *, images: set[int], skipped: set[int] = frozenset(), steps: int = 24) -> BeamLora:
    optimizer = adam(model)
    beam = BeamLora(model, optimizer, total_steps=24)
    for step in range(1, steps + 1):
        x = torch.randn(5, 16, generator=torch.Generator().manual_seed(step))
        model(x, image=step in images).pow(2).sum().backward()
        if step not in skipped:  # what GradScaler does where a gradient overflows
            optimizer.step()
        beam.step()
        optimizer.zero_grad()
    return beam


@pytest.mark.parametrize("changes", [{}, {"expansion": False}, {"source": "current"}, {"moment_transfer": "zero"}], ids=str)
def test_a_module_without_gradients_has_zero_moments(changes: dict[str, Any]) -> None:
    model = towers(**changes)
    beam = train_towers(model, images=set())
    vision = "base_model.model.vision"
    tensors = beam.adapter[vision]
    assert all(not tensors[f"{key}.{moment}"].any() for key in "ABg" for moment in MOMENTS)
    assert not tensors["B"].any() and not tensors["g"].any(), "nothing was learned there"
    assert [record["step"] for record in beam.records] == [6, 12, 18]
    assert {module["name"] for module in beam.records[0]["modules"]} == {vision, "base_model.model.text"}
    assert id(model.get_submodule(vision).lora_A["default"].weight) not in map(id, beam.adapter.optimizer.state)


def test_a_module_that_wakes_up_between_snapshot_and_operation_gets_the_zero_moments_of_the_snapshot() -> None:
    beam = train_towers(towers(), images={5, 6}, steps=6)
    (pruned,) = [m["pruned"] for m in beam.records[0]["modules"] if m["name"].endswith("vision")]
    tensors = beam.adapter["base_model.model.vision"]
    kept = [rank for rank in range(8) if rank not in pruned]
    assert pruned and not tensors["B.exp_avg"][:, pruned].any() and tensors["B.exp_avg"][:, kept].all()


@pytest.mark.parametrize("skipped", [{1, 2, 3, 4}, set(range(1, 25))], ids=["until the snapshot", "always"])
def test_skipped_updates_count_as_steps(skipped: set[int]) -> None:
    beam = train_towers(towers(), images=set(range(1, 25)), skipped=skipped)
    assert beam.steps == 24 and [record["step"] for record in beam.records] == [6, 12, 18]


def test_frozen_modules_take_no_part() -> None:
    model = towers()
    for parameter in model.base_model.model.vision.parameters():
        parameter.requires_grad_(False)
    before = {name: p.clone() for name, p in model.named_parameters() if "vision" in name}
    beam = train_towers(model, images=set())
    assert list(beam.adapter) == ["base_model.model.text"]
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters() if "vision" in name)


def test_a_half_frozen_module_is_refused() -> None:
    model = towers()
    model.base_model.model.vision.lora_A["default"].weight.requires_grad_(False)
    with pytest.raises(ValueError, match="vision.A frozen"):
        BeamLora(model, adam(model), total_steps=24)


# ---- optimizers


def test_the_maximum_of_amsgrad_moves_with_its_rank() -> None:
    """It is V's largest value so far: copied with V, zeroed with V."""
    model = beam_model()
    optimizer = adam(model, amsgrad=True)
    beam = BeamLora(model, optimizer, total_steps=24)
    run(model, optimizer, beam, range(5))
    snapshot = beam.snapshot
    assert snapshot is not None
    run(model, optimizer, beam, range(5, 6))
    for module in beam.records[0]["modules"]:
        after, old = beam.adapter[module["name"]], snapshot[module["name"]]
        assert module["K"] > 0 and old["A.max_exp_avg_sq"].all()
        assert torch.equal(after["A.max_exp_avg_sq"][module["pruned"]], old["A.max_exp_avg_sq"][module["sources"]])
        assert torch.equal(after["B.max_exp_avg_sq"][:, module["pruned"]], old["B.max_exp_avg_sq"][:, module["sources"]])
        assert not after["g.max_exp_avg_sq"].any()
        live = beam.adapter.modules[module["name"]].lora_B["default"].weight
        assert torch.equal(optimizer.state[live]["max_exp_avg_sq"], after["B.max_exp_avg_sq"])


def test_without_amsgrad_there_is_no_maximum() -> None:
    model = beam_model()
    tensors = AdapterTensors.of(model, adam(model), adapter="default")
    assert {key.partition(".")[2] for key in next(iter(tensors.values()))} == {"", *MOMENTS}


def test_lora_plus_gives_the_scores_the_base_rate() -> None:
    model = beam_model()
    optimizer = create_loraplus_optimizer(model, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16.0)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    by_kind = {
        kind: {rates[id(p)] for name, p in model.named_parameters() if kind in name}
        for kind in ("lora_A", "lora_B", "lora_gate")
    }
    assert by_kind == {"lora_A": {1e-3}, "lora_B": {16e-3}, "lora_gate": {1e-3}}
    BeamLora(model, optimizer, total_steps=24)


def test_a_file_with_flat_scores_is_read(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = beam_model()
    randomize(model)
    model.save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    assert {tuple(t.shape) for key, t in tensors.items() if "lora_gate" in key} == {(1, 8)}
    save_file({key: t.flatten() if "lora_gate" in key else t for key, t in tensors.items()}, path)
    assert torch.equal(logits(PeftModel.from_pretrained(tiny_llama(), tmp_path)), logits(model))


# ---- an adapter that nobody operates on


def test_training_without_operations_is_mentioned_once() -> None:
    model = beam_model()
    optimizer = adam(model)
    with pytest.warns(UserWarning, match="'default' is trained without operations") as told:
        run(model, optimizer, None, range(3))
    assert len([w for w in told if "without operations" in str(w.message)]) == 1
    assert told[0].filename == __file__, "the loop's own line"


def test_nobody_is_warned_without_reason(tmp_path: Path) -> None:
    gc.collect()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*without operations")
        scored = beam_model(operations=False)
        run(scored, adam(scored), None, range(1))
        unused = beam_model()
        logits(unused)
        unused.train()(input_ids=batch(0), labels=batch(0)).loss.backward()  # a look at the gradients
        other = nn.Linear(2, 2)
        other(torch.ones(1, 2)).sum().backward()
        torch.optim.AdamW(other.parameters()).step()
        beam_trainer(tmp_path, max_steps=12).train()
        looped = beam_model()
        optimizer = adam(looped)
        run(looped, optimizer, BeamLora(looped, optimizer, total_steps=12), range(2))


def test_modules_are_named_in_the_records() -> None:
    model = beam_model()
    optimizer = adam(model)
    beam = BeamLora(model, optimizer, total_steps=12)
    run(model, optimizer, beam, range(6))
    assert [m["name"] for m in beam.records[0]["modules"]] == [name for name, _ in beam_modules(model, "default")]
