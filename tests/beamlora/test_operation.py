"""The operation: its properties for any scores. Those of the released code: tests/methods/beamlora/test_replay.py."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from beamlora.operation import (
    MOMENTS,
    ModulePlan,
    OperationPlan,
    apply_plan,
    make_plan,
    private_permutations,
    rank_scores,
    score_entropy,
    snapshot_keys,
)
from beamlora.settings import BeamSettings
from tests.rounding import assert_equal_but_for_rounding, rounding_bound

# ---- properties


def module_tensors(rank: int, seed: int, *, spread: float = 0.05) -> dict[str, torch.Tensor]:
    """Random tensors of a module with 5 inputs and 7 outputs."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    shapes = {"A": (rank, 5), "B": (7, rank), "g": (rank,)}
    tensors = {key: normal(*shape) for key, shape in shapes.items()}
    tensors["g"] *= spread
    for key, shape in shapes.items():
        tensors |= {f"{key}.exp_avg": normal(*shape), f"{key}.exp_avg_sq": normal(*shape).square()}
    return tensors


def all_scores(modules: dict[str, dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: rank_scores(tensors["g"], temperature=0.05, times_r=True) for name, tensors in modules.items()}


def plan_for(modules: dict[str, dict[str, torch.Tensor]], beam: BeamSettings, *, p: float, seed: int = 0) -> OperationPlan:
    permutations = private_permutations(seed=seed, step=6)
    return make_plan(all_scores(modules), step=6, p=p, settings=beam, permutations=permutations)


cases = st.fixed_dictionaries(
    {
        "rank": st.integers(2, 12),
        "count": st.integers(1, 4),
        "seed": st.integers(0, 10_000),
        "p": st.floats(0.2, 0.999),
        "spread": st.sampled_from([0.0, 0.005, 0.05, 0.3]),
    }
)


def modules_of(case: dict) -> dict[str, dict[str, torch.Tensor]]:
    return {f"layer{i}": module_tensors(case["rank"], case["seed"] + i, spread=case["spread"]) for i in range(case["count"])}


@pytest.mark.numeric
@settings(max_examples=60, deadline=None)
@given(case=cases, flavor=st.sampled_from(["paper", "released"]))
def test_every_pruned_rank_becomes_one_copy_and_nothing_else_changes(case: dict, flavor: str) -> None:
    beam = BeamSettings(flavor=flavor)
    modules = modules_of(case)
    history = {name: module_tensors(case["rank"], case["seed"] + 77 + i) for i, name in enumerate(modules)}
    before = {name: {key: t.clone() for key, t in tensors.items()} for name, tensors in modules.items()}
    plan = plan_for(modules, beam, p=case["p"])
    assert sum(m.k for m in plan.modules) >= 1
    for module in plan.modules:
        tensors, old = modules[module.name], history[module.name]
        after = apply_plan(tensors, old, module, settings=beam)
        assert all(torch.equal(tensors[key], before[module.name][key]) for key in tensors), "an input was changed"
        pruned, sources = list(module.pruned), list(module.sources)
        assert len(pruned) == len(set(pruned)) == len(sources) == len(set(sources))
        if module.k == 0:
            assert set(after) == {"g.exp_avg", "g.exp_avg_sq"}
            continue
        kept = [i for i in range(case["rank"]) if i not in pruned]
        assert torch.equal(after["A"][pruned], old["A"][sources]) and torch.equal(after["A"][kept], tensors["A"][kept])
        assert torch.equal(after["B"][:, pruned], old["B"][:, sources])
        assert torch.equal(after["B"][:, kept], tensors["B"][:, kept])
        untouched = [i for i in kept if i not in sources]
        assert torch.equal(after["g"][untouched], tensors["g"][untouched])
        scores = rank_scores(after["g"], temperature=0.05, times_r=True)
        assert_equal_but_for_rounding(scores.sum(), case["rank"], terms=case["rank"], layers=2)
        if flavor == "paper":
            assert not set(pruned) & set(sources) and module.k <= case["rank"] / 2
            assert torch.equal(after["g"][pruned], after["g"][sources])
            assert torch.equal(after["A.exp_avg"][pruned], old["A.exp_avg"][sources])
            assert torch.equal(after["B.exp_avg_sq"][:, pruned], old["B.exp_avg_sq"][:, sources])
        else:
            assert not set(after) & {f"{m}.{moment}" for m in "AB" for moment in MOMENTS}


@settings(max_examples=40, deadline=None)
@given(case=cases)
def test_pruned_ranks_score_lowest_and_sources_highest(case: dict) -> None:
    modules = modules_of(case)
    for module in plan_for(modules, BeamSettings(), p=case["p"]).modules:
        scores = all_scores(modules)[module.name]
        ordered = scores.sort().values
        assert scores[list(module.pruned)].sort().values.equal(ordered[: module.k])
        assert scores[list(module.sources)].sort().values.equal(ordered[len(ordered) - module.k :])


@settings(max_examples=40, deadline=None)
@given(case=cases, scope=st.sampled_from(["module", "global"]))
def test_p_one_operates_on_no_rank(case: dict, scope: str) -> None:
    beam = BeamSettings(topp_scope=scope)
    for module in plan_for(modules_of(case), beam, p=1.0).modules:
        assert module.k == 0
        tensors = module_tensors(case["rank"], case["seed"])
        assert set(apply_plan(tensors, None, module, settings=beam)) == {"g.exp_avg", "g.exp_avg_sq"}


@settings(max_examples=40, deadline=None)
@given(case=cases, order=st.randoms(use_true_random=False))
def test_module_order_does_not_matter_in_module_scope(case: dict, order) -> None:
    modules = modules_of(case)
    names = list(modules)
    order.shuffle(names)
    straight = plan_for(modules, BeamSettings(), p=case["p"])
    shuffled = plan_for({name: modules[name] for name in names}, BeamSettings(), p=case["p"])
    assert {m.name: m for m in straight.modules} == {m.name: m for m in shuffled.modules}


@pytest.mark.numeric
@settings(max_examples=40, deadline=None)
@given(case=cases)
def test_top_p_counts_as_equation_13(case: dict) -> None:
    """K against a plain loop: ranks from the first whose cumulative share exceeds p."""
    modules = modules_of({**case, "count": 1})
    scores = all_scores(modules)["layer0"].double().sort(descending=True).values / case["rank"]
    cumulative, expected = 0.0, 0
    for share in scores.tolist():
        cumulative += share
        expected += cumulative > case["p"]
    tie = rounding_bound(1.0, terms=case["rank"], layers=2)
    assume(min(abs(scores.cumsum(0) - case["p"])) > tie)  # else rounding decides
    plan = plan_for(modules, BeamSettings(max_prune_fraction=1.0), p=case["p"])
    assert plan.modules[0].k == expected


def test_uniform_scores_give_the_counts_of_a_quantile() -> None:
    """Equal scores: r = 64, p = .95 operates on 4 of 64 ranks per module (6.25 %), r = 32, p = .96 on 2."""
    for rank, p, expected in ((64, 0.95, 4), (32, 0.96, 2), (4, 0.95, 1)):
        assert plan_for({"m": module_tensors(rank, 0, spread=0.0)}, BeamSettings(), p=p).modules[0].k == expected
    many = {f"m{i}": module_tensors(64, i, spread=0.0) for i in range(224)}
    plan = plan_for(many, BeamSettings(flavor="released"), p=0.95)
    assert sum(m.k for m in plan.modules) == 717  # 5.0 % of 14336


# ---- every setting of the operation has an effect


def operate(beam: BeamSettings, *, p: float = 0.9, seed: int = 4) -> tuple[ModulePlan, dict, dict, dict]:
    """One module of rank 8: plan, tensors before, snapshot, tensors that change."""
    current, history = module_tensors(8, seed), module_tensors(8, seed + 1)
    plan = plan_for({"m": current}, beam, p=p).modules[0]
    assert plan.k == 3
    return plan, current, history, apply_plan(current, history, plan, settings=beam)


def test_source_chooses_between_snapshot_and_current_state() -> None:
    plan, current, history, after = operate(BeamSettings(source="current"))
    for key, dim in (("A", 0), ("B", 1), ("A.exp_avg", 0), ("B.exp_avg_sq", 1)):
        taken = after[key].index_select(dim, torch.tensor(plan.pruned))
        assert torch.equal(taken, current[key].index_select(dim, torch.tensor(plan.sources)))
        assert not torch.equal(taken, history[key].index_select(dim, torch.tensor(plan.sources)))


def test_moment_transfer_keep_history_zero() -> None:
    results = {mode: operate(BeamSettings(moment_transfer=mode)) for mode in ("keep", "history", "zero")}
    plan, current, history, kept = results["keep"]
    assert "A.exp_avg" not in kept and "B.exp_avg_sq" not in kept
    rows = list(plan.pruned)
    assert torch.equal(results["history"][3]["A.exp_avg"][rows], history["A.exp_avg"][list(plan.sources)])
    assert not results["zero"][3]["A.exp_avg"][rows].any() and not results["zero"][3]["B.exp_avg_sq"][:, rows].any()
    others = [i for i in range(8) if i not in rows]
    assert torch.equal(results["zero"][3]["A.exp_avg"][others], current["A.exp_avg"][others])


def test_reset_gate_moments() -> None:
    assert not operate(BeamSettings())[3]["g.exp_avg"].any()
    assert "g.exp_avg" not in operate(BeamSettings(reset_gate_moments=False))[3]


def test_pairing_ranked_gives_the_best_rank_to_the_first_pruned_slot() -> None:
    ranked, *_ = operate(BeamSettings(pairing="ranked"))
    scores = all_scores({"m": module_tensors(8, 4)})["m"]
    assert list(ranked.sources) == scores.argsort(descending=True)[:3].tolist()
    pairings = {plan_for({"m": module_tensors(8, 4)}, BeamSettings(), p=0.9, seed=s).modules[0].sources for s in range(20)}
    assert len(pairings) > 1 and all(sorted(p) == sorted(ranked.sources) for p in pairings)


@pytest.mark.numeric
def test_score_average_of_logits_and_of_scores() -> None:
    plan, current, _, logits = operate(BeamSettings(pairing="ranked"))
    pruned, sources = list(plan.pruned), list(plan.sources)
    assert torch.equal(logits["g"][pruned], (current["g"][pruned] + current["g"][sources]) / 2)
    *_, scores = operate(BeamSettings(pairing="ranked", score_average="scores"))
    before, after = (rank_scores(g, temperature=0.05, times_r=True) for g in (current["g"], scores["g"]))
    assert_equal_but_for_rounding(after[pruned], (before[pruned] + before[sources]) / 2, terms=8, layers=2)
    assert torch.equal(after[sources], after[pruned])
    assert not torch.allclose(logits["g"][pruned], scores["g"][pruned])


def test_scope_module_and_global_prune_other_ranks() -> None:
    """In one list with a module of unequal scores, a module of equal scores loses no rank; alone it always does."""
    modules = {"flat": module_tensors(8, 0, spread=0.0), "steep": module_tensors(8, 1, spread=0.1)}
    per_module = [m.k for m in plan_for(modules, BeamSettings(max_prune_fraction=1.0), p=0.95).modules]
    together = [m.k for m in plan_for(modules, BeamSettings(flavor="released"), p=0.95).modules]
    assert per_module[0] >= 1 and together[0] == 0 and together[1] >= per_module[1]


def test_topp_comparison_differs_on_ties_and_at_one() -> None:
    modules = {"m": module_tensors(4, 0, spread=0.0)}  # cumulative shares .25, .5, .75, 1
    counts = {
        (mode, p): plan_for(modules, BeamSettings(topp_comparison=mode, max_prune_fraction=1.0), p=p).modules[0].k
        for mode in ("exceeds", "reaches")
        for p in (0.5, 1.0)
    }
    assert counts == {("exceeds", 0.5): 2, ("reaches", 0.5): 3, ("exceeds", 1.0): 0, ("reaches", 1.0): 1}


def test_max_prune_fraction_spares_the_best_of_the_pruned() -> None:
    modules = {"m": module_tensors(8, 4, spread=0.2)}
    unlimited = plan_for(modules, BeamSettings(max_prune_fraction=1.0), p=0.3).modules[0]
    limited = plan_for(modules, BeamSettings(max_prune_fraction=0.25), p=0.3).modules[0]
    scores = all_scores(modules)["m"]
    assert unlimited.k > 2 and limited.k == 2
    assert set(limited.pruned) == set(scores.argsort()[:2].tolist())


@pytest.mark.numeric
def test_gate_temperature_and_factor_r() -> None:
    gate = module_tensors(8, 3)["g"]
    assert rank_scores(gate, temperature=0.03, times_r=True).max() > rank_scores(gate, temperature=0.05, times_r=True).max()
    assert_equal_but_for_rounding(rank_scores(gate, temperature=0.05, times_r=False).sum(), 1.0, terms=len(gate), layers=2)
    plain = make_plan(
        {"m": rank_scores(gate, temperature=0.05, times_r=False)},
        step=6,
        p=0.9,
        settings=BeamSettings(gate_times_r=False),
        permutations=private_permutations(seed=0, step=6),
    )
    assert plain == plan_for({"m": {"g": gate}}, BeamSettings(), p=0.9), "the factor r must not change the plan"


def test_without_expansion_ranks_and_their_moments_become_zero_and_logits_stay() -> None:
    plan, current, _, after = operate(BeamSettings(expansion=False))
    assert plan.sources == () and "g" not in after
    rows, others = list(plan.pruned), [i for i in range(8) if i not in plan.pruned]
    for key in snapshot_keys(current):
        dim = 0 if key.startswith("A") else 1
        assert not after[key].index_select(dim, torch.tensor(rows)).any()
        kept = torch.tensor(others)
        assert torch.equal(after[key].index_select(dim, kept), current[key].index_select(dim, kept))


MASKED = BeamSettings(expansion=False, dead_ranks="masked")


def test_masked_ranks_have_no_score_and_the_others_share_their_part() -> None:
    plan, current, _, after = operate(MASKED)
    rows, others = list(plan.pruned), [i for i in range(8) if i not in plan.pruned]
    before, scores = (rank_scores(gate, temperature=0.05, times_r=True) for gate in (current["g"], after["g"]))
    assert not scores[rows].any() and not after["A"][rows].any()
    assert torch.equal(after["g"].reshape(-1)[others], current["g"].reshape(-1)[others])
    share = before[others] / before[others].sum() * 8
    assert_equal_but_for_rounding(scores[others], share, terms=8)


@settings(max_examples=60, deadline=None)
@given(
    gate=st.lists(st.floats(-0.3, 0.3), min_size=4, max_size=24),
    p=st.floats(0.3, 0.99),
    assessment=st.booleans(),
    scope=st.sampled_from(["module", "global"]),
)
def test_masked_ranks_are_never_chosen_again_and_one_always_lives(
    gate: list[float], p: float, assessment: bool, scope: str
) -> None:
    how = replace(MASKED, assessment=assessment, topp_scope=scope)
    r = len(gate)
    tensors = {"A": torch.ones(r, 3), "B": torch.ones(3, r), "g": torch.tensor([gate])}
    dead: set[int] = set()
    for step in range(12):
        module = plan_for({"m": tensors}, how, p=p, seed=step).modules[0]
        assert not dead & set(module.pruned) and module.k <= (r - len(dead)) / 2
        dead |= set(module.pruned)
        tensors = {**tensors, **apply_plan(tensors, None, module, settings=how)}
        assert {i for i in range(r) if not tensors["A"][i].any()} == dead
    assert len(dead) < r


def test_unmasked_dead_ranks_are_ranked_again() -> None:
    how = BeamSettings(expansion=False)
    tensors = module_tensors(8, 4)
    plan = plan_for({"m": tensors}, how, p=0.9)
    assert (
        plan.modules[0].k > 0
        and plan_for({"m": {**tensors, **apply_plan(tensors, None, plan.modules[0], settings=how)}}, how, p=0.9) == plan
    )


def test_adam_never_brings_a_masked_rank_back() -> None:
    gate = torch.nn.Parameter(torch.tensor([[0.1, -torch.inf, 0.0, 0.2]]))
    optimizer = torch.optim.AdamW([gate], lr=0.1, weight_decay=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        (rank_scores(gate, temperature=0.05, times_r=True) * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
        optimizer.step()
    assert gate[0, 1] == -torch.inf and torch.isfinite(gate[0, [0, 2, 3]]).all() and gate[0, 0] != 0.1


def test_without_assessment_k_stays_and_the_ranks_are_random() -> None:
    modules = {"m": module_tensors(8, 4)}
    assessed = plan_for(modules, BeamSettings(), p=0.9).modules[0]
    plans = [plan_for(modules, BeamSettings(assessment=False), p=0.9, seed=s).modules[0] for s in range(30)]
    assert {plan.k for plan in plans} == {assessed.k}
    assert all(not set(plan.pruned) & set(plan.sources) and len(set(plan.sources)) == plan.k for plan in plans)
    assert set().union(*(plan.pruned for plan in plans)) == set(range(8))
    assert set().union(*(plan.sources for plan in plans)) == set(range(8))


def test_expansion_without_a_snapshot_is_an_error() -> None:
    plan, current, *_ = operate(BeamSettings())
    with pytest.raises(ValueError, match="snapshot"):
        apply_plan(current, None, plan, settings=BeamSettings())


# ---- the rest


def test_permutations_are_private_and_depend_on_seed_step_and_module() -> None:
    state = torch.get_rng_state()
    draw = private_permutations(seed=1, step=6)
    first = draw("a", 50)
    assert torch.equal(torch.get_rng_state(), state), "the global stream was advanced"
    assert sorted(first) == list(range(50)) and draw("a", 50) == first
    others = [
        draw("b", 50),
        private_permutations(seed=2, step=6)("a", 50),
        private_permutations(seed=1, step=12)("a", 50),
    ]
    assert all(other != first for other in others)


def test_plan_round_trips_through_json() -> None:
    plan = plan_for({f"m{i}": module_tensors(8, i) for i in range(3)}, BeamSettings(), p=0.9)
    value = json.loads(json.dumps(plan.to_json()))
    assert OperationPlan.from_json(value) == plan
    assert [m["K"] for m in value["modules"]] == [m.k for m in plan.modules] and value["step"] == 6


@pytest.mark.numeric
def test_score_entropy_is_one_for_equal_and_zero_for_one_hot_scores() -> None:
    assert_equal_but_for_rounding(score_entropy(torch.ones(8)), 1.0, terms=8, dtype=torch.float64)
    assert score_entropy(torch.tensor([8.0, 0, 0, 0])) == 0
    assert 0.3 < score_entropy(torch.tensor([1.0, 1.0, 0, 0])) < 0.7
