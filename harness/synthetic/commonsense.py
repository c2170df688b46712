"""Eight small sets in LLM-Adapters' record format, one for each commonsense set, asked in shortened instructions.

What fine-tuning teaches is which words and numbers go with which label: facts of a small world. A stand-in of a million
parameters that has seen 64 positions learns some of them in a few hundred steps, and stays at the floor of others; questions
are short for its sake, and answers keep their order.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from evaluation.sets.llm_adapters import FAMILIES, labels_of, statement
from harness.synthetic.records import Record, distinct
from harness.synthetic.split import is_held_out
from harness.synthetic.word_problems import ITEMS, NAMES


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A question; ``gold`` is the number of the right answer among ``answers``, from 1. ``key`` is what is asked."""

    key: Hashable
    question: str
    answers: tuple[str, ...]
    gold: int


#: Events after which somebody has more, less, or many times as much.
_EVENTS = (
    ("buys {n} more", "finds {n} more", "wins {n}"),
    ("sells {n}", "loses {n}", "gives away {n}"),
    ("has {n} times as many",),
)


def _boolq(rng: random.Random) -> Problem:
    """Whether the second of two numbers is larger."""
    before, after = rng.sample(range(1, 13), 2)
    name, item = rng.choice(NAMES), rng.choice(ITEMS)
    return Problem(
        key=("boolq", before, after),
        question=f"{name} has {before} {item}, then {after}, is that more?",
        answers=("", ""),
        gold=1 if after > before else 2,
    )


def _piqa(rng: random.Random) -> Problem:
    """Which event leads from one number of things to another."""
    before, after = rng.sample(range(1, 13), 2)
    name, item = rng.choice(NAMES), rng.choice(ITEMS)
    return Problem(
        key=("piqa", before, after),
        question=f"{name} has {before} {item}. {name} then has {after}.",
        answers=("gets", "loses"),
        gold=1 if after > before else 2,
    )


def _siqa(rng: random.Random) -> Problem:
    """How somebody feels after getting things, losing some, or neither."""
    name, item, gold, n = rng.choice(NAMES), rng.choice(ITEMS), rng.randint(1, 3), rng.randint(1, 20)
    event = rng.choice(_EVENTS[gold - 1]).format(n=n) if gold < 3 else f"keeps {n}"
    return Problem(
        key=("siqa", name, item, gold, n), question=f"{name} {event} {item}.", answers=("glad", "sad", "calm"), gold=gold
    )


def _hellaswag(rng: random.Random) -> Problem:
    """How a story of one event ends: with more things, fewer, many times as many, or none."""
    name, item, gold, n = rng.choice(NAMES), rng.choice(ITEMS), rng.randint(1, 4), rng.randint(2, 9)
    event = rng.choice(_EVENTS[gold - 1]).format(n=n) if gold < 4 else "gives away all"
    start = rng.randint(1, 12)
    return Problem(
        key=("hellaswag", name, start, item),
        question=f"{name} has {start} {item}. {name} {event}.",
        answers=("",) * 4,
        gold=gold,
    )


def _winogrande(rng: random.Random) -> Problem:
    """Which of two names fills the blank."""
    first, second = rng.sample(NAMES, 2)
    a, b = rng.sample(range(1, 21), 2)
    item = rng.choice(ITEMS)
    return Problem(
        key=("winogrande", a, b),
        question=f"{first} has {a} {item} and {second} has {b}, so _ has more.",
        answers=(first, second),
        gold=1 if a > b else 2,
    )


def _arc_easy(rng: random.Random) -> Problem:
    """Between which tens a number lies."""
    name, item, n = rng.choice(NAMES), rng.choice(ITEMS), rng.randint(1, 39)
    return Problem(key=("arc_easy", item, n), question=f"{name} has {n} {item}.", answers=("",) * 4, gold=1 + n // 10)


def _arc_challenge(rng: random.Random) -> Problem:
    """Between which tens a sum lies."""
    name, item, a, b = rng.choice(NAMES), rng.choice(ITEMS), rng.randint(1, 20), rng.randint(1, 19)
    return Problem(
        key=("arc_challenge", a, b), question=f"{name} has {a} + {b} {item}.", answers=("",) * 4, gold=1 + (a + b) // 10
    )


#: Description (the words of the pre-training corpus) and operator.
_CODE = (("add {n} to x", "+"), ("subtract {n} from x", "-"), ("multiply x by {n}", "*"))


def _openbookqa(rng: random.Random) -> Problem:
    """Which operator does what a description says."""
    gold, n, name = rng.randrange(len(_CODE)), rng.randint(1, 99), rng.choice(NAMES)
    return Problem(
        key=("openbookqa", gold, n),
        question=f"{name} is to {_CODE[gold][0].format(n=n)}.",
        answers=tuple(code for _, code in _CODE),
        gold=gold + 1,
    )


_DRAWS: dict[str, Callable[[random.Random], Problem | None]] = {
    "boolq": _boolq,
    "piqa": _piqa,
    "siqa": _siqa,
    "hellaswag": _hellaswag,
    "winogrande": _winogrande,
    "arc_easy": _arc_easy,
    "arc_challenge": _arc_challenge,
    "openbookqa": _openbookqa,
}


def _record(format: str, problem: Problem) -> Record:
    """In LLM-Adapters' layout: the question, the answers after their labels, the labels."""
    word = "" if format == "boolq" else FAMILIES[format][0]
    labels = tuple(f"{word}{number}" for number in range(1, len(problem.answers) + 1)) if word else labels_of(format)
    listed = " ".join(f"{label.title()}: {answer}" for label, answer in zip(labels, problem.answers, strict=True) if answer)
    instruction = f"{problem.question}\n\n{listed}" if listed else problem.question
    gold = labels[problem.gold - 1]
    return {
        "instruction": f"{instruction}\n\nAnswer format: {'/'.join(labels)}",
        "input": "",
        "output": statement(gold),
        "answer": gold,
    }


def _generate(name: str, formats: Sequence[str], rows: int, seed: int, *, held_out: bool) -> list[Record]:
    rng = random.Random(f"{name}/{seed}")

    def draw() -> tuple[str, Record] | None:
        format = rng.choice(formats)
        problem = _DRAWS[format](rng)
        if problem is None or is_held_out(problem.key) != held_out:
            return None
        record = _record(format, problem)
        return record["instruction"], record

    return distinct(rows, draw)


def training(rows: int, seed: int) -> list[Record]:
    """Fine-tuning records of all eight sets, mixed, as in commonsense_170k."""
    return _generate("commonsense", tuple(_DRAWS), rows, seed, held_out=False)


def evaluation(format: str) -> Callable[[int, int], list[Record]]:
    """The generator of one set's held-out records."""
    return lambda rows, seed: _generate(format, (format,), rows, seed, held_out=True)
