"""Weights of dtype bfloat16 keep the updates that they are too coarse for."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from harness.experiment.runs import load_run
from harness.train.optimizer import KahanAdamW
from harness.train.run import Folders, load_inputs, make_trainer
from tests.experiments import miniature, write

STEPS = 600


def gradient(step: int) -> torch.Tensor:
    """Mostly noise, as a weight's is."""
    fixed = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    return (0.1 * fixed + torch.randn(1000, generator=torch.Generator().manual_seed(1 + step))).bfloat16()


def trained(kind: type[torch.optim.Optimizer], dtype: torch.dtype) -> torch.Tensor:
    """How far weights have moved at Mistral's rate by a cosine schedule, with what is kept beside them."""
    start = (0.02 * torch.randn(1000, generator=torch.Generator().manual_seed(2))).bfloat16()
    weight = torch.nn.Parameter(start.to(dtype, copy=True))
    optimizer = kind([weight], lr=5e-6, weight_decay=0.0)  # type: ignore[call-arg]
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for step in range(STEPS):
        weight.grad = gradient(step).to(dtype)
        optimizer.step()
        scheduler.step()
    return weight.detach().float() - start.float() + optimizer.state[weight].get("compensation", torch.zeros(()))


def test_the_compensated_update_is_that_of_float32_and_the_plain_one_is_not() -> None:
    exact = trained(torch.optim.AdamW, torch.float32)
    plain = trained(torch.optim.AdamW, torch.bfloat16)
    compensated = trained(KahanAdamW, torch.bfloat16)
    cosine = torch.nn.functional.cosine_similarity
    assert 0.1 < cosine(exact, plain, dim=0) < 0.3  # 0.21
    assert cosine(exact, compensated, dim=0) > 0.999
    assert abs(compensated.norm() / exact.norm() - 1) < 0.01


def test_the_compensated_step_has_the_settings_of_adamw() -> None:
    settings = {"lr": 1e-3, "betas": (0.5, 0.9), "eps": 1e-2, "weight_decay": 0.3}
    start = torch.randn(100, generator=torch.Generator().manual_seed(0)).bfloat16()
    exact, weight = torch.nn.Parameter(start.float()), torch.nn.Parameter(start.clone())
    reference, optimizer = torch.optim.AdamW([exact], **settings), KahanAdamW([weight], **settings)
    for _ in range(3):
        exact.grad, weight.grad = torch.full((100,), 0.25), torch.full((100,), 0.25, dtype=torch.bfloat16)
        reference.step()
        optimizer.step()
    found = weight.detach().float() + optimizer.state[weight]["compensation"]
    assert torch.allclose(found, exact, rtol=2**-15, atol=1e-5)  # moments of bfloat16: a 500th of three updates of 0.001


def test_a_resumed_compensated_run_has_the_same_bits() -> None:
    weight = torch.nn.Parameter(torch.ones(1000, dtype=torch.bfloat16))
    optimizer = KahanAdamW([weight], lr=1e-5)
    for step in range(6):
        if step == 3:
            other = torch.nn.Parameter(weight.detach().clone())
            resumed = KahanAdamW([other], lr=1e-5)
            resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        weight.grad = gradient(step)
        optimizer.step()
    for step in range(3, 6):
        other.grad = gradient(step)
        resumed.step()
    assert torch.equal(weight, other)
    for name, value in optimizer.state[weight].items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(resumed.state[other][name])), name


@pytest.mark.parametrize(
    ("method", "update", "kind", "dtype"),
    [
        ("full-ft", "plain", torch.optim.AdamW, torch.bfloat16),
        ("full-ft", "kahan", KahanAdamW, torch.bfloat16),
        ("full-ft", "float32", torch.optim.AdamW, torch.float32),
        ("lora", "kahan", torch.optim.AdamW, torch.float32),
    ],
)
def test_the_setting_decides_how_trained_weights_move(
    tmp_path: Path, models_dir: Path, method: str, update: str, kind: type[torch.optim.Optimizer], dtype: torch.dtype
) -> None:
    content = miniature(
        **{
            "training.dtype": "bfloat16",
            "training.bf16_update": update,
            "methods": {method: {}},
            "tables.table1.methods": {"llama-mini": [method]},
        }
    )
    experiment, spec = load_run([write(tmp_path, content)], {}, f"math/llama-mini/{method}/seed0")
    folders = Folders(output=tmp_path, scratch=tmp_path / "scratch", models=models_dir, cache=tmp_path / "cache")
    trainer, _ = make_trainer(spec, load_inputs(spec, experiment, folders), folders)
    assert type(trainer.create_optimizer()) is kind
    assert {p.dtype for p in trainer.model.parameters() if p.requires_grad} == {dtype}
    frozen = {p.dtype for p in trainer.model.parameters() if not p.requires_grad}
    assert frozen == (set() if method == "full-ft" else {torch.bfloat16})
