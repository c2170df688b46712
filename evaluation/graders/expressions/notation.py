"""An answer's notation made plain: the same marks for the same thing, number words in digits."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

from evaluation.graders.expressions.characters import plain_characters
from evaluation.graders.expressions.number_words import SCALES, words_to_number


def _outward(left: str, items: str, right: str) -> str:
    """``]1,3[``, of which an end is open where its bracket opens outward."""
    return ("(" if left == "]" else "[") + items + (")" if right == "[" else "]")


def _scientific(match: re.Match[str]) -> str:
    """``1.5e3``; with a sign, ``2e-3`` may be the number e."""
    return rf"{match[1] or match[3]} \times 10^{{{match[2] or match[4]}}}"


#: Notation that carries no value, or that has a plainer form. Order matters.
_PLAINER = tuple(
    (re.compile(pattern), plainer)
    for pattern, plainer in (
        (r"\\(?:left|right|[bB]igg?[lr]?)(?![A-Za-z])\.?", ""),
        (r",\\!\s*", ","),
        (r"\\[!,;:]|\\\(|\\\)|\\displaystyle(?![A-Za-z])", ""),
        (r"\\mathrm\s*\{?\s*([ie])(?![A-Za-z])\s*\}?", r" \1"),
        (r"\\(?:mathrm|textbf|textit|textrm|textsf|mbox|hbox|mathbf|boldsymbol|operatorname)(?![A-Za-z])", r"\\text"),
        (r"\\text\s+\{", r"\\text{"),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\dbinom(?![A-Za-z])|\\tbinom(?![A-Za-z])", r"\\binom"),
        (r"\n|~|\\q?quad(?![A-Za-z])|(?<!\\)\\ ", " "),
        (r"\\%", "%"),
        (r"\{,\}", ","),
        (r"\\(?:overline|overrightarrow|overleftrightarrow)\s*\{([A-Z]{2})\}", r"\1"),
        (r"\\[lr]?vert(?![A-Za-z])|\\mid(?![A-Za-z])", "|"),
        (r"\\[lr]brace(?![A-Za-z])", lambda match: r"\{" if match[0][1] == "l" else r"\}"),
        (r"\\langle(?![A-Za-z])", "("),
        (r"\\rangle(?![A-Za-z])", ")"),
        (r"\\mathbb\s*\{?R\}?|\u211d", r"(-\\infty,\\infty)"),
        (r"\\varnothing(?![A-Za-z])|\\\{\s*\\\}|\u2205", r"\\emptyset"),
        (r"\\(?:leqslant|leq|le)(?![A-Za-z])|<=", r"\\le "),
        (r"\\(?:geqslant|geq|ge)(?![A-Za-z])|>=", r"\\ge "),
        (r"\\(?:neq|ne)(?![A-Za-z])|!=", r"\\ne "),
        (r"\\lt(?![A-Za-z])", "<"),
        (r"\\gt(?![A-Za-z])", ">"),
        (r"(?<![A-Za-z\\])\+?\binf(?:inity|ty)?\b|\\infinity", r"\\infty"),
        (r"\*\*", "^"),
        (r"\\c?dots[bcimo]?(?![A-Za-z])|\.{3}", r"\\ldots "),
        (r"(?<![A-Za-z])\{:\}", ":"),
        (r"^([\[\]])([^\[\]()]+,[^\[\]()]+)([\[\]])$", lambda match: _outward(*match.groups())),
        (r"(?<![\w.])(\d+(?:\.\d+)?)e(\d+)(?![\w.])|(?<![\w.])(\d*\.\d+)e([+-]\d+)(?![\w.])", _scientific),
    )
)


@lru_cache(maxsize=8192)
def strict_normal_form(text: str) -> str:
    """White space, delimiters and notation that carry no value, removed or made plain."""
    text = plain_characters(text.strip().strip("*").strip())
    text = re.sub(r"(?<!\\)\$", "", text)
    for pattern, plainer in _PLAINER:
        text = pattern.sub(plainer, text)
    text = re.sub(r"^\\\[|\\\]$", "", text.strip()).strip()
    text = re.sub(r"^\\boxed\{(.*)\}$", r"\1", text)
    return re.sub(r"\.$", "", re.sub(r"\.{2,}$", r"\\ldots", text.strip())).strip()


_SCALED = re.compile(rf"(?<![\w.^_])(\d[\d,]*(?:\.\d+)?)\s*(\\text\s*\{{)?\s*({'|'.join(SCALES)})s?\b", re.IGNORECASE)


@lru_cache(maxsize=8192)
def digits(text: str) -> str:
    """Number words and scales at the beginning of a text, in digits: "two hundred apples", "5 \\text{ million}"."""
    words = unwrapped(text).split()
    for count in range(len(words), 0, -1):
        last = re.split(r"-", words[count - 1].lower())[-1]
        if last != "and" and (value := words_to_number(" ".join(words[:count]))) is not None:
            return " ".join((_numeral(value), *words[count:]))
    match = _SCALED.search(text)
    if match is None or re.search(r"[A-Za-z\d]", text[: match.start()]):
        return text
    value = Fraction(match[1].replace(",", "")) * SCALES[match[3].lower()]
    rest = re.sub(r"^\\text\s*\{\s*\}", "", (match[2] or "") + text[match.end() :])
    return text[: match.start()] + _numeral(value) + rest


def _numeral(value: Fraction) -> str:
    sign, top, bottom = "-" * (value < 0), abs(value.numerator), value.denominator
    return f"{sign}{top}" if bottom == 1 else rf"{sign}\frac{{{top}}}{{{bottom}}}"


def compact(text: str) -> str:
    """Without blanks, but for those that keep two numbers apart."""
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text)


def unwrapped(text: str) -> str:
    """``\\text{B, E}`` as ``B, E``."""
    match = re.fullmatch(r"\\text\{([^{}]*)\}", text)
    return match[1].strip() if match else text


def bare(text: str | None) -> str:
    r"""Without the frames of ``\text{...}``; of nothing, the empty text."""
    return re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text or "")
