"""What ends a command with a line instead of a traceback. Standard library only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

#: Keys from the top of an experiment, list positions as integers.
KeyPath = tuple[str | int, ...]


class ConfigError(ValueError):
    """Bad input, found before any expensive work. The message names the file and key, what was found and expected."""

    def __init__(self, message: object = "", *, keys: KeyPath = (), place: str = "") -> None:
        """Args:
        message: what was found and expected.
        keys: where in an experiment that stands; ``harness.experiment.yaml_file.placed`` finds the file and line.
        place: the file, and line, if it is known.
        """
        self.message, self.keys, self.place = str(message), keys, place
        shown = ".".join(" ".join(str(key).split()) for key in keys)
        super().__init__(": ".join(part for part in (place, shown, self.message) if part))


@contextmanager
def within(*keys: str | int) -> Iterator[None]:
    """Say of what goes wrong meanwhile under which keys of an experiment it stands.

    Raises:
        ConfigError: for any ValueError.
    """
    try:
        yield
    except ValueError as error:
        inner = error if isinstance(error, ConfigError) else ConfigError(error)
        raise ConfigError(inner.message, keys=(*keys, *inner.keys)) from error


class Preempted(Exception):
    """SIGTERM ended a run, and the same command goes on from what it saved."""
