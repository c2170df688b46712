"""What ``python -m benchmarks`` writes: our time and memory beside other programs' on one machine. No torch."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from harness.records.versioned import Recipe, read_json, validated
from harness.schema.fields import Frozen

#: Raised when the meaning of a field changes; records of another version are refused.
SCHEMA_VERSION = 1
#: Below the folder of results.
FILE = "bench/bench.json"
MADE = Recipe.command("make bench")
#: A goal is missed by more than this share of it before ``--check`` fails: what two runs on one machine differ by.
TOLERANCE = 0.1


class Cost(Frozen):
    """What one side took in one round: CPU and wall-clock seconds for the same work, and bytes where memory is measured."""

    cpu_s: float = Field(gt=0)
    wall_s: float = Field(gt=0)
    bytes: int | None = None


class Round(Frozen):
    """Both sides of one round, measured one after the other; ``peer`` is None where seconds are the goal, not a ratio."""

    ours: Cost
    peer: Cost | None


class Row(Frozen):
    """One line of the table."""

    name: str
    ours: str
    peer: str | None
    of: Literal["time", "memory"] = "time"
    #: The largest value that meets the goal: a ratio to the peer, or CPU seconds. None: how a cost grows, without a goal.
    goal: float | None = Field(gt=0)
    rounds: tuple[Round, ...] = Field(min_length=1)

    def values(self, *, wall: bool = False) -> list[float]:
        """Of each round: ours over the peer's, or ours."""

        def of(cost: Cost) -> float:
            if self.of == "memory":
                assert cost.bytes is not None  # measured where memory is asked for
                return float(cost.bytes)
            return cost.wall_s if wall else cost.cpu_s

        return [of(one.ours) / (1.0 if one.peer is None else of(one.peer)) for one in self.rounds]

    @property
    def value(self) -> float:
        """The median over rounds, of CPU time or of bytes."""
        return statistics.median(self.values())

    @property
    def spread(self) -> tuple[float, float]:
        """The quartiles over rounds."""
        import numpy as np  # not while planning, which asks for FILE

        low, high = np.quantile(self.values(), [0.25, 0.75])
        return float(low), float(high)

    @property
    def missed(self) -> bool:
        """Whether there is a goal and it is missed by more than the tolerance."""
        return self.goal is not None and self.value > (1 + TOLERANCE) * self.goal


class BenchRecord(Frozen):
    """A run of the benchmarks."""

    schema_version: int = SCHEMA_VERSION
    created_at: str
    #: Sizes so small that the numbers mean nothing.
    smoke: bool
    versions: dict[str, str]
    hardware: dict[str, Any]
    git: dict[str, Any]
    rows: tuple[Row, ...] = Field(min_length=1)


def read(path: Path) -> BenchRecord:
    """The record in a file.

    Raises:
        harness.records.versioned.RecordError: there is none, it cannot be read, or it is of another version.
    """
    return validated(path, read_json(path, MADE, version=SCHEMA_VERSION), BenchRecord, MADE)
