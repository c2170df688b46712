"""How many optimizer steps a run has. Apart from the loop, so that a plan need not load it."""

from __future__ import annotations

import math

from harness.config import TrainingSpec


def step_counts(spec: TrainingSpec, *, examples: int, world_size: int) -> tuple[int, int]:
    """Optimizer steps in all, and in one epoch, as the Trainer counts them."""
    batch_size, accumulation = spec.per_process(world_size)
    batches = math.ceil(examples / (batch_size * world_size))
    per_epoch = math.ceil(batches / accumulation)
    if spec.max_steps is not None:
        return spec.max_steps, per_epoch
    assert spec.num_train_epochs is not None
    return math.ceil(spec.num_train_epochs * per_epoch), per_epoch
