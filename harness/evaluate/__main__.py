"""``python -m harness.evaluate --configfile config/tiny.yaml --run ID --run-dir DIR``: evaluate one trained run."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.cli import add_config_arguments, add_models_argument, parse_config, run
from harness.evaluate.base import summary
from harness.evaluate.run import evaluate_run
from harness.experiment.runs import load_run
from harness.files import require_writable


def main(arguments: list[str] | None = None) -> int:
    """The command line. Exit status 0 means metrics.json is written."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.evaluate", description="Evaluate one trained run on every task of its domain."
    )
    add_config_arguments(parser)
    parser.add_argument("--run", required=True, metavar="ID", help="domain/model/method/seedN")
    parser.add_argument("--run-dir", type=Path, required=True, help="holds train.json and adapter/; gets the results")
    add_models_argument(parser)
    args = parser.parse_args(arguments)
    config = parse_config(args)
    experiment, spec = load_run(config.files, config.overrides, args.run)
    require_writable(args.run_dir / "metrics.json")
    record = evaluate_run(spec, run_dir=args.run_dir, models_dir=args.models_dir, data_dir=experiment.data_dir)
    print(summary(record), end="")
    if record["status"] == "success":
        from harness.export import lm_eval, model_card

        model_card.write(args.run_dir)
        lm_eval.write(args.run_dir)
    return 0


if __name__ == "__main__":
    run(main)
