"""Everything behind one number: ``python -m harness.report.trace table1 llama2-7b BeamLoRA gsm8k``

Exit status 1: the predictions, read anew, do not give the same number, or an adapter is another file than the record says.
"""

from __future__ import annotations

import argparse

from harness import cli
from harness.report.arguments import TRACE, add_trace_arguments


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


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m harness.report.trace", description=TRACE)
    add_trace_arguments(parser)
    return execute(parser.parse_args(argv))


if __name__ == "__main__":
    cli.run(main)
