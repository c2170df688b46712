"""Reading the fields of a record, with errors that name the set, the row and the field. No torch."""

from __future__ import annotations

from typing import Any

Record = dict[str, Any]


def field(record: Record, name: str, where: str) -> Any:
    """The value of ``name``.

    Raises:
        ValueError: it is missing; ``where`` (such as "gsm8k row 3") is named, and what was found instead.
    """
    try:
        return record[name]
    except (KeyError, TypeError):
        found = ", ".join(sorted(record)) if isinstance(record, dict) else type(record).__name__
        raise ValueError(f"{where}: field {name!r} is missing, found {found or 'no field'}") from None


def text(record: Record, name: str, where: str) -> str:
    """The text in ``name``.

    Raises:
        ValueError: it is missing or something else than text.
    """
    value = field(record, name, where)
    if not isinstance(value, str):
        raise ValueError(f"{where}: field {name!r}: found {type(value).__name__}, expected text")
    return value
