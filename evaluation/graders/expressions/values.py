"""What a tree is worth: exactly where it is rational, else to 60 digits, variables at fixed points (Schwartz-Zippel).

The exact part is bounded in size and runs anywhere; what uses mpmath may take any time and belongs into the worker of
``evaluation.graders.algebra``.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from fractions import Fraction
from math import factorial
from typing import Any

from evaluation.graders.expressions.parse import Node

#: Rational values longer than this, in bits, are left to 60 digits; 2006! has 19,000.
_MAX_BITS = 60_000
_MAX_FACTORIAL = 3000
_DIGITS = 60
#: Two values are equal when they differ by less than this share of the larger.
_TOLERANCE = "1e-40"
CONSTANTS = frozenset(("pi", "e", "i", "deg", "oo"))


def rational(tree: Node) -> Fraction | None:
    """The exact value of a tree without variables, roots and functions other than factorials. None for the rest."""
    value: Fraction | None
    match tree:
        case ("num", Fraction() as value, _):
            return value
        case ("neg", inner):
            value = rational(inner)
            return None if value is None else -value
        case ("sum" | "prod" as kind, parts):
            total = Fraction(kind == "prod")
            for value in map(rational, parts):
                if value is None or _bits(total) + _bits(value) > _MAX_BITS:
                    return None
                total = total * value if kind == "prod" else total + value
            return total
        case ("quot", top, bottom):
            numerator, denominator = rational(top), rational(bottom)
            return None if numerator is None or not denominator else numerator / denominator
        case ("pow", base, exponent):
            value, power = rational(base), rational(exponent)
            if value is None or power is None or power.denominator != 1 or (value == 0 and power <= 0):
                return None
            return None if _bits(value) * abs(power) > _MAX_BITS else value ** int(power)
        case ("fn", "factorial", (inner,)):
            value = rational(inner)
            small = value is not None and value.denominator == 1 and 0 <= value <= _MAX_FACTORIAL
            return Fraction(factorial(int(value))) if small and value is not None else None
    return None


def _bits(value: Fraction) -> int:
    return value.numerator.bit_length() + value.denominator.bit_length()


def symbols(tree: Node) -> frozenset[str]:
    """The variables of a tree."""
    return names(tree) - CONSTANTS


def names(tree: Node) -> frozenset[str]:
    """The variables and constants of a tree."""
    if tree[0] == "sym":
        return frozenset((tree[1],))
    return frozenset().union(*(names(child) for child in children(tree)))


def children(tree: Node) -> Sequence[Node]:
    """The direct parts of a node."""
    match tree:
        case ("num" | "sym", *_):
            return ()
        case ("sum" | "prod", parts) | ("fn", _, parts):
            return parts
    return tree[1:]


# ------------------------------------------------------------------------------------------------- by numbers (mpmath)


def same_value(prediction: Node, gold: Node) -> bool:
    """Whether two trees agree wherever both are real. Rational ones exactly, others to 40 of 60 digits."""
    exact = rational(prediction), rational(gold)
    if None not in exact:
        return exact[0] == exact[1]
    agreements = [_close(prediction, gold, point) for point in _points(prediction, gold)]
    return False not in agreements and agreements.count(True) >= (2 if len(agreements) > 1 else 1)


def proportional(prediction: Node, gold: Node, *, positive: bool) -> bool:
    """Whether ``prediction`` is ``gold`` times a constant other than 0, or above 0: equations, or inequalities, that say the
    same when both have 0 on their right."""
    import mpmath

    points = _points(prediction, gold)
    if len(points) < 2:
        return False
    ratios = []
    for point in points:
        left, right = _number(prediction, point), _number(gold, point)
        if left is None or right is None or right == 0:
            continue
        ratios.append(left / right)
    if len(ratios) < 2 or ratios[0] == 0 or (positive and not mpmath.re(ratios[0]) > 0):
        return False
    return all(abs(ratio - ratios[0]) <= abs(ratios[0]) * mpmath.mpf(_TOLERANCE) for ratio in ratios)


def _points(*trees: Node) -> list[dict[str, Any]]:
    """Where to compare: irrational values for each variable, of one sign and of mixed signs; the one empty point where there
    is no variable."""
    import mpmath

    names = sorted(frozenset().union(*map(symbols, trees)))
    mpmath.mp.dps = _DIGITS
    if not names:
        return [{}]
    roots = [mpmath.sqrt(prime) for prime in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29)]

    def values(shift: int, signs: Sequence[int]) -> Iterator[Any]:
        for position in range(len(names)):
            root = roots[(position + shift) % len(roots)]
            yield signs[position % len(signs)] * (root / (1 + shift % 2 * 3) + position // len(roots))

    patterns = ((0, (1,)), (1, (1,)), (3, (1,)), (2, (-1,)), (5, (-1, 1)), (7, (1, -1)))
    return [dict(zip(names, values(shift, signs), strict=True)) for shift, signs in patterns]


def _close(prediction: Node, gold: Node, point: dict[str, Any]) -> bool | None:
    """Whether the two agree at a point. None where one has no value there, or, off the positive points, no real one."""
    import mpmath

    differences = []
    for digits in (_DIGITS, 2 * _DIGITS):
        with mpmath.workdps(digits):
            left, right = _number(prediction, point), _number(gold, point)
            if left is None or right is None:
                return None
            negative = any(value < 0 for value in point.values())
            if negative and (mpmath.im(left) != 0 or mpmath.im(right) != 0):
                return None
            if mpmath.isinf(left) or mpmath.isinf(right):
                return bool(left == right)
            difference = abs(left - right)
            if difference <= max(abs(left), abs(right)) * mpmath.mpf(_TOLERANCE):
                return True
            differences.append(difference)
    # Against an exact 0 no relative error decides: what is rounding shrinks as digits are added.
    return bool(differences[1] < differences[0] * mpmath.mpf(_TOLERANCE))


def _number(tree: Node, point: dict[str, Any]) -> Any:
    try:
        value = _evaluate(tree, point)
    except (ZeroDivisionError, ValueError, OverflowError, ArithmeticError, TypeError):
        return None
    import mpmath

    return None if mpmath.isnan(value) else value


def _evaluate(tree: Node, point: dict[str, Any]) -> Any:
    import mpmath

    match tree:
        case ("num", Fraction(numerator=numerator, denominator=denominator), _):
            return mpmath.mpf(numerator) / denominator
        case ("sym", name):
            if name in point:
                return point[name]
            return {
                "pi": mpmath.pi, "e": mpmath.e, "i": mpmath.mpc(0, 1), "oo": mpmath.inf, "deg": mpmath.pi / 180,
            }[name] + 0  # fmt: skip
        case ("neg", inner):
            return -_evaluate(inner, point)
        case ("sum", parts):
            return mpmath.fsum(_evaluate(part, point) for part in parts)
        case ("prod", parts):
            return mpmath.fprod(_evaluate(part, point) for part in parts)
        case ("quot", top, bottom):
            return _evaluate(top, point) / _evaluate(bottom, point)
        case ("pow", base, exponent):
            return _power(_evaluate(base, point), exponent, point)
        case ("fn", "root", (radicand, degree)):
            return _power(_evaluate(radicand, point), ("quot", ("num", Fraction(1), "integer"), degree), point)
        case ("fn", name, arguments):
            return _apply(name, [_evaluate(argument, point) for argument in arguments])
    raise ValueError(tree[0])


def _power(base: Any, exponent: Node, point: dict[str, Any]) -> Any:
    """An odd root of a negative number is the real one."""
    import mpmath

    exact = rational(exponent)
    if exact is not None and exact.denominator % 2 and mpmath.im(base) == 0 and mpmath.re(base) < 0:
        size = mpmath.power(-mpmath.re(base), mpmath.mpf(exact.numerator) / exact.denominator)
        return -size if exact.numerator % 2 else size
    return mpmath.power(base, _evaluate(exponent, point))


def _apply(name: str, arguments: list[Any]) -> Any:
    import mpmath

    first, *rest = arguments
    if name in ("log", "lg") and not rest:
        return mpmath.log(first, 10)
    if name in ("log", "ln"):
        return mpmath.log(first, *rest)
    simple = {
        "abs": abs, "div": operator.truediv, "floor": mpmath.floor, "ceil": mpmath.ceil, "exp": mpmath.exp,
        "factorial": mpmath.factorial, "binomial": mpmath.binomial, "sinh": mpmath.sinh, "cosh": mpmath.cosh,
        "tanh": mpmath.tanh, "arcsin": mpmath.asin, "arccos": mpmath.acos, "arctan": mpmath.atan, "arccot": mpmath.acot,
        "arcsec": mpmath.asec, "arccsc": mpmath.acsc,
        **{one: getattr(mpmath, one) for one in ("sin", "cos", "tan", "cot", "sec", "csc")},
    }  # fmt: skip
    return simple[name](*arguments) if name in simple else _unknown(name)


def _unknown(name: str) -> Any:
    raise ValueError(f"{name} has no value")
