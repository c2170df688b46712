"""One evaluation example, and reading the fields of the record that it comes from. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.did_you_mean import suggestion

Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """A text whose log-likelihood after its context says how likely a choice is; a blank stands between the two."""

    context: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Example:
    """One evaluation example."""

    id: str
    #: What is asked; the input of a prompt template.
    query: str
    #: The final answer of math tasks, the label of commonsense tasks; None where tests decide.
    gold: str | None
    #: A correct response as fine-tuning data would write it; its negative log-likelihood is the continuous metric.
    reference: str
    #: The labels that the question offers, where it offers any.
    choices: tuple[str, ...] = ()
    #: Each choice as running text, where the set has that form.
    continuations: tuple[Continuation, ...] = ()


def field(record: Record, name: str, where: str) -> Any:
    """The value of ``name``.

    Raises:
        ValueError: it is missing; ``where`` (such as "gsm8k row 3") is named, and what was found instead.
    """
    try:
        return record[name]
    except (KeyError, TypeError):
        present = ", ".join(sorted(record)) if isinstance(record, dict) else type(record).__name__
        near = suggestion(name, record if isinstance(record, dict) else ())
        raise ValueError(f"{where}: field {name!r} is missing, found {present or 'no field'}{near and f'; {near}'}") from None


def text(record: Record, name: str, where: str) -> str:
    """The text in ``name``.

    Raises:
        ValueError: it is missing or something else than text.
    """
    value = field(record, name, where)
    if not isinstance(value, str):
        raise ValueError(f"{where}: field {name!r}: found {type(value).__name__}, expected text")
    return value
