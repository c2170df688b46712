"""What every command line of the harness shares: which experiment, which overrides, and how errors are shown.

Light, since it stands before every ``--help``: neither pydantic nor NumPy.
"""

from __future__ import annotations

import argparse
import errno
import os
import re
import select
import shlex
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from harness import overhead, progress
from harness.arguments import misread, overrides
from harness.did_you_mean import hint
from harness.errors import ConfigError, Unfinished
from harness.files import nearest_existing

DEFAULT_CONFIGFILE = Path("config/tiny.yaml")
#: The key of Snakemake's ``--config`` that names a file of config/.
EXPERIMENT_KEY = "experiment"

#: What the workflow writes, and in the results what all experiments share: stand-in base models, checkpoints (one folder per
#: spec; never declared to Snakemake, which would delete them before a rerun), tokenised data and decompositions.
RESULTS = Path("results")
FIGURES = Path("figures")
MODELS = RESULTS / ".models"
SCRATCH = RESULTS / ".scratch"
CACHE = RESULTS / ".cache"


def experiment_file(name: str) -> Path:
    """The file of config/ that an experiment's name stands for.

    Raises:
        ConfigError: there is none.
    """
    folder = DEFAULT_CONFIGFILE.parent
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if not known:
        raise ConfigError(f"{Path.cwd()}: found no {folder}/*.yaml, expected a checkout of beamlora-harness")
    if name not in known:
        raise ConfigError(f"experiment: found no {folder}/{name}.yaml; {hint(name, known)}")
    return folder / f"{name}.yaml"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which experiment a command is about. Commands read their arguments once, into this, and hand this on."""

    #: Later ones win.
    files: tuple[Path, ...] = (DEFAULT_CONFIGFILE,)
    #: Dotted key -> value, laid over the files in this order.
    overrides: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str | None:
        """What the experiment is called by where it is one file of config/."""
        named = len(self.files) == 1 and self.files[0] == DEFAULT_CONFIGFILE.with_name(f"{self.files[0].stem}.yaml")
        return self.files[0].stem if named else None

    @property
    def override_arguments(self) -> list[str]:
        """``--set KEY=VALUE ...``, or nothing."""
        return ["--set", *overrides.words(self.overrides)] if self.overrides else []

    @property
    def arguments(self) -> list[str]:
        """For another process of the harness: the same experiment, whatever the default."""
        return ["--configfile", *map(str, self.files), *self.override_arguments]

    @property
    def short_arguments(self) -> list[str]:
        """For a person to type: nothing for the default."""
        if self.files == (DEFAULT_CONFIGFILE,):
            return self.override_arguments
        if self.name is not None:
            return ["--experiment", self.name, *self.override_arguments]
        return self.arguments

    @property
    def snakemake(self) -> str:
        """The shell command that runs the experiment, but for its target: that follows after ``--``."""
        words = ["snakemake", "--cores", "all"]
        keys = overrides.words(overrides.nested(self.overrides))
        if self.name is None:
            words += ["--configfile", *map(str, self.files)]
        elif self.files != (DEFAULT_CONFIGFILE,):
            keys = [f"{EXPERIMENT_KEY}={self.name}", *keys]
        return shlex.join([*words, *(["--config", *keys] if keys else [])])


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--configfile`` and ``--set`` (Snakemake's ``--configfile`` and ``--config``), and ``--experiment``."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--configfile",
        nargs="+",
        action="extend",
        metavar="FILE",
        help=f"experiment file(s), later ones win (default: {DEFAULT_CONFIGFILE})",
    )
    which.add_argument("--experiment", metavar="NAME", help="short for --configfile config/NAME.yaml")
    parser.add_argument(
        "--set",
        dest="overrides",
        nargs="+",
        action="extend",
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


def add_cache_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--cache-dir``."""
    parser.add_argument(
        "--cache-dir",
        type=Path,
        default=CACHE,
        metavar="DIR",
        help="folder of tokenised data and decompositions (default: %(default)s)",
    )


def add_run_dirs(parser: argparse.ArgumentParser) -> None:
    """Add the folders that a command about evaluated runs is given."""
    parser.add_argument("run_dirs", nargs="+", type=Path, metavar="RUN_DIR", help="folder with metrics.json and predictions/")


@dataclass(frozen=True)
class Command:
    """A command with a module of its own, and mostly also a word after ``beamlora``."""

    #: As it stands after ``python -m``.
    module: str
    description: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    #: Takes the parsed arguments and returns the exit status. Imports what ``--help`` does not need.
    execute: Callable[[argparse.Namespace], int]
    #: Whether it reads or writes folders of the checkout, which then must be the current folder.
    in_checkout: bool = True

    def main(self, arguments: list[str] | None = None) -> int:
        """The command line."""
        parser = argparse.ArgumentParser(prog=f"python -m {self.module}", description=self.description)
        self.add_arguments(parser)
        return self.execute(parser.parse_args(arguments))


def parse_config(args: argparse.Namespace) -> Config:
    """The experiment that parsed arguments name. Nothing else reads these arguments.

    Raises:
        ConfigError: no such experiment in config/; a target that stands for a file; an override that is not KEY=VALUE, or
            whose value is not YAML.
    """
    changed = overrides.parse(args.overrides, option="--set")
    if args.experiment is not None:
        return Config(files=(experiment_file(args.experiment),), overrides=changed)
    if not args.configfile:
        return Config(overrides=changed)
    wrong = misread.targets(args.configfile)
    if wrong:
        raise ConfigError(f"--configfile: found {wrong[0]} as a configuration file; put {wrong[0]} before --configfile")
    return Config(files=tuple(map(Path, args.configfile)), overrides=changed)


#: The workflow that started this job, set by ``lead_jobs``: its process id, its machine, and its own job under a scheduler.
WORKFLOW = "BEAMLORA_WORKFLOW"
#: What Slurm calls the job that a process runs in.
SCHEDULER_JOB = "SLURM_JOB_ID"


def lead_jobs() -> None:
    """Tell the jobs of this process whom to end with, and what a scheduler gave to it and not to them."""
    os.environ[WORKFLOW] = f"{os.getpid()} {_machine()} {os.environ.get(SCHEDULER_JOB, '-')}"


def has_own_allocation() -> bool:
    """Whether a scheduler started this job by itself, with devices of its own, and not the workflow beside itself."""
    started, own = os.environ.get(WORKFLOW), os.environ.get(SCHEDULER_JOB)
    return started is not None and own is not None and started.split()[2] != own


def _machine() -> str:
    """Where a process id names one process: a host from one start to the next, and a namespace of process ids on it."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{socket.gethostname()}/{boot}/{os.readlink('/proc/self/ns/pid')}"


def end_with_workflow() -> None:
    """End this process as soon as the workflow that started it on this machine has ended, however that ended. On another
    machine that is the scheduler's affair.

    Snakemake stops its jobs when it is interrupted, but not when it is killed; a job left behind would write to the same
    checkpoints as its successor. Ending at any moment is safe: it is what a kill does.
    """
    started = os.environ.get(WORKFLOW)
    if started is None:
        return
    pid, machine, _ = started.split()
    if machine != _machine():
        return
    try:
        workflow = os.pidfd_open(int(pid))
    except ProcessLookupError:
        print(f"ended: the workflow that started this job, process {pid}, is gone", file=sys.stderr, flush=True)
        os._exit(143)

    def wait() -> None:
        select.select([workflow], [], [])
        os._exit(143)

    threading.Thread(target=wait, daemon=True, name="end-with-workflow").start()


#: What every interrupted command says last.
INTERRUPTED = "interrupted; repeat the command to go on"
#: Bytes of free space with which whatever fails is put down to the disk.
_NO_ROOM = 1 << 20
#: Errors of the disk and not of a program: no room, no permission, no answer.
_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO})


#: What torch says of a file that it could not write, whatever the reason.
_TORCH = re.compile(r"unexpected pos \d+ vs \d+|PytorchStreamWriter failed writing")


def _fullest() -> tuple[Path, int]:
    """Of the folders that the command writes to, as far as its words name them, the one with the least room; its free bytes."""
    folders = {RESULTS if RESULTS.is_dir() else Path()}
    for word in sys.argv[1:]:
        with suppress(OSError, ValueError):  # no path: too long for one, or with a zero byte
            folders.add(nearest_existing(Path(word)))
    free = {folder: shutil.disk_usage(folder).free for folder in sorted(folders)}
    return min(free.items(), key=lambda item: item[1])


def disk_fault(error: BaseException) -> str | None:
    """What is wrong with the disk, where that is what an error comes from; None where it is not.

    torch and safetensors write files by themselves, and say of a full disk no more than that a position was unexpected.
    """
    if isinstance(error, OSError) and error.errno in _DISK and error.errno != errno.ENOSPC:
        return f"{error.filename or 'a file'}: {error.strerror}; put that right and repeat the command"
    folder, free = _fullest()
    full = (isinstance(error, OSError) and error.errno == errno.ENOSPC) or "No space left on device" in str(error)
    if full or free < _NO_ROOM:
        found, mend = "a full disk", "make room"
    elif _TORCH.search(str(error)):
        found, mend = "a file that could not be written", "see whether a quota or a limit on sizes of files is reached"
    else:
        return None
    said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    again = f"{mend} and repeat the command, which goes on from its last checkpoint"
    return f"{folder.resolve()}: found {found}, with {free / 2**20:.1f} MiB left ({said}); {again}"


def _nobody_reads() -> bool:
    """Whether standard output is a pipe whose reader, such as ``head``, has ended; then it leads nowhere from now on."""
    poll = select.poll()
    poll.register(sys.stdout, 0)
    gone = any(event & select.POLLERR for _, event in poll.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return gone


def run(main: Callable[[list[str] | None], int | None]) -> NoReturn:
    """Run a command's ``main`` and exit with its status.

    Bad input, or a disk that cannot be written, becomes one line on stderr and exit status 2, a run that the same command goes
    on with one and its own status (143 after SIGTERM); any other failure a traceback and exit status 1. A reader of the output
    that has seen enough is no failure to speak of: 141 (128 + 13), as of a process that SIGPIPE kills. In a workflow stderr
    goes to the job's log file, so the line is repeated on stdout, where the user looks.
    """
    end_with_workflow()
    try:
        with overhead.counted():
            status = main(None) or 0
        sys.stdout.flush()
    except ConfigError as error:
        status, line = 2, f"error: {error}"
        print(line, file=sys.stderr)
    except Unfinished as ended:
        status, line = ended.status, f"{ended}; repeat the command to go on"
        print(line, file=sys.stderr)
    except KeyboardInterrupt:
        status, line = 130, INTERRUPTED
        print(line, file=sys.stderr)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            sys.exit(141)
        fault = disk_fault(error)
        if fault is not None:
            status, line = 2, f"error: {fault}"
            print(line, file=sys.stderr)
        else:
            status, line = 1, f"failed: {type(error).__name__}: {' '.join(str(error).split())[:500]}"
            sys.excepthook(type(error), error, error.__traceback__)
    if status and status != 130 and progress.ENVIRONMENT_VARIABLE in os.environ:
        print(line, flush=True)
    sys.exit(status)
