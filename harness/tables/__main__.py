"""``python -m harness.tables NAME``: one table as Markdown, TeX and CSV."""

from __future__ import annotations

import argparse
import importlib

from harness import cli
from harness.errors import ConfigError
from harness.files import require_writable
from harness.tables.arguments import add_table_arguments, output_folder

#: Tables of another form, and the modules that render them.
_OTHERS = {"table4": "harness.tables.settings", "learning_rate": "harness.tables.rates_table"}


def execute(args: argparse.Namespace) -> int:
    """Write the table that parsed arguments name."""
    if args.output_dir is not None:
        require_writable(args.output_dir / f"{args.table}.md")
    if args.table in _OTHERS:
        if args.rates != "shared":
            raise ConfigError(
                f"--rates: found {args.rates!r} for {args.table}, expected none: it shows no methods side by side"
            )
        return importlib.import_module(_OTHERS[args.table]).write_table(args)
    from harness.tables import render
    from harness.tables.build import load_table

    config = cli.parse_config(args)
    table = load_table(args.table, config, results=args.results_dir, allow_missing=args.allow_missing, rates=args.rates)
    for path in render.write(table, output_folder(args, table.experiment)):
        print(path)
    return 0


COMMAND = cli.Command("harness.tables", "Write a table as Markdown, TeX and CSV.", add_table_arguments, execute)
main = COMMAND.main

if __name__ == "__main__":
    cli.run(main)
