"""``python -m harness.plan [--json] [TARGET]``: the runs behind a target, what each costs, and what is done.

Nothing is downloaded, trained or written. TARGET is reproduce_table1, reproduce_all (the default), the name of a figure, and
so on, as for Snakemake.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness import cli, reported
from harness.config import ConfigError, Experiment
from harness.experiment.runs import load_experiment, unique
from harness.files import json_text
from harness.plan.settings import Setting, table4_check, used_settings
from harness.plan.work import PlannedRun, Planner, totals
from harness.records.read import DEFAULT_RESULTS
from harness.workflow.targets import target_runs


def as_json(experiment: Experiment, target: str, runs: Sequence[PlannedRun], settings: Sequence[Setting], table4: Any) -> str:
    """Everything that the text shows, and the settings at their defaults."""
    return json_text(
        {
            "experiment": experiment.name,
            "target": target,
            "runs": [asdict(run) for run in runs],
            "total": totals(runs),
            "table4": table4,
            "settings": [asdict(setting) | {"source": str(setting.source)} for setting in settings],
        },
        indent=2,
    )


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m harness.plan", description=__doc__.partition(": ")[2])
    cli.add_config_arguments(parser)
    cli.add_models_argument(parser)
    parser.add_argument("--results-dir", type=Path, default=DEFAULT_RESULTS, metavar="DIR", help="default: %(default)s")
    parser.add_argument("--cache-dir", type=Path, default=cli.CACHE, metavar="DIR", help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("target", nargs="?", default="reproduce_all", metavar="TARGET", help="default: %(default)s")
    args = parser.parse_args(arguments)
    configfiles, overrides = cli.parse_config(args)
    if len(configfiles) > 1 and configfiles[-1].suffix not in (".yaml", ".yml"):
        args.target = str(configfiles.pop())  # --configfile FILE TARGET takes the target for a second file
    experiment = load_experiment(configfiles, overrides)
    try:
        specs = target_runs(experiment, args.target)
        if not specs:
            raise ConfigError(f"{args.target}: the experiment {experiment.name!r} plans no runs for it")
        planner = Planner(experiment, models_dir=args.models_dir, cache_dir=args.cache_dir, results=args.results_dir)
        runs = [planner.plan(spec) for spec in unique(specs)]
    except ConfigError as error:
        raise ConfigError(f"{configfiles[-1]}: {error}") from error
    settings = used_settings(experiment, specs, configfiles, overrides)
    table4 = table4_check(specs, reported.settings())
    if args.json:
        print(as_json(experiment, args.target, runs, settings, table4))
    else:
        from harness.plan.text import print_plan

        print_plan(experiment, args.target, runs, settings, table4)
    return 0


if __name__ == "__main__":
    cli.run(main)
