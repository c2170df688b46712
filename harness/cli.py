"""What every command line of the harness shares: which experiment, which overrides, and how errors are shown."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from harness.config import ConfigError

DEFAULT_CONFIGFILE = Path("config/tiny.yaml")

#: What the workflow writes, and in it what all experiments share: stand-in base models, checkpoints (one folder per spec; never
#: declared to Snakemake, which would delete them before a rerun), tokenised data and decompositions.
RESULTS = Path("results")
MODELS = RESULTS / ".models"
SCRATCH = RESULTS / ".scratch"
CACHE = RESULTS / ".cache"


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--configfile`` and ``--set`` (Snakemake's ``--configfile`` and ``--config``)."""
    parser.add_argument("--configfile", type=Path, nargs="+", default=[DEFAULT_CONFIGFILE], metavar="FILE",
                        help="experiment file(s), later ones win (default: %(default)s)")
    parser.add_argument("--set", dest="overrides", nargs="+", default=[], metavar="KEY=VALUE",
                        help="override a key of the experiment, such as seeds=[0,1] or training.max_steps=20")


def add_models_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--models-dir``."""
    parser.add_argument("--models-dir", type=Path, default=MODELS, metavar="DIR",
                        help="folder of the stand-in base models (default: %(default)s)")


def parse_config(args: argparse.Namespace) -> tuple[list[Path], dict[str, Any]]:
    """The experiment files and the overrides of parsed arguments.

    Raises:
        ConfigError: an override that is not KEY=VALUE, or whose value is not YAML.
    """
    overrides: dict[str, Any] = {}
    for text in args.overrides:
        key, separator, value = text.partition("=")
        if not separator or not key:
            raise ConfigError(f"--set: found {text!r}, expected KEY=VALUE")
        try:
            overrides[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {key}: found {value!r}, expected a YAML value ({error})") from error
    return list(args.configfile), overrides


def run(main: Callable[[list[str] | None], int | None]) -> None:
    """Run a command's ``main`` and exit with its status; bad input becomes one line on stderr and exit status 2."""
    try:
        status = main(None)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; repeat the command to go on", file=sys.stderr)
        sys.exit(130)
    sys.exit(status or 0)
