"""``python -m harness.compare A B``: which of two models, or of two methods of several seeds, answers the same items better."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness import cli
from harness.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument(
        "paths",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="A and B, or with --against all of A, each one seed: a sample file of lm-eval (samples_TASK_DATE.jsonl, from "
        "--log_samples), a log of Inspect AI (.eval, .json), a folder with one of them for each test set, or a run's folder; a "
        "folder of run folders stands for all of them",
    )
    parser.add_argument("--against", nargs="+", type=Path, metavar="PATH", help="all of B, as many as of A")
    parser.add_argument(
        "--metric", metavar="NAME", help="such as acc_norm or exact_match,strict-match (default: the file's first)"
    )
    parser.add_argument(
        "--better",
        choices=("more", "less"),
        help="which of the metric is better, where neither its name nor lm-eval's results_*.json beside the samples says so",
    )
    parser.add_argument(
        "--margin",
        type=float,
        metavar="SIZE",
        help="smallest difference of interest, within which A and B are equivalent; 0.01 is one point of accuracy",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all of it, with every item that differs")


def _sides(args: argparse.Namespace) -> tuple[list[Path], list[Path]]:
    if args.against is not None:
        return args.paths, args.against
    if len(args.paths) != 2:
        raise ConfigError(f"found {len(args.paths)} paths, expected two, or several of A and then --against with those of B")
    return args.paths[:1], args.paths[1:]


def execute(args: argparse.Namespace) -> int:
    """Compare what parsed arguments name."""
    first, second = _sides(args)
    from harness.compare import text
    from harness.compare.paired import compare
    from harness.compare.sources import sides
    from harness.files import require_writable, write_json

    if args.json is not None:
        require_writable(args.json)
    better = None if args.better is None else args.better == "more"
    result = compare(*sides(first, second), metric=args.metric, margin=args.margin, higher_is_better=better)
    print(text.report(result))
    if args.json is not None:
        write_json(args.json, text.record(result))
    return 0


DESCRIPTION = "Compare two sets of answers to the same items: files of lm-eval or Inspect AI, or runs of this project."
COMMAND = cli.Command("harness.compare", DESCRIPTION, add_arguments, execute, in_checkout=False)
main = COMMAND.main

if __name__ == "__main__":
    cli.run(main)
