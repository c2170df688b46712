"""Units after an answer: dimension and exact size, so that 1 m is 100 cm, and 5 cm is neither 5 m nor 5 apples."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A product of base units: sorted (base unit, power), and how many of them one of this unit is. Words that name no unit
    of measurement (``apples``) have ``dimension`` None: a reader takes or leaves them, but not for other words."""

    dimension: tuple[tuple[str, int], ...] | None
    size: Fraction = Fraction(1)
    #: What is counted where ``dimension`` is None, as singulars.
    things: frozenset[str] = frozenset()


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
        ("um micrometer micrometers micrometre micrometres micron microns", Fraction(1, 10**6)),
        ("nm nanometer nanometers nanometre nanometres", Fraction(1, 10**9)),
        ("in inch inches", _FOOT / 12),
        ("ft foot feet", _FOOT),
        ("yd yds yard yards", 3 * _FOOT),
        ("mi mile miles", 5280 * _FOOT),
    ):
        yield names, "metre", 1, size
    yield "acre acres", "metre", 2, 43_560 * _FOOT**2
    yield "hectare hectares ha", "metre", 2, Fraction(10_000)
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
        ("tonne tonnes", Fraction(10**6)),
        ("ton tons", 2000 * _POUND),
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
    for names, months in (
        ("month months", 1),
        ("year years yr yrs", 12),
        ("decade decades", 120),
        ("century centuries", 1200),
    ):
        yield names, "month", 1, Fraction(months)
    yield "cent cents \u00a2", "cent", 1, Fraction(1)
    yield "dollar dollars usd $", "cent", 1, Fraction(100)
    yield "euro euros eur \u20ac", "euro", 1, Fraction(1)
    yield "gbp \u00a3", "pound sterling", 1, Fraction(1)
    yield "yen jpy \u00a5", "yen", 1, Fraction(1)
    yield "% percent", "percent", 1, Fraction(1)
    yield "\u00b0 degree degrees deg", "degree", 1, Fraction(1)
    yield "rad rads radian radians", "radian", 1, Fraction(1)
    yield "unit units", "unit", 1, Fraction(1)


_KNOWN = {name: (base, power, size) for names, base, power, size in _table() for name in names.split()}
_COMPOUND = {"mph": "mile/hour", "kph": "km/hour", "gm": "g"}
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_TOKEN = re.compile(r"([A-Za-z%\u00b0\u00a2$\u20ac\u00a3\u00a5]+)(?:\s*\^?\s*\{?\s*(-?\d)\s*\}?)?")

PERCENT = Unit(dimension=(("percent", 1),))
DEGREE = Unit(dimension=(("degree", 1),))
RADIAN = Unit(dimension=(("radian", 1),))


def unit(words: str) -> Unit:
    """The unit that words name: ``cm^2``, ``square feet``, ``miles per hour``; what follows it is no part of it (``feet
    long``, ``dollars per ticket``)."""
    text = " ".join(_COMPOUND.get(word, word) for word in words.lower().replace(".", " ").split())
    text = re.sub(r"\bin(?=\s+(?!per\b)[a-z])", "of", text)  # "12 in total"
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
                break
            base, power, one = _KNOWN[match[1]]
            times = sign * raised * int(match[2] or 1)
            dimension[base] += times * power
            size *= one**times
            raised = 1
    return (
        Unit(dimension=tuple(sorted(dimension.items())), size=size) if dimension else Unit(dimension=None, things=_things(text))
    )


def _things(text: str) -> frozenset[str]:
    """Plurals name things; other words ("each", "in total", "more") are prose."""
    return frozenset(word[:-1] for word in re.findall(r"[a-z]+", text) if re.search(r"[^s]s$", word))


def compatible(unit: Unit, gold: Unit) -> bool:
    """Whether two units can be of one answer before their sizes are compared: of the same dimension, of a thing in common, or
    one that names no thing in particular beside what it may measure or count."""
    for one, other in ((unit, gold), (gold, unit)):
        if one.dimension is None and (not one.things or one.things == {"way"}):
            return other.dimension is None or not one.things
        if one.dimension and [base for base, _ in one.dimension] == ["unit"]:
            power = one.dimension[0][1]
            return other.dimension in (one.dimension, (("metre", power),)) or (other.dimension is None and power == 1)
    return unit.dimension == gold.dimension and (unit.dimension is not None or bool(unit.things & gold.things))


def is_known(word: str) -> bool:
    """Whether a word is a unit of measurement, or begins one: ``sq``."""
    return word.lower() in _POWERS or unit(word).dimension is not None
