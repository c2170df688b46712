"""Whether the hub answers, and whether it may be asked. Nothing is imported from its client before that is needed."""

from __future__ import annotations

import functools
import socket
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from harness.errors import ConfigError

#: How long a hub may take to accept a connection. Its client would try again for half a minute.
ANSWER_S = 3.0


def reachable(url: str, *, within_s: float) -> bool:
    """Whether something accepts connections there, or where a proxy is set for it. In a thread, since looking up a name knows
    no time-out."""
    parts = urllib.parse.urlsplit(url)
    if not urllib.request.proxy_bypass(parts.hostname or ""):
        parts = urllib.parse.urlsplit(urllib.request.getproxies().get(parts.scheme, url))
    port = parts.port or {"http": 80}.get(parts.scheme, 443)
    answered = threading.Event()

    def connect() -> None:
        try:
            socket.create_connection((parts.hostname or "", port), timeout=within_s).close()
        except OSError:
            return
        answered.set()

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(within_s)
    return answered.is_set()


@functools.cache  # a process asks for each of its models and sets
def _answers(url: str) -> bool:
    return reachable(url, within_s=ANSWER_S)


def offline() -> bool:
    """Whether the environment forbids the network (``HF_HUB_OFFLINE``)."""
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def require_answer() -> None:
    """Refuse to wait for a hub that does not answer.

    Raises:
        ConfigError: it is needed, since the environment does not forbid it, and accepts no connection.
    """
    from huggingface_hub import constants

    if not offline() and not _answers(constants.ENDPOINT):
        raise ConfigError(
            f"{constants.ENDPOINT} cannot be reached; expected network, or HF_HUB_OFFLINE=1 and the files that "
            f"'beamlora fetch' downloads where there is some, below {constants.HF_HOME} (HF_HOME)"
        )


@contextmanager
def named_failures(name: str, *, expected: str) -> Iterator[None]:
    """Turn what the hub's clients raise, a dozen unrelated classes, into one line that names a repository."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"{name}: cannot be read from the hub: {reason}; expected {expected}") from error
