"""How LLM-Adapters writes the eight commonsense sets, for training and for evaluation. No torch.

A record is ``{"instruction", "input", "output": "the correct answer is X", "answer": "X"}``, where X is one of the labels
that the instruction offers after "Answer format:".
"""

from __future__ import annotations

from collections.abc import Sequence

from evaluation.example import Record, text

#: What stands before the labels that an instruction offers.
FORMAT_MARK = "Answer format:"
#: The eight sets, under the names of LLM-Adapters in our spelling.
COMMONSENSE = ("boolq", "piqa", "siqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa")
#: Set -> the word that its labels are made of and how many it may offer at most; BoolQ's labels are words themselves.
FAMILIES: dict[str, tuple[str, int]] = {
    "piqa": ("solution", 2),
    "siqa": ("answer", 5),
    "hellaswag": ("ending", 4),
    "winogrande": ("option", 2),
    "arc_easy": ("answer", 5),
    "arc_challenge": ("answer", 5),
    "openbookqa": ("answer", 5),
}


def labels_of(name: str) -> tuple[str, ...]:
    """Every label that LLM-Adapters' evaluation looks for in a completion of this set, in its order."""
    if name == "boolq":
        return ("true", "false")
    word, count = FAMILIES[name]
    return tuple(f"{word}{number}" for number in range(1, count + 1))


def statement(label: str) -> str:
    """The response that states a label."""
    return f"the correct answer is {label}"


def multiple_choice(word: str, question: str, texts: Sequence[str], *, gap: str = "\n\n") -> tuple[str, tuple[str, ...]]:
    """The instruction that offers ``texts`` after a question, each after its label (``Answer1: ... Answer2: ...``), and the
    labels: ``word`` and a number from 1. ``gap`` stands between the texts and the format line."""
    labels = tuple(f"{word}{number}" for number in range(1, len(texts) + 1))
    listed = " ".join(f"{label.title()}: {said}" for label, said in zip(labels, texts, strict=True))
    return f"{question}\n\n{listed}{gap}{FORMAT_MARK} {'/'.join(labels)}", labels


def instruction(record: Record, where: str) -> str:
    """What a record asks.

    Raises:
        ValueError: it has no instruction, or an input beside it.
    """
    if record.get("input"):
        raise ValueError(f"{where}: field 'input': found text, expected none (these sets ask in the instruction alone)")
    return text(record, "instruction", where)


def training_pair(record: Record, where: str) -> tuple[str, str]:
    """(instruction, response) of a record of commonsense_170k, which mixes the eight sets."""
    return instruction(record, where), text(record, "output", where)
