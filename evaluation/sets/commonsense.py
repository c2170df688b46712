"""The eight commonsense sets: one record format, that of LLM-Adapters, and the instructions that it asks. No torch.

A record is ``{"instruction", "input", "output": "the correct answer is X", "answer": "X"}``, where X is one of the labels
that the instruction offers after "Answer format:". The hub has these sets in their own fields (``google/boolq``,
``ybisk/piqa``, ``lighteval/siqa``, ``Rowan/hellaswag``, ``allenai/winogrande``, ``allenai/ai2_arc``,
``allenai/openbookqa``); such a record is turned into the same instruction, character for character.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evaluation.sets.fields import Record, field, text

#: The eight sets, under the names of LLM-Adapters in our spelling.
COMMONSENSE = ("boolq", "piqa", "siqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa")
#: Format -> the word that its labels are made of and how many it may offer at most; BoolQ's labels are words themselves.
FAMILIES: dict[str, tuple[str, int]] = {
    "piqa": ("solution", 2),
    "siqa": ("answer", 5),
    "hellaswag": ("ending", 4),
    "winogrande": ("option", 2),
    "arc_easy": ("answer", 5),
    "arc_challenge": ("answer", 5),
    "openbookqa": ("answer", 5),
}
_FORMAT_MARK = "Answer format:"
_STATEMENT = "the correct answer is "


def labels_of(format: str) -> tuple[str, ...]:
    """Every label that LLM-Adapters' evaluation looks for in a completion of this set, in its order."""
    if format == "boolq":
        return ("true", "false")
    word, count = FAMILIES[format]
    return tuple(f"{word}{number}" for number in range(1, count + 1))


def statement(label: str) -> str:
    """The response that states a label."""
    return _STATEMENT + label


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A question with a closed set of answers."""

    instruction: str
    choices: tuple[str, ...]
    gold: str


def read(format: str, record: Record, where: str) -> Choice:
    """The question of a record, in LLM-Adapters' format or in that of the set on the hub.

    Raises:
        ValueError: a missing or malformed field; ``where`` is named.
    """
    if "instruction" not in record and _RAW[format][0] in record:
        return _RAW[format][1](record, where)
    instruction, gold = text(record, "instruction", where), text(record, "answer", where)
    if record.get("input"):
        raise ValueError(f"{where}: field 'input': found text, expected none (these sets ask in the instruction alone)")
    _, mark, offered = instruction.rpartition(_FORMAT_MARK)
    choices = tuple(offered.strip().split("/"))
    if not mark or len(choices) < 2 or not set(choices) <= set(labels_of(format)):
        raise ValueError(
            f"{where}: field 'instruction': found {offered.strip()[:60]!r} after {_FORMAT_MARK!r}, expected labels such as "
            f"{'/'.join(labels_of(format)[:2])}"
        )
    if gold not in choices:
        raise ValueError(f"{where}: field 'answer': found {gold!r}, expected one of {', '.join(choices)}")
    return Choice(instruction=instruction, choices=choices, gold=gold)


def training_pair(record: Record, where: str) -> tuple[str, str]:
    """(instruction, response) of a record of commonsense_170k, which mixes the eight sets."""
    if record.get("input"):
        raise ValueError(f"{where}: field 'input': found text, expected none (these sets ask in the instruction alone)")
    return text(record, "instruction", where), text(record, "output", where)


# ---------------------------------------------------------------------------------------------------- sets from the hub


def _listed(format: str, texts: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """The labels of ``texts``, and all texts in one line, each after its label: ``Answer1: ... Answer2: ...``."""
    word = FAMILIES[format][0]
    numbers = range(1, len(texts) + 1)
    labels = tuple(f"{word}{number}" for number in numbers)
    return labels, " ".join(f"{word.title()}{number}: {said}" for number, said in zip(numbers, texts, strict=True))


def _multiple_choice(format: str, question: str, texts: Sequence[str], gold: int, where: str, *, gap: str = "\n\n") -> Choice:
    """``gold`` counts from 0. ``gap`` stands between the answers and the format line."""
    labels, listed = _listed(format, texts)
    if not 0 <= gold < len(labels):
        raise ValueError(f"{where}: found label {gold + 1} of {len(labels)} answers, expected one of them")
    return Choice(
        instruction=f"{question}\n\n{listed}{gap}{_FORMAT_MARK} {'/'.join(labels)}", choices=labels, gold=labels[gold]
    )


def _number(record: Record, name: str, where: str, *, first: int) -> int:
    """A label that the hub writes as a number or as text, from 0. ``first`` is the number of the first answer."""
    value = field(record, name, where)
    try:
        return int(value) - first
    except (TypeError, ValueError):
        raise ValueError(f"{where}: field {name!r}: found {value!r}, expected the number of an answer") from None


def _boolq(record: Record, where: str) -> Choice:
    """Without the passage, as LLM-Adapters asks it."""
    answer = field(record, "answer", where)
    if not isinstance(answer, bool):
        raise ValueError(f"{where}: field 'answer': found {answer!r}, expected true or false")
    question = text(record, "question", where)
    return Choice(
        instruction=f"Please answer the following question with true or false, question: {question}?\n\n"
        f"{_FORMAT_MARK} true/false",
        choices=labels_of("boolq"),
        gold="true" if answer else "false",
    )


def _piqa(record: Record, where: str) -> Choice:
    gold = _number(record, "label", where, first=0)
    if gold not in (0, 1):
        raise ValueError(f"{where}: field 'label': found {gold}, expected 0 or 1")
    first, second = labels_of("piqa")
    return Choice(
        instruction=f"Please choose the correct solution to the question: {text(record, 'goal', where)}\n\n"
        f"Solution1: {text(record, 'sol1', where)}\n\nSolution2: {text(record, 'sol2', where)}\n\n"
        f"{_FORMAT_MARK} {first}/{second}",
        choices=(first, second),
        gold=(first, second)[gold],
    )


def _siqa(record: Record, where: str) -> Choice:
    question = f"{text(record, 'context', where)} {text(record, 'question', where)}"
    texts = [text(record, f"answer{letter}", where) for letter in "ABC"]
    gold = _number(record, "label", where, first=1)
    return _multiple_choice("siqa", f"Please choose the correct answer to the question: {question}", texts, gold, where)


def _hellaswag(record: Record, where: str) -> Choice:
    sentence = f"{text(record, 'activity_label', where)}: {text(record, 'ctx', where)}"
    return _multiple_choice(
        "hellaswag",
        f"Please choose the correct ending to complete the given sentence: {sentence}",
        [str(ending) for ending in field(record, "endings", where)],
        _number(record, "label", where, first=0),
        where,
    )


def _winogrande(record: Record, where: str) -> Choice:
    sentence = text(record, "sentence", where)
    return _multiple_choice(
        "winogrande",
        f"Please choose the correct answer to fill in the blank to complete the given sentence: {sentence}",
        [text(record, "option1", where), text(record, "option2", where)],
        _number(record, "answer", where, first=1),
        where,
        gap=" ",
    )


def _lettered(format: str, question_field: str) -> Callable[[Record, str], Choice]:
    """ARC and OpenBookQA: ``choices`` holds texts and labels (A, B, ... or 1, 2, ...), ``answerKey`` one of the labels."""

    def convert(record: Record, where: str) -> Choice:
        choices = field(record, "choices", where)
        texts, labels = field(choices, "text", where), field(choices, "label", where)
        key = text(record, "answerKey", where)
        if key not in labels:
            raise ValueError(f"{where}: field 'answerKey': found {key!r}, expected one of {', '.join(labels)}")
        question = f"Please choose the correct answer to the question: {text(record, question_field, where)}"
        return _multiple_choice(format, question, texts, list(labels).index(key), where)

    return convert


#: Format -> a field that only the hub's records have, and what turns such a record into a question.
_RAW: dict[str, tuple[str, Callable[[Record, str], Choice]]] = {
    "boolq": ("question", _boolq),
    "piqa": ("goal", _piqa),
    "siqa": ("context", _siqa),
    "hellaswag": ("endings", _hellaswag),
    "winogrande": ("sentence", _winogrande),
    "arc_easy": ("choices", _lettered("arc_easy", "question")),
    "arc_challenge": ("choices", _lettered("arc_challenge", "question")),
    "openbookqa": ("choices", _lettered("openbookqa", "question_stem")),
}
