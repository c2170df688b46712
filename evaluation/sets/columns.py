"""A set of one's own without code: which columns of its records hold the prompt, the answer and the choices. No torch.

In the place of a ``format``'s name, for training and for evaluation alike::

    format: {prompt: question, answer: solution}
    format: {prompt: question, answer: key, choices: [a, b, c, d], answer_as: letter}

The prompt is the query as it stands. Choices are offered below it, and answered by their labels, as LLM-Adapters writes the
commonsense sets.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from evaluation.example import Record, field
from evaluation.sets.llm_adapters import multiple_choice, statement


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _distinct(columns: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(columns)) != len(columns):
        raise ValueError(f"found {', '.join(columns)}, expected each column once")
    return columns


@dataclass(frozen=True, kw_only=True)
class Read:
    """What a record says."""

    #: The prompt, and below it the choices where there are any.
    query: str
    #: What is trained on, and whose log-likelihood is measured: the answer, or the statement of the right choice's label.
    response: str
    #: The answer, or the right choice's label.
    gold: str
    prompt: str
    #: Labels and texts of the choices.
    labels: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()


class Columns(BaseModel):
    """Which column holds what."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: What sets that are read by their columns are called.
    name: ClassVar[str] = "own"

    prompt: str = Field(description="what is asked: text")
    answer: str = Field(description="text or a number")
    choices: Annotated[tuple[str, ...], BeforeValidator(_listed), AfterValidator(_distinct)] = Field(
        (), description="one column that holds a list, or a column for each choice"
    )
    answer_as: Literal["text", "letter", "from_0", "from_1"] = Field(
        "text", description="how the answer names one of the choices: its text, A, B, ..., or its number from 0 or from 1"
    )

    def __str__(self) -> str:
        return f"columns {', '.join((self.prompt, self.answer, *self.choices))}"

    @model_validator(mode="after")
    def _answers_name_choices(self) -> Columns:
        if self.answer_as != "text" and not self.choices:
            raise ValueError(f"answer_as: found {self.answer_as!r} without choices, expected the columns of choices too")
        return self

    def read(self, record: Record, where: str) -> Read:
        """The prompt, the answer and the choices of a record.

        Args:
            where: what errors begin with, such as "row 3".

        Raises:
            ValueError: a missing or empty column or one of another type, fewer than two choices or one twice, or an answer that
                is none of them.
        """
        prompt = field(record, self.prompt, where)
        if not isinstance(prompt, str):
            raise ValueError(f"{where}: field {self.prompt!r}: found {type(prompt).__name__}, expected text")
        prompt, answer = _text(prompt, self.prompt, where), _text(field(record, self.answer, where), self.answer, where)
        if not self.choices:
            return Read(query=prompt, prompt=prompt, response=answer, gold=answer)
        texts = self._texts(record, where)
        query, labels = multiple_choice("answer", prompt, texts)
        gold = labels[self._position(answer, texts, where)]
        return Read(query=query, prompt=prompt, response=statement(gold), gold=gold, labels=labels, texts=texts)

    def _texts(self, record: Record, where: str) -> tuple[str, ...]:
        if len(self.choices) > 1:
            texts = tuple(_text(field(record, name, where), name, where) for name in self.choices)
        else:
            (name,) = self.choices
            listed = field(record, name, where)
            if not isinstance(listed, list):
                raise ValueError(
                    f"{where}: field {name!r}: found {type(listed).__name__}, expected a list of choices; where each has "
                    "a column of its own, name all of them"
                )
            texts = tuple(_text(value, name, where) for value in listed)
        if len(texts) < 2 or len(set(texts)) < len(texts):
            names = " and ".join(map(repr, self.choices))
            raise ValueError(f"{where}: field {names}: found choices {list(texts)}, expected two or more that differ")
        return texts

    def _position(self, answer: str, texts: tuple[str, ...], where: str) -> int:
        """The right choice's place, from 0."""
        names = {
            "text": texts,
            "letter": tuple(string.ascii_uppercase),
            "from_0": tuple(map(str, range(len(texts)))),
            "from_1": tuple(map(str, range(1, len(texts) + 1))),
        }[self.answer_as][: len(texts)]
        if answer not in names:
            raise ValueError(
                f"{where}: field {self.answer!r}: found {answer!r}, expected one of {', '.join(map(repr, names))} "
                f"(answer_as: {self.answer_as})"
            )
        return names.index(answer)


def _text(value: Any, name: str, where: str) -> str:
    """Text as it is, a number as a person would write it."""
    if value is None or value != value or not str(value).strip():  # NaN is what tables call a missing number
        raise ValueError(f"{where}: field {name!r}: found nothing, expected text or a number")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{where}: field {name!r}: found {type(value).__name__}, expected text or a number")
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


#: What a set is read by: its name, or its columns.
Format = str | Columns
