"""When a reader would call two math answers equal: same structure, items equal in exact value. Strict where the
lineages' comparisons are lenient, tolerant of notation where they are strict. No text of a model is evaluated as
Python."""

from __future__ import annotations

import itertools
import re
from fractions import Fraction

from evaluation.graders.math_lineages import Algebra, NotNormalisable, brace_fractions

_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_WORD_VALUES = {word: value for value, word in enumerate(_SMALL.split())}
_WORD_VALUES |= {word: 10 * value for value, word in enumerate(_TENS.split(), start=2)}
_SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "dozen": 12}
_NUMBER_WORDS = {*_WORD_VALUES, *_SCALES, "and"}
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+"


def words_to_number(text: str) -> Fraction | None:
    """The value of English number words such as "five", "twenty-one" or "two hundred and six". None for other text."""
    words = [word for word in re.split(r"[\s-]+", text.lower().strip()) if word != "and"]
    total = current = Fraction(0)
    for position, word in enumerate(words):
        if word in _WORD_VALUES:
            current += _WORD_VALUES[word]
        elif word in _SCALES and position:
            current *= _SCALES[word]
            if _SCALES[word] >= 1000:
                total, current = total + current, Fraction(0)
        else:
            return None
    return total + current if words else None


def _decimal(text: str) -> Fraction:
    return Fraction(text.replace(",", "").removesuffix("."))


_FRACTION = re.compile(r"\\frac\{(-?\d+)\}\{(-?\d+)\}|(\d+)\s*/\s*(\d+)")


def exact_number(text: str) -> Fraction | None:
    """The exact value of a decimal, a percentage, a simple fraction or a mixed number in normal form. None for the
    rest."""
    if len(text) > 300:
        return None
    negative, body = text.startswith("-"), text.lstrip("+-").strip()
    if len(text) - len(text.lstrip("+-")) > 1:
        return None
    percent = body.endswith("%")
    body = body.removesuffix("%").strip()
    if match := _FRACTION.search(body):
        whole, rest = body[: match.start()].strip(), body[match.end() :]
        numerator, denominator = (int(group) for group in match.groups() if group is not None)
        if rest or denominator == 0 or (whole and not (whole.isdigit() and numerator > 0 and denominator > 0)):
            return None
        value = Fraction(numerator, denominator) + int(whole or 0)
    elif re.fullmatch(_DIGITS, body):
        value = _decimal(body)
    else:
        return None
    return (-value if negative else value) / (100 if percent else 1)


def gsm8k_number(text: str) -> Fraction | None:
    """The one number that a reader takes from a GSM8K answer: digits with separators, a fraction, number words, with
    currency, unit and markup; of an equation, the right side. None where there is none or more than one reading."""
    text = text[:500].replace("\\$", "").replace("$", "").replace("*", "").replace("−", "-")
    text = re.sub(r"\\(?:boxed|text|mathrm|mbox)\{([^{}]*)\}", r"\1", text).replace("\\%", "%").replace("\\,", "")
    text = text.replace("{,}", ",").rpartition("=")[2].strip().rstrip(".")
    if (value := words_to_number(re.split(r"[^A-Za-z\s-]", text)[0])) is not None and not re.search(r"\d", text):
        return value
    match = re.search(rf"(?<![\w.])-?\s*(?:\\d?frac\{{\d+\}}\{{\d+\}}|\d+\s+\d+/\d+|(?:{_DIGITS})(?:\s*/\s*\d+)?)\s*%?", text)
    if match is None:
        words = itertools.takewhile(lambda word: word.lower() in _NUMBER_WORDS, re.findall(r"[A-Za-z]+", text))
        return words_to_number(" ".join(words))
    before, after = text[: match.start()], text[match.end() :]
    if re.search(r"\d", before) or re.match(r"\s*(?:and|or|to|:|-|–|\+|\*|\^|x|×)\s*\S*\d|:", after):
        return None
    value = exact_number(re.sub(r"\s*%$", "", match.group().replace("\\dfrac", "\\frac").replace("- ", "-").strip()))
    scale = re.match(r"\s*(hundred|thousand|million|billion|dozen)\b", after, re.IGNORECASE)
    return value * _SCALES[scale.group(1).lower()] if value is not None and scale else value


#: Notation that carries no value, or that has a plainer form. Order matters.
_PLAINER = (
    *((notation, "") for notation in (r"\left", r"\right", r"\!", r"\,", r"\;", r"\$", "$", r"\(", r"\)")),
    *((notation, "") for notation in (r"^{\circ}", r"^\circ", "°")),
    *((font, r"\text") for font in (r"\mathrm", r"\textbf", r"\mbox", r"\mathbf")),
    *((fraction, "frac") for fraction in ("dfrac", "tfrac")),
    *((sign, "*") for sign in (r"\cdot", r"\times")),
    *((space, " ") for space in ("\n", "~")),
    (r"\%", "%"), ("{,}", ","), ("−", "-"), ("∞", r"\infty"), ("π", r"\pi"),
)  # fmt: skip
_LEFT_SIDE = re.compile(r"^([A-Za-z]{1,2}|[A-Za-z]\([A-Za-z]\))\s*(?:=|\\in(?![a-z]))\s*(?=\S)")


def strict_normal_form(text: str) -> str:
    """White space, delimiters, units and notation that carry no value, removed."""
    text = text.strip().strip("*").strip()
    for notation, plainer in _PLAINER:
        text = text.replace(notation, plainer)
    text = re.sub(r"(?<!\\)\\ ", " ", text)
    text = re.sub(r"^\\\[|\\\]$", "", text.strip())
    text = re.sub(r"^\\boxed\{(.*)\}$", r"\1", text)
    text = re.sub(r"(?<![A-Za-z\\])\+?\binfinity\b", r"\\infty", text)
    return re.sub(r"\.$", "", text.strip()).strip()


def _without_left_side(prediction: str, gold: str) -> tuple[str, str]:
    """``x = 5`` as ``5``, unless the two name different left sides."""
    left, right = _LEFT_SIDE.match(prediction), _LEFT_SIDE.match(gold)
    if left and right and left[1].replace(" ", "") != right[1].replace(" ", ""):
        return prediction, gold
    return _LEFT_SIDE.sub("", prediction), _LEFT_SIDE.sub("", gold)


_UNIT = re.compile(
    r"(?<=[\d}\w%)])\s*(?:\\text\s*\{\s*(?!and\b|or\b)[^{}]*\}(?:\^\{?\d\}?)?|\s[A-Za-z][A-Za-z.]*(?:\s[A-Za-z]+)*"
    r"(?:\^\{?\d\}?)?)$"
)


def _without_unit(text: str) -> str:
    """``5\\text{ cm}^2`` or ``5 cm`` without the unit; only after a plain number, so that no factor is lost."""
    stripped = _UNIT.sub("", text).strip()
    return stripped if exact_number(_slashes(stripped)) is not None else text


def _slashes(text: str) -> str:
    try:
        return brace_fractions(text)
    except NotNormalisable:
        return text


def _split(text: str, separator: str = ",") -> list[str]:
    """Split at commas outside all brackets."""
    parts, depth, start = [], 0, 0
    for position, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if character == separator and depth == 0:
            parts.append(text[start:position])
            start = position + 1
    return [part.strip() for part in (*parts, text[start:])]


def _matching(text: str) -> bool:
    """Whether the first character's bracket closes at the last one. Half-open intervals count."""
    depth = 0
    for position, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0:
            return position == len(text) - 1
    return False


def _structure(text: str) -> tuple[str, list[str]]:
    """Kind and items: ``set`` (braces), ``(]`` and the like (tuples, intervals), ``matrix``, ``union``, ``list``, or
    ``leaf``."""
    if match := re.fullmatch(r"\\begin\{([pbvBV]?matrix)\}(.*)\\end\{\1\}", text, re.DOTALL):
        rows = [row for row in re.split(r"\\\\|\\cr", match[2]) if row.strip()]
        widths = "x".join(str(len(row.split("&"))) for row in rows)
        return f"matrix {widths}", [cell.strip() for row in rows for cell in row.split("&")]
    if re.fullmatch(r"\\\{.*\\\}", text, re.DOTALL):
        return "set", _split(text[2:-2])
    union = re.split(r"\\cup(?![a-z])|∪", text)
    if len(union) > 1:
        return "union", [part.strip() for part in union]
    if len(text) > 1 and text[0] in "([" and text[-1] in ")]" and _matching(text) and len(_split(text[1:-1])) > 1:
        return text[0] + text[-1], _split(text[1:-1])
    if re.fullmatch(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?%?", text):
        return "leaf", [text]
    parts = [
        part
        for piece in _split(text)
        for part in re.split(r"\s+(?:and|or)\s+|\\text\s*\{\s*(?:and|or)\s*\}", piece)
        if part.strip()
    ]
    return ("list", [part.strip() for part in parts]) if len(parts) > 1 else ("leaf", [text])


def _plain_text(text: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text)).strip().strip("()").strip().lower()


def _leaf_equal(prediction: str, gold: str, algebra: Algebra) -> bool:
    prediction, gold = (_slashes(_without_unit(text)) for text in (prediction, gold))
    if prediction.replace(" ", "") == gold.replace(" ", ""):
        return bool(gold)
    left, right = exact_number(prediction), exact_number(gold)
    if left is not None and right is not None:
        # "10" for "10%" is a change of notation only; "0.1" is its value.
        percents = prediction.endswith("%") + gold.endswith("%")
        bare = (left * (100 if prediction.endswith("%") else 1), right * (100 if gold.endswith("%") else 1))
        return left == right or (percents == 1 and bare[0] == bare[1])
    if "\\text" in gold or re.fullmatch(r"\(?[A-Z]\)?|[A-Za-z ]{3,}", gold):
        return bool(_plain_text(gold)) and _plain_text(prediction) == _plain_text(gold)
    if len(prediction) > 1000 or not prediction or not gold:
        return False
    # A decimal is the value of an irrational number only approximately, and algebra systems round.
    if any(value is not None and "." in text for value, text in ((left, prediction), (right, gold))):
        return False
    # A colon is a ratio, never a quotient.
    if prediction.count(":") != gold.count(":") or "\\text" in prediction:
        return False
    sides = prediction.split("="), gold.split("=")
    if len(sides[0]) == len(sides[1]) == 2:
        return all(map(_leaf_equal, *sides, itertools.repeat(algebra)))
    return len(sides[0]) == len(sides[1]) == 1 and algebra(_explicit_mixed(prediction), _explicit_mixed(gold))


def _explicit_mixed(text: str) -> str:
    """``3\\frac{1}{2}`` as a sum, since algebra systems read a product."""
    return re.sub(r"(?<![\w}.^_)])(\d+)\s*(\\frac\{\d+\}\{\d+\})", r"(\1+\2)", text)


def strict_equal(prediction: str, gold: str, algebra: Algebra) -> bool:
    """Whether a reader would call the answers equal: same structure (an interval's ends, a set, a list with the same
    number of items, a matrix's shape), and items equal in exact value. Sets and comma lists have no order."""
    prediction, gold = _without_left_side(strict_normal_form(prediction), strict_normal_form(gold))
    if not prediction or not gold:
        return False
    if prediction.replace(" ", "") == gold.replace(" ", ""):
        return True
    kind, items = _structure(prediction)
    gold_kind, gold_items = _structure(gold)
    if {kind, gold_kind} == {"set", "list"} or {kind, gold_kind} == {"set", "leaf"}:
        kind = gold_kind = "set"
    if kind != gold_kind or len(items) != len(gold_items):
        return False
    if kind == "leaf":
        return _leaf_equal(prediction, gold, algebra)
    if kind in ("set", "list", "union"):
        return _same_items(items, gold_items, algebra)
    return all(strict_equal(left, right, algebra) for left, right in zip(items, gold_items, strict=True))


def _same_items(items: list[str], gold_items: list[str], algebra: Algebra) -> bool:
    left = list(items)
    for gold in gold_items:
        match = next((item for item in left if strict_equal(item, gold, algebra)), None)
        if match is None:
            return False
        left.remove(match)
    return True
