"""What it costs to look at an experiment of 36, 306 and 3,006 runs: ``snakemake -n`` and ``harness.plan``."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from benchmarks.rounds import Size, in_turn, timed_command
from harness.records.bench import Round, Row

#: Tiny's Table 1 has as many runs a seed.
RUNS = 18
SEEDS = (2, 17, 167)
#: CPU seconds, for the most seeds.
GOALS = {"snakemake -n": 10.0, "harness.plan": 5.0}


def measure(size: Size) -> Iterator[Row]:
    """A row for each command and number of runs."""
    numbers = (1,) if size.smoke else SEEDS
    commands = {
        ("snakemake -n", n): ["snakemake", "-n", "--quiet", "all", "--cores", "1", "reproduce_table1", "--config", f"seeds={n}"]
        for n in numbers
    } | {("harness.plan", n): ["harness.plan", "reproduce_table1", "--set", f"seeds={n}"] for n in numbers}
    costs = in_turn(
        {key: lambda command=command: timed_command([sys.executable, "-m", *command]) for key, command in commands.items()},
        size.rounds,
    )
    for (name, n), own in costs.items():
        goal = GOALS[name] if n == numbers[-1] else None
        rounds = tuple(Round(ours=cost, peer=None) for cost in own)
        yield Row(name=f"{name}, {RUNS * n:,} runs", ours="CPU seconds", peer=None, goal=goal, rounds=rounds)
