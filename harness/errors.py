"""What ends a command with a line instead of a traceback. Standard library only."""

from __future__ import annotations


class ConfigError(ValueError):
    """Bad input, found before any expensive work. The message names the file and key, what was found and expected."""


class Preempted(Exception):
    """SIGTERM ended a run, and the same command goes on from what it saved."""
