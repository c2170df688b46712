"""What every command line of the harness shares: which experiment, which overrides, and how errors are shown."""

from __future__ import annotations

import argparse
import os
import select
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import yaml

from harness import overhead, progress
from harness.config import ConfigError

DEFAULT_CONFIGFILE = Path("config/tiny.yaml")

#: What the workflow writes, and in the results what all experiments share: stand-in base models, checkpoints (one folder per
#: spec; never declared to Snakemake, which would delete them before a rerun), tokenised data and decompositions.
RESULTS = Path("results")
FIGURES = Path("figures")
MODELS = RESULTS / ".models"
SCRATCH = RESULTS / ".scratch"
CACHE = RESULTS / ".cache"


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--configfile`` and ``--set`` (Snakemake's ``--configfile`` and ``--config``), and ``--experiment``."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--configfile",
        type=Path,
        nargs="+",
        default=[DEFAULT_CONFIGFILE],
        metavar="FILE",
        help=f"experiment file(s), later ones win (default: {DEFAULT_CONFIGFILE})",
    )
    which.add_argument("--experiment", metavar="NAME", help="short for --configfile config/NAME.yaml")
    parser.add_argument(
        "--set",
        dest="overrides",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="override a key of the experiment, such as seeds=[0,1] or training.max_steps=20",
    )


def add_models_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--models-dir``."""
    parser.add_argument(
        "--models-dir",
        type=Path,
        default=MODELS,
        metavar="DIR",
        help="folder of the stand-in base models (default: %(default)s)",
    )


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
    files = args.configfile if args.experiment is None else [DEFAULT_CONFIGFILE.with_name(f"{args.experiment}.yaml")]
    return list(files), overrides


#: Process id of the workflow that started this job, set by the Snakefile.
WORKFLOW_PID = "BEAMLORA_WORKFLOW_PID"


def end_with_workflow() -> None:
    """End this process as soon as the workflow that started it has ended, however that ended.

    Snakemake stops its jobs when it is interrupted, but not when it is killed; a job left behind would write to the same
    checkpoints as its successor. Ending at any moment is safe: it is what a kill does.
    """
    pid = os.environ.get(WORKFLOW_PID)
    if pid is None:
        return
    try:
        workflow = os.pidfd_open(int(pid))
    except ProcessLookupError:
        os._exit(143)

    def wait() -> None:
        select.select([workflow], [], [])
        os._exit(143)

    threading.Thread(target=wait, daemon=True, name="end-with-workflow").start()


def run(main: Callable[[list[str] | None], int | None]) -> NoReturn:
    """Run a command's ``main`` and exit with its status.

    Bad input becomes one line on stderr and exit status 2; any other failure a traceback and exit status 1. In a workflow
    stderr goes to the job's log file, so the line is repeated on stdout, where the user looks.
    """
    end_with_workflow()
    try:
        with overhead.counted():
            status = main(None) or 0
    except ConfigError as error:
        status, line = 2, f"error: {error}"
        print(line, file=sys.stderr)
    except KeyboardInterrupt:
        status, line = 130, "interrupted; repeat the command to go on"
        print(line, file=sys.stderr)
    except Exception as error:
        status, line = 1, f"failed: {type(error).__name__}: {' '.join(str(error).split())[:500]}"
        traceback.print_exc()
    if status and status != 130 and progress.ENVIRONMENT_VARIABLE in os.environ:
        print(line, flush=True)
    sys.exit(status)
