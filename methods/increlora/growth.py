"""When and where IncreLoRA grows: pure functions of step counts, ranks and importances."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class GrowthSchedule:
    """``rounds`` growths, spread evenly over ``span`` steps from the 0-based step ``first``; the same rhythm afterwards,
    for budgets that rank limits have delayed."""

    first: int
    span: int
    rounds: int

    def due(self, step: int) -> bool:
        """Whether modules grow with the gradients of ``step``."""
        return step >= self.first and (step - self.first) * self.rounds % self.span < self.rounds


def plan_schedule(*, ranks_to_add: int, ranks_per_round: int, first: int, end: int) -> GrowthSchedule:
    """As many rounds as the ranks need, spread over [first, end).

    Raises:
        ConfigError: there are fewer steps than rounds.
    """
    rounds = math.ceil(ranks_to_add / ranks_per_round)
    if rounds > end - first:
        raise ConfigError(
            f"growth_end: found {max(0, end - first)} steps between growth_start ({first}) and growth_end ({end}), "
            f"expected at least {rounds}: {ranks_to_add} ranks, {ranks_per_round} a step (top_h * incre_rank_num)"
        )
    return GrowthSchedule(first=first, span=end - first, rounds=rounds)


def plan_growth(
    ranks: Sequence[int], importance: Sequence[float], *, r_max: int, budget: int, ranks_per_round: int, ranks_per_module: int
) -> dict[int, int]:
    """Ranks to add in one round, by module index: most important modules first, ties by index.

    Each module gets up to ``ranks_per_module`` until the round's ranks, or ``budget`` - sum(ranks), are spent, so that the
    total never exceeds the budget (the released code may overshoot). Modules at ``r_max`` are passed over.
    """
    left = min(ranks_per_round, budget - sum(ranks))
    growth: dict[int, int] = {}
    for module in sorted(range(len(ranks)), key=lambda index: (-importance[index], index)):
        count = min(ranks_per_module, r_max - ranks[module], left)
        if count > 0:
            growth[module] = count
            left -= count
    return growth
