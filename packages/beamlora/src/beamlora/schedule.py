"""When BeamLoRA takes a snapshot, when it operates, and with which threshold (Eq. 14). Pure arithmetic on step counts.

A step count here is the number of finished optimizer steps: "after step 6" is after the sixth update.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from beamlora.settings import BeamSettings

#: Operations take place in the first two epochs (paper, A.2).
OPERATED_EPOCHS = 2


def threshold(step: int, *, p_init: float, horizon: int, dynamic: bool = True) -> float:
    """p at ``step`` (Eq. 14): rises from ``p_init`` to 1 along half a cosine, and is 1 after ``horizon`` steps.

    Not dynamic: ``p_init`` up to, but not including, ``horizon``; 1 from there on.
    """
    if not dynamic:
        return p_init if step < horizon else 1.0
    if step > horizon:
        return 1.0
    return 1.0 - (1.0 - p_init) * (1.0 + math.cos(math.pi * step / horizon)) / 2.0


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The schedule of one run. ``horizon`` and ``total_steps`` are in optimizer steps."""

    settings: BeamSettings
    total_steps: int
    horizon: int

    @classmethod
    def for_run(cls, settings: BeamSettings, *, total_steps: int, steps_per_epoch: int | None) -> Schedule:
        """Resolve the horizon of a run.

        Raises:
            ValueError: the horizon is two epochs, but the length of an epoch is not known.
        """
        if settings.horizon_steps is not None:
            horizon = settings.horizon_steps
        elif settings.threshold_horizon == "total":
            horizon = total_steps
        elif steps_per_epoch is None:
            raise ValueError(
                "threshold_horizon: found 'two_epochs', but the length of an epoch is unknown (a data set without a "
                "length); expected horizon_steps or threshold_horizon 'total'"
            )
        else:
            horizon = OPERATED_EPOCHS * steps_per_epoch
        return cls(settings=settings, total_steps=total_steps, horizon=horizon)

    def is_snapshot_step(self, step: int) -> bool:
        """Whether a snapshot is taken after ``step``: in the middle of every interval (paper, footnote 3) whose operation
        prunes, or would in a longer run, as which this one may be resumed."""
        settings = self.settings
        if not settings.uses_snapshots:
            return False
        operation = step + settings.delta_t // 2 - settings.snapshot_step_offset
        return operation > 0 and operation % settings.delta_t == 0 and self._prunes_at(operation)

    def snapshot_step(self, operation: int) -> int:
        """The step after which the snapshot for the operation after step ``operation`` is taken."""
        return operation - self.settings.delta_t // 2 + self.settings.snapshot_step_offset

    def is_operation_step(self, step: int) -> bool:
        """Whether there is an operation after ``step``: every ``delta_t`` steps while ``delta_t`` steps remain to
        adapt."""
        delta_t = self.settings.delta_t
        return self.settings.operations and step > 0 and step % delta_t == 0 and self.total_steps - step >= delta_t

    def operation_steps(self) -> list[int]:
        """The steps after which there is an operation, those that prune nothing included."""
        return [t for t in range(self.settings.delta_t, self.total_steps, self.settings.delta_t) if self.is_operation_step(t)]

    def threshold(self, step: int) -> float:
        """p of the operation after ``step``."""
        settings = self.settings
        return threshold(
            step + settings.threshold_step_offset,
            p_init=settings.p_init,
            horizon=self.horizon,
            dynamic=settings.dynamic_p,
        )

    def is_pruning_step(self, step: int) -> bool:
        """Whether there is an operation after ``step`` that prunes: one with p < 1, or any where the sum only has to reach
        p."""
        return self.is_operation_step(step) and self._prunes_at(step)

    def _prunes_at(self, step: int) -> bool:
        return self.settings.topp_comparison == "reaches" or self.threshold(step) < 1.0

    def pruning_steps(self) -> list[int]:
        """The steps after which ranks are pruned."""
        return [t for t in self.operation_steps() if self.is_pruning_step(t)]

    def check(self) -> None:
        """Refuse a run in which BeamLoRA would be LoRA with scores.

        Raises:
            ValueError: operations are on, but none that prunes fits into the run.
        """
        if not self.settings.operations or self.pruning_steps():
            return
        longest = min(self.total_steps // 2, self.horizon)
        expected = f"delta_t <= {longest}" if longest >= self.settings.shortest_interval else "a longer run"
        raise ValueError(
            f"delta_t: found {self.settings.delta_t} in a run of {self.total_steps} optimizer steps with p_init "
            f"{self.settings.p_init} and p = 1 from step {self.horizon} on, so nothing would ever be pruned; "
            f"expected {expected}, and p_init < 1 (or operations: false)"
        )
