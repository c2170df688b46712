"""How a workflow ends on the terminal: its last lines are what is wrong and what to type next, whatever failed. No torch.

Snakemake's own last lines are a CalledProcessError for each job, or a traceback through the Snakefile.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from snakemake_interface_logger_plugins.common import LogEvent

from harness.cli import INTERRUPTED
from harness.errors import ConfigError

#: Failed jobs that are shown by name and words; of more only the number.
_SHOWN = 3
NOTHING_SAID = "ended without a word, as a process does that is killed (out of memory?)"


def refuse(reason: object) -> NoReturn:
    """End a workflow before its first job, with one line. At once, since Snakemake has a traceback for a SystemExit."""
    sys.stdout.flush()
    print(f"error: {reason}", file=sys.stderr, flush=True)
    os._exit(2)


def or_refuse(ask: Callable[..., Any], *arguments: str) -> Callable[[Any], Any]:
    """An input function: the files that ``ask`` gives, or the end of the workflow where the experiment has none."""

    def files(wildcards: Any) -> Any:
        try:
            return ask(*arguments)
        except ConfigError as error:
            refuse(error)

    return files


def end_when_interrupted() -> None:
    """Let Ctrl-C end this process as a kill would. Its jobs end with it (``cli.end_with_workflow``), and the next workflow
    goes on from there; Snakemake would wait for them, and show a traceback for each. Nothing is said after the last line,
    neither by Snakemake's threads nor by the jobs' shells, which tell of each killed command and so are killed first."""

    def interrupted(number: int, frame: FrameType | None) -> None:
        terminal, nowhere = os.dup(sys.stderr.fileno()), os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(nowhere, stream)
        for listed in Path("/proc/self/task").glob("*/children"):
            for child in map(int, listed.read_text().split()):
                with contextlib.suppress(OSError):  # it has just ended by itself
                    if Path(f"/proc/{child}/comm").read_text() == "bash\n":
                        os.kill(child, signal.SIGKILL)
        os.write(terminal, f"\n{INTERRUPTED}\n".encode())
        os._exit(130)

    signal.signal(signal.SIGINT, interrupted)


def leave_interrupts_to_snakemake() -> None:
    """Let Ctrl-C end the jobs of a cluster, which outlive this process: Snakemake asks its scheduler to cancel them."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def last_words(log: Path) -> str:
    """What a command that failed said last, in its log: ``cli.run``'s line, or that of an exception."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:500].removeprefix("error: ") if lines else NOTHING_SAID


class Failures(logging.Handler):
    """Notes the jobs that failed, from Snakemake's events, and names them when the process ends."""

    def __init__(self, logs: Path) -> None:
        """``logs``: the folder of the jobs' logs."""
        super().__init__()
        self._logs = logs
        self._failed: dict[str, Path] = {}
        atexit.register(self.tell)

    def emit(self, record: Any) -> None:
        """``record``: a ``logging.LogRecord`` with the fields that Snakemake gives to its event."""
        if getattr(record, "event", None) == LogEvent.JOB_ERROR:
            for log in map(Path, record.log):
                name = log.relative_to(self._logs) if log.is_relative_to(self._logs) else log
                self._failed[str(name.with_suffix(""))] = log

    def tell(self) -> None:
        """Print what failed, why, and the command that goes on."""
        if not self._failed:
            return
        lines = [f"{name}: {last_words(log)} ({log})" for name, log in self._failed.items()]
        more = len(lines) - _SHOWN
        shown = [*lines[:_SHOWN], *([f"and {more} more"] if more > 0 else [])]
        print("", *(f"failed: {line}" for line in shown), f"next: {repeat_command()}", sep="\n", file=sys.stderr, flush=True)


def repeat_command() -> str:
    """What to do about a failure."""
    command = shlex.join(["snakemake", *sys.argv[1:]])
    return f"put that right and repeat the command, which keeps what is finished: {command}"
