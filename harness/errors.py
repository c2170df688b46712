"""What ends a command with a line instead of a traceback. Standard library only."""

from __future__ import annotations


class ConfigError(ValueError):
    """Bad input, found before any expensive work. The message names the file and key, what was found and expected."""


class Unfinished(Exception):
    """A run ended before its last step, and the same command goes on from what it saved."""

    #: The exit status of the command.
    status: int


class Preempted(Unfinished):
    """SIGTERM ended it."""

    status = 143  # 128 + 15, as of a process that SIGTERM kills


class OutOfMemory(Unfinished):
    """Memory ran out on one of several processes, and was noted beside the checkpoints."""

    status = 75  # sysexits' EX_TEMPFAIL
