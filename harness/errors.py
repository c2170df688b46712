"""What ends a command with a line instead of a traceback. Standard library only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

#: Keys from the top of an experiment, list positions as integers.
KeyPath = tuple[str | int, ...]


class ConfigError(ValueError):
    """Bad input, found before any expensive work. The message names the file and key, what was found and expected."""

    def __init__(self, message: object = "", *, keys: KeyPath = (), beside: Sequence[KeyPath] = (), place: str = "") -> None:
        """Args:
        message: what was found and expected.
        keys: where in an experiment that stands; ``harness.experiment.yaml_file.placed`` finds the file and line.
        beside: other keys that it does not fit together with, any of which may be the wrong one.
        place: the file, and line, if it is known.
        """
        self.message, self.keys, self.beside, self.place = str(message), keys, tuple(beside), place
        super().__init__(": ".join(part for part in (place, dotted(keys), self.message) if part))


def dotted(keys: KeyPath) -> str:
    """Keys as a message shows them."""
    return ".".join(" ".join(str(key).split()) for key in keys)


@contextmanager
def within(*keys: str | int, beside: Sequence[KeyPath] = ()) -> Iterator[None]:
    """Say of what goes wrong meanwhile under which keys of an experiment it stands, and with which others it does not fit.

    Raises:
        ConfigError: for any ValueError.
    """
    try:
        yield
    except ValueError as error:
        inner = error if isinstance(error, ConfigError) else ConfigError(error)
        raise ConfigError(inner.message, keys=(*keys, *inner.keys), beside=(*inner.beside, *beside)) from error


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
