"""Methods that edit optimizer states are refused where those are sharded, before any step."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import methods
from harness.config import ConfigError
from harness.train.run import _refuse_sharding

CLASSES = {named.cls.name: named.cls for named in methods.registry().values()}


@pytest.mark.parametrize("how", ["is_fsdp_enabled", "is_deepspeed_enabled"])
@pytest.mark.parametrize("name", sorted(CLASSES))
def test_sharded_optimizers_are_refused_for_methods_that_edit_them(name: str, how: str) -> None:
    trainer = SimpleNamespace(is_fsdp_enabled=False, is_deepspeed_enabled=False, method=CLASSES[name])
    spec = SimpleNamespace(
        method=SimpleNamespace(key=name), training=SimpleNamespace(importance_every=None, bf16_update="plain")
    )
    _refuse_sharding(trainer, spec)
    setattr(trainer, how, True)
    if name in ("beamlora", "relora", "adalora", "increlora"):
        with pytest.raises(ConfigError, match=f"methods.{name}: found a sharded optimizer"):
            _refuse_sharding(trainer, spec)
    else:
        _refuse_sharding(trainer, spec)


def test_importance_snapshots_are_refused_where_parameters_are_sharded() -> None:
    trainer = SimpleNamespace(is_fsdp_enabled=True, is_deepspeed_enabled=False, method=CLASSES["lora"])
    spec = SimpleNamespace(method=SimpleNamespace(key="lora"), training=SimpleNamespace(importance_every=5))
    with pytest.raises(ConfigError, match="training.importance_every: found 5 with sharded parameters"):
        _refuse_sharding(trainer, spec)


def test_compensated_updates_are_refused_where_parameters_are_sharded() -> None:
    trainer = SimpleNamespace(is_fsdp_enabled=True, is_deepspeed_enabled=False, method=CLASSES["full-ft"])
    spec = SimpleNamespace(training=SimpleNamespace(importance_every=None, bf16_update="kahan"))
    with pytest.raises(ConfigError, match="training.bf16_update: found 'kahan' with sharded parameters .* expected float32"):
        _refuse_sharding(trainer, spec)
