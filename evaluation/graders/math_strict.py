"""When a reader would call two math answers equal: same structure, worked out as far, items equal in exact value. Strict where
the lineages' comparisons are lenient, tolerant of notation where they are strict. No text of a model is evaluated as
Python."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import Protocol

from evaluation.graders.expressions import units, values
from evaluation.graders.expressions.characters import plain_characters
from evaluation.graders.expressions.parse import Node, NotParsed, parse, product
from evaluation.graders.expressions.shape import canonical, has_angle, is_numeral, worked_out
from evaluation.graders.quantities import SCALES, words_to_number


class Algebra(Protocol):
    """What may take long: ``evaluation.graders.algebra.AlgebraWorker``."""

    def same_value(self, prediction: Node, gold: Node) -> bool:
        """``values.same_value``."""

    def proportional(self, prediction: Node, gold: Node, *, positive: bool) -> bool:
        """``values.proportional``."""

    def latex_equal(self, prediction: str, gold: str) -> bool:
        """Math-Verify's verdict."""


# ------------------------------------------------------------------------------------------------------------ notation


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
def _digits(text: str) -> str:
    """Number words and scales at the beginning of a text, in digits: "two hundred apples", "5 \\text{ million}"."""
    words = _unwrapped(text).split()
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


def _compact(text: str) -> str:
    """Without blanks, but for those that keep two numbers apart."""
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text)


# ----------------------------------------------------------------------------------------------------------- structure

_RELATION = re.compile(r"\\(le|ge|ne|in)(?![A-Za-z])|([<>=])")
_ASCENDING = {"<": "<", "le": "le", ">": "<", "ge": "le"}
_MATRIX = re.compile(
    r"(?P<open>[(\[|]?)\s*\\begin\{(?P<kind>[pbvBV]?matrix|array)\}(?:\{[^{}]*\})?(?P<body>.*)\\end\{(?P=kind)\}"
    r"\s*(?P<close>[)\]|]?)",
    re.DOTALL,
)
_CONJUNCTION = re.compile(r"\s+(?:and|or)\s+|\\text\s*\{\s*(?:and|or)\s*\}")


def _cuts(text: str, pattern: re.Pattern[str]) -> list[re.Match[str]]:
    """The matches outside all brackets."""
    depth, cuts, at = 0, [], 0
    while at < len(text):
        match = pattern.match(text, at) if depth == 0 else None
        if match and match.end() > at:
            cuts.append(match)
            at = match.end()
            continue
        depth += (text[at] in "([{") - (text[at] in ")]}")
        at += 1
    return cuts


def _split(text: str, pattern: re.Pattern[str]) -> list[str]:
    cuts = _cuts(text, pattern)
    starts, ends = [0, *(cut.end() for cut in cuts)], [*(cut.start() for cut in cuts), len(text)]
    return [text[start:end].strip() for start, end in zip(starts, ends, strict=True)]


_COMMA = re.compile(r"[,;]")
_UNION = re.compile(r"\\cup(?![a-z])")
_COLON = re.compile(r":|\\text\s*\{\s*to\s*\}|(?<!\\)\bto\b")


def _matching(text: str) -> bool:
    """Whether the first character's bracket closes at the last one. Half-open intervals count."""
    depth = 0
    for position, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0:
            return position == len(text) - 1
    return False


_APPROXIMATELY = re.compile(r"\\approx(?![A-Za-z])")
_SET_MINUS = re.compile(r"\\setminus(?![A-Za-z])|\\backslash(?![A-Za-z])|-(?=\s*\\\{)")
_SET_BUILDER = re.compile(r"\\\{\s*([A-Za-z])\s*(?:\\in\s*\(-\\infty,\\infty\)\s*)?[:|](.*)\\\}", re.DOTALL)
_REALS = re.compile(
    r"(?:the set of )?(?:all |any )?(?:(positive|negative|non-?negative|non-?positive|non-?zero) )?real(?:s| numbers?)"
)
_REAL_SETS = {
    "": r"(-\infty,\infty)", "positive": r"(0,\infty)", "negative": r"(-\infty,0)", "nonnegative": r"[0,\infty)",
    "nonpositive": r"(-\infty,0]", "nonzero": r"(-\infty,0)\cup(0,\infty)",
}  # fmt: skip


def _as_set(text: str) -> str:
    """Set builders without their frame, the reals in words or without some points as intervals; no solution as the empty
    set."""
    if builder := _SET_BUILDER.fullmatch(text):
        return builder[2].strip()
    plain = _bare(text).strip().lower()
    if words := _REALS.fullmatch(plain):
        return _REAL_SETS[(words[1] or "").replace("-", "")]
    if re.fullmatch(r"(?:there (?:is|are) )?no (?:real )?solutions?", plain):
        return r"\emptyset"
    whole, *removed = _split(text, _SET_MINUS)
    if _compact(whole) == r"(-\infty,\infty)" and len(removed) == 1 and (points := _structure(removed[0]))[0] == "set":
        return _without(points[1]) or text
    return text


def _without(points: list[str]) -> str:
    """The reals but for some points, where it is plain which point is the larger."""
    trees = [_tree(point) for point in points]
    known = [None if tree is None else values.rational(tree) for tree in trees]
    if len(points) > 1:
        if None in known:
            return ""
        points = [point for _, point in sorted(zip(known, points, strict=True))]
    ends = [r"-\infty", *points, r"\infty"]
    return r"\cup".join(f"({left},{right})" for left, right in zip(ends[:-1], ends[1:], strict=True))


def _unwrapped(text: str) -> str:
    """``\\text{B, E}`` as ``B, E``."""
    match = re.fullmatch(r"\\text\{([^{}]*)\}", text)
    return match[1].strip() if match else text


def _structure(text: str) -> tuple[str, list[str]]:
    """Kind and items: ``set`` (braces), ``(]`` and the like (tuples, intervals), ``matrix``, ``determinant`` or ``norm`` with
    their shape, ``union``, ``list``, ``relation`` (signs, then sides), or ``leaf``."""
    if match := _MATRIX.fullmatch(text):
        rows = [
            row for row in re.split(r"\\\\(?:\[[^\]]*\])?|\\cr(?![a-z])", match["body"].replace(r"\hline", "")) if row.strip()
        ]
        shape = "x".join(str(len(row.split("&"))) for row in rows)
        bars = {"vmatrix": "determinant", "Vmatrix": "norm"}
        kind = "determinant" if match["open"] == match["close"] == "|" else bars.get(match["kind"], "matrix")
        return f"{kind} {shape}", [cell.strip() for row in rows for cell in row.split("&")]
    if braced := re.fullmatch(r"\\\{(.*)\\\}|\{([^{}]*,[^{}]*)\}", text, re.DOTALL):
        return "set", [one for part in _split(braced[1] or braced[2] or "", _COMMA) for one in _signs(part)]
    parts = [part for piece in _split(_unwrapped(text), _COMMA) for part in _CONJUNCTION.split(f" {piece}") if part.strip()]
    grouped = re.fullmatch(r"[^\d]*\d{1,3}(?:,\d{3})+(?!\d)(?:[^,]|,(?=\d{3}(?!\d)))*", text)
    if len(parts) > 1 and not grouped:
        return "list", [one for part in parts for one in _signs(part.strip())]
    if cuts := _cuts(text, _RELATION):
        return "relation " + " ".join(cut[1] or cut[2] for cut in cuts), _split(text, _RELATION)
    if len(union := _split(text, _UNION)) > 1:
        return "union", union
    if len(text) > 1 and text[0] in "([" and text[-1] in ")]" and _matching(text):
        inner = _split(text[1:-1], _COMMA)
        if len(inner) > 1 and not re.search(r"\\pm|\\mp", text):
            return text[0] + text[-1], inner
    signs = _signs(text)
    return ("list", signs) if len(signs) > 1 else ("leaf", [text])


def _signs(text: str) -> list[str]:
    """The two values of an expression with plus-minus signs, which all turn together."""
    if not re.search(r"\\pm(?![a-z])|\\mp(?![a-z])", text):
        return [text]
    plus = re.sub(r"\\pm(?![a-z])", "+", re.sub(r"\\mp(?![a-z])", "-", text))
    minus = re.sub(r"\\pm(?![a-z])", "-", re.sub(r"\\mp(?![a-z])", "+", text))
    return [plus, minus]


# ---------------------------------------------------------------------------------------------------------- quantities

_TEXT_UNIT = re.compile(r"(?<=\S)\s*\\text\s*\{([^{}]*)\}(\^\s*\{?\s*\d\s*\}?)?(\s*/\s*\\text\s*\{[^{}]*\})?$")
_WORD = r"[A-Za-z\u00a2]+\.?(?:\^\s*\{?\d\}?)?"
_WORD_UNIT = re.compile(rf"(?:(?<=[\d}}\w)])\s+|(?<=[\d}})]))({_WORD}(?:(?:\s*/\s*|\s+){_WORD})*)$")
_DEGREE_UNIT = re.compile(
    r"\s*(?:\^\s*\{?\s*\\circ\s*\}?|\\degree(?![A-Za-z])|\\text\s*\{\s*degrees?(?:\s*\}|(?=\s))|(?<![A-Za-z])degrees?)"
    r"(?:\s*(?:\\text\s*\{)?\s*(?:(C)(?:elsius)?|(F)(?:ahrenheit)?)\s*\}?)?$"
)
_CURRENCY = re.compile(r"(-?)\s*\\?([$\u20ac\u00a3\u00a5])\s*")
_NO_UNITS = frozenset("pi and or sin cos tan sec csc cot log ln sqrt exp infinity".split())


def _quantity(text: str) -> tuple[str, units.Unit | None]:
    """The expression and its unit, None where it has none."""
    if match := _CURRENCY.match(text):
        body, unit = _quantity(text[match.end() :])
        return match[1] + body, units.unit(match[2]) if unit is None or unit.dimension is None else unit
    if text.endswith("%"):
        return text[:-1].strip(), units.PERCENT
    if match := _DEGREE_UNIT.search(text):
        body = text[: match.start()].strip()
        if scale := match[1] or match[2]:
            return body, units.Unit(dimension=((scale, 1),))
        angle = rf"{body}^\circ"
        return (angle, None) if (tree := _tree(angle)) is not None and has_angle(tree) else (body, units.DEGREE)
    if (match := _TEXT_UNIT.search(text)) and match.start() and not re.search(r"\\begin|\d", match[1]):
        return text[: match.start()].strip(), units.unit(" ".join(filter(None, (match[1] + (match[2] or ""), _bare(match[3])))))
    if match := _WORD_UNIT.search(text):
        words = match[1].replace(".", " ").strip()
        plain = [word for word in re.findall(r"[A-Za-z\u00a2]+", words) if word.lower() not in ("per",)]
        numbers = any(word in _NO_UNITS or words_to_number(word) is not None for word in plain)
        meant = plain and not numbers and all(len(word) > 2 or units.is_known(word) for word in plain)
        if meant and (len(plain[0]) > 1 or text[match.start(1) - 1].isspace()):
            return text[: match.start()].strip(), units.unit(words)
    return text, None


def _bare(text: str | None) -> str:
    return re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text or "")


#: A numeral with its base: "204_5", "2112_{\\text{six}}", "2112 (base 6)".
_BASE = re.compile(
    r"\(?(-?[0-9A-Z]+(?:\.[0-9A-Z]+)?)\)?\s*(?:_\s*\{?\s*(?:\\text\s*\{)?\s*\(?(\w+?)\)?\s*\}?\s*\}?"
    r"|(?:\\text\s*\{)?\s*\(?\s*(?:in\s+)?base[- ]+\$?(\w+)\$?\s*\)?\s*\}?)"
)


def _numeral_in_base(text: str) -> tuple[str, Fraction] | None:
    """Digits and base."""
    match = _BASE.fullmatch(text)
    if match is None or not re.search(r"\d", match[1]):
        return None
    name = match[2] or match[3]
    base = Fraction(name) if name.isdecimal() else words_to_number(name)
    return None if base is None else (match[1].lstrip("0") or "0", base)


_TIME = re.compile(r"(\d{1,2})(?::(\d{2}))?\s*([ap])\.?\s*m\.?", re.IGNORECASE)


def _minutes(text: str) -> int | None:
    """A time of day in minutes after midnight."""
    plain = _bare(text).strip()
    if match := _TIME.fullmatch(plain):
        return (int(match[1]) % 12 + 12 * (match[3].lower() == "p")) * 60 + int(match[2] or 0)
    match = re.fullmatch(r"(1[3-9]|2[0-3]|0\d):([0-5]\d)", plain)
    return int(match[1]) * 60 + int(match[2]) if match else None


def _plain_text(text: str) -> str:
    return re.sub(r"[\s.]+", " ", _bare(text)).strip().strip("()").strip().lower()


_CHOICE = re.compile(r"\(?([A-Z])\)?")
_CHOSEN = re.compile(r"(?i:option|choice|answer)?\s*(?:\(([A-Z])\)|([A-Z])(?=$|[:.)]))[:.)]?(?:\s.*)?", re.DOTALL)


def _words_equal(prediction: str, gold: str) -> bool | None:
    """The verdict where the gold answer is words, a choice or a time of day; None where it is mathematics."""
    bare_prediction, bare_gold = _bare(prediction).strip(), _bare(gold).strip()
    if (time := _minutes(gold)) is not None:
        return time == _minutes(prediction)
    if letter := _CHOICE.fullmatch(bare_gold):
        chosen = _CHOSEN.fullmatch(bare_prediction)
        return chosen is not None and letter[1] in chosen.groups()
    written = gold != bare_gold and re.search("[A-Za-z]", bare_gold) and not re.search(r"\d|\\", bare_gold)
    if written or re.fullmatch(r"[A-Za-z][A-Za-z .'-]{2,}", gold) or (gold != bare_gold and re.match("[A-Za-z]", bare_gold)):
        return _same_words(_plain_text(prediction).split(), _plain_text(gold).split())
    return None


def _same_words(words: list[str], gold: list[str]) -> bool:
    """Whether the words are the gold's, with an article before them, and a noun after them: "an even function" for "even"."""
    words = words[1:] if words and words[0] in ("a", "an", "the") else words
    return words[: len(gold)] == gold and len(words) <= len(gold) + 1


# -------------------------------------------------------------------------------------------------------------- leaves


def _tree(text: str) -> Node | None:
    try:
        return parse(text)
    except NotParsed:
        return None


_ORDINAL = re.compile(
    r"(?<=\d)\s*(?:\^?\s*\{?\s*\\text\s*\{\s*(?:st|nd|rd|th)\s*\}\s*\}?|\^\s*\{?\s*(?:st|nd|rd|th)\b\s*\}?|(?:st|nd|rd|th)\b)"
)


class _Comparison:
    """One comparison: the algebra that it may ask, and whether the question asks for a percentage."""

    def __init__(self, algebra: Algebra, question: str) -> None:
        self.algebra = algebra
        self.percentage = re.search(r"%|percent", question, re.IGNORECASE) is not None

    # ---------------------------------------------------------------------------------------------------- expressions

    def same_value(self, prediction: Node, gold: Node, *, times: Node | None = None) -> bool:
        """Whether ``prediction`` (times a unit's size) is worth ``gold``."""
        if times is not None:
            prediction = product(times, prediction)
        if canonical(prediction) == canonical(gold):
            return True
        exact = values.rational(prediction), values.rational(gold)
        if None not in exact:
            return exact[0] == exact[1]
        # A decimal is the value of an irrational number only approximately, and never that of a symbol.
        if (exact[0] is not None and is_numeral(prediction)) and values.symbols(gold):
            return False
        return self.algebra.same_value(prediction, gold)

    def leaf(self, prediction: str, gold: str) -> bool:
        if _compact(prediction) == _compact(gold):
            return bool(gold)
        prediction, gold = (_ORDINAL.sub("", text) for text in (prediction, gold))
        words = _words_equal(prediction, gold)
        if words is not None:
            return words
        prediction, gold = _unwrapped(prediction), _unwrapped(gold)
        based = _numeral_in_base(prediction), _numeral_in_base(gold)
        if based[1] is not None and based[0] is None:  # "1a3_{16}"; beside another gold, 2a_1 is a product
            based = _numeral_in_base(re.sub(r"[a-f](?=[0-9a-fA-F]*_)", lambda digit: digit[0].upper(), prediction)), based[1]
        if based[1] is not None:
            return (based[0] or (prediction.lstrip("0") or "0", based[1][1])) == based[1]
        if based[0] is not None:
            return based[0][1] == 10 and self.leaf(based[0][0], gold)
        # A colon is a ratio, never a quotient.
        ratios = _split(prediction, _COLON), _split(gold, _COLON)
        if max(map(len, ratios)) > 1:
            return len(ratios[0]) == len(ratios[1]) and all(map(self.leaf, *ratios))
        return self.quantity(*_quantity(prediction), *_quantity(gold))

    def quantity(self, prediction: str, unit: units.Unit | None, gold: str, gold_unit: units.Unit | None) -> bool:
        left, right = _tree(prediction), _tree(gold)
        if right is None:  # notation that only Math-Verify may know
            return unit == gold_unit and self.algebra.latex_equal(prediction, gold)
        if left is None or not worked_out(left, right):
            return False
        return any(self.same_value(left, right, times=size) for size in self.sizes(unit, gold_unit))

    def sizes(self, unit: units.Unit | None, gold: units.Unit | None) -> list[Node | None]:
        """What the prediction's number may be multiplied with to be the gold's; empty where the units exclude each other. A
        reader adds and drops units, but a percentage is a hundredth unless one was asked for."""
        degrees: list[Node | None] = [None, ("sym", "deg")]
        radians: list[Node | None] = [None, ("quot", ("num", Fraction(1), "integer"), ("sym", "deg"))]
        if unit is not None and gold is not None and not units.compatible(unit, gold):
            angular = {units.DEGREE.dimension, units.RADIAN.dimension}
            if {unit.dimension, gold.dimension} != angular:
                return []
            return degrees[1:] if unit == units.DEGREE else radians[1:]
        if unit is None or unit.dimension is None:
            if gold == units.PERCENT:
                return [] if unit is not None else [None, ("num", Fraction(100), "integer")]
            return radians if gold == units.DEGREE else [None]
        if unit == units.PERCENT:
            if gold is not None:
                return [None] if gold == units.PERCENT else []
            return [("num", Fraction(1, 100), "integer"), *([None] if self.percentage else [])]
        if gold is None or gold.dimension is None:
            return degrees if unit == units.DEGREE and gold is None else [None]
        if unit.dimension != gold.dimension:  # of a drawing's units
            return [None]
        ratio = unit.size / gold.size
        return [None if ratio == 1 else ("num", ratio, "integer")]

    # ------------------------------------------------------------------------------------------------------ structures

    def equal(self, prediction: str, gold: str) -> bool:
        prediction, gold = _as_set(_digits(prediction)), _as_set(_digits(gold))
        if not prediction or not gold:
            return False
        if _compact(prediction) == _compact(gold):
            return True
        if len(sides := _split(prediction, _APPROXIMATELY)) > 1:
            return self.approximated(sides, gold)
        kind, items = _structure(prediction)
        gold_kind, gold_items = _structure(gold)
        if kind == "list" and gold_kind != "list":
            prediction = _as_one(prediction, items, gold_kind)
            kind, items = _structure(prediction)
        if kind.startswith("relation") or gold_kind.startswith("relation"):
            return self.relations(prediction, (kind, items), gold, (gold_kind, gold_items))
        if {kind, gold_kind} == {"list", "union"}:
            listed = items if kind == "list" else gold_items
            ranges = [_range(item, brackets=kind == "list") for item in listed]
            if all(ranges):
                items, gold_items = (ranges, gold_items) if kind == "list" else (items, ranges)
                kind = gold_kind = "union"
        if {kind, gold_kind} in ({"set", "list"}, {"set", "leaf"}):
            kind = gold_kind = "set"
        if kind != gold_kind or len(items) != len(gold_items):
            return False
        if kind == "leaf":
            return self.leaf(prediction, gold)
        if kind in ("set", "list", "union"):
            return self.same_items(items, gold_items)
        return all(map(self.equal, items, gold_items))

    def approximated(self, sides: list[str], gold: str) -> bool:
        """The exact form is the answer, or what approximates it where the gold is a decimal; of a name, or of nothing, what
        follows."""
        first, *rest = sides
        if not first or (_is_name(first) and not _is_constant(first)):
            return len(rest) == 1 and self.equal(rest[0], gold)
        if not _is_value(rest[-1]):
            return False
        tree = _tree(_quantity(gold)[0])
        rounded = tree is not None and tree[2:] == ("decimal",)
        return self.equal(first, gold) or (rounded and self.equal(rest[-1], gold))

    def same_items(self, items: list[str], gold_items: list[str]) -> bool:
        left = list(items)
        for gold in gold_items:
            match = next((item for item in left if self.equal(item, gold)), None)
            if match is None:
                return False
            left.remove(match)
        return True

    def relations(
        self, prediction: str, structure: tuple[str, list[str]], gold: str, gold_structure: tuple[str, list[str]]
    ) -> bool:
        """At least one is an equation, an inequality, or a membership."""
        (kind, sides), (gold_kind, gold_sides) = structure, gold_structure
        both = kind.startswith("relation") and gold_kind.startswith("relation")
        if both and kind == gold_kind == "relation =":
            return self.equations(sides, gold_sides)
        left, right = _interval(kind, sides), _interval(gold_kind, gold_sides)
        if left or right:
            names = [_variable(sides), _variable(gold_sides)] if both else []
            if len({name for name in names if name}) > 1:
                return False
            if (left or not kind.startswith("relation")) and (right or not gold_kind.startswith("relation")):
                return self.equal(left or prediction, right or gold)
            return False
        if both:
            return self.inequalities((kind, sides), (gold_kind, gold_sides))
        if set(kind.split()[1:]) == {"="}:
            if _is_false(sides):
                return False
            return self.equal(sides[-1], gold) if _states_value(sides) else self.equal(sides[0], gold) and _is_value(sides[0])
        if gold_kind == "relation =" and (named := [side for side in gold_sides if _is_name(side)]):
            return self.equal(prediction, gold_sides[1] if named[0] == gold_sides[0] else gold_sides[0])
        return False

    def equations(self, sides: list[str], gold_sides: list[str]) -> bool:
        """The same equation, moved or scaled. One that is solved must be met by one that is solved."""
        if any(all(map(self.equal, order, gold_sides)) for order in (sides, sides[::-1])):
            return True
        left, right = (_difference(one) for one in (sides, gold_sides))
        if left is None or right is None or (_solved(gold_sides) and not _solved(sides)):
            return False
        return self.algebra.proportional(left, right, positive=False)

    def inequalities(self, structure: tuple[str, list[str]], gold_structure: tuple[str, list[str]]) -> bool:
        one, gold = _ascending(*structure), _ascending(*gold_structure)
        if one is None or gold is None or one[0] != gold[0]:
            return False
        if all(map(self.equal, one[1], gold[1])):
            return True
        if len(gold[0]) > 1:
            return False
        left, right = (_difference(sides) for sides in (one[1], gold[1]))
        return left is not None and right is not None and self.algebra.proportional(left, right, positive=True)


# ----------------------------------------------------------------------------------------------------------- relations


def _is_symbol(text: str) -> bool:
    return (tree := _tree(text)) is not None and tree[0] == "sym"


def _is_name(text: str) -> bool:
    """A variable, or a function of some: the left side of a definition."""
    return _is_symbol(text) or re.fullmatch(r"[A-Za-z]\s*\([A-Za-z, ]+\)", text) is not None


def _is_value(text: str) -> bool:
    return (tree := _tree(_quantity(text)[0])) is not None and is_numeral(tree)


def _states_value(sides: list[str]) -> bool:
    """Whether an equation says what its last side is: of a name, of numbers, of words; not of variables ("2x = 10"), nor of a
    function's variable ("g(x) = 3")."""
    left, right = _tree(sides[0]), _tree(sides[-1])
    if right is not None and (right[0] == "sym" or (_is_value(sides[0]) and not _is_value(sides[-1]))):
        return False
    if _is_constant(sides[-1]) and re.search(r"[A-Za-z]\s*\(\s*[a-z]\s*[,)]", sides[0]):
        return False
    if left is None and _structure(sides[0])[0] == "()":
        return True
    if left is None:
        return re.search(r"(?<![A-Za-z\\])[a-z](?![A-Za-z])", _bare(sides[0])) is None
    named = re.fullmatch(r"(?:m?\\(?:angle|triangle))?[A-Za-z]+(?:\^\{-1\})?(?:\(.*\))?|\|[A-Z]+\|", _compact(sides[0]))
    return not values.symbols(left) or named is not None


def _is_false(sides: list[str]) -> bool:
    """Whether two sides are exact numbers that differ."""
    trees = [_tree(_quantity(side)[0]) for side in sides]
    return len({values.rational(tree) for tree in trees if tree is not None} - {None}) > 1


def _is_constant(text: str) -> bool:
    return (tree := _tree(text)) is not None and not values.symbols(tree)


def _solved(sides: list[str]) -> bool:
    return any(_is_symbol(one) and _is_constant(other) for one, other in (sides, sides[::-1]))


def _difference(sides: list[str]) -> Node | None:
    left, right = (_tree(side) for side in sides)
    return None if left is None or right is None else ("sum", (left, ("neg", right)))


def _ascending(kind: str, sides: list[str]) -> tuple[list[str], list[str]] | None:
    """Signs and sides of a chain of inequalities, smallest first."""
    signs = kind.split()[1:]
    if not signs or not set(signs) <= _ASCENDING.keys() or len({sign in ("<", "le") for sign in signs}) > 1:
        return None
    falls = signs[0] in (">", "ge")
    plain = [_ASCENDING[sign] for sign in signs]
    return (plain[::-1], sides[::-1]) if falls else (plain, sides)


def _variable(sides: list[str]) -> str | None:
    return next((_compact(side) for side in sides if _is_symbol(side) and side != r"\infty"), None)


def _as_one(text: str, items: list[str], gold_kind: str) -> str:
    """A list of two bounds on one variable as the interval between them, one of what it is not as the reals without these, one
    of values of several variables as the point that has them in alphabetical order; other lists as they are."""
    structures = [_structure(item) for item in items]
    if re.search(r"\bor\b", text) or not all(kind.startswith("relation") for kind, _ in structures):
        return text
    if gold_kind == "()" and all(kind == "relation =" and re.fullmatch("[a-z]", sides[0]) for kind, sides in structures):
        values_of = {sides[0]: sides[1] for _, sides in structures}
        return f"({','.join(values_of[name] for name in sorted(values_of))})" if len(values_of) == len(items) else text
    excluded = [sides[1] for kind, sides in structures if kind == "relation ne" and _is_constant(sides[1])]
    if len(excluded) == len(items) and len({sides[0] for _, sides in structures if _is_symbol(sides[0])}) == 1:
        return _without(excluded) or text
    if gold_kind != "union" and len(items) == 2 and len({_variable(sides) for _, sides in structures}) == 1:
        lower, upper = sorted((_interval(*structure) for structure in structures), key=lambda one: one.startswith(r"(-\infty,"))
        if lower.endswith(r",\infty)") and upper.startswith(r"(-\infty,") and _UNION.search(lower + upper) is None:
            return lower.removesuffix(r"\infty)") + upper.removeprefix(r"(-\infty,")
    return text


def _range(text: str, *, brackets: bool) -> str:
    """An inequality as an interval, or where ``brackets`` may be one, an interval; empty for others."""
    kind, items = _structure(text)
    return text if brackets and len(kind) == 2 and len(items) == 2 else _interval(kind, items)


def _interval(kind: str, sides: list[str]) -> str:
    """An inequality on one variable as an interval; the set of a membership; empty where it is neither."""
    if kind == "relation in":
        return sides[1]
    if kind == "relation ne" and _is_symbol(sides[0]) and _is_constant(sides[1]):
        return rf"(-\infty,{sides[1]})\cup({sides[1]},\infty)"
    chain = _ascending(kind, sides) if kind.startswith("relation") else None
    if chain is None:
        return ""
    signs, ascending = chain
    if len(signs) == 1 and (size := _magnitude(ascending[0], ascending[1], signs[0])):
        return size
    names = [position for position, side in enumerate(ascending) if _is_symbol(side) and _is_constant(side) is False]
    if len(names) != 1 or not all(_is_constant(side) for side in ascending if side != ascending[names[0]]):
        return ""
    opening, closing = {"<": "(", "le": "["}, {"<": ")", "le": "]"}
    match len(signs), names[0]:
        case 1, 0:
            return rf"(-\infty,{ascending[1]}{closing[signs[0]]}"
        case 1, 1:
            return rf"{opening[signs[0]]}{ascending[0]},\infty)"
        case 2, 1:
            return f"{opening[signs[0]]}{ascending[0]},{ascending[2]}{closing[signs[1]]}"
    return ""


def _magnitude(left: str, right: str, sign: str) -> str:
    """``|x| < a`` and ``a < |x|``; empty for others."""
    opening, closing = ("(", ")") if sign == "<" else ("[", "]")
    inside, one, bound = (True, left, right) if "|" in left else (False, right, left)
    tree = _tree(one)
    if tree is None or tree[:2] != ("fn", "abs") or tree[2][0][0] != "sym" or not _is_constant(bound) or bound.startswith("-"):
        return ""
    return f"{opening}-{bound},{bound}{closing}" if inside else rf"(-\infty,-{bound}{closing}\cup{opening}{bound},\infty)"


# ------------------------------------------------------------------------------------------------------------ question

_FORMULA = re.compile(r"\$\$(.+?)\$\$|\\\[(.+?)\\\]|\\\((.+?)\\\)|(?<!\\)\$(.+?)(?<!\\)\$", re.DOTALL)


_NUMBER_IN_PROSE = re.compile(r"(?<![\w.])(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?![\w/]|\.\d)")
#: A question about how a number is written: then a number of the question, written as there, is no answer.
_ASKS_FOR_FORM = re.compile(
    r"\b(?:express|writ|convert|chang|simplif|reduc|rationali|evaluat|comput|calculat|round|how many"
    r"|fraction|decimal|percent|notation|radian|degree|form)",
    re.IGNORECASE,
)


@lru_cache(maxsize=64)
def _formulas(question: str) -> frozenset[object]:
    """The formulas of a question, the sides of its equations and the numbers of its prose: texts without blanks, and trees."""
    known: set[object] = set()
    prose = _NUMBER_IN_PROSE.findall(_FORMULA.sub(" ", question))
    for formula in (*(match[match.lastindex or 0] for match in _FORMULA.finditer(question)), *prose):
        whole = strict_normal_form(formula).rstrip(",.?")
        for text in {whole, *_split(whole, _RELATION)}:
            number, _ = _quantity(text)
            known.update((_compact(text), _compact(number)))
            if (tree := _tree(number)) is not None:
                known.add(canonical(tree))
    return frozenset(known)


def _restated(prediction: str, gold: str, question: str) -> bool:
    """Whether the answer is a formula of the question, or a number whose form was to be changed, that is not the gold answer as
    it is written."""
    (number, _), (gold_number, _) = _quantity(prediction), _quantity(gold)
    tree, gold_tree = _tree(number), _tree(gold_number)
    form = None if tree is None else canonical(tree)
    if form is not None and gold_tree is not None and form == canonical(gold_tree):
        return False
    bare, gold_bare = (one[1] if one is not None and one[0] == "neg" else one for one in (tree, gold_tree))
    if bare is not None and bare[0] == "sym":
        return False
    if bare is not None and bare[0] == "num":
        same = gold_bare is None or (gold_bare[0] == "num" and gold_bare[1] == bare[1])
        if not _ASKS_FOR_FORM.search(question) or (same and bare[2:] == ("integer",)):
            return False
    known = _formulas(question)
    return _compact(prediction) in known or form in known


def strict_equal(prediction: str, gold: str, algebra: Algebra, *, question: str = "") -> bool:
    """Whether a reader would call the answers equal: same structure (an interval's ends, a set, a list with the same
    number of items, a matrix's shape), worked out as far as the gold, and items equal in exact value. Sets and comma lists
    have no order.

    Args:
        question: what was asked, where it is at hand; a formula of it that is not the gold as written is no answer.
    """
    prediction, gold = strict_normal_form(prediction), strict_normal_form(gold)
    if not prediction or not gold:
        return False
    if _compact(prediction) == _compact(gold):
        return True
    if question and _restated(prediction, gold, question):
        return False
    return _Comparison(algebra, question).equal(prediction, gold)
