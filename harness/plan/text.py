"""The plan as text, at most 100 columns wide."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness.plan.cost import DEFAULT_GPU, Gpu
from harness.plan.cost_text import print_cost
from harness.plan.settings import Setting
from harness.plan.work import PlannedRun, totals
from harness.schema.experiment import Experiment

#: Wide enough for the tables, narrow enough for a terminal.
_WIDTH = 100
_UNKNOWN = "?"


def print_plan(
    experiment: Experiment,
    target: str,
    runs: Sequence[PlannedRun],
    settings: Sequence[Setting],
    table4: Sequence[dict[str, Any]],
    *,
    gpu: Gpu = DEFAULT_GPU,
    memory: int | None = None,
    budget: float | None = None,
) -> None:
    """Runs, totals, cost (``print_cost``), settings with their sources, and the comparison with Table 4."""
    console = Console(highlight=False, width=_WIDTH)
    console.print(f"[bold]{target}[/] of {experiment.name}: {experiment.title}")
    _print_runs(console, runs)
    console.print(_total_line(runs), markup=False)
    _print_notes(console, runs)
    print_cost(console, experiment, runs, gpu=gpu, memory=memory, budget=budget)
    console.print()
    console.print(_setting_table(settings))
    defaults = {setting.name for setting in settings if setting.is_default}
    console.print(f"{len(defaults)} more settings are at the defaults of the schema or of their method; --json lists them.")
    ours = [setting.name for setting in settings if setting.is_ours]
    if ours:
        console.print("Ours, in whole or in part: " + ", ".join(dict.fromkeys(ours)) + ".", markup=False)
    _print_table4(console, table4)


def _print_runs(console: Console, runs: Sequence[PlannedRun]) -> None:
    """One line per domain, model and method; seeds that differ in their state at most share it."""
    groups: dict[tuple[str, str], dict[tuple[Any, ...], list[PlannedRun]]] = {}
    for run in runs:
        lines = groups.setdefault((run.domain, run.model), {})
        lines.setdefault((run.method, run.steps, run.tokens and run.tokens.how), []).append(run)
    with_final = any(run.parameters and run.parameters.final for run in runs)
    for i, ((domain, model), lines) in enumerate(groups.items()):
        rows = next(iter(lines.values()))[0].rows
        console.print(f"\n[bold]{domain} on {model}[/]" + ("" if rows is None else f", {rows:,} rows"))
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, show_header=i == 0)
        for heading, width in _columns(with_final):
            justify: Literal["left", "right"] = "left" if heading in ("method", "seeds", "state") else "right"
            table.add_column(heading, width=width, justify=justify, overflow="fold")
        for same in lines.values():
            table.add_row(*_line(same, with_final=with_final))
        console.print(table)


def _columns(with_final: bool) -> list[tuple[str, int]]:
    """Headings and widths: the same for every group, so that the columns of all groups stand under each other."""
    final = [("at the end", 11)] if with_final else []
    numbers = [("trainable", 13), *final, ("total", 8), ("steps", 6), ("tokens", 9), ("ops", 3)]
    return [("method", 29), ("seeds", 5), *numbers, ("state", 8 if with_final else 19)]


def _line(same: Sequence[PlannedRun], *, with_final: bool) -> list[str]:
    run = same[0]
    parameters = run.parameters
    final = [f"{parameters.final:,}" if parameters and parameters.final else ""] if with_final else []
    return [
        run.method,
        _seeds([one.seed for one in same]),
        _UNKNOWN if parameters is None else f"{parameters.trainable:,}",
        *final,
        _UNKNOWN if parameters is None else _millions(parameters.total),
        _UNKNOWN if run.steps is None else f"{run.steps:,}",
        _tokens(run),
        str(len(run.operations)) if run.operations else "",
        _states(same),
    ]


def _seeds(seeds: Sequence[int]) -> str:
    """``0-2`` for 0, 1, 2."""
    if len(seeds) > 1 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]}-{seeds[-1]}"
    return ", ".join(map(str, seeds))


def _states(runs: Sequence[PlannedRun]) -> str:
    states = dict.fromkeys(run.state for run in runs)
    if len(states) == 1:
        return runs[0].state
    return ", ".join(f"{sum(run.state == state for run in runs)} {state}" for state in states)


def _tokens(run: PlannedRun) -> str:
    if run.tokens is None:
        return _UNKNOWN
    return f"{'<=' if run.tokens.how == 'at most' else ''}{_millions(run.tokens.count)}"


def _millions(value: int) -> str:
    """From a million on in millions, as the paper's tables write parameters."""
    if value < 10**6:
        return f"{value:,}"
    return f"{value / 10**6:,.0f} M" if value >= 10**8 else f"{value / 10**6:.3g} M"


def _total_line(runs: Sequence[PlannedRun]) -> str:
    total = totals(runs)
    states = ", ".join(f"{number} {state}" for state, number in total["states"].items())
    steps = _UNKNOWN if total["steps_left"] is None else f"{total['steps_left']:,}"
    tokens = _UNKNOWN if total["tokens_left"] is None else _millions(total["tokens_left"])
    bound = "at most " if "at most" in total["tokens_how"] else ""
    return f"\n{total['runs']} runs: {states}. Left: {total['left']} runs, {steps} optimizer steps, {bound}{tokens} tokens."


def _print_notes(console: Console, runs: Sequence[PlannedRun]) -> None:
    if any(run.parameters and run.parameters.final for run in runs):
        console.print("At the end: trained parameters in use when all ranks are allocated (mean rank r).")
    how = {run.tokens.how for run in runs if run.tokens}
    meaning = {
        "recorded": "recorded by the finished run",
        "measured": "measured on the tokenised training set, or by a run on it",
        "at most": "<=: from max_length, an upper bound",
    }
    if how:
        console.print("Tokens: " + "; ".join(meaning[name] for name in meaning if name in how) + ".", markup=False)
    if any(run.rows is None for run in runs):
        domains = ", ".join(dict.fromkeys(run.domain for run in runs if run.rows is None))
        console.print(f"?: the number of rows is not stated (domains.*.train.source.rows): {domains}.", markup=False)
    if any(run.parameters is None for run in runs):
        models = ", ".join(dict.fromkeys(run.model for run in runs if run.parameters is None))
        console.print(f"?: the configuration is not in the local cache of the hub: {models}.", markup=False)
    schedules: dict[tuple[tuple[int, ...], tuple[int, ...]], list[str]] = {}
    for run in runs:
        if run.operations:
            schedules.setdefault((run.operations, run.pruning), []).append(f"{run.domain}/{run.model}/{run.method}")
    if schedules:
        console.print("\nRanks are operated on after the optimizer steps")
    for (operations, pruning), names in schedules.items():
        steps = _steps(pruning) if pruning else "none that prunes"
        later = len(operations) - len(pruning)
        note = f" (and {later} with p = 1, which prune nothing)" if later else ""
        console.print(f"  {steps}{note}: {_listed(list(dict.fromkeys(names)), 3)}", markup=False)


def _steps(steps: Sequence[int]) -> str:
    if len(steps) > 4 and len({b - a for a, b in zip(steps, steps[1:], strict=False)}) == 1:
        return f"{steps[0]:,}, {steps[1]:,} ... {steps[-1]:,}"
    return ", ".join(f"{step:,}" for step in steps)


def _listed(names: Sequence[str], limit: int) -> str:
    return ", ".join(names) if len(names) <= limit else f"{', '.join(names[:limit])} and {len(names) - limit} more"


def _setting_table(settings: Sequence[Setting]) -> Table:
    """What the files state; where a value does not hold for all runs, for which. The points of a sweep share a line."""
    groups: dict[tuple[str, str], list[Setting]] = {}
    for setting in settings:
        if not setting.is_default:
            key = str(setting.key)
            place = ".".join(key.split(".")[:2]) if key.startswith("sweeps.") else f"{key}={_plain(setting.value)}"
            groups.setdefault((setting.name, place), []).append(setting)
    wholes = {field: _names(settings, field) for field in ("domains", "models", "methods")}
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("setting", no_wrap=True)
    table.add_column("value", max_width=20)
    table.add_column("for", max_width=24)
    table.add_column("source", ratio=1)
    previous = ""
    for (name, _), group in sorted(groups.items(), key=lambda item: item[0][0]):
        where = [_listed(_names(group, field), 4) for field, whole in wholes.items() if _names(group, field) != whole]
        value = ", ".join(dict.fromkeys(_plain(setting.value) for setting in group))
        note = group[0].source.note or str(group[0].source)
        table.add_row("" if name == previous else name, value, "; ".join(where), escape(note))
        previous = name
    return table


def _names(settings: Sequence[Setting], field: str) -> tuple[str, ...]:
    return tuple(sorted({name for setting in settings for name in getattr(setting, field)}))


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)


def _print_table4(console: Console, table4: Sequence[dict[str, Any]]) -> None:
    if not table4:
        return
    differing = [row for row in table4 if not row["agrees"]]
    console.print(f"\nThe paper's Table 4: {len(table4) - len(differing)} of {len(table4)} settings agree.")
    for row in differing:
        console.print(f"  {row['domain']}/{row['model']}: {row['setting']} {row['ours']:g}, in the paper {row['paper']:g}")
