"""``python -m harness.train --configfile config/tiny.yaml --run ID --run-dir DIR``: fine-tune one run of an experiment."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from harness.cli import SCRATCH, add_cache_argument, add_config_arguments, add_models_argument, parse_config, run
from harness.config import ConfigError
from harness.experiment.runs import load_run
from harness.train.run import Folders, train


def main(arguments: list[str] | None = None) -> int:
    """The command line. Exit status 0 means train.json is written, also for a run recorded as diverged."""
    parser = argparse.ArgumentParser(prog="python -m harness.train", description="Fine-tune one run of an experiment.")
    add_config_arguments(parser)
    parser.add_argument("--run", required=True, metavar="ID", help="domain/model/method/seedN")
    parser.add_argument("--run-dir", type=Path, required=True, help="where adapter/ and train.json go")
    parser.add_argument(
        "--scratch",
        type=Path,
        default=SCRATCH,
        metavar="DIR",
        help="where checkpoints go, one folder per spec (default: %(default)s)",
    )
    add_models_argument(parser)
    add_cache_argument(parser)
    parser.add_argument("--training-hash", help="refuse to train if the run's spec has another hash (set by the workflow)")
    args = parser.parse_args(arguments)
    config = parse_config(args)
    experiment, spec = load_run(config.files, config.overrides, args.run)
    if args.training_hash not in (None, spec.training_hash()):
        raise ConfigError(f"{config.files[-1]}: changed while the workflow was running; repeat the command")
    folders = Folders(
        output=args.run_dir, scratch=args.scratch / spec.training_hash(), models=args.models_dir, cache=args.cache_dir
    )
    train(spec, experiment, folders)
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
