"""``python -m harness.plan [--json] [TARGET]``: the runs behind a target, what each costs, and what is done.

Nothing is downloaded, nothing trained but a few steps on request (``--calibrate``), and nothing written but what the cache
keeps of these and of predictions (``--memory``). TARGET is reproduce_table1, reproduce_all (the default), the name of a figure,
and so on, as for Snakemake.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import cli
from harness.errors import ConfigError

if TYPE_CHECKING:
    from harness.plan.settings import Setting
    from harness.plan.work import PlannedRun
    from harness.schema.experiment import Experiment


def as_json(
    experiment: Experiment,
    target: str,
    runs: Sequence[PlannedRun],
    settings: Sequence[Setting],
    table4: Any,
    *,
    budget: float | None = None,
) -> str:
    """Everything that the text shows, and the settings at their defaults."""
    from harness.files import json_text
    from harness.plan import cost
    from harness.plan.work import hours_of_seeds, kinds, totals

    out = [] if budget is None else cost.left_out(kinds(runs, experiment), budget=budget)
    return json_text(
        {
            "experiment": experiment.name,
            "target": target,
            "runs": [asdict(run) | {"disk_bytes": run.disk_bytes} for run in runs],
            "total": totals(runs),
            "hours_of_seeds": {str(seeds): hours_of_seeds(runs, seeds) for seeds in (1, 3, 5)},
            "left_out": [asdict(kind) for kind in out],
            "table4": table4,
            "settings": [asdict(setting) | {"source": str(setting.source)} for setting in settings],
        },
        indent=2,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    cli.add_config_arguments(parser)
    cli.add_models_argument(parser)
    parser.add_argument("--results-dir", type=Path, default=cli.RESULTS, metavar="DIR", help="default: %(default)s")
    cli.add_cache_argument(parser)
    parser.add_argument(
        "--memory",
        action="store_true",
        help="predict the peak memory of each kind of run: seconds each, then kept in the cache",
    )
    parser.add_argument("--gpu", choices=("A100", "H100", "H200"), default="H100", help="whose hours (default: %(default)s)")
    parser.add_argument("--gpu-memory", metavar="GIB", help="mark what does not fit a GPU of this memory; implies --memory")
    parser.add_argument(
        "--calibrate",
        action="store_true",
        help="first train 20 steps of one of the runs on this machine, for the hours: minutes, then kept in the cache",
    )
    parser.add_argument("--budget", metavar="HOURS", help="hours of one GPU, such as 200h: name what to leave out")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "target", nargs="?", default="reproduce_all", metavar="TARGET", help="as for Snakemake (default: %(default)s)"
    )


def execute(args: argparse.Namespace) -> int:
    """Print what is behind the target that parsed arguments name."""
    from harness import reported
    from harness.experiment.runs import load_experiment, settings_named, unique
    from harness.experiment.yaml_file import placed
    from harness.figures.catalogue import check_sweeps
    from harness.plan import cost
    from harness.plan.calibration import calibrate
    from harness.plan.settings import table4_check, used_settings
    from harness.plan.text import print_plan
    from harness.plan.work import Planner
    from harness.schema.fields import BASELINE
    from harness.workflow.targets import target_runs

    config = cli.parse_config(args)
    budget = None if args.budget is None else cost.hours(args.budget)
    memory = None if args.gpu_memory is None else cost.memory_bytes(args.gpu_memory)
    gpu = cost.GPUS[args.gpu]
    experiment = load_experiment(config.files, config.overrides)
    check_sweeps(experiment, config)
    with placed(config.files, config.overrides):
        specs = target_runs(experiment, args.target)
        if not specs:
            raise ConfigError(f"{args.target}: the experiment {experiment.name!r} plans no runs for it")
        planner = Planner(
            experiment,
            models_dir=args.models_dir,
            cache_dir=args.cache_dir,
            results=args.results_dir,
            gpu=gpu,
            predict_memory=args.memory or memory is not None,
        )
        if args.calibrate:
            measured = next((spec for spec in specs if spec.method.name == BASELINE), specs[0])
            with contextlib.redirect_stdout(sys.stderr):  # what training prints is no part of a plan
                calibrate(measured, experiment, gpu=gpu, models_dir=args.models_dir, cache_dir=args.cache_dir)
        planner.learn_rates(specs)
        runs = []
        for spec in unique(specs):
            with settings_named(experiment, spec):
                runs.append(planner.plan(spec))
    settings = used_settings(experiment, specs, config.files, config.overrides)
    table4 = table4_check(specs, reported.settings())
    if args.json:
        print(as_json(experiment, args.target, runs, settings, table4, budget=budget))
    else:
        print_plan(experiment, args.target, runs, settings, table4, gpu=gpu, memory=memory, budget=budget)
    return 0


DESCRIPTION = "The runs behind a target, what each costs, and what is done. Nothing is downloaded."
COMMAND = cli.Command("harness.plan", DESCRIPTION, add_arguments, execute)
main = COMMAND.main

if __name__ == "__main__":
    cli.run(main)
