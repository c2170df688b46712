"""A number and what is written around it: its unit, its base, a time of day."""

from __future__ import annotations

import re
from fractions import Fraction

from evaluation.graders.expressions import units
from evaluation.graders.expressions.notation import bare
from evaluation.graders.expressions.number_words import words_to_number
from evaluation.graders.expressions.parse import parsed
from evaluation.graders.expressions.shape import has_angle

_TEXT_UNIT = re.compile(r"(?<=\S)\s*\\text\s*\{([^{}]*)\}(\^\s*\{?\s*\d\s*\}?)?(\s*/\s*\\text\s*\{[^{}]*\})?$")
_WORD = r"[A-Za-z\u00a2]+\.?(?:\^\s*\{?\d\}?)?"
_WORD_UNIT = re.compile(rf"(?:(?<=[\d}}\w)])\s+|(?<=[\d}})]))({_WORD}(?:(?:\s*/\s*|\s+){_WORD})*)$")
_DEGREE_UNIT = re.compile(
    r"\s*(?:\^\s*\{?\s*\\circ\s*\}?|\\degree(?![A-Za-z])|\\text\s*\{\s*degrees?(?:\s*\}|(?=\s))|(?<![A-Za-z])degrees?)"
    r"(?:\s*(?:\\text\s*\{)?\s*(?:(C)(?:elsius)?|(F)(?:ahrenheit)?)\s*\}?)?$"
)
_CURRENCY = re.compile(r"(-?)\s*\\?([$\u20ac\u00a3\u00a5])\s*")
_NO_UNITS = frozenset("pi and or sin cos tan sec csc cot log ln sqrt exp infinity".split())


def quantity(text: str) -> tuple[str, units.Unit | None]:
    """The expression and its unit, None where it has none."""
    if match := _CURRENCY.match(text):
        body, unit = quantity(text[match.end() :])
        return match[1] + body, units.unit(match[2]) if unit is None or unit.dimension is None else unit
    if text.endswith("%"):
        return text[:-1].strip(), units.PERCENT
    if match := _DEGREE_UNIT.search(text):
        body = text[: match.start()].strip()
        if scale := match[1] or match[2]:
            return body, units.Unit(dimension=((scale, 1),))
        angle = rf"{body}^\circ"
        return (angle, None) if (tree := parsed(angle)) is not None and has_angle(tree) else (body, units.DEGREE)
    if (match := _TEXT_UNIT.search(text)) and match.start() and not re.search(r"\\begin|\d", match[1]):
        return text[: match.start()].strip(), units.unit(" ".join(filter(None, (match[1] + (match[2] or ""), bare(match[3])))))
    if match := _WORD_UNIT.search(text):
        words = match[1].replace(".", " ").strip()
        plain = [word for word in re.findall(r"[A-Za-z\u00a2]+", words) if word.lower() not in ("per",)]
        numbers = any(word in _NO_UNITS or words_to_number(word) is not None for word in plain)
        meant = plain and not numbers and all(len(word) > 2 or units.is_known(word) for word in plain)
        if meant and (len(plain[0]) > 1 or text[match.start(1) - 1].isspace()):
            return text[: match.start()].strip(), units.unit(words)
    return text, None


#: A numeral with its base: "204_5", "2112_{\\text{six}}", "2112 (base 6)".
_BASE = re.compile(
    r"\(?(-?[0-9A-Z]+(?:\.[0-9A-Z]+)?)\)?\s*(?:_\s*\{?\s*(?:\\text\s*\{)?\s*\(?(\w+?)\)?\s*\}?\s*\}?"
    r"|(?:\\text\s*\{)?\s*\(?\s*(?:in\s+)?base[- ]+\}?\s*\$?(\w+)\$?\s*\)?\s*\}?)"
)


def numeral_in_base(text: str) -> tuple[str, Fraction] | None:
    """Digits and base."""
    match = _BASE.fullmatch(text)
    if match is None or not re.search(r"\d", match[1]):
        return None
    name = match[2] or match[3]
    base = Fraction(name) if name.isdecimal() else words_to_number(name)
    return None if base is None else (match[1].lstrip("0") or "0", base)


_TIME = re.compile(r"(\d{1,2})(?::(\d{2}))?\s*([ap])\.?\s*m\.?", re.IGNORECASE)


def minutes(text: str) -> int | None:
    """A time of day in minutes after midnight."""
    plain = bare(text).strip()
    if match := _TIME.fullmatch(plain):
        return (int(match[1]) % 12 + 12 * (match[3].lower() == "p")) * 60 + int(match[2] or 0)
    match = re.fullmatch(r"(1[3-9]|2[0-3]|0\d):([0-5]\d)", plain)
    return int(match[1]) * 60 + int(match[2]) if match else None
