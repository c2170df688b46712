"""What the commands that render an experiment's records share: arguments, and where their files go."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from harness import cli

if TYPE_CHECKING:
    from harness.schema.experiment import Experiment
    from harness.tables.cells import Rates

#: See ``Table.rates``.
RATES: tuple[Rates, ...] = ("shared", "tuned")
RATES_HELP = "learning rates: the experiment's, or each method's best on validation tasks (default: %(default)s)"


def add_table_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that ``harness.tables.build`` and ``harness.tables.summary`` share."""
    parser.add_argument("table", help="a table of the experiment, such as table1; table4 (the settings used); learning_rate")
    add_record_arguments(parser)
    parser.add_argument("--rates", choices=RATES, default="shared", help=RATES_HELP)


def add_record_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of every command that renders an experiment's records."""
    cli.add_config_arguments(parser)
    parser.add_argument("--results-dir", type=Path, default=cli.RESULTS, help="default: %(default)s")
    parser.add_argument("--output-dir", type=Path, metavar="DIR", help="default: {results-dir}/{experiment}/tables")
    parser.add_argument("--allow-missing", action="store_true", help="show what has not run as —, not as an error")


def output_folder(args: argparse.Namespace, experiment: Experiment) -> Path:
    return args.output_dir or args.results_dir / experiment.name / "tables"
