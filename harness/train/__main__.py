"""``python -m harness.train --configfile config/tiny.yaml --run ID --run-dir DIR``: fine-tune one run of an experiment.

With as many processes as its ``gpus`` say, or with those that torchrun has started:
``python -m torch.distributed.run --nproc-per-node 2 -m harness.train --run-id ID --run-dir DIR``.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from harness.cli import SCRATCH, add_cache_argument, add_config_arguments, add_models_argument, parse_config, run
from harness.errors import ConfigError
from harness.experiment.gpus import check_world, gpus_of
from harness.experiment.runs import load_run
from harness.files import require_writable
from harness.plan.peaks import Peaks, check_memory, smallest_gpu
from harness.train.launch import launch
from harness.train.run import Folders, train


def main(arguments: list[str] | None = None) -> int:
    """The command line. Exit status 0 means train.json is written, also for a run recorded as diverged."""
    parser = argparse.ArgumentParser(prog="python -m harness.train", description="Fine-tune one run of an experiment.")
    add_config_arguments(parser)
    parser.add_argument(
        "--run",
        "--run-id",
        required=True,
        metavar="ID",
        help="domain/model/method/seedN; behind torchrun, which takes --run for an option of its own, --run-id",
    )
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
    require_writable(folders.output / "train.json", folders.scratch / "checkpoint", folders.cache / "tokens")
    processes = int(os.environ.get("WORLD_SIZE", "0"))
    if processes:
        check_world(spec, processes)
    elif (gpus := gpus_of(experiment, spec)) > 1:
        given = sys.argv[1:] if arguments is None else arguments
        return launch("harness.train", given, processes=gpus, scratch=folders.scratch)
    if experiment.gpu and os.environ.get("RANK", "0") == "0":
        # What preflight has predicted, where it knew no GPU. Nothing is predicted here, beside what is to be trained.
        peaks = Peaks(args.cache_dir, gpu=True)
        check_memory(spec, peaks, smallest_gpu(), models_dir=args.models_dir, gpus=processes or 1, predict=False)
    train(spec, experiment, folders)
    return 0


if __name__ == "__main__":
    run(main)
