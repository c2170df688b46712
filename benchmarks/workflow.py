"""What it costs to look at an experiment of 3,000 runs: ``snakemake -n`` and ``harness.plan``."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from benchmarks.rounds import Size, in_turn, timed_command
from harness.records.bench import Round, Row

#: Of tiny's Table 1, which has 18 runs a seed.
SEEDS = 167
#: CPU seconds.
GOALS = {"snakemake -n": 10.0, "harness.plan": 5.0}


def measure(size: Size) -> Iterator[Row]:
    """A row for each command."""
    seeds = f"seeds={1 if size.smoke else SEEDS}"
    commands = {
        "snakemake -n": ["snakemake", "-n", "--quiet", "all", "--cores", "1", "reproduce_table1", "--config", seeds],
        "harness.plan": ["harness.plan", "reproduce_table1", "--set", seeds],
    }
    costs = in_turn(
        {name: lambda command=command: timed_command([sys.executable, "-m", *command]) for name, command in commands.items()},
        size.rounds,
    )
    for name, goal in GOALS.items():
        rounds = tuple(Round(ours=cost, peer=None) for cost in costs[name])
        yield Row(name=f"{name}, 3,000 runs", ours="CPU seconds", peer=None, goal=goal, rounds=rounds)
