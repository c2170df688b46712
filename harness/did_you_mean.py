"""What to say about a name that nothing goes by: the nearest one, or all of them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable


def suggestion(
    name: str, known: Iterable[str], *, most: int = 1, cutoff: float = 0.6, shown: Callable[[str], object] = str
) -> str:
    """``did you mean 'lora'?``, or nothing where no known name is near.

    Args:
        known: what is compared with ``name``.
        most: how many names to suggest.
        cutoff: from which similarity on, as ``difflib.get_close_matches`` measures it (0 to 1; 0.6 is its default).
        shown: what stands for a known name in the message.
    """
    near = difflib.get_close_matches(name, list(known), n=most, cutoff=cutoff)
    return f"did you mean {' or '.join(repr(str(shown(one))) for one in near)}?" if near else ""


def hint(name: str, known: Iterable[str]) -> str:
    """``did you mean 'lora'?``, or ``expected one of ...`` with all known names in their order."""
    known = list(known)
    return suggestion(name, known) or f"expected one of {', '.join(known)}"
