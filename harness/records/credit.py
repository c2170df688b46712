"""What an answer is worth, in one character: ``1`` a right answer, ``0`` a wrong one, and ``2`` to ``9`` the right one among as
many choices that tie, worth 1/2 to 1/9."""

from __future__ import annotations


def digit(correct: float) -> str:
    """The character of what an answer is worth.

    Raises:
        ValueError: it is neither 0 nor 1/k with k from 1 to 9.
    """
    sharing = round(1 / correct) if correct else 0
    if not 0 <= sharing <= 9 or (sharing and abs(correct * sharing - 1) > 1e-9):
        raise ValueError(f"correct: found {correct!r}, expected 0 or 1/k with k from 1 to 9")
    return str(sharing)


def credit(character: str) -> float:
    """What an answer with this character is worth.

    Raises:
        ValueError: it is no digit.
    """
    sharing = int(character)
    return 1 / sharing if sharing else 0.0
