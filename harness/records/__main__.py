"""``python -m harness.records --output FILE``: the records of an experiment's runs in one Parquet file."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness import cli
from harness.experiment.runs import all_runs, load_experiment, table_runs
from harness.files import require_writable
from harness.records.frame import write_parquet
from harness.records.read import DEFAULT_RESULTS, load_records


def main(argv: list[str] | None = None) -> int:
    description = "Gather the records of an experiment's runs in one Parquet file."
    parser = argparse.ArgumentParser(prog="python -m harness.records", description=description)
    cli.add_config_arguments(parser)
    parser.add_argument("--table", metavar="NAME", help="the runs of this table only (default: all of the experiment)")
    parser.add_argument("--results-dir", type=Path, default=DEFAULT_RESULTS, help="default: %(default)s")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the Parquet file to write")
    args = parser.parse_args(argv)
    config = cli.parse_config(args)
    require_writable(args.output)
    experiment = load_experiment(config.files, config.overrides)
    runs = table_runs(experiment, args.table) if args.table else all_runs(experiment)
    loaded = load_records(runs, results=args.results_dir, command=config.snakemake)
    write_parquet(loaded.records, args.output)
    print(f"{args.output}: {len(loaded.records)} runs")
    return 0


if __name__ == "__main__":
    cli.run(main)
