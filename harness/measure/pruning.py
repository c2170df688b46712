"""Scores after pruning: ``python -m harness.measure.pruning --configfile config/tiny.yaml --run ID --run-dir DIR``"""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.cli import SCRATCH, add_config_arguments, add_models_argument, parse_config, run
from harness.experiment.runs import load_run
from harness.measure.prune import prune_run


def main(arguments: list[str] | None = None) -> int:
    """The command line. Exit status 0 means pruning.json is written."""
    parser = argparse.ArgumentParser(prog="python -m harness.measure.pruning", description=__doc__.split("\n")[0])
    add_config_arguments(parser)
    parser.add_argument("--run", required=True, metavar="ID", help="domain/model/method/seedN")
    parser.add_argument("--run-dir", type=Path, required=True, help="holds train.json and adapter/; gets pruning.json")
    parser.add_argument(
        "--scratch", type=Path, default=SCRATCH, metavar="DIR", help="where finished shares are kept (default: %(default)s)"
    )
    add_models_argument(parser)
    args = parser.parse_args(arguments)
    config = parse_config(args)
    experiment, spec = load_run(config.files, config.overrides, args.run)
    record = prune_run(spec, experiment, run_dir=args.run_dir, models_dir=args.models_dir, scratch_dir=args.scratch)
    for name, task in record["tasks"].items():
        if task["accuracy"] is None:
            what, shown = "gold NLL", [f"{nll:.3f}" for nll in task["gold_nll"]]
        else:
            what, shown = "accuracy in %", [f"{100 * accuracy:.1f}" for accuracy in task["accuracy"]]
        curve = ", ".join(f"{100 * share:.0f} %: {value}" for share, value in zip(record["fractions"], shown, strict=True))
        print(f"{spec.run_id} {name}: {what} after pruning {curve}")
    return 0


if __name__ == "__main__":
    run(main)
