"""Arithmetic that the stand-in models can learn: small numbers, three operators, results that are never negative."""

from __future__ import annotations

import random

from harness.synthetic.split import is_held_out

OPERATORS = ("+", "-", "*")
#: Of a step in a problem. Bare equations of the pre-training corpus go further, which makes the pattern of the units plain.
LARGEST_RESULT = 20
LARGEST_BARE_RESULT = 30
LARGEST_FACTOR = 5
#: One sum or difference in ten never occurs in pre-training, alone or inside a text; they measure the base model. The few
#: products can only be memorised.
EQUATION_HELD_OUT_ONE_IN = 10

_APPLY = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}


def apply(a: int, operator: str, b: int) -> int:
    """The value of ``a operator b``."""
    return _APPLY[operator](a, b)


def equation(a: int, operator: str, b: int) -> str:
    """``a operator b = value``, the one way in which all texts write an equation."""
    return f"{a} {operator} {b} = {apply(a, operator, b)}"


def operand(rng: random.Random, a: int, operator: str, *, largest: int = LARGEST_RESULT) -> int | None:
    """A right operand that keeps ``a operator b`` in 1..``largest``, or None where there is none."""
    if operator == "*":
        highest = min(LARGEST_FACTOR, largest // max(a, 1))
        return rng.randint(2, highest) if highest >= 2 and 2 <= a <= 9 else None
    highest = min(9, a - 1 if operator == "-" else largest - a)
    return rng.randint(1, highest) if highest >= 1 else None


def equation_is_held_out(a: int, operator: str, b: int) -> bool:
    """Whether the equation is kept out of pre-training."""
    return operator != "*" and is_held_out((a, operator, b), one_in=EQUATION_HELD_OUT_ONE_IN)


def all_equations(*, largest: int = LARGEST_BARE_RESULT) -> list[tuple[int, str, int]]:
    """Every equation with a result (for a difference: a left operand) up to ``largest``, in a fixed order."""
    additions = [(a, "+", b) for a in range(1, largest) for b in range(1, min(9, largest - a) + 1)]
    subtractions = [(a, "-", b) for a in range(2, largest + 1) for b in range(1, min(9, a - 1) + 1)]
    products = [(a, "*", b) for a in range(2, 10) for b in range(2, LARGEST_FACTOR + 1) if a * b <= largest]
    return additions + subtractions + products
