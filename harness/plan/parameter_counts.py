"""How many parameters a run trains, by the sizes of its base model; a method that does not say it is built without memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import methods
from harness.models.architecture import Architecture
from harness.schema.run import RunSpec
from methods.base import AdapterSettings, Method, MethodSettings


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Counts of one run.

    ``trainable``: what the optimizer is given, as in train.json. ``total``: the base model's parameters and those that the
    method adds. ``final``: for a method that starts with other ranks than it ends with (AdaLoRA, IncreLoRA), what is in use
    when the mean rank is r, if the ranks are spread equally, as the paper's tables count; else None.
    """

    trainable: int
    total: int
    final: int | None


def count(run: RunSpec, base: Architecture, *, total_steps: int, steps_per_epoch: int) -> Parameters:
    """The parameters of a run.

    Raises:
        ConfigError: the method's settings do not fit the model or the length of the run.
    """
    method = methods.of(run.method)
    targets = getattr(method.settings, "target_modules", ())
    known = base.is_uniform and base.linear_layers().keys() >= set(targets)
    trainable = method.trained_parameters(base.parameters, base.adapted(targets)) if known else None
    if trainable is None:
        trainable, total = _built(run, method, base, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
    else:
        total = trainable if trainable == base.parameters else base.parameters + trainable
    return Parameters(trainable=trainable, total=total, final=_final(method.settings, trainable))


def _built(run: RunSpec, method: Method[Any], base: Architecture, *, total_steps: int, steps_per_epoch: int) -> tuple[int, int]:
    """(trainable, total) of the method's own modules."""
    from harness.measure.rehearsal import without_memory

    before, model = without_memory(run, method, base.config(), total_steps=total_steps, steps_per_epoch=steps_per_epoch)
    trained = {id(parameter): parameter.numel() for parameter in model.parameters() if parameter.requires_grad}
    added = sum(size for key, size in trained.items() if key not in before)
    return sum(trained.values()), sum(before.values()) + added


def _final(settings: MethodSettings, trainable: int) -> int | None:
    """Everything that such a method trains is proportional to the ranks."""
    if not isinstance(settings, AdapterSettings) or settings.largest_rank == settings.r:
        return None
    return trainable * settings.r // settings.largest_rank
