"""Equations and inequalities: which state a value, which is an interval, what two of them say together."""

from __future__ import annotations

import re

from evaluation.graders.expressions import values
from evaluation.graders.expressions.measures import quantity
from evaluation.graders.expressions.notation import bare, compact
from evaluation.graders.expressions.parse import Node, parsed
from evaluation.graders.expressions.shape import is_numeral
from evaluation.graders.expressions.structure import UNION, structure, without

_ASCENDING = {"<": "<", "le": "le", ">": "<", "ge": "le"}


def _is_symbol(text: str) -> bool:
    return (tree := parsed(text)) is not None and tree[0] == "sym"


def is_name(text: str) -> bool:
    """A variable, or a function of some: the left side of a definition."""
    return _is_symbol(text) or re.fullmatch(r"[A-Za-z]\s*\([A-Za-z, ]+\)", text) is not None


def is_value(text: str) -> bool:
    """A numeral, with or without a unit."""
    return (tree := parsed(quantity(text)[0])) is not None and is_numeral(tree)


def states_value(sides: list[str]) -> bool:
    """Whether an equation says what its last side is: of a name, of numbers, of words; not of variables ("2x = 10"), nor of a
    function's variable ("g(x) = 3")."""
    left, right = parsed(sides[0]), parsed(sides[-1])
    if right is not None and (right[0] == "sym" or (is_value(sides[0]) and not is_value(sides[-1]))):
        return False
    if is_constant(sides[-1]) and re.search(r"[A-Za-z]\s*\(\s*[a-z]\s*[,)]", sides[0]):
        return False
    if left is None and structure(sides[0])[0] == "()":
        return True
    if left is None:
        return re.search(r"(?<![A-Za-z\\])[a-z](?![A-Za-z])", bare(sides[0])) is None
    named = re.fullmatch(r"(?:m?\\(?:angle|triangle))?[A-Za-z]+(?:\^\{-1\})?(?:\(.*\))?|\|[A-Z]+\|", compact(sides[0]))
    return not values.symbols(left) or named is not None


def is_false(sides: list[str]) -> bool:
    """Whether two sides are exact numbers that differ."""
    trees = [parsed(quantity(side)[0]) for side in sides]
    return len({values.rational(tree) for tree in trees if tree is not None} - {None}) > 1


def is_constant(text: str) -> bool:
    """An expression without variables."""
    return (tree := parsed(text)) is not None and not values.symbols(tree)


def solved(sides: list[str]) -> bool:
    """Whether one side is a variable and the other a constant."""
    return any(_is_symbol(one) and is_constant(other) for one, other in (sides, sides[::-1]))


def difference(sides: list[str]) -> Node | None:
    """Left side minus right side, None where one of them is not understood."""
    left, right = (parsed(side) for side in sides)
    return None if left is None or right is None else ("sum", (left, ("neg", right)))


def ascending(kind: str, sides: list[str]) -> tuple[list[str], list[str]] | None:
    """Signs and sides of a chain of inequalities, smallest first."""
    signs = kind.split()[1:]
    if not signs or not set(signs) <= _ASCENDING.keys() or len({sign in ("<", "le") for sign in signs}) > 1:
        return None
    falls = signs[0] in (">", "ge")
    plain = [_ASCENDING[sign] for sign in signs]
    return (plain[::-1], sides[::-1]) if falls else (plain, sides)


def variable(sides: list[str]) -> str | None:
    """The first side that is a variable."""
    return next((compact(side) for side in sides if _is_symbol(side) and side != r"\infty"), None)


def as_one(text: str, items: list[str], gold_kind: str) -> str:
    """A list of two bounds on one variable as the interval between them, one of what it is not as the reals without these, one
    of values of several variables as the point that has them in alphabetical order; other lists as they are."""
    structures = [structure(item) for item in items]
    if re.search(r"\bor\b", text) or not all(kind.startswith("relation") for kind, _ in structures):
        return text
    if gold_kind == "()" and all(kind == "relation =" and re.fullmatch("[a-z]", sides[0]) for kind, sides in structures):
        values_of = {sides[0]: sides[1] for _, sides in structures}
        return f"({','.join(values_of[name] for name in sorted(values_of))})" if len(values_of) == len(items) else text
    excluded = [sides[1] for kind, sides in structures if kind == "relation ne" and is_constant(sides[1])]
    if len(excluded) == len(items) and len({sides[0] for _, sides in structures if _is_symbol(sides[0])}) == 1:
        return without(excluded) or text
    if gold_kind != "union" and len(items) == 2 and len({variable(sides) for _, sides in structures}) == 1:
        lower, upper = sorted((interval(*one) for one in structures), key=lambda one: one.startswith(r"(-\infty,"))
        if lower.endswith(r",\infty)") and upper.startswith(r"(-\infty,") and UNION.search(lower + upper) is None:
            return lower.removesuffix(r"\infty)") + upper.removeprefix(r"(-\infty,")
    return text


def range_of(text: str, *, brackets: bool) -> str:
    """An inequality as an interval, or where ``brackets`` may be one, an interval; empty for others."""
    kind, items = structure(text)
    return text if brackets and len(kind) == 2 and len(items) == 2 else interval(kind, items)


def interval(kind: str, sides: list[str]) -> str:
    """An inequality on one variable as an interval; the set of a membership; empty where it is neither."""
    if kind == "relation in":
        return sides[1]
    if kind == "relation ne" and _is_symbol(sides[0]) and is_constant(sides[1]):
        return rf"(-\infty,{sides[1]})\cup({sides[1]},\infty)"
    chain = ascending(kind, sides) if kind.startswith("relation") else None
    if chain is None:
        return ""
    signs, rising = chain
    if len(signs) == 1 and (size := _magnitude(rising[0], rising[1], signs[0])):
        return size
    names = [position for position, side in enumerate(rising) if _is_symbol(side) and is_constant(side) is False]
    if len(names) != 1 or not all(is_constant(side) for side in rising if side != rising[names[0]]):
        return ""
    opening, closing = {"<": "(", "le": "["}, {"<": ")", "le": "]"}
    match len(signs), names[0]:
        case 1, 0:
            return rf"(-\infty,{rising[1]}{closing[signs[0]]}"
        case 1, 1:
            return rf"{opening[signs[0]]}{rising[0]},\infty)"
        case 2, 1:
            return f"{opening[signs[0]]}{rising[0]},{rising[2]}{closing[signs[1]]}"
    return ""


def _magnitude(left: str, right: str, sign: str) -> str:
    """``|x| < a`` and ``a < |x|``; empty for others."""
    opening, closing = ("(", ")") if sign == "<" else ("[", "]")
    inside, one, bound = (True, left, right) if "|" in left else (False, right, left)
    tree = parsed(one)
    if tree is None or tree[:2] != ("fn", "abs") or tree[2][0][0] != "sym" or not is_constant(bound) or bound.startswith("-"):
        return ""
    return f"{opening}-{bound},{bound}{closing}" if inside else rf"(-\infty,-{bound}{closing}\cup{opening}{bound},\infty)"
