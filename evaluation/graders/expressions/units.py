"""Units after an answer: dimension and exact size, so that 1 m is 100 cm, and 5 cm is not 5 m."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A product of base units: sorted (base unit, power), and how many of them one of this unit is. Words that name no unit
    of measurement (``apples``) have ``dimension`` None: a reader takes or leaves them."""

    dimension: tuple[tuple[str, int], ...] | None
    size: Fraction = Fraction(1)


_FOOT = Fraction(3048, 10_000)
_GALLON = Fraction(3_785_411_784, 10**12)  # cubic metres
_POUND = Fraction(45_359_237, 100_000)  # grams


def _table() -> Iterator[tuple[str, str, int, Fraction]]:
    """(names, base unit, power, size in the base unit)."""
    for names, size in (
        ("m meter meters metre metres", Fraction(1)),
        ("km kilometer kilometers kilometre kilometres", Fraction(1000)),
        ("dm decimeter decimeters", Fraction(1, 10)),
        ("cm centimeter centimeters centimetre centimetres", Fraction(1, 100)),
        ("mm millimeter millimeters millimetre millimetres", Fraction(1, 1000)),
        ("in inch inches", _FOOT / 12),
        ("ft foot feet", _FOOT),
        ("yd yds yard yards", 3 * _FOOT),
        ("mi mile miles", 5280 * _FOOT),
    ):
        yield names, "metre", 1, size
    for names, size in (
        ("l liter liters litre litres", Fraction(1, 1000)),
        ("ml milliliter milliliters millilitre millilitres", Fraction(1, 10**6)),
        ("gal gallon gallons", _GALLON),
        ("qt quart quarts", _GALLON / 4),
        ("pt pint pints", _GALLON / 8),
        ("cup cups", _GALLON / 16),
    ):
        yield names, "metre", 3, size
    for names, size in (
        ("mg milligram milligrams", Fraction(1, 1000)),
        ("g gm gram grams", Fraction(1)),
        ("kg kilogram kilograms", Fraction(1000)),
        ("oz ounce ounces", _POUND / 16),
        ("lb lbs pound pounds", _POUND),
    ):
        yield names, "gram", 1, size
    for names, seconds in (
        ("s sec secs second seconds", 1),
        ("min mins minute minutes", 60),
        ("h hr hrs hour hours", 3600),
        ("day days", 86_400),
        ("week weeks", 604_800),
    ):
        yield names, "second", 1, Fraction(seconds)
    yield "month months", "month", 1, Fraction(1)
    yield "year years yr yrs", "month", 1, Fraction(12)
    yield "cent cents \u00a2", "cent", 1, Fraction(1)
    yield "dollar dollars usd", "cent", 1, Fraction(100)
    yield "% percent", "percent", 1, Fraction(1)
    yield "\u00b0 degree degrees deg", "degree", 1, Fraction(1)
    yield "rad rads radian radians", "radian", 1, Fraction(1)


_KNOWN = {name: (base, power, size) for names, base, power, size in _table() for name in names.split()}
_COMPOUND = {"mph": "mile/hour", "kph": "km/hour", "gm": "g"}
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_TOKEN = re.compile(r"([A-Za-z%\u00b0\u00a2]+)(?:\s*\^?\s*\{?\s*(-?\d)\s*\}?)?")

DOLLAR = Unit(dimension=(("cent", 1),), size=Fraction(100))
PERCENT = Unit(dimension=(("percent", 1),))
DEGREE = Unit(dimension=(("degree", 1),))
RADIAN = Unit(dimension=(("radian", 1),))


def unit(words: str) -> Unit:
    """The unit that words name: ``cm^2``, ``square feet``, ``miles per hour``."""
    text = " ".join(_COMPOUND.get(word, word) for word in words.lower().replace(".", " ").split())
    text = re.sub(r"\s*(?:/|\bper\b|\ban\b)\s*", " / ", text)
    text = re.sub(r"(\S+) (squared|cubed)", lambda match: f"{'square' if match[2] == 'squared' else 'cubic'} {match[1]}", text)
    dimension: Counter[str] = Counter()
    size = Fraction(1)
    sign, raised = 1, 1
    for token in re.findall(r"/|[^\s/^]+(?:\s*\^\s*\{?-?\d\}?)?", text):
        if token == "/":
            sign = -1
        elif token in _POWERS:
            raised = _POWERS[token]
        else:
            match = _TOKEN.fullmatch(token)
            if match is None or match[1] not in _KNOWN:
                return Unit(dimension=None)
            base, power, one = _KNOWN[match[1]]
            times = sign * raised * int(match[2] or 1)
            dimension[base] += times * power
            size *= one**times
            raised = 1
    return Unit(dimension=tuple(sorted(dimension.items())) or None, size=size)


def is_known(word: str) -> bool:
    """Whether a word is a unit of measurement by itself."""
    return unit(word).dimension is not None
