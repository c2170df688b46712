"""``python -m harness.figures NAME``: draw a figure from the records of an experiment; without NAME, list all."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness import cli
from harness.config import ConfigError
from harness.experiment.runs import load_experiment
from harness.figures.inputs import Inputs, Selection
from harness.records.read import DEFAULT_RESULTS, snakemake_command

DEFAULT_FIGURES = Path("figures")


def _parser() -> argparse.ArgumentParser:
    description = "Draw a figure from the records of an experiment: PNG, PDF, and the data behind it as CSV."
    parser = argparse.ArgumentParser(prog="python -m harness.figures", description=description)
    parser.add_argument("figure", nargs="?", metavar="NAME", help="a figure; without it, all are listed")
    cli.add_config_arguments(parser)
    parser.add_argument("--results-dir", type=Path, default=DEFAULT_RESULTS, help="default: %(default)s")
    parser.add_argument("--output-dir", type=Path, metavar="DIR", help=f"default: {DEFAULT_FIGURES}/{{experiment}}, or gpu7b")
    only = parser.add_argument_group("rank_importance only")
    modules = ", ".join(Selection().modules)
    only.add_argument("--module", nargs="+", metavar="NAME", help=f"modules, such as q_proj (default: {modules})")
    only.add_argument("--layer", type=int, help="index of a layer (default: the paper's 30th of 32, scaled to the model)")
    only.add_argument("--method", metavar="KEY", help="a method of pruning.methods (default: lora)")
    only.add_argument("--seed", type=int, help="default: the first")
    parser.add_argument(
        "--gpu7b",
        type=Path,
        metavar="FILE",
        help="time_memory only: draw this record of python -m benchmarks.gpu7b, of no experiment",
    )
    return parser


def _selection(args: argparse.Namespace) -> Selection:
    given = {name: getattr(args, name) for name in ("module", "layer", "method", "seed") if getattr(args, name) is not None}
    if given and args.figure != "rank_importance":
        raise ConfigError(f"--{next(iter(given))}: found it for figure {args.figure}, expected rank_importance")
    if "module" in given:
        given["modules"] = tuple(given.pop("module"))
    return Selection(**given)


def _draw_gpu7b(args: argparse.Namespace) -> int:
    from harness.figures import gpu7b, style

    if args.figure != "time_memory":
        raise ConfigError(f"--gpu7b: found it for figure {args.figure}, expected time_memory")
    with style.theme():
        paths = style.save(gpu7b.build(args.gpu7b), args.output_dir or DEFAULT_FIGURES / "gpu7b", args.figure)
    for path in paths:
        print(path)
    return 0


def main(argv: list[str] | None = None) -> int:
    from harness.figures import catalogue, style

    args = _parser().parse_args(argv)
    if args.figure is None:
        print(catalogue.listing())
        return 0
    catalogue.get(args.figure)
    selection = _selection(args)
    if args.gpu7b is not None:
        return _draw_gpu7b(args)
    configfiles, overrides = cli.parse_config(args)
    experiment = load_experiment(configfiles, overrides)
    inputs = Inputs(
        experiment=experiment,
        configfiles=tuple(configfiles),
        results=args.results_dir,
        command=snakemake_command(configfiles, overrides),
        selection=selection,
    )
    with style.theme():
        paths = style.save(
            catalogue.build(args.figure, inputs), args.output_dir or DEFAULT_FIGURES / experiment.name, args.figure
        )
    for path in paths:
        print(path)
    return 0


if __name__ == "__main__":
    cli.run(main)
