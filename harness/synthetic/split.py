"""Which problems are held out, decided by a hash of the problem alone: no list to keep, no dependence on seed or order."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable

#: One problem in five is for evaluation only.
HELD_OUT_ONE_IN = 5


def is_held_out(problem: Hashable, *, one_in: int = HELD_OUT_ONE_IN) -> bool:
    """Whether ``problem`` (a value whose ``repr`` is canonical: strings, numbers, tuples of them) is for evaluation only.

    The wording, the names and the objects of a question are not part of its problem, so a held-out problem is unseen in
    every wording.
    """
    digest = hashlib.sha256(repr(problem).encode()).digest()
    return int.from_bytes(digest[:8], "big") % one_in == 0
