"""What a finished table says, for the terminal: the numbers, the verdicts in words, the cost, the files, what to do next.

Everything shown comes from the records.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness import cli, overhead
from harness.tables.arguments import add_table_arguments

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as Grid

    from harness.tables.cells import Section, Table

MAX_WIDTH = 120
_STYLES = {"better": "green", "worse": "red"}


def grid(table: Table, section: Section) -> Grid:
    """One model's levels: the paper's number (where it has one) / ours with its standard error."""
    from rich import box
    from rich.table import Table as Grid
    from rich.text import Text

    from harness.tables import words as text
    from harness.tables.render import WIDE

    metric = table.metric
    paper = section.paper_label if metric == "accuracy" else None
    unit = "%" if metric == "accuracy" else "nats per token"
    cells = f"ours ± standard error, {unit}" if paper is None else f"{paper} in the paper / ours ± standard error, {unit}"
    title = Text(f"{section.title}\n{cells}", style="bold")
    wide = len(table.columns) > WIDE
    padding = (0, 0, 0, 1) if wide else (0, 1)
    shown = Grid(title=title, box=box.SIMPLE_HEAD, padding=padding, pad_edge=not wide, title_justify="left")
    shown.add_column("Method", no_wrap=True)
    for column in table.columns:
        shown.add_column(text.heading(column), justify="right")
    for row in section.shown:
        numbers = []
        between = " /\n" if wide else " / "
        for column in table.columns:
            cell = row.cells[metric, column.key]
            ours = text.ours(cell, metric).replace("; ", "\n")
            numbers.append(Text(ours if paper is None else f"{text.reported(cell)}{between}{ours}"))
        shown.add_row(Text(row.label), *numbers)
    return shown


def next_commands(table: Table, config: cli.Config) -> list[tuple[str, str]]:
    """(command, what it does) for the likely next steps."""
    from harness.experiment.yaml_file import read_yaml

    more = max(len(table.experiment.seeds) + 2, table.experiment.comparisons.min_seeds)
    target = f"reproduce_{table.name}"
    larger = replace(config, overrides={**config.overrides, "seeds": more})
    what = f"{more} seeds: finished runs are kept, smaller differences can be told apart"
    commands = [(f"{larger.snakemake} -- {target}", what)]
    for name, what in (("small", "the same path on a real model and real data"), ("paper", "the paper's own runs, listed")):
        other = cli.Config(files=(cli.DEFAULT_CONFIGFILE.with_name(f"{name}.yaml"),))
        planned = other.files[0].exists() and table.name in read_yaml(other.files[0])["tables"]
        if planned and other.files != config.files:
            dry = " --dry-run" if name == "paper" else ""
            commands.append((f"{other.snakemake}{dry} -- {target}", what))
    return commands


def print_summary(
    table: Table,
    *,
    console: Console,
    folder: Path,
    config: cli.Config,
    cost: overhead.Overhead | None = None,
) -> None:
    """Print the summary.

    Args:
        folder: the experiment's results folder.
        config: the experiment, for the commands to run next.
        cost: of the workflow that has just made the table, where there was one.
    """

    from rich.text import Text

    from harness.tables import words as text

    def line(content: str, style: str = "") -> None:
        console.print(Text(content, style=style))

    console.print()
    line(text.file_title(table), "bold")
    for section in table.sections:
        console.print(grid(table, section))
        for decision in table.decisions():
            if decision.section == section:
                style = _STYLES.get(text.ending(decision), "")
                family = f"{decision.family.name}: " if decision.family else ""
                line(f"  {family}{text.sentence(decision)}", style)
        console.print()
    for ended in text.tallies(table):
        line(ended)
    for note in [*text.context(table), *text.limits(table)]:
        line(f"· {note}", "dim")
    if cost is not None:
        line(f"· {cost.sentence()}", "dim")
    console.print()
    files = [path for suffix in ("md", "tex", "csv") if (path := folder / "tables" / f"{table.file_name}.{suffix}").exists()]
    line("Files", "bold")
    for path in [*files, folder]:
        line(f"  {path}" + ("/  records of every run: train.json, metrics.json, predictions/" if path == folder else ""))
    line("Next", "bold")
    for command, what in next_commands(table, config):
        line(f"  {what}:")
        console.print(Text(f"    {command}"), soft_wrap=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m harness.tables.summary", description="Show a table in the terminal.")
    add_table_arguments(parser)
    args = parser.parse_args(argv)
    from rich.console import Console

    from harness.tables.build import load_table

    config = cli.parse_config(args)
    table = load_table(args.table, config, results=args.results_dir, allow_missing=args.allow_missing, rates=args.rates)
    console = Console(file=sys.stdout, highlight=False)
    console.width = min(console.width, MAX_WIDTH) if console.is_terminal else MAX_WIDTH
    folder = args.results_dir / table.experiment.name
    print_summary(table, console=console, folder=folder, config=config, cost=overhead.measured())
    return 0


if __name__ == "__main__":
    cli.run(main)
