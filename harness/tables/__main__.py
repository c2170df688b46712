"""``python -m harness.tables NAME``: one table as Markdown, TeX and CSV."""

from __future__ import annotations

import argparse
import importlib

from harness import cli
from harness.config import ConfigError
from harness.tables import render
from harness.tables.arguments import add_table_arguments, output_folder
from harness.tables.build import load_table

#: Tables of another form, and the modules that render them.
_OTHERS = {"table4": "harness.tables.settings", "learning_rate": "harness.tables.rates_table"}


def main(argv: list[str] | None = None) -> int:
    description = "Write a table as Markdown, TeX and CSV."
    parser = argparse.ArgumentParser(prog="python -m harness.tables", description=description)
    add_table_arguments(parser)
    args = parser.parse_args(argv)
    if args.table in _OTHERS:
        if args.rates != "shared":
            raise ConfigError(
                f"--rates: found {args.rates!r} for {args.table}, expected none: it shows no methods side by side"
            )
        return importlib.import_module(_OTHERS[args.table]).render(args)
    configfiles, overrides = cli.parse_config(args)
    table = load_table(
        args.table, configfiles, overrides, results=args.results_dir, allow_missing=args.allow_missing, rates=args.rates
    )
    folder = output_folder(args, table.experiment)
    for path in render.write(table, folder):
        print(path)
    return 0


if __name__ == "__main__":
    cli.run(main)
