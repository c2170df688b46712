"""The eight commonsense sets: one record format, that of LLM-Adapters, and the instructions that it asks. No torch.

The hub has these sets in their own fields (``google/boolq``, ``baber/piqa``, ``lighteval/siqa``, ``Rowan/hellaswag``,
``allenai/winogrande``, ``allenai/ai2_arc``, ``allenai/openbookqa``); such a record is turned into the same instruction as
LLM-Adapters' (``evaluation.sets.llm_adapters``), character for character.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evaluation.example import Example, Record, field, text
from evaluation.graders.choices import PER_CHARACTER
from evaluation.graders.labels import LOGLIKELIHOOD, label_graders
from evaluation.sets.base import EvaluationSet
from evaluation.sets.llm_adapters import FAMILIES, FORMAT_MARK, instruction, labels_of, multiple_choice, statement
from evaluation.sets.prompts import CONTINUATION
from evaluation.sets.running_text import continuations

#: What LLM-Adapters' instructions put around each question.
_INSTRUCTION = re.compile(r"^Please [^:]*: (.*?)\s*Answer format: \S*\s*$", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A question with a closed set of answers."""

    instruction: str
    choices: tuple[str, ...]
    gold: str


def _adapted(name: str, record: Record, where: str) -> Choice:
    """The question of a record in LLM-Adapters' format."""
    asked, gold = instruction(record, where), text(record, "answer", where)
    _, mark, offered = asked.rpartition(FORMAT_MARK)
    choices = tuple(offered.strip().split("/"))
    if not mark or len(choices) < 2 or not set(choices) <= set(labels_of(name)):
        raise ValueError(
            f"{where}: field 'instruction': found {offered.strip()[:60]!r} after {FORMAT_MARK!r}, expected labels such as "
            f"{'/'.join(labels_of(name)[:2])}"
        )
    if gold not in choices:
        raise ValueError(f"{where}: field 'answer': found {gold!r}, expected one of {', '.join(choices)}")
    return Choice(instruction=asked, choices=choices, gold=gold)


# ---------------------------------------------------------------------------------------------------- sets from the hub


def _multiple_choice(format: str, question: str, texts: Sequence[str], gold: int, where: str, *, gap: str = "\n\n") -> Choice:
    """``gold`` counts from 0. ``gap`` stands between the answers and the format line."""
    asked, labels = multiple_choice(FAMILIES[format][0], question, texts, gap=gap)
    if not 0 <= gold < len(labels):
        raise ValueError(f"{where}: found label {gold + 1} of {len(labels)} answers, expected one of them")
    return Choice(instruction=asked, choices=labels, gold=labels[gold])


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
        f"{FORMAT_MARK} true/false",
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
        f"{FORMAT_MARK} {first}/{second}",
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


# -------------------------------------------------------------------------------------------------------------- the sets


def _question(example: Example) -> str:
    """What stands between the fixed first and last words of the instruction."""
    match = _INSTRUCTION.match(example.query)
    return match[1] if match else example.query


#: Where lm-eval's tasks do not divide a choice's log-likelihood by its length.
_SUMS = ("boolq", "siqa", "winogrande")


def _set(name: str, label: str, hub_field: str, convert: Callable[[Record, str], Choice]) -> EvaluationSet:
    """One of the eight.

    Args:
        hub_field: a field that only the hub's records have.
        convert: turns such a record into a question.
    """

    def read(record: Record, row: int, where: str) -> Example:
        in_hub_form = "instruction" not in record and hub_field in record
        question = convert(record, where) if in_hub_form else _adapted(name, record, where)
        return Example(
            id=f"{name}/{row}",
            query=question.instruction,
            gold=question.gold,
            reference=statement(question.gold),
            choices=question.choices,
            continuations=continuations(name, question.instruction, question.choices),
        )

    return EvaluationSet(
        name=name,
        label=label,
        read=read,
        graders=label_graders(labels_of(name)),
        protocols={
            "sound": {"prompt_template": "commonsense", "max_new_tokens": 32, "grader": "label", "score_choices": True},
            "paper": {
                "prompt_template": "commonsense-evaluation",
                "max_new_tokens": 32,
                "grader": "llm_adapters",
                "num_beams": 4,
            },
            "continuation": {
                "prompt_template": CONTINUATION,
                "max_new_tokens": 0,
                "grader": LOGLIKELIHOOD if name in _SUMS else PER_CHARACTER,
                "score_choices": True,
            },
        },
        statement=statement,
        core=_question,
        paper_domain="commonsense",
    )


#: In the order of the paper's Table 2.
SETS = (
    _set("arc_challenge", "ARC-c", "choices", _lettered("arc_challenge", "question")),
    _set("siqa", "SIQA", "context", _siqa),
    _set("winogrande", "WinoGrande", "sentence", _winogrande),
    _set("boolq", "BoolQ", "question", _boolq),
    _set("arc_easy", "ARC-e", "choices", _lettered("arc_easy", "question")),
    _set("piqa", "PIQA", "goal", _piqa),
    _set("openbookqa", "OBQA", "choices", _lettered("openbookqa", "question_stem")),
    _set("hellaswag", "HellaSwag", "endings", _hellaswag),
)
