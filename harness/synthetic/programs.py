"""Tiny functions: a description that determines the code, and inputs that tell right code from wrong."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

#: The name goes with the arguments: copying an arbitrary name from the prompt takes a longer pre-training.
FUNCTION_NAMES = {"x": "f", "xs": "g", "a, b": "h"}
_NUMBERS = (12, -3, 0, 1, 4, 7)
_LISTS = ([8, 5, 12, 1], [2, 7, 7], [6], [3, 0, 4])


@dataclass(frozen=True)
class _Operation:
    """``phrases``: the words of the pre-training corpus first, then those that only fine-tuning and evaluation use."""

    phrases: tuple[str, ...]
    code: str


_NUMERIC = (
    _Operation(("add {n} to {x}", "increase {x} by {n}"), "{x} + {n}"),
    _Operation(("subtract {n} from {x}", "decrease {x} by {n}"), "{x} - {n}"),
    _Operation(("multiply {x} by {n}", "scale {x} by {n}"), "{x} * {n}"),
    _Operation(("take the larger of {x} and {n}", "raise {x} to at least {n}"), "max({x}, {n})"),
    _Operation(("take the smaller of {x} and {n}", "limit {x} to at most {n}"), "min({x}, {n})"),
)
_REDUCTIONS = (
    _Operation(("sum xs", "add up the items of xs"), "sum(xs)"),
    _Operation(("find the largest of xs", "find the highest item of xs"), "max(xs)"),
    _Operation(("find the smallest of xs", "find the lowest item of xs"), "min(xs)"),
    _Operation(("count xs", "count the items of xs"), "len(xs)"),
)
_PAIRS = (
    _Operation(("add a and b", "find the sum of a and b"), "a + b"),
    _Operation(("multiply a and b", "find the product of a and b"), "a * b"),
    _Operation(("subtract b from a", "decrease a by b"), "a - b"),
)
_FILTERS = (
    _Operation(("keep the items of xs above {n}", "drop the items of xs up to {n}"), "[x for x in xs if x > {n}]"),
    _Operation(("keep the items of xs below {n}", "drop the items of xs from {n} on"), "[x for x in xs if x < {n}]"),
)

#: Every word of the phrases that the pre-training corpus does not use.
NEW_WORDS = tuple(
    sorted(
        {
            word
            for operation in (*_NUMERIC, *_REDUCTIONS, *_PAIRS, *_FILTERS)
            for phrase in operation.phrases[1:]
            for word in phrase.split()
            if "{" not in word
        }
    )
)


@dataclass(frozen=True, kw_only=True)
class Program:
    """``expression`` is the function's body and what the program is, whatever its description."""

    arguments: str
    description: str
    expression: str

    @property
    def name(self) -> str:
        return FUNCTION_NAMES[self.arguments]

    @property
    def source(self) -> str:
        """The function's source text, without a final newline."""
        return f"def {self.name}({self.arguments}):\n    return {self.expression}"

    @property
    def stub(self) -> str:
        """The function's first lines: signature and docstring, with a final newline."""
        return f'def {self.name}({self.arguments}):\n    """{self.description}"""\n'

    @property
    def documented_source(self) -> str:
        """The source text with the description as docstring, without a final newline."""
        return f"{self.stub}    return {self.expression}"

    def call(self, arguments: tuple[Any, ...]) -> Any:
        """The value of the reference function."""
        scope: dict[str, Any] = {}
        exec(self.source, scope)  # our own template, not model output
        return scope[self.name](*arguments)

    def inputs(self, rng: random.Random, count: int) -> list[tuple[Any, ...]]:
        """``count`` (at least 2) different argument tuples, in random order. Two that are far apart are always among
        them, so that a constant or the bare argument fails."""
        if self.arguments == "a, b":
            first, second = rng.sample(_NUMBERS, count), rng.sample(_NUMBERS, count)
            return list(zip(first, second, strict=True))
        values = _LISTS if self.arguments == "xs" else _NUMBERS
        chosen = [*values[:2], *rng.sample(values[2:], count - 2)]
        rng.shuffle(chosen)
        return [(value,) for value in chosen]


def _phrase(rng: random.Random, operation: _Operation, *, new_words: bool) -> str:
    return rng.choice(operation.phrases) if new_words else operation.phrases[0]


def _composed(inner: str, operation: _Operation, n: int) -> str:
    """``operation`` applied to ``inner``, which gets parentheses where precedence needs them."""
    infix_in_infix = not inner.endswith(")") and not operation.code.endswith(")")
    return operation.code.format(x=f"({inner})" if infix_in_infix else inner, n=n)


def _first_step(rng: random.Random, *, new_words: bool) -> Program:
    kind = rng.choices(("x", "xs", "ab", "map", "filter"), weights=(4, 2, 2, 1, 1))[0]
    n = rng.randint(2, 9)
    operation = rng.choice({"x": _NUMERIC, "xs": _REDUCTIONS, "ab": _PAIRS, "map": _NUMERIC, "filter": _FILTERS}[kind])
    phrase = _phrase(rng, operation, new_words=new_words)
    if kind == "map":
        code = f"[{operation.code.format(x='x', n=n)} for x in xs]"
        return Program(arguments="xs", description=phrase.format(x="each x of xs", n=n), expression=code)
    arguments = {"x": "x", "xs": "xs", "ab": "a, b", "filter": "xs"}[kind]
    return Program(arguments=arguments, description=phrase.format(x="x", n=n), expression=operation.code.format(x="x", n=n))


def draw(rng: random.Random, *, new_words: bool, two_step_share: float) -> Program:
    """A random program. ``new_words`` allows the phrases that the pre-training corpus does not use."""
    program = _first_step(rng, new_words=new_words)
    if rng.random() >= two_step_share or program.expression.startswith("["):
        return program
    operation, n = rng.choice(_NUMERIC), rng.randint(2, 9)
    then = _phrase(rng, operation, new_words=new_words).format(x="it", n=n)
    return Program(
        arguments=program.arguments,
        description=f"{program.description}, then {then}",
        expression=_composed(program.expression, operation, n),
    )


def assertions(rng: random.Random, program: Program, *, name: str, count: int) -> list[str]:
    """``count`` assertions that the program, called by ``name``, satisfies."""
    return [
        f"assert {name}({', '.join(map(repr, values))}) == {program.call(values)!r}" for values in program.inputs(rng, count)
    ]
