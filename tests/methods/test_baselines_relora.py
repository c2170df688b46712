"""ReLoRA: what a merge-and-restart does to the model, the optimizer, the learning rate and the checkpoint."""

from __future__ import annotations

import json

import pytest
import torch

from methods.base import MechanismError
from methods.peft_support import ADAPTER, adapted_layers
from tests.methods import toy
from tests.rounding import assert_equal_but_for_rounding, sums_of


def factors(loop: toy.Loop) -> list[tuple[torch.nn.Parameter, torch.nn.Parameter]]:
    return [(layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight) for layer in adapted_layers(loop.model).values()]


@pytest.mark.numeric
def test_merge_changes_no_logits_and_empties_adapter_and_optimizer(tmp_path):
    loop = toy.start("relora", tmp_path).run(5)
    before, old = toy.logits(loop.model), [a.detach().clone() for a, _ in factors(loop)]
    assert len(loop.optimizer.state) == 2 * toy.MODULES
    loop.method.restart(loop.optimizer, step=5)

    assert_equal_but_for_rounding(toy.logits(loop.model), before, **sums_of(loop.model))
    assert len(loop.optimizer.state) == 0
    for (a, b), old_a in zip(factors(loop), old, strict=True):
        assert not b.any() and not torch.equal(a, old_a)
        assert a.abs().max() <= a.shape[1] ** -0.5  # Kaiming-uniform with a = sqrt(5)


def test_optimizer_sees_the_same_parameters_all_along(tmp_path):
    """DDP and the optimizer hold references, so parameters are changed in place."""
    loop = toy.start("relora", tmp_path)
    before = [id(p) for pair in factors(loop) for p in pair]
    loop.run(7)
    assert [id(p) for pair in factors(loop) for p in pair] == before
    assert {id(p) for group in loop.optimizer.param_groups for p in group["params"]} == set(before)


def test_merges_at_the_end_of_each_cycle_but_not_in_the_last(tmp_path):
    """20 steps in cycles of 6: 18 would leave less than a cycle."""
    loop = toy.start("relora", tmp_path).run()
    assert loop.method.evidence(loop.model) == {"merges": 2, "merge_steps": [6, 12]}
    lines = [json.loads(line) for line in (tmp_path / "log" / "operations.jsonl").read_text().splitlines()]
    assert [(line["operation"], line["step"]) for line in lines] == [("merge", 6), ("merge", 12)]
    assert all(line["update_norm"] > 0 for line in lines)


def test_no_merge_is_an_error(tmp_path):
    loop = toy.start("relora", tmp_path).run(3)
    with pytest.raises(MechanismError, match="never merged in 20 steps"):
        loop.method.evidence(loop.model)


def test_update_gains_rank(tmp_path):
    """The purpose of ReLoRA: the total update of rank-2 adapters has more than rank 2."""
    loop = toy.start("relora", tmp_path, r=2).run()
    loop.method.finalize(loop.model, tmp_path / "out")
    trained, base = toy.reload(tmp_path / "out"), toy.base_model()
    for name in ("model.layers.0.mlp.up_proj", "model.layers.0.self_attn.q_proj"):
        update = (trained.get_submodule(name).weight - base.get_submodule(name).weight).detach()
        singular = torch.linalg.svdvals(update)
        assert int((singular > 1e-3 * singular[0]).sum()) > 4


def test_learning_rate_climbs_back_to_the_schedule(tmp_path):
    """At a merge the scheduler's rate is multiplied by 1/4, 2/4, 3/4, 1; the scheduler's own state is untouched."""
    loop = toy.start("relora", tmp_path, restart_warmup=3).run(11)
    scheduled = [5e-3 * (1 - step / 20) for step in range(11)]
    assert loop.rates[:6] == pytest.approx(scheduled[:6])
    assert [rate / plan for rate, plan in zip(loop.rates[6:], scheduled[6:], strict=True)] == pytest.approx(
        [0.25, 0.5, 0.75, 1.0, 1.0]
    )
    assert loop.scheduler.get_last_lr() == pytest.approx([5e-3 * (1 - 11 / 20)])


def test_scheduled_rate_is_back_right_after_the_step(tmp_path):
    """A scheduler that is chained, or not stepped because the optimizer skipped, must find its own rate."""
    loop = toy.start("relora", tmp_path, restart_warmup=3).run(7)
    scheduled = loop.optimizer.param_groups[0]["lr"]
    loop._event("on_pre_optimizer_step")
    assert loop.optimizer.param_groups[0]["lr"] == pytest.approx(scheduled / 2)
    loop._event("on_optimizer_step")
    assert loop.optimizer.param_groups[0]["lr"] == scheduled


def test_partial_reset_keeps_the_largest_moments(tmp_path):
    loop = toy.start("relora", tmp_path, reset_fraction=0.75).run(5)
    a = factors(loop)[0][0]
    before = {key: value.clone() for key, value in loop.optimizer.state[a].items()}
    loop.method.restart(loop.optimizer, step=5)
    after = loop.optimizer.state[a]
    assert after["step"] == before["step"]
    for key in ("exp_avg", "exp_avg_sq"):
        kept = after[key] != 0
        assert int(kept.sum()) == a.numel() // 4
        assert torch.equal(after[key][kept], before[key][kept])
        assert before[key][~kept].abs().max() <= before[key][kept].abs().min()


def test_a_random_reset_keeps_entries_whatever_their_size(tmp_path):
    """Each with the same probability, by a stream of its own: the global one differs between processes."""
    kept = []
    for noise in (0, 3):
        loop = toy.start("relora", tmp_path, reset_fraction=0.75, reset_choice="random").run(5)
        a = factors(loop)[0][0]
        before = loop.optimizer.state[a]["exp_avg"].clone()
        torch.rand(noise)
        loop.method.restart(loop.optimizer, step=5)
        kept.append(loop.optimizer.state[a]["exp_avg"] != 0)
        assert torch.equal(loop.optimizer.state[a]["exp_avg"][kept[-1]], before[kept[-1]])
    assert torch.equal(*kept)
    assert abs(float(kept[0].float().mean()) - 0.25) < 4 * (0.25 * 0.75 / a.numel()) ** 0.5
    assert before[~kept[0]].abs().max() > before[kept[0]].abs().min(), "also large ones are reset"


def test_restart_draws_depend_on_seed_and_cycle_only(tmp_path):
    """Whatever happens to the global stream, which differs between processes, the new A is the same."""
    drawn = []
    for noise, seed in ((0, 7), (3, 7), (0, 8)):
        loop = toy.start("relora", tmp_path, ctx={"seed": seed}).run(2)
        torch.rand(noise)
        loop.method.restart(loop.optimizer, step=2)
        drawn.append(factors(loop)[0][0].detach().clone())
        loop.method.restart(loop.optimizer, step=3)
        assert not torch.equal(factors(loop)[0][0], drawn[-1])
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_bfloat16_base_collects_updates_in_float32(tmp_path):
    """Sixteen updates of a quarter of a bfloat16 step each: added to bfloat16 weights one by one, all would be lost."""
    base = toy.base_model().to(torch.bfloat16)
    method = toy.make("relora")
    loop = toy.Loop(method, base, toy.context(tmp_path))
    layer = adapted_layers(loop.model)["model.layers.0.mlp.up_proj"]
    weight = layer.get_base_layer().weight
    weight.data.fill_(1.0)
    method._masters["model.layers.0.mlp.up_proj"].fill_(1.0)
    for step in range(16):
        layer.lora_A[ADAPTER].weight.data.fill_(1.0)
        layer.lora_B[ADAPTER].weight.data.fill_(2**-9 / (2 * 4))
        method.restart(loop.optimizer, step=step)
    assert torch.equal(weight, torch.full_like(weight, 1 + 16 * 2**-9))


def test_float32_base_needs_no_second_copy(tmp_path):
    assert not toy.start("relora", tmp_path).run(7).method._masters


@pytest.mark.parametrize(("r", "merges"), [(2, 2), (30, 0)])
def test_a_checkpoint_holds_the_factors_of_each_merge_or_weights_that_are_smaller(tmp_path, r, merges):
    loop = toy.start("relora", tmp_path, r=r).run(13)
    state, trained = loop.method.state_dict(), loop.method.checkpoint_tensors(loop.model)
    assert state["merge_steps"] == [6, 12] and all("lora_" in name for name in trained)
    name = "model.layers.0.self_attn.q_proj"
    assert len(state["factors"].get(name, [])) == merges and (name in state["weights"]) == (merges == 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("r", [2, 30])
def test_a_resumed_run_makes_the_same_weights_again(tmp_path, dtype, r):
    def begin() -> toy.Loop:
        torch.manual_seed(0)
        return toy.Loop(toy.make("relora", r=r), toy.base_model().to(dtype), toy.context(tmp_path))

    whole = begin().run()
    resumed = begin().restore(begin().run(14).checkpoint()).run()
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True))
    assert all(torch.equal(value, resumed.method._masters[key]) for key, value in whole.method._masters.items())
