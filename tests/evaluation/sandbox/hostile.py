"""Hostile programs as data, and what they are told about the machine that they attack."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

#: A program ought to define f(x) = x + 1; it is checked on values that it cannot guess.
INPUTS = ((41,), (-1,), (10**30,))
EXPECTED = (42, 0, 10**30 + 1)

#: For tests of what is the same on every level: one level by default.
each_level = pytest.mark.parametrize("box", ["bubblewrap", pytest.param("landlock", marks=pytest.mark.slow)], indirect=True)


@dataclass(frozen=True)
class Hostile:
    """A program that is right (passes) only where its attack succeeds, and the outcome that it must have instead.

    ``{folder}``, ``{secret}``, ``{pid}``, ``{port}`` and ``{abstract}`` in the source become the target's.
    """

    source: str
    outcome: str
    timeout_s: float = 10.0
    memory_mb: int = 256


def looping(source: str) -> Hostile:
    """One that does not end."""
    return Hostile(source, "timed_out", timeout_s=0.4)


def attempt(code: str) -> str:
    """A program that is right if ``code`` runs without an exception."""
    body = "\n".join("    " + line for line in code.split("\n"))
    return f"def attack():\n{body}\ndef f(x):\n    attack()\n    return x + 1\n"


def forbidden(code: str) -> Hostile:
    """An attack that the child's audit hook sees and names."""
    return Hostile(attempt(code), "forbidden")


#: Switches the audit hook off, as a program can that walks the frames of the process it runs in. What follows meets the
#: kernel's layers alone.
WITHOUT_HOOK = """
import sys
def free():
    frame = sys._getframe()
    while "FORBIDDEN_EVENTS" not in frame.f_globals:
        frame = frame.f_back
    frame.f_globals["FORBIDDEN_EVENTS"] = ()
    return frame.f_globals
def attack():
    found = free()
    found["isinstance"] = lambda *a: True
    try:
        attack_freely()
    finally:
        del found["isinstance"]
def syscall(number, *arguments):
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result
def f(x):
    attack()
    return x + 1
def attack_freely():
"""


def kernel(code: str, outcome: str = "failed") -> Hostile:
    """An attack behind the audit hook's back."""
    return Hostile(WITHOUT_HOOK + "\n".join("    " + line for line in code.split("\n")), outcome)


def system_call(number: int, *arguments: object) -> Hostile:
    """An attack by one x86-64 system call."""
    return kernel(f"syscall({', '.join(map(repr, (number, *arguments)))})")
