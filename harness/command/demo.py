"""``beamlora demo``: what ``make demo`` runs, in the environment of this command."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from harness import cli
from harness.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None of its own: what is left over goes to Snakemake."""
    parser.set_defaults(snakemake=[])


def words(more: list[str]) -> list[str]:
    """The command line. ``--configfile``, so that a ``--config`` of the user's stands beside it."""
    program = str(Path(sys.executable).with_name("snakemake"))
    options = ["--cores", "all", "--quiet", "rules", "host", "--configfile", "config/demo.yaml"]
    return [program, *options, *more, "--", "reproduce_table1"]


def execute(args: argparse.Namespace) -> int:
    """Become Snakemake.

    Raises:
        ConfigError: a word that is no option: it would be taken for another file of the experiment.
    """
    if args.snakemake and not args.snakemake[0].startswith("-"):
        raise ConfigError(f"demo: found {args.snakemake[0]!r}, expected options of Snakemake, such as --config seeds=3")
    command = words(args.snakemake)
    sys.stdout.flush()
    os.execv(command[0], command)


DESCRIPTION = "LoRA against BeamLoRA on a small stand-in: a minute, no network. Further arguments go to Snakemake."
COMMAND = cli.Command("harness.command.demo", DESCRIPTION, add_arguments, execute)
