r"""Short problems in the record format of MATH: an answer in ``\boxed{}`` that may be a number, a fraction or a point."""

from __future__ import annotations

import random
from dataclasses import dataclass

from harness.synthetic.arithmetic import apply, equation, operand


@dataclass(frozen=True, kw_only=True)
class CompetitionProblem:
    """A problem in two wordings. ``key`` is what it asks, whatever the wording; ``formula`` is how the pre-training corpus
    writes it; ``equations`` (left, operator, right) are the work, in order."""

    key: tuple[str | int, ...]
    subject: str
    level: int
    formula: str
    question: str
    rephrased: str
    equations: tuple[tuple[int, str, int], ...]
    answer: str

    @property
    def work(self) -> str:
        return ", ".join(equation(*step) for step in self.equations)

    @property
    def solution(self) -> str:
        """The worked solution in MATH's form."""
        return f"{self.work}, so we get $\\boxed{{{self.answer}}}$."


def _expression(rng: random.Random) -> CompetitionProblem | None:
    a = rng.randint(2, 9)
    b = operand(rng, a, "*")
    if b is None:
        return None
    product, operator = a * b, rng.choice("+-")
    c = operand(rng, product, operator)
    if c is None:
        return None
    text = f"${a} \\cdot {b} {operator} {c}$"
    return CompetitionProblem(
        key=("expression", a, b, operator, c),
        subject="Prealgebra",
        level=2,
        formula=f"{a} * {b} {operator} {c}",
        question=f"Compute {text}.",
        rephrased=f"What is the value of {text}?",
        equations=((a, "*", b), (product, operator, c)),
        answer=str(apply(product, operator, c)),
    )


def _linear(rng: random.Random) -> CompetitionProblem | None:
    operator, inverse = rng.choice(("+-", "-+"))
    x = rng.randint(2, 18)
    b = operand(rng, x, operator)
    if b is None:
        return None
    total = apply(x, operator, b)
    text = f"x {operator} {b} = {total}"
    return CompetitionProblem(
        key=("linear", operator, b, total),
        subject="Algebra",
        level=1,
        formula=text,
        question=f"Solve ${text}$.",
        rephrased=f"What is the value of $x$ if ${text}$?",
        equations=((total, inverse, b),),
        answer=str(x),
    )


def _fractions(rng: random.Random) -> CompetitionProblem:
    # A prime denominator larger than the sum keeps the result in lowest terms.
    denominator = rng.choice((7, 11, 13, 17, 19))
    a = rng.randint(1, denominator - 2)
    b = rng.randint(1, min(9, denominator - 1 - a))
    text = f"$\\frac{{{a}}}{{{denominator}}} + \\frac{{{b}}}{{{denominator}}}$"
    return CompetitionProblem(
        key=("fractions", a, b, denominator),
        subject="Prealgebra",
        level=3,
        formula=f"{a} / {denominator} + {b} / {denominator}",
        question=f"Compute {text}.",
        rephrased=f"What is the value of {text}?",
        equations=((a, "+", b),),
        answer=f"\\frac{{{a + b}}}{{{denominator}}}",
    )


def _point(rng: random.Random) -> CompetitionProblem:
    x, y, right, up = (rng.randint(1, 9) for _ in range(4))
    return CompetitionProblem(
        key=("point", x, y, right, up),
        subject="Geometry",
        level=3,
        formula=f"({x}, {y}) + ({right}, {up})",
        question=f"Move the point $({x}, {y})$ by $({right}, {up})$.",
        rephrased=f"The point $({x}, {y})$ moves by $({right}, {up})$. Where is it?",
        equations=((x, "+", right), (y, "+", up)),
        answer=f"({x + right}, {y + up})",
    )


def draw(rng: random.Random) -> CompetitionProblem:
    """A random problem of a random kind."""
    while True:
        problem = rng.choice((_expression, _linear, _fractions, _point))(rng)
        if problem is not None:
            return problem
