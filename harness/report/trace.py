"""Everything behind one number: ``python -m harness.report.trace table1 llama2-7b BeamLoRA gsm8k``

Exit status 1: the predictions, read anew, do not give the same number, or an adapter is another file than the record says.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from harness import cli, reported


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which number."""
    parser.add_argument("table", help="a table of the experiment, such as table1")
    parser.add_argument("model", help=f"key, label, or what it stands for: {', '.join(reported.MODEL_LABELS)}")
    parser.add_argument("method", help="key or label, such as BeamLoRA")
    parser.add_argument("task", help="test set, such as gsm8k or math/gsm8k; avg: the average")
    cli.add_config_arguments(parser)
    parser.add_argument("--results-dir", type=Path, default=cli.RESULTS, help="default: %(default)s")


def execute(args: argparse.Namespace) -> int:
    """Print what is behind the number that parsed arguments name. Exit status 1: the records do not bear it out."""
    from harness.report.one_number import find, pick, trace
    from harness.report.sources import open_source
    from harness.tables.build import load_table

    config = cli.parse_config(args)
    source = open_source(config, results=args.results_dir)
    tables = {name: [name] for name in source.experiment.tables}
    name = pick(args.table, tables, what=f"table of {source.experiment.name}")
    table = load_table(name, config, results=args.results_dir, allow_missing=True)
    lines, agree = trace(source, find(table, model=args.model, method=args.method, task=args.task))
    print("\n".join(lines))
    return 0 if agree else 1


COMMAND = cli.Command("harness.report.trace", "Show everything behind one number.", add_arguments, execute)
main = COMMAND.main

if __name__ == "__main__":
    cli.run(main)
