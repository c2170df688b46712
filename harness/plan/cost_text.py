"""What planned runs cost, as text: memory, hours, disk, seeds, and what a budget leaves out."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from harness.plan import cost
from harness.plan.work import PlannedRun, hours_of_seeds, kinds, totals
from harness.schema.experiment import Experiment

_UNKNOWN = "?"
_HOW = {
    "recorded": "recorded by finished runs",
    "measured": "from measured speeds",
    "calibrated": "from a run of 20 steps on this machine (--calibrate)",
    "estimated": f"estimated from floating-point operations at {cost.UTILISATION:.0%} of the peak",
}


def print_cost(
    console: Console,
    experiment: Experiment,
    runs: Sequence[PlannedRun],
    *,
    gpu: cost.Gpu,
    memory: int | None,
    budget: float | None,
) -> None:
    """One line for each kind of run, and sums.

    Args:
        memory: bytes of the GPU that runs are held against; None: against none.
        budget: hours of one GPU; None: nothing is left out.
    """
    device = f"one {gpu.name}" if experiment.gpu else "this machine"
    console.print(f"\n[bold]Cost on {device}[/]")
    console.print(_table(runs, memory=memory))
    total = totals(runs)
    console.print("Memory and disk (its artefact and checkpoints): GiB of one run.")
    how = [_HOW[name] for name in _HOW if name in total["hours_how"]]
    if how:
        console.print("Hours: " + "; ".join(how) + ".", markup=False)
    if experiment.gpu:
        console.print(
            f"Assumed: examples and answers use {cost.LENGTH_SHARE:.0%} of their limits where they are not measured; a batch "
            f"of answers grows by a token in {1000 * cost.DECODING_S:.0f} ms. Base models, pruning and timing come on top.",
            markup=False,
        )
    unpredicted = sum(run.peak_bytes is None for run in runs)
    if unpredicted:
        console.print(f"Memory: of {unpredicted} runs not predicted yet; --memory does it.")
    console.print(_sums(runs), markup=False)
    if budget is not None:
        _print_budget(console, experiment, runs, budget)


def _table(runs: Sequence[PlannedRun], *, memory: int | None) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("kind of run", width=42, overflow="fold")
    for heading, width in (("runs", 4), ("memory", 6), ("disk", 6), ("train h", 8), ("answer h", 8)):
        table.add_column(heading, width=width, justify="right")
    table.add_column("", width=12)
    groups: dict[tuple[str, str, str], list[PlannedRun]] = {}
    for run in runs:
        groups.setdefault((run.domain, run.model, run.method), []).append(run)
    for key, same in groups.items():
        peaks = [run.peak_bytes for run in same if run.peak_bytes is not None]
        peak = max(peaks, default=None)
        fits = peak is None or memory is None or cost.fits(peak, memory)
        table.add_row(
            "/".join(key),
            str(len(same)),
            _UNKNOWN if peak is None else f"{cost.as_gib(peak):,.1f}",
            _UNKNOWN if same[0].disk_bytes is None else f"{cost.as_gib(same[0].disk_bytes):,.1f}",
            _hours([None if run.hours is None else run.hours.training for run in same]),
            _hours([None if run.hours is None else run.hours.evaluation for run in same]),
            "" if fits else "does not fit",
        )
    return table


def _hours(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{sum(known):,.2f}" if len(known) == len(values) else _UNKNOWN


def _sums(runs: Sequence[PlannedRun]) -> str:
    total = totals(runs)
    disk = f"disk: {cost.as_gib(total['disk_bytes']):,.1f} GiB for all artefacts and the checkpoints of one run at a time"
    if total["hours"] is None:
        return f"In all: {_UNKNOWN} hours; {disk}."
    by_seeds = [f"{name} {hours_of_seeds(runs, count):,.0f} h" for name, count in (("one seed", 1), ("three", 3), ("five", 5))]
    return (
        f"In all: {total['hours']:,.1f} h, left {total['hours_left']:,.1f} h; {disk}. " + ", ".join(by_seeds).capitalize() + "."
    )


def _print_budget(console: Console, experiment: Experiment, runs: Sequence[PlannedRun], budget: float) -> None:
    todo = kinds(runs, experiment)
    out = cost.left_out(todo, budget=budget)
    kept = sum(kind.hours for kind in todo) - sum(kind.hours for kind in out)
    if not out:
        console.print(f"Within {budget:g} h: everything, {kept:,.1f} h.")
        return
    console.print(f"Within {budget:g} h: {kept:,.1f} h, without")
    for kind in out:
        console.print(f"  {kind.name} ({kind.hours:,.1f} h)", markup=False)
    console.print("Kept first: what the first family of comparisons needs, then other rows of tables, then figures.")
