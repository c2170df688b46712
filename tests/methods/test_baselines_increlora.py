"""IncreLoRA: the layer, the plan of growth, what a growth does to model and optimizer."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from harness.errors import ConfigError
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
    assert [(line["step"], line["total_rank"]) for line in lines] == [(2, 18), (4, 22), (6, 26), (8, 28)]


def test_ranks_that_did_not_grow_are_an_error(tmp_path):
    loop = toy.start("increlora", tmp_path).run(2)
    with pytest.raises(MechanismError, match="ended with 14 ranks after 0 growths, expected 28"):
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


def recorded(loop: toy.Loop, steps: int) -> list[dict[str, Any]]:
    """What the optimizer was given at each of ``steps`` steps: of every parameter its value and gradient, and the rate."""
    given: list[dict[str, Any]] = []
    take_step = loop.optimizer.step

    def record() -> None:
        values = [(p.detach().clone(), p.grad.clone()) for layer in layers(loop) for p in parts_of(layer)]
        given.append({"values": values, "rate": loop.optimizer.param_groups[0]["lr"]})
        take_step()

    loop.optimizer.step = record
    loop.run(steps)
    return given


def parts_of(layer: IncreLoraLinear) -> tuple[nn.Parameter, nn.Parameter, nn.Parameter]:
    return layer.lora_A, layer.lora_E, layer.lora_B


@pytest.mark.numeric
@pytest.mark.parametrize(("warmup", "weight_decay"), [(0, 0.0), (3, 0.0), (0, 0.1)])
def test_what_begins_to_train_at_a_growth_steps_like_a_parameter_of_its_own(tmp_path, warmup, weight_decay):
    """As in the released code, where it is one: AdamW of that part alone, from its first gradient on, with its own warm-up."""
    loop = toy.start("increlora", tmp_path, restart_warmup=warmup, ctx={"weight_decay": weight_decay})
    given, compared = recorded(loop, 14), 0
    for growth in loop.method.growths:
        layer = layers(loop)[growth.module]
        for parameter, index in growth.parts(layer):
            if not parameter.detach()[index].numel():
                continue  # reserves that were given up, or weights that left the reserve in the last step
            place = 3 * growth.module + [p is parameter for p in parts_of(layer)].index(True)
            alone = nn.Parameter(given[growth.step + 1]["values"][place][0][index].clone())
            optimizer = torch.optim.AdamW([alone], weight_decay=weight_decay)
            for age, step in enumerate(given[growth.step + 1 :], start=1):
                optimizer.param_groups[0]["lr"] = step["rate"] * min(1, age / (warmup + 1))
                alone.grad = step["values"][place][1][index].clone()
                optimizer.step()
            # Each step rounds the weight once, and the two orders of operations each of its parts.
            magnitude = float(alone.detach().abs().max()) + sum(step["rate"] for step in given)
            assert_equal_but_for_rounding(parameter.detach()[index], alone.detach(), terms=len(given), magnitude=magnitude)
            compared += 1
    assert compared > 20


def test_ranks_that_leave_the_reserve_keep_moments_and_rate(tmp_path):
    """A growth touches no direction that already trains: the next step is that of a run without it."""
    moved = []
    for grows in (True, False):
        loop = toy.start("increlora", tmp_path / str(grows), orth_reg_weight=0, restart_warmup=5).run(2)
        loop.backward()
        if grows:
            loop.method.update_importance()
            loop.method.grow(loop.optimizer, step=2)
        loop.optimizer.step()
        moved.append([(layer.lora_A.detach()[:3].clone(), layer.lora_B.detach()[:, :3].clone()) for layer in layers(loop)])
    assert len(loop.method.growths) == 0
    for (a, b), (same_a, same_b) in zip(*moved, strict=True):
        assert torch.equal(a, same_a) and torch.equal(b, same_b)


def test_another_optimizer_is_refused(tmp_path):
    loop = toy.start("increlora", tmp_path)
    loop.optimizer = torch.optim.SGD([p for p in loop.model.parameters() if p.requires_grad], lr=0.1)
    with pytest.raises(ConfigError, match="increlora: found optimizer SGD, expected AdamW without amsgrad"):
        loop.run(5)


@pytest.mark.numeric
def test_the_orthogonality_term_is_the_mean_over_what_was_drawn_at_once(tmp_path):
    loop = toy.start("increlora", tmp_path).run(5)
    norms = []
    for layer in layers(loop):
        sizes = [2] + [1] * (layer.used - 2)  # init_r, then one reserve after the other
        for rows in (*layer.lora_A[: layer.used].split(sizes), *layer.lora_B[:, : layer.used].T.split(sizes)):
            norms.append(torch.linalg.matrix_norm(rows @ rows.T - torch.eye(len(rows))))
    assert len({layer.used for layer in layers(loop)}) > 1
    expected = 0.1 * torch.stack(norms).mean()
    assert_equal_but_for_rounding(loop.method.regularizer(loop.model), expected, terms=layers(loop)[0].in_features, layers=2)


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
