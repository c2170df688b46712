"""Sharded parameters that accelerate's own variables ask for are refused; those of ``gpus`` are not."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import methods
from harness.config import ConfigError
from harness.train.run import _refuse_other_sharding


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
