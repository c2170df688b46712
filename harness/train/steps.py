"""How many optimizer steps a run has, and when its method operates. Apart from the loop, so that a plan need not load it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import methods
from harness.errors import KeyPath, within
from harness.schema.run import RunSpec
from harness.schema.training import TrainingSpec
from methods.base import OperationSteps, TrainingContext


def step_counts(spec: TrainingSpec, *, examples: int, world_size: int) -> tuple[int, int]:
    """Optimizer steps in all, and in one epoch, as the Trainer counts them."""
    accumulation = spec.per_process(world_size)
    batches = math.ceil(examples / (spec.per_device_train_batch_size * world_size))
    per_epoch = math.ceil(batches / accumulation)
    if spec.max_steps is not None:
        return spec.max_steps, per_epoch
    assert spec.num_train_epochs is not None
    return math.ceil(spec.num_train_epochs * per_epoch), per_epoch


def context(run: RunSpec, *, world_size: int = 1, **more: Any) -> TrainingContext:
    """What the method of a run may know about it: ``more`` of its fields, beside those that follow from the run.

    Raises:
        ValueError: its micro-batches cannot be shared out equally.
    """
    nowhere: dict[str, Any] = {"cache_dir": Path(), "base_model_hash": "", "log_dir": None}
    return TrainingContext(
        seed=run.seed,
        learning_rate=run.training.learning_rate,
        weight_decay=run.training.weight_decay,
        gradient_accumulation_steps=run.training.per_process(world_size),
        world_size=world_size,
        **nowhere | more,
    )


def length_key(spec: TrainingSpec) -> KeyPath:
    """The setting that says how long a run is."""
    return ("training", "num_train_epochs" if spec.max_steps is None else "max_steps")


def method_schedule(run: RunSpec, *, total_steps: int, steps_per_epoch: int) -> OperationSteps:
    """When the method of a run operates on ranks.

    Raises:
        ConfigError: its settings do not fit a run of this length.
    """
    with within("methods", run.method.key, "settings", beside=[length_key(run.training)]):
        return methods.of(run.method).schedule(total_steps=total_steps, steps_per_epoch=steps_per_epoch)
