"""Sharded parameters: those of ``gpus``, and not those that accelerate's own variables ask for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import methods
from harness.errors import ConfigError
from harness.train.run import _refuse_other_sharding
from harness.train.trainer import MethodTrainer


@pytest.mark.parametrize(
    ("name", "how", "world_size", "refused"),
    [
        ("lora", None, 2, False),
        ("lora", "is_fsdp_enabled", 2, True),
        ("beamlora", "is_fsdp_enabled", 2, True),
        ("full-ft", "is_fsdp_enabled", 2, False),
        ("full-ft", "is_fsdp_enabled", 1, True),
        ("full-ft", "is_deepspeed_enabled", 2, True),
    ],
)
def test_only_full_fine_tuning_is_sharded_and_only_by_gpus(name: str, how: str | None, world_size: int, refused: bool) -> None:
    trainer = SimpleNamespace(
        is_fsdp_enabled=how == "is_fsdp_enabled",
        is_deepspeed_enabled=how == "is_deepspeed_enabled",
        method=methods.get(name).cls,
        args=SimpleNamespace(world_size=world_size),
    )
    spec = SimpleNamespace(method=SimpleNamespace(key=name))
    if refused:
        with pytest.raises(ConfigError, match=f"methods.{name}: found sharded parameters .* expected whole ones: say gpus"):
            _refuse_other_sharding(trainer, spec)
    else:
        _refuse_other_sharding(trainer, spec)


@pytest.mark.parametrize(("dtype", "computed"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_sharded_weights_in_float32_are_computed_with_in_the_dtype_of_training(dtype: str, computed: torch.dtype) -> None:
    """accelerate wraps every other model in autocast by itself."""
    made = []

    def model(x: torch.Tensor, use_cache: bool) -> SimpleNamespace:
        made.append(x @ x)
        return SimpleNamespace(logits=made[-1])

    args = SimpleNamespace(device=torch.device("cpu"))
    trainer = SimpleNamespace(is_fsdp_enabled=True, spec=SimpleNamespace(dtype=dtype), args=args)
    logits = MethodTrainer._logits(trainer, model, {"x": torch.ones(2, 2)})
    assert (made[0].dtype, logits.dtype) == (computed, torch.float32)
