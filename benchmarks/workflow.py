"""What the workflow costs beside its work, and what it costs to look at an experiment of 30, 300 and 3,000 runs:
``snakemake -n`` and ``harness.plan``."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.rounds import Size, in_turn, timed_command
from harness import overhead
from harness.experiment.runs import load_experiment, table_runs
from harness.records.bench import Cost, Round, Row
from harness.source_files import PACKAGES, ROOT

SEEDS = (1, 10, 100)
#: CPU seconds, for the most seeds.
GOALS = {"snakemake -n": 10.0, "harness.plan": 5.0}
#: Of all CPU time that ``reproduce_table1`` takes, what trains, evaluates and makes bases and tables.
USEFUL_SHARE = 0.92
#: What a workflow needs of the checkout.
_NEEDED = (*PACKAGES, "config", "profiles", "Snakefile")


def measure(size: Size) -> Iterator[Row]:
    """A row for each command and number of runs of tiny's Table 1."""
    runs = len(table_runs(load_experiment([ROOT / "config/tiny.yaml"], {"seeds": 1}), "table1"))
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
        yield Row(name=f"{name}, {runs * n:,} runs", ours="CPU seconds", peer=None, goal=goal, rounds=rounds)


def measure_table1(size: Size) -> Iterator[Row]:
    """Table 1 from nothing, one seed on two cores, in a copy of the checkout: once, for it takes minutes."""
    settings = ["--configfile", "config/demo.yaml"] if size.smoke else ["--config", "seeds=1"]
    with tempfile.TemporaryDirectory(dir=size.scratch) as folder:
        copy = Path(folder)
        for name in _NEEDED:
            here = ROOT / name
            shutil.copytree(here, copy / name) if here.is_dir() else shutil.copy2(here, copy / name)
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "--quiet", "all", *settings, "--", "reproduce_table1"]
        timed_command(command, folder=copy)
        (written,) = (copy / "results/.progress").glob("*.cpu.jsonl")
        found = overhead.read(written)
    assert found is not None  # a workflow that ended well has stopped its clock
    whole, work = Cost(cpu_s=found.all_s, wall_s=found.wall_s), Cost(cpu_s=found.work_s, wall_s=found.work_s)
    goal = 1 / USEFUL_SHARE
    yield Row(
        name="table1, one seed", ours="whole workflow", peer="its work", goal=goal, rounds=(Round(ours=whole, peer=work),)
    )
