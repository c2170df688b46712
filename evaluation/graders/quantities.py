"""The one number that a sentence states: digits or English words, with currency, unit and markup. Text that states two, a
bound, or a part of something states none."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction

from evaluation.graders.expressions import units
from evaluation.graders.expressions.characters import plain_characters
from evaluation.graders.expressions.number_words import NUMBER_WORDS, PARTS, SCALES, words_to_number
from evaluation.graders.expressions.parse import NotParsed, parse
from evaluation.graders.expressions.values import rational

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d{1,3}(?:[ '\u2019]\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_FRACTION = r"\\frac\s*(?P<top>\{\s*\d+\s*\}|\d)\s*(?P<bottom>\{\s*\d+\s*\}|\d)"
_POWER = r"\s*(?:\\times|\\cdot|\*|x)\s*10\s*\^\s*\{?\s*(?P<exponent>-?\d+)\s*\}?|e(?P<e>[+-]?\d+)(?!\w)"
_NAMES = "|".join((*NUMBER_WORDS, *SCALES, *PARTS))
_AND = r"(?:[\s-]+(?:and[\s-]+)?(?:an?[\s-]+)?|(?:(?<=thousand)|(?<=[mb]illion)|(?<=trillion)),\s+)"
_NUMBER = re.compile(
    rf"(?P<fraction>(?:(?P<whole>\d+)\s*(?:and\s+)?)?{_FRACTION})"
    rf"|(?P<mixed>\d+\s+(?:and\s+)?\d+\s*/\s*\d+|\d+\s*/\s*\d+)"
    rf"|(?P<scientific>(?P<digits>{_DIGITS})(?:{_POWER}))"
    rf"|(?P<power>\d+\s*\^\s*(?:\{{\s*\d{{1,2}}\s*\}}|\d{{1,2}}(?!\d)))"
    rf"|(?P<plain>{_DIGITS})"
    rf"|(?P<words>\b(?:an?\s+)?(?:{_NAMES})\b(?:{_AND}(?:{_NAMES})\b)*)",
    re.IGNORECASE,
)
_SCALE = re.compile(r"\s*(hundred|thousand|million|billion|trillion|dozen)\b|k\b", re.IGNORECASE)
#: Before a number: a bound is no answer, a denial neither, nor what a function or a multiple is taken of.
_BOUND = re.compile(
    r"(?:\bthan|\bat (?:the )?(?:least|most)|\bup to|\b(?:over|under|above|below|beyond|within|before|nearly|almost|between)"
    r"|\b(?:exceed|surpass)\w*|\b(?:can)?not(?: be)?|n['\u2019]t(?: be)?|\bor|\bor minus|\+\s*/?\s*-|[<>]|\\[lg]eq?|\\pm"
    r"|(?:\\sqrt|\b(?:log|ln|sin|cos|tan))\s*[{(]?|\broot of"
    r"|\b(?:twice|double|triple|thrice)(?:\s+(?:the|of|as\s+\w+\s+as))?)\s*(?:[$\u20ac\u00a3]|an?\s)?\s*$",
    re.IGNORECASE,
)
#: After a number and what is counted.
_BOUND_AFTER = re.compile(
    r"[^\d.;]*?\s(?:at (?:the )?(?:most|least)|or (?:more|less|fewer|above|below|over|under|higher|lower)"
    r"|and (?:up|above|over))\b",
    re.IGNORECASE,
)
_NEGATIVE = re.compile(r"(?:-|\bnegative|\bminus)\s*[$\u20ac\u00a3]?\s*$", re.IGNORECASE)
#: After a number: a part of something, an operation, a letter that belongs to it, a denial.
_PART_OF = re.compile(r"\s*(?:%|percent)\s*of\b", re.IGNORECASE)
_OPEN = re.compile(
    r"\s*(?:[-/](?!\s*[A-Za-z])|[+*^~:!]|\\(?:times|cdot|div|pm)|x\b(?=\s*\d)|(?:or|plus|minus|times(?=\s+\d))\b)"
    r"|\s+(?:squared|cubed|factorial)\b|\s+(?:is|was)(?:n['\u2019]t|\s+(?:not|wrong|incorrect))\b"
    r"|(?![A-Za-z]{2}|[mgshLlC]\b)[A-Za-z_]|(?:st|nd|rd|th)\b"
)
#: After a count: the whole that it is part of.
_OF_THESE = re.compile(
    rf"(?:\s+[a-z]+)?\s+of (?:the|these|those|his|her|its|their|our|my) (?:{_DIGITS}|(?:{_NAMES})\b)", re.IGNORECASE
)
#: Where the statement of the answer ends and its explanation begins.
_END = re.compile(
    r"(?P<comparison>\bas\s+\w+\s+as\b)|[.!?](?=\s|$)|\(|\b(?:because|since|which|where|as|instead of|rather than)\b"
    rf"|;(?!\s*-?[$\u20ac\u00a3]?\s*(?:\d|(?:{_NAMES})\b))",
    re.IGNORECASE,
)
#: What a sentence says only to take it back: "not 7 but 5".
_TAKEN_BACK = re.compile(r"\bnot (?!only|just|merely)[^.;]*?\bbut\b", re.IGNORECASE)
_TOTAL = re.compile(r"\b(?:for|making|giving) an? (?:grand )?total of\b|\btotall?ing\b", re.IGNORECASE)


def one_number(text: str) -> Fraction | None:
    """The one number that a reader takes from a GSM8K answer; of an equation, the last side that is a number. None where there
    is none, more than one reading, or arithmetic before the "=" that comes to another number."""
    text = _plain(text[:500])
    if re.fullmatch(r"(?:none|nothing)\.?", text, re.IGNORECASE):
        return Fraction(0)
    *before, last = text.split("=")
    sides = [*map(_stated, before), _stated(last)]
    value = next((side for side in reversed(sides) if side is not None), None)
    worth = [_arithmetic(side) for side in before]
    return None if value is None or any(one not in (None, value) for one in worth) else value


def _arithmetic(text: str) -> Fraction | None:
    """What the arithmetic at the end of a text comes to."""
    try:
        return rational(parse(re.split(r"\bis\b|:", text)[-1].replace("$", "").strip()))
    except NotParsed:
        return None


def _stated(text: str) -> Fraction | None:
    text = text.strip()
    first = re.search(rf"\d|\b(?:{_NAMES})\b", text, re.IGNORECASE)
    ends = _END.finditer(text, first.end() if first else len(text))
    end = next((match for match in ends if not match["comparison"]), None)
    text = text[: end.start()] if end else text
    if len(parts := _TOTAL.split(text)) == 2:
        text = parts[1]
    mentions = list(_mentions(text))
    if not mentions or None in mentions or len(set(mentions)) > 1:
        return None
    return mentions[0]


def _plain(text: str) -> str:
    text = plain_characters(text.replace("\\$", "$").replace("**", "").strip("*_ "))
    text = re.sub(r"\\(?:boxed|text|mathrm|mbox|textbf|mathbf)\s*\{([^{}]*)\}", r" \1 ", text)
    text = re.sub(r"\\[dt]frac", r"\\frac", text.replace("\\%", "%").replace("\\,", "").replace("\\!", "").replace("{,}", ","))
    text = re.sub(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|\\degree(?![A-Za-z])", "\u00b0", text)
    text = _TAKEN_BACK.sub(" ", _POWER_OF_UNIT.sub(_without_power, text))
    return re.sub(r"\$(?=\s*$|\s*\.)", "", text).replace("\u00a0", " ").replace("\u202f", " ").strip()


_POWER_OF_UNIT = re.compile(r"(?<!\\)\b([A-Za-z]+)\s*\^\s*(?:\{\s*\d\s*\}|\d)")


def _without_power(match: re.Match[str]) -> str:
    """A unit without its power, which counts nothing."""
    return match[1] if units.is_known(match[1].lower()) else match[0]


def _mentions(text: str) -> Iterator[Fraction | None]:
    """The value of each number in the text; None for one that states no value of its own."""
    at = 0
    while match := _NUMBER.search(text, at):
        before, at = text[: match.start()], match.end()
        value = _value(match)
        if not match["words"] and (scale := _SCALE.match(text, at)) and value is not None:
            value *= SCALES[scale[1].lower()] if scale[1] else 1000
            at = scale.end()
        after = text[at:]
        separate = not re.search(r"[\w.\\^]$", before) or re.search(r"\\\w+$|(?<![\w])USD$", before)
        bound = _BOUND.search(before) or _BOUND_AFTER.match(after)
        if value is None or not separate or bound or _PART_OF.match(after) or _OPEN.match(after):
            yield None
            continue
        if (match["plain"] or match["words"]) and value.denominator == 1 and (whole := _OF_THESE.match(text, at)):
            at = whole.end()
        negative = _NEGATIVE.search(before)
        yield -value if negative and not re.search(r"\d\s*$", before[: negative.start()]) else value


def _value(match: re.Match[str]) -> Fraction | None:
    if match["words"]:
        return words_to_number(match["words"].replace(",", ""))
    if match["fraction"]:
        return _ratio(match["whole"], *(match[part].strip("{} ") for part in ("top", "bottom")))
    if match["mixed"]:
        *whole, top, bottom = re.findall(r"\d+", match["mixed"])
        return _ratio(whole[0] if whole else None, top, bottom)
    if match["scientific"]:
        exponent = int(match["exponent"] or match["e"])
        return None if abs(exponent) > 300 else _decimal(match["digits"]) * Fraction(10) ** exponent
    if match["power"]:
        base, exponent = (int(digits) for digits in re.findall(r"\d+", match["power"]))
        return Fraction(base**exponent)
    return _decimal(match["plain"])


def _ratio(whole: str | None, top: str, bottom: str) -> Fraction | None:
    """A fraction, or a whole number and a proper one."""
    numerator, denominator = int(top), int(bottom)
    if denominator == 0 or (whole and numerator >= denominator):
        return None
    return int(whole or 0) + Fraction(numerator, denominator)


def _decimal(text: str) -> Fraction:
    return Fraction(re.sub(r"[, '\u2019]", "", text))
