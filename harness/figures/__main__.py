"""``python -m harness.figures NAME``: draw a figure from the records of an experiment; without NAME, list all."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness import cli
from harness.errors import ConfigError
from harness.figures import Selection
from harness.files import require_writable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("figure", nargs="?", metavar="NAME", help="a figure; without it, all are listed")
    cli.add_config_arguments(parser)
    parser.add_argument("--results-dir", type=Path, default=cli.RESULTS, help="default: %(default)s")
    parser.add_argument("--output-dir", type=Path, metavar="DIR", help=f"default: {cli.FIGURES}/{{experiment}}, or gpu7b")
    only = parser.add_argument_group("rank_importance only")
    modules = ", ".join(Selection().modules)
    only.add_argument("--module", nargs="+", metavar="NAME", help=f"modules, such as q_proj (default: {modules})")
    only.add_argument("--layer", type=int, help="index of a layer (default: the paper's 30th of 32, scaled to the model)")
    only.add_argument("--method", metavar="KEY", help="a method of pruning.methods (default: lora)")
    only.add_argument("--seed", type=int, help="default: the first that finished")
    parser.add_argument(
        "--gpu7b",
        type=Path,
        metavar="FILE",
        help="time_memory only: draw this record of python -m benchmarks.gpu7b, of no experiment",
    )


def _selection(args: argparse.Namespace) -> Selection:
    given = {name: getattr(args, name) for name in ("module", "layer", "method", "seed") if getattr(args, name) is not None}
    if given and args.figure != "rank_importance":
        raise ConfigError(f"--{next(iter(given))}: found it for figure {args.figure}, expected rank_importance")
    if "module" in given:
        given["modules"] = tuple(given.pop("module"))
    return Selection(**given)


def _draw_gpu7b(args: argparse.Namespace) -> int:
    from harness.figures import style
    from harness.figures.costs import gpu7b

    if args.figure != "time_memory":
        raise ConfigError(f"--gpu7b: found it for figure {args.figure}, expected time_memory")
    with style.theme():
        paths = style.save(gpu7b.build(args.gpu7b), args.output_dir or cli.FIGURES / "gpu7b", args.figure)
    for path in paths:
        print(path)
    return 0


def execute(args: argparse.Namespace) -> int:
    """Draw the figure that parsed arguments name, or list all."""
    from harness.experiment.runs import load_experiment
    from harness.figures import catalogue, style
    from harness.figures.inputs import Inputs

    config = cli.parse_config(args)
    if args.figure is None:
        print(catalogue.listing())
        return 0
    if args.output_dir is not None:
        require_writable(args.output_dir / f"{args.figure}.png")
    catalogue.get(args.figure)
    selection = _selection(args)
    if args.gpu7b is not None:
        return _draw_gpu7b(args)
    experiment = load_experiment(config.files, config.overrides)
    inputs = Inputs(
        experiment=experiment,
        configfiles=config.files,
        results=args.results_dir,
        command=config.snakemake,
        selection=selection,
    )
    with style.theme():
        paths = style.save(catalogue.build(args.figure, inputs), args.output_dir or cli.FIGURES / experiment.name, args.figure)
    for path in paths:
        print(path)
    return 0


DESCRIPTION = "Draw a figure from the records of an experiment: PNG, PDF, and the data behind it as CSV."
COMMAND = cli.Command("harness.figures", DESCRIPTION, add_arguments, execute)
main = COMMAND.main

if __name__ == "__main__":
    cli.run(main)
