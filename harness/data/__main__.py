"""``python -m harness.data check --configfile FILE``: what training and evaluation sets share, and what is cut.

For every domain: duplicates inside the training set; questions of each of its evaluation sets, and of all splits of those
whose splits share examples (MBPP), that the training set holds; for every model, rows that the length limit cuts. A report,
not a gate: the exit status is 0 whatever is found; sets that cannot be read are errors.
"""

from __future__ import annotations

import argparse
import sys

from harness import cli
from harness.data.check import Report, check_experiment
from harness.data.overlap import LONG, NEAR_SHARE, SHORT
from harness.experiment.runs import all_runs, load_experiment
from harness.experiment.yaml_file import placed
from harness.files import json_text

#: Matches of a task that the text report quotes.
_QUOTED = 3


def print_report(report: Report) -> None:
    """The report as tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    for domain, part in report.items():
        training = part["training"]
        console.print(
            f"\n[bold]{domain}[/]: {training['rows']:,} training rows; {training['repeated_rows']:,} repeat an earlier row, "
            f"{training['repeated_queries']:,} an earlier query"
        )
        table = Table("evaluation set", title_justify="left")
        for heading in ("questions", "exact", "near", "contaminated", f"share a {LONG}-gram"):
            table.add_column(heading, justify="right")
        for name, task in part["tasks"].items():
            counts = [f"{task[k]:,}" for k in ("n", "exact", "near")]
            table.add_row(name, *counts, f"{100 * task['share']:.2f} %", f"{task['ngram']:,}")
        console.print(table)
        table = Table("tokenizer of")
        for heading in ("limit", "tokens", "rows cut", "share", "without a label"):
            table.add_column(heading, justify="right")
        for model, row in part["length"].items():
            share = f"{100 * row['cut'] / training['rows']:.2f} %"
            shown = [f"{row['max_length']:,}", f"{row['tokens']:,}", f"{row['cut']:,}", share, f"{row['without_label']:,}"]
            table.add_row(model, *shown)
        console.print(table)
        for name, task in part["tasks"].items():
            for match in task["matches"][:_QUOTED]:
                near = f" ({100 * match['share']:.0f} %)" if match["kind"] == "near" else ""
                where = f"{name}: {match['id']}, {match['kind']}{near}, training row {match['training_row']}"
                console.print(f"  {where}: {match['question'][:120]}", markup=False, soft_wrap=True)
    console.print(
        "\nexact: the same words as a training query.\n"
        f"near: {100 * NEAR_SHARE:.0f} % of the question's {SHORT}-grams in one training row.\n"
        f"A shared {LONG}-gram may be a common phrase. harness/data/overlap.py has the definitions."
    )


def main(arguments: list[str] | None = None) -> int:
    """The command line. Exit status 0: the report is printed."""
    parser = argparse.ArgumentParser(prog="python -m harness.data", description="Look after training and evaluation data.")
    commands = parser.add_subparsers(dest="command", required=True)
    summary, _, details = __doc__.partition(": ")[2].partition("\n\n")
    check = commands.add_parser("check", help=summary, description=details)
    cli.add_config_arguments(check)
    cli.add_models_argument(check)
    cli.add_cache_argument(check)
    check.add_argument("--json", action="store_true", help="print JSON, with every match")
    args = parser.parse_args(arguments)
    config = cli.parse_config(args)
    experiment = load_experiment(config.files, config.overrides)

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    with placed(config.files, config.overrides):
        report = check_experiment(
            experiment, all_runs(experiment), models_dir=args.models_dir, cache_dir=args.cache_dir, say=say
        )
    if args.json:
        print(json_text({"experiment": experiment.name, "domains": report}, indent=2))
    else:
        print_report(report)
    return 0


if __name__ == "__main__":
    cli.run(main)
