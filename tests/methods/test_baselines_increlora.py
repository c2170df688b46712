"""IncreLoRA: the layer, the plan of growth, what a growth does to model and optimizer."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from methods.base import MechanismError
from methods.increlora.growth import GrowthSchedule, plan_growth, plan_schedule
from methods.increlora.layer import RESERVE_WEIGHT, IncreLoraLinear
from tests.methods import toy
from tests.rounding import assert_equal_but_for_rounding, sums_of


def layers(loop: toy.Loop) -> list[IncreLoraLinear]:
    return list(loop.method._layers.values())


def small_layer() -> IncreLoraLinear:
    torch.manual_seed(0)
    layer = IncreLoraLinear(nn.Linear(6, 5), r_max=8, scaling=2.0, dropout=0.0)
    layer.add_reserve(2, identity=("toy",))
    layer.activate(2, weight=0.5)
    layer.add_reserve(1, identity=("toy",))
    return layer


# -------------------------------------------------------------------------------------------------------------- layer


@pytest.mark.numeric
def test_layer_computes_its_formula():
    layer, x = small_layer(), torch.randn(3, 6)
    e = torch.tensor([0.5, 0.5, RESERVE_WEIGHT])
    delta = 2.0 * (layer.lora_B[:, :3] * e) @ layer.lora_A[:3]
    assert_equal_but_for_rounding(layer(x), layer.base_layer(x) + x @ delta.T, terms=6, layers=3)
    active = layer.factors()
    assert_equal_but_for_rounding(active.b @ active.a, 2.0 * 0.5 * layer.lora_B[:, :2] @ layer.lora_A[:2], terms=2)


def test_reserve_learns_directions_but_not_its_weight():
    layer = small_layer()
    layer(torch.randn(3, 6)).square().sum().backward()
    assert layer.lora_A.grad[2].any() and layer.lora_B.grad[:, 2].any() and layer.lora_E.grad[2] == 0
    assert not layer.lora_A.grad[3:].any() and not layer.lora_B.grad[:, 3:].any()


def test_activation_changes_no_output():
    layer, x = small_layer(), torch.randn(3, 6)
    before = layer(x)
    layer.activate(1)
    assert (layer.rank, layer.reserve) == (3, 0)
    assert torch.equal(layer(x), before)


def test_a_slot_is_drawn_the_same_whenever_it_is_drawn():
    one, two = (IncreLoraLinear(nn.Linear(6, 5), r_max=4, scaling=1.0, dropout=0.0) for _ in range(2))
    one.add_reserve(3, identity=("x", 1))
    for _ in range(3):
        two.add_reserve(1, identity=("x", 1))
        torch.rand(5)
    assert torch.equal(one.lora_A, two.lora_A) and torch.equal(one.lora_B, two.lora_B)


# --------------------------------------------------------------------------------------------------------------- plan


def test_most_important_modules_grow_first_and_ties_go_by_index():
    plan = plan_growth([2, 2, 2, 2], [0.1, 0.9, 0.5, 0.5], r_max=8, budget=99, ranks_per_round=5, ranks_per_module=2)
    assert plan == {1: 2, 2: 2, 3: 1}


def test_full_modules_are_passed_over_and_the_budget_is_met_exactly():
    assert plan_growth([4, 3], [0.9, 0.1], r_max=4, budget=99, ranks_per_round=2, ranks_per_module=2) == {1: 1}
    assert plan_growth([4, 3], [0.9, 0.1], r_max=9, budget=8, ranks_per_round=4, ranks_per_module=4) == {0: 1}


@given(
    st.lists(st.tuples(st.integers(1, 6), st.floats(0, 1)), min_size=1, max_size=12),
    st.integers(1, 20),
    st.integers(1, 5),
    st.integers(0, 72),
)
def test_growth_respects_every_limit(modules, per_round, per_module, room):
    ranks, importance = [rank for rank, _ in modules], [score for _, score in modules]
    budget = sum(ranks) + room
    plan = plan_growth(ranks, importance, r_max=6, budget=budget, ranks_per_round=per_round, ranks_per_module=per_module)
    assert sum(plan.values()) <= min(per_round, room)
    assert all(0 < count <= min(per_module, 6 - ranks[index]) for index, count in plan.items())
    if plan and len(plan) < len(ranks):  # nobody was passed over who is more important and had room for a rank
        least = min(importance[index] for index in plan)
        assert all(score <= least or ranks[i] == 6 for i, score in enumerate(importance) if i not in plan)


@given(st.integers(1, 40), st.integers(1, 200), st.integers(0, 50))
def test_schedule_has_all_rounds_in_its_span(rounds, span, first):
    schedule = GrowthSchedule(first=first, span=max(span, rounds), rounds=rounds)
    due = [step for step in range(first + schedule.span) if schedule.due(step)]
    assert len(due) == rounds and due[0] == first
    gaps = [b - a for a, b in zip(due, due[1:], strict=False)]
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_paper_sized_schedule():
    """LLaMA2-7B, r = 64 from 32, 56 of 224 modules by 8 ranks: 16 growths."""
    schedule = plan_schedule(ranks_to_add=224 * 32, ranks_per_round=56 * 8, first=3703, end=18516)
    assert schedule.rounds == 16


# ------------------------------------------------------------------------------------------------------------- training


def test_ranks_grow_monotonically_to_the_target(tmp_path):
    loop, totals = toy.start("increlora", tmp_path), []
    for _ in range(20):
        loop.run(1)
        totals.append(loop.method.total_rank)
    assert totals == sorted(totals) and totals[0] == 2 * toy.MODULES and totals[-1] == 4 * toy.MODULES
    assert totals[9] == totals[-1], "the budget is spent by growth_end"
    evidence = loop.method.evidence(loop.model)
    assert evidence["mean_rank"] == 4.0 and len(set(evidence["ranks"].values())) > 1
    assert all(layer.reserve == 0 and layer.rank <= layer.r_max for layer in layers(loop))
    lines = [json.loads(line) for line in (tmp_path / "log" / "operations.jsonl").read_text().splitlines()]
    assert [(line["step"], line["total_rank"]) for line in lines] == [(2, 35), (4, 42), (6, 49), (8, 56)]


def test_ranks_that_did_not_grow_are_an_error(tmp_path):
    loop = toy.start("increlora", tmp_path).run(2)
    with pytest.raises(MechanismError, match="ended with 28 ranks after 0 growths, expected 56"):
        loop.method.evidence(loop.model)


@pytest.mark.numeric
def test_a_growth_changes_no_logits(tmp_path):
    """Not even the last one, which drops the reserves: their share is 1e-5."""
    loop = toy.start("increlora", tmp_path).run(9 - 1)
    before = toy.logits(loop.model)
    loop.backward()
    loop.method.update_importance()
    loop.method.grow(loop.optimizer, step=8)
    assert loop.method.total_rank == loop.method.budget
    assert_equal_but_for_rounding(toy.logits(loop.model), before, **sums_of(loop.model))


def test_unused_slots_stay_zero_whatever_the_weight_decay(tmp_path):
    loop = toy.start("increlora", tmp_path, ctx={"weight_decay": 0.1}).run(6)
    for layer in layers(loop):
        assert not layer.lora_A[layer.used :].any() and not layer.lora_B[:, layer.used :].any()
        assert not layer.lora_E[layer.rank :].any()


def test_new_ranks_start_without_moments(tmp_path):
    loop = toy.start("increlora", tmp_path).run(2)
    loop.backward()
    reserve_moments = [loop.optimizer.state[layer.lora_A]["exp_avg"][2].abs().sum().item() for layer in layers(loop)]
    assert min(reserve_moments) > 0, "the reserve was trained"
    loop.method.update_importance()
    loop.method.grow(loop.optimizer, step=2)
    for growth in loop.method.growths:
        layer = layers(loop)[growth.module]
        for parameter, index in (
            (layer.lora_A, growth.slots),
            (layer.lora_E, growth.slots),
            (layer.lora_B, (slice(None), growth.slots)),
        ):
            assert not loop.optimizer.state[parameter]["exp_avg"][index].any()
            assert not loop.optimizer.state[parameter]["exp_avg_sq"][index].any()
        assert loop.optimizer.state[layer.lora_A]["exp_avg"][:2].any(), "the others keep theirs"


@pytest.mark.numeric
def test_new_ranks_warm_up(tmp_path):
    """After a growth at step 2 and a warm-up of 3, the new rank makes 1/4, 2/4, 3/4 of AdamW's step, the others all of it."""
    moved = {}
    for warmup in (0, 3):
        loop = toy.start("increlora", tmp_path, restart_warmup=warmup).run(2)
        before = [(layer.lora_A.detach().clone(), layer.lora_B.detach().clone()) for layer in layers(loop)]
        loop.run(1)
        moved[warmup] = [
            (layer.lora_A.detach() - a, layer.lora_B.detach() - b) for layer, (a, b) in zip(layers(loop), before, strict=True)
        ]
    grown = [growth.module for growth in loop.method.growths]
    assert len(grown) == 7
    for index, (full, warming) in enumerate(zip(moved[0], moved[3], strict=True)):
        assert torch.equal(warming[0][:2], full[0][:2]) and torch.equal(warming[1][:, :2], full[1][:, :2])
        factor = 0.25 if index in grown else 1.0
        # What moved is the difference of two weights, each rounded.
        a, b = (float(weights.detach().abs().max()) for weights in (layers(loop)[index].lora_A, layers(loop)[index].lora_B))
        assert_equal_but_for_rounding(warming[0][2], factor * full[0][2], terms=1, magnitude=a)
        assert_equal_but_for_rounding(warming[1][:, 2], factor * full[1][:, 2], terms=1, magnitude=b)
    assert [held[2] for step in (2, 3, 4, 5) for held in loop.method.warming_slots(step)[:1]] == [0.25, 0.5, 0.75]


@pytest.mark.numeric
def test_importance_is_the_first_order_change_by_component(tmp_path):
    """sum_i |e_i dL/de_i| equals sum_i |<delta W_i, dL/d delta W>| with the dense gradient of the merged weight."""
    loop = toy.start("increlora", tmp_path, orth_reg_weight=0, beta1=1e-9, beta2=1e-9).run(2)
    loop.model.zero_grad()
    loop.backward()
    loop.method.update_importance()

    dense = toy.base_model().train()
    for name, layer in loop.method._layers.items():
        a, b = layer.directions()
        e = torch.cat([layer.lora_E[: layer.rank], torch.full((layer.reserve,), RESERVE_WEIGHT)])
        dense.get_submodule(name).weight.data += layer.scaling * (b * e) @ a
    toy.next_token_loss(dense, toy.batch(2)).backward()
    for index, (name, layer) in enumerate(loop.method._layers.items()):
        gradient = dense.get_submodule(name).weight.grad
        parts = [layer.scaling * layer.lora_E[i] * torch.outer(layer.lora_B[:, i], layer.lora_A[i]) for i in range(layer.rank)]
        expected = sum((part * gradient).sum().abs() for part in parts).item()
        importance = loop.method.importance[index].item()
        assert_equal_but_for_rounding(importance, expected, terms=gradient.numel(), layers=2 * sums_of(dense)["layers"])


@pytest.mark.numeric
def test_importance_is_smoothed_with_both_betas(tmp_path):
    loop = toy.start("increlora", tmp_path, beta1=0.6, beta2=0.7).run(1)
    score = [torch.zeros(toy.MODULES, dtype=torch.float64)]
    average = deviation = score[0]
    loop.method.importance, loop.method.deviation = average, deviation
    for _ in range(2):
        loop.backward()
        new = torch.stack([(layer.lora_E * layer.lora_E.grad).abs().sum().detach().double() for layer in layers(loop)])
        average = 0.6 * average + 0.4 * new
        deviation = 0.7 * deviation + 0.3 * (new - average).abs()
        loop.method.update_importance()
    assert_equal_but_for_rounding(loop.method.importance, average, terms=2, layers=2, dtype=torch.float64)
    assert_equal_but_for_rounding(loop.method.deviation, deviation, terms=2, layers=2, dtype=torch.float64)
    assert deviation.min() > 0
