"""Word problems with one or two steps, in the record formats of GSM8K and of MetaMathQA's GSM8K part."""

from __future__ import annotations

import random
from dataclasses import dataclass

from harness.synthetic.arithmetic import OPERATORS, apply, equation, operand

NAMES = ("Tom", "Ann", "Sam", "Eve", "Max", "Zoe")
ITEMS = ("cups", "pens", "eggs", "nuts", "hats", "figs")
_STEP = {
    "+": ("buys {n} more", "finds {n} more", "wins {n}"),
    "-": ("sells {n}", "loses {n}", "gives away {n}"),
    "*": ("then has {n} times as many",),
}
TWO_STEP_SHARE = 0.5


@dataclass(frozen=True, kw_only=True)
class WordProblem:
    """``start`` things, then steps (operator, number)."""

    start: int
    steps: tuple[tuple[str, int], ...]

    @property
    def equations(self) -> tuple[tuple[int, str, int], ...]:
        """The work, in order: (value so far, operator, number)."""
        value, equations = self.start, []
        for operator, number in self.steps:
            equations.append((value, operator, number))
            value = apply(value, operator, number)
        return tuple(equations)

    @property
    def answer(self) -> int:
        return apply(*self.equations[-1])


def draw(rng: random.Random) -> WordProblem:
    """A random problem whose every intermediate value is in range."""
    wanted = 2 if rng.random() < TWO_STEP_SHARE else 1
    while True:
        start = value = rng.randint(2, 12)
        steps: list[tuple[str, int]] = []
        for _ in range(wanted):
            operator = rng.choice(OPERATORS)
            number = operand(rng, value, operator)
            if number is None:
                break
            steps.append((operator, number))
            value = apply(value, operator, number)
        if len(steps) == wanted:
            return WordProblem(start=start, steps=tuple(steps))


@dataclass(frozen=True, kw_only=True)
class Story:
    """The wording of a problem: who, what, and which verb for each step."""

    name: str
    item: str
    verbs: tuple[str, ...]


def tell(rng: random.Random, problem: WordProblem) -> Story:
    """A random story for the problem."""
    verbs = tuple(rng.choice(_STEP[operator]).format(n=number) for operator, number in problem.steps)
    return Story(name=rng.choice(NAMES), item=rng.choice(ITEMS), verbs=verbs)


def question(problem: WordProblem, story: Story) -> str:
    """The plain wording."""
    steps = "".join(f" {story.name} {verb}." for verb in story.verbs)
    return f"{story.name} has {problem.start} {story.item}.{steps} How many {story.item} does {story.name} have?"


def rephrased(problem: WordProblem, story: Story) -> str:
    """Another wording of the same story."""
    steps = " and ".join(story.verbs)
    return f"If {story.name} has {problem.start} {story.item} and {steps}, how many {story.item} are there?"


def solution(problem: WordProblem) -> str:
    """The worked solution in GSM8K's form: the equations, then ``#### answer``."""
    return "\n".join([*(equation(*step) for step in problem.equations), f"#### {problem.answer}"])
