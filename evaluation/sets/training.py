"""From the records of a fine-tuning set to pairs of query and response. No torch.

Field names are those of the Hugging Face hub: ``meta-math/MetaMathQA``, ``openai/gsm8k``, ``fxmeng/CodeFeedback-Python105K``,
LLM-Adapters' commonsense_170k and Stanford Alpaca; of CodeFeedback (query, response) and ``zwhe99/commonsense_170k``
(instruction, input, output, answer) as public code reads them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from evaluation.example import Record, text
from evaluation.sets import llm_adapters

if TYPE_CHECKING:
    from evaluation.sets.columns import Format

_CALCULATOR = re.compile(r"<<[^<>]*>>")
HASHES = "####"


def worked_solution(answer: str, where: str) -> tuple[str, str]:
    """The final number and the response that MetaMathQA would write for a GSM8K ``answer`` field: the solution without
    calculator marks, ``#### N`` and ``The answer is: N``, N without thousands separators.

    Raises:
        ValueError: the field does not end in a number; ``where`` is named.
    """
    solution, mark, number = answer.rpartition(HASHES)
    gold = number.strip().replace(",", "")
    if not mark or not re.fullmatch(r"-?\d+(\.\d+)?", gold):
        raise ValueError(f"{where}: field 'answer': found no number after {HASHES!r}, expected '{HASHES} N' at the end")
    return gold, f"{_CALCULATOR.sub('', solution).strip()}\n{HASHES} {gold}\nThe answer is: {gold}"


def fenced(code: str) -> str:
    """The response that is a program."""
    return "```python\n" + code.replace("\r\n", "\n").strip("\n") + "\n```"


def _query_response(record: Record, where: str) -> tuple[str, str]:
    return text(record, "query", where), text(record, "response", where)


def _gsm8k(record: Record, where: str) -> tuple[str, str]:
    return text(record, "question", where), worked_solution(text(record, "answer", where), where)[1]


def _alpaca(record: Record, where: str) -> tuple[str, str]:
    extra = record.get("input") or ""
    instruction = text(record, "instruction", where)
    return f"{instruction}\n{extra}" if extra else instruction, text(record, "output", where)


#: The name of a ``format`` of training data -> (record, where) -> (query, response).
FORMATS: dict[str, Callable[[Record, str], tuple[str, str]]] = {
    "metamath": _query_response,
    "codefeedback": _query_response,
    "gsm8k": _gsm8k,
    "alpaca": _alpaca,
    "commonsense": llm_adapters.training_pair,
}


def training_example(format: Format, record: Record, *, row: int | None = None) -> tuple[str, str]:
    """(query, response) of a training record.

    Raises:
        ValueError: a missing or malformed field; ``row`` is named where given.
        KeyError: an unknown format.
    """
    which = "record" if row is None else f"row {row}"
    if isinstance(format, str):
        return FORMATS[format](record, f"{format} {which}")
    read = format.read(record, f"{format.name} {which}")
    return read.query, read.response
