"""The methods' losses and allocations, computed a second way from their formulas on dense weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.func import functional_call
from torch.nn import functional as F

from methods.peft_support import ADAPTER, adapted_layers
from tests.methods import toy
from tests.rounding import assert_equal_but_for_rounding

STEPS = 4
Factors = dict[str, torch.Tensor]


def dense_losses(
    start: dict[str, Factors], weight: Callable[[torch.Tensor, Factors], torch.Tensor], *, penalty: float = 0.0
) -> list[float]:
    """Losses of AdamW on the factors of every module, where the model sees only ``weight(W0, factors)``."""
    base = toy.base_model()
    factors = {name: {k: v.detach().clone().requires_grad_() for k, v in f.items()} for name, f in start.items()}
    leaves = [v for f in factors.values() for v in f.values()]
    optimizer = torch.optim.AdamW(leaves, lr=5e-3, weight_decay=0.0)
    losses = []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 5e-3 * (1 - step / 20)
        weights = {f"{name}.weight": weight(base.get_submodule(name).weight.detach(), f) for name, f in factors.items()}
        ids = toy.batch(step)
        logits = functional_call(base, weights, kwargs={"input_ids": ids}).logits[:, :-1]
        loss = F.cross_entropy(logits.reshape(-1, toy.VOCABULARY), ids[:, 1:].reshape(-1))
        losses.append(loss.item())
        total = loss + penalty * torch.stack([gram_distance(f[k]) for f in factors.values() for k in "ab"]).mean()
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(leaves, 1.0)
        optimizer.step()
    return losses


def gram_distance(factor: torch.Tensor) -> torch.Tensor:
    """|P P^T - I| over the rank dimension, the shorter one."""
    rows = factor if factor.shape[0] < factor.shape[1] else factor.T
    return ((rows @ rows.T - torch.eye(rows.shape[0])) ** 2).sum().sqrt()


def assert_same_losses(losses: list[float], expected: list[float]) -> None:
    """A loss is one mean over softmaxes of the vocabulary; every step's depends on those before."""
    assert_equal_but_for_rounding(losses, expected, terms=toy.VOCABULARY, layers=STEPS)


def lora_start(loop: toy.Loop) -> dict[str, Factors]:
    return {
        name: {"a": layer.lora_A[ADAPTER].weight, "b": layer.lora_B[ADAPTER].weight}
        for name, layer in adapted_layers(loop.model).items()
    }


@pytest.mark.numeric
def test_lora(tmp_path):
    loop = toy.start("lora", tmp_path)
    expected = dense_losses(lora_start(loop), lambda w, f: w + 2.0 * f["b"] @ f["a"])
    assert_same_losses(loop.run(STEPS).losses, expected)


@pytest.mark.numeric
def test_dora(tmp_path):
    """W' = m (W0 + s B A) / |W0 + s B A|, row norms, constant in the backward pass."""
    loop = toy.start("dora", tmp_path)
    start = lora_start(loop)
    for name, factors in start.items():
        factors["m"] = toy.base_model().get_submodule(name).weight.norm(dim=1)

    def weight(w: torch.Tensor, f: Factors) -> torch.Tensor:
        direction = w + 2.0 * f["b"] @ f["a"]
        return (f["m"] / direction.norm(dim=1).detach())[:, None] * direction

    expected = dense_losses(start, weight)
    assert_same_losses(loop.run(STEPS).losses, expected)


@pytest.mark.numeric
@pytest.mark.parametrize(("name", "part"), [("pissa", slice(None, 4)), ("milora", slice(-4, None))])
def test_singular_initialisation(name, part, tmp_path):
    """Against torch.linalg.svd; Adam does not care about signs and order of the triplets."""
    start = {}
    for module in adapted_layers(toy.start("lora", tmp_path).model):
        u, s, vt = torch.linalg.svd(toy.base_model().get_submodule(module).weight.detach(), full_matrices=False)
        root = (s[part] / 2.0).sqrt()
        start[module] = {"a": root[:, None] * vt[part], "b": u[:, part] * root}
    first = iter([2.0 * f["b"] @ f["a"] for f in start.values()] * STEPS)
    expected = dense_losses(start, lambda w, f: w - next(first) + 2.0 * f["b"] @ f["a"])
    assert_same_losses(toy.start(name, tmp_path).run(STEPS).losses, expected)


@pytest.mark.numeric
def test_adalora(tmp_path):
    """Scaling lora_alpha / init_r, E between the factors, orthogonality term of weight 0.1; no allocation yet."""
    loop = toy.start("adalora", tmp_path, tinit=8)
    start = {
        name: {"a": layer.lora_A[ADAPTER], "b": layer.lora_B[ADAPTER], "e": layer.lora_E[ADAPTER]}
        for name, layer in adapted_layers(loop.model).items()
    }
    expected = dense_losses(start, lambda w, f: w + 8 / 6 * f["b"] @ (f["e"] * f["a"]), penalty=0.1)
    assert_same_losses(loop.run(STEPS).losses, expected)


@pytest.mark.numeric
def test_increlora(tmp_path):
    """Active components have trained weights, the reserve (third) component the fixed weight 1e-5; no growth yet."""
    loop = toy.start("increlora", tmp_path, growth_start=8, growth_end=20)
    start = {
        name: {"a": layer.lora_A[:3], "b": layer.lora_B[:, :3], "e": layer.lora_E[:2]}
        for name, layer in loop.method._layers.items()
    }
    assert all(layer.used == 3 for layer in loop.method._layers.values())

    def weight(w: torch.Tensor, f: Factors) -> torch.Tensor:
        e = torch.cat([f["e"], torch.tensor([1e-5])])
        return w + 2.0 * f["b"] @ (e[:, None] * f["a"])

    expected = dense_losses(start, weight, penalty=0.1)
    assert_same_losses(loop.run(STEPS).losses, expected)


# ------------------------------------------------------------------------------------------------------ AdaLoRA's budget

INIT, TARGET, TOTAL, TINIT, TFINAL, DELTA, BETA = 6, 4, 20, 2, 6, 3, 0.85


def reference_masks(history: list[dict[str, Factors]]) -> dict[int, dict[str, list[bool]]]:
    """Masks by step from AdaLoRA's equations 8-11 and 19, given factors and gradients after each step."""
    mean: dict[str, Factors] = {}
    spread: dict[str, Factors] = {}
    masks = {}
    for step, snapshot in enumerate(history):
        if step < TOTAL - TFINAL:
            for name, values in snapshot.items():
                mean.setdefault(name, {k: torch.zeros_like(v) for k, v in values.items()})
                spread.setdefault(name, {k: torch.zeros_like(v) for k, v in values.items()})
                for key, sensitivity in values.items():
                    mean[name][key] = BETA * mean[name][key] + (1 - BETA) * sensitivity
                    spread[name][key] = BETA * spread[name][key] + (1 - BETA) * (sensitivity - mean[name][key]).abs()
        last = step == TOTAL - TFINAL
        if not last and not (TINIT < step < TOTAL - TFINAL and step % DELTA == 0):
            continue
        left = 1 - (step - TINIT) / (TOTAL - TFINAL - TINIT)
        budget = int((INIT - TARGET) * toy.MODULES * left**3 + TARGET * toy.MODULES)
        scores = {}
        for name in mean:
            i = {key: mean[name][key] * spread[name][key] for key in "abe"}
            scores[name] = i["e"].flatten() + i["a"].mean(1) + i["b"].mean(0)
        ranked = sorted((float(s), name, k) for name, row in scores.items() for k, s in enumerate(row))
        dropped = {(name, k) for _, name, k in ranked[: INIT * toy.MODULES - budget]}
        masks[step] = {name: [(name, k) not in dropped for k in range(INIT)] for name in mean}
    return masks


def test_adalora_allocates_as_in_its_paper(tmp_path):
    loop = toy.start("adalora", tmp_path, tinit=TINIT, tfinal=TFINAL, deltaT=DELTA)
    history, masks = [], {}
    allocate = loop.method.allocate

    def record(step: int) -> None:
        parts = {"a": "lora_A", "b": "lora_B", "e": "lora_E"}
        history.append(
            {
                name: {
                    k: (getattr(layer, p)[ADAPTER] * getattr(layer, p)[ADAPTER].grad).abs().detach() for k, p in parts.items()
                }
                for name, layer in adapted_layers(loop.model).items()
            }
        )
        before = loop.method._allocations
        allocate(step)
        if loop.method._allocations > before:
            masks[step] = dict(loop.method._masks())
            for name, layer in adapted_layers(loop.model).items():
                assert torch.equal(layer.lora_E[ADAPTER].flatten() != 0, torch.tensor(masks[step][name]))

    loop.method.allocate = record
    loop.run()
    expected = reference_masks(history)
    assert sorted(masks) == [3, 6, 9, 12, 14]
    assert masks == expected
