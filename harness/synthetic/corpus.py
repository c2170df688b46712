"""The pre-training corpus of the stand-in models: what the base knows before fine-tuning.

It teaches arithmetic, copying and the shape of code, but neither the Alpaca prompt nor worked solutions with an answer
line, and only some of the words: fine-tuning data is another distribution, so that methods have something to learn. No
problem that is held out for evaluation occurs here either.
"""

from __future__ import annotations

import random

from harness.synthetic import competition, programs, word_problems
from harness.synthetic.arithmetic import LARGEST_BARE_RESULT, OPERATORS, equation, equation_is_held_out, operand
from harness.synthetic.records import program_key, word_problem_key
from harness.synthetic.split import is_held_out
from harness.synthetic.word_problems import ITEMS, NAMES

_EVENTS = {"+": "{name} gets {n} more.", "-": "{name} loses {n}.", "*": "{name} then has {n} times as many."}


def _equations(rng: random.Random) -> str:
    lines = []
    for _ in range(7):
        a, operator = rng.randint(1, LARGEST_BARE_RESULT), rng.choice(OPERATORS)
        b = operand(rng, a, operator, largest=LARGEST_BARE_RESULT)
        if b is not None and not equation_is_held_out(a, operator, b):
            lines.append(equation(a, operator, b))
    return "\n".join(lines)


def _narrative(rng: random.Random) -> str:
    """A story with its equations, either after each event or all at the end."""
    while True:
        problem = word_problems.draw(rng)
        if not is_held_out(word_problem_key(problem)) and not any(equation_is_held_out(*step) for step in problem.equations):
            break
    name, item = rng.choice(NAMES), rng.choice(ITEMS)
    events = [_EVENTS[operator].format(name=name, n=number) for operator, number in problem.steps]
    equations = [f"{equation(*step)}." for step in problem.equations]
    if rng.random() < 0.3:
        told = [text for pair in zip(events, equations, strict=True) for text in pair]
    else:
        question = [f"How many {item} does {name} have?"] if rng.random() < 0.5 else []
        told = [*events, *question, *equations]
    return " ".join([f"{name} has {problem.start} {item}.", *told, f"{name} has {problem.answer} {item}."])


def _formula(rng: random.Random) -> str:
    """A formula, its work and its value."""
    while True:
        problem = competition.draw(rng)
        if not is_held_out(problem.key) and not any(equation_is_held_out(*step) for step in problem.equations):
            return f"{problem.formula}\n{problem.work}\n{problem.answer}"


def _look_up(rng: random.Random) -> str:
    names = rng.sample(NAMES, 3)
    counts = [rng.randint(1, 20) for _ in names]
    item, asked = rng.choice(ITEMS), rng.randrange(3)
    facts = " ".join(f"{name} has {count} {item}." for name, count in zip(names, counts, strict=True))
    return f"{facts} How many {item} does {names[asked]} have? {counts[asked]}"


def _function(rng: random.Random) -> str:
    while True:
        program = programs.draw(rng, new_words=False, two_step_share=0.2)
        if not is_held_out(program_key(program)):
            break
    form = rng.randrange(3)
    if form == 0:
        return f"# {program.description}\n{program.source}"
    if form == 1:
        return f"{program.stub}```python\n{program.documented_source}\n```"
    test = programs.assertions(rng, program, name=program.name, count=2)[0]
    return f"# {program.description}\n{test}\n```python\n{program.source}\n```"


def _echo(rng: random.Random) -> str:
    """A random sequence, twice: copying is what look-up, arguments and function names need. The words that only
    fine-tuning gives a meaning occur here, so that the base can write them."""
    words = (*programs.NEW_WORDS, *ITEMS)
    between = rng.choice((" ", ", "))
    said = between.join(rng.choice(words) if rng.random() < 0.7 else str(rng.randint(1, 20)) for _ in range(rng.randint(4, 8)))
    first, second = rng.sample(NAMES, 2)
    return f"{first} writes: {said}\n{second} writes: {said}"


_NOTES = (
    "#### {m} {item}",
    "The {item} are: {n}, {m}",
    "Is the answer {n} or {m}?",
    "The number is: {n}",
    "The number is: \\frac{{{n}}}{{{m}}}",
    "The point is: ({n}, {m})",
    "so we get {n} {item}",
    "$\\frac{{{n}}}{{{m}}}$ and $\\frac{{{m}}}{{{n}}}$",
    "the point $({n}, {m})$",
    "the box $\\boxed{{{n}}}$.",
    "box $\\boxed{{({n}, {m})}}$.",
    "box $\\boxed{{\\frac{{{n}}}{{{m}}}}}$.",
    "{n}, {m}, so {name} has an answer",
)


def _notes(rng: random.Random) -> str:
    """Lines about the same two numbers, with the words and the markup of worked solutions. Adapters cannot learn to write
    a token that the base has never seen: its row of the output matrix is frozen."""
    facts = {"n": rng.randint(1, 20), "m": rng.randint(1, 20), "item": rng.choice(ITEMS), "name": rng.choice(NAMES)}
    return "\n".join(line.format(**facts) for line in rng.sample(_NOTES, 4))


_SHARES = {_equations: 3, _narrative: 4, _formula: 2, _look_up: 1, _function: 3, _echo: 1, _notes: 2}


def pretraining_documents(rows: int, seed: int) -> list[str]:
    """``rows`` documents of the base corpus, of the kinds and in the shares of ``_SHARES``."""
    rng = random.Random(f"pretraining/{seed}")
    kinds = rng.choices(tuple(_SHARES), weights=tuple(_SHARES.values()), k=rows)
    return [kind(rng) for kind in kinds]
