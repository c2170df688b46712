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
from evaluation.graders.expressions.shape import canonical, is_numeral, worked_out
from evaluation.graders.quantities import words_to_number


class Algebra(Protocol):
    """What may take long: ``evaluation.graders.algebra.AlgebraWorker``."""

    def same_value(self, prediction: Node, gold: Node) -> bool:
        """``values.same_value``."""

    def proportional(self, prediction: Node, gold: Node, *, positive: bool) -> bool:
        """``values.proportional``."""

    def latex_equal(self, prediction: str, gold: str) -> bool:
        """Math-Verify's verdict."""


# ------------------------------------------------------------------------------------------------------------ notation

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
    return re.sub(r"\.$", "", text.strip()).strip()


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
_COLON = re.compile(r":")


def _matching(text: str) -> bool:
    """Whether the first character's bracket closes at the last one. Half-open intervals count."""
    depth = 0
    for position, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0:
            return position == len(text) - 1
    return False


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
_DEGREE_UNIT = re.compile(r"\s*(?:\^\s*\{?\s*\\circ\s*\}?|\\degree(?![A-Za-z])|\u00b0)(?:\s*(?:\\text\s*\{)?\s*([CF])\s*\}?)?$")
_CURRENCY = re.compile(r"(-?)\s*(?:\\\$|[$\u20ac\u00a3])\s*")
_NO_UNITS = frozenset("pi and or sin cos tan sec csc cot log ln sqrt exp infinity".split())


def _quantity(text: str) -> tuple[str, units.Unit | None]:
    """The expression and its unit, None where it has none."""
    if match := _CURRENCY.match(text):
        body, unit = _quantity(text[match.end() :])
        return match[1] + body, units.DOLLAR if unit is None or unit.dimension is None else unit
    if text.endswith("%"):
        return text[:-1].strip(), units.PERCENT
    if match := _DEGREE_UNIT.search(text):
        temperature = units.Unit(dimension=((match[1], 1),)) if match[1] else units.DEGREE
        return text[: match.start()].strip(), temperature
    if (match := _TEXT_UNIT.search(text)) and match.start() and not re.search(r"\\begin|\d", match[1]):
        return text[: match.start()].strip(), units.unit(" ".join(filter(None, (match[1] + (match[2] or ""), _bare(match[3])))))
    if match := _WORD_UNIT.search(text):
        words = match[1].replace(".", " ").strip()
        plain = [word for word in re.findall(r"[A-Za-z\u00a2]+", words) if word.lower() not in ("per",)]
        meant = plain and not _NO_UNITS.intersection(plain) and all(len(word) > 2 or units.is_known(word) for word in plain)
        if meant and (len(plain[0]) > 1 or text[match.start(1) - 1].isspace()):
            return text[: match.start()].strip(), units.unit(words)
    return text, None


def _bare(text: str | None) -> str:
    return re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text or "")


#: A numeral with its base: "204_5", "2112_{\\text{six}}", "2112 (base 6)".
_BASE = re.compile(
    r"\(?(-?[0-9A-Z]+(?:\.[0-9A-Z]+)?)\)?\s*(?:_\s*\{?\s*(?:\\text\s*\{)?\s*(\w+?)\s*\}?\s*\}?"
    r"|(?:\\text\s*\{)?\s*\(?\s*(?:in\s+)?base[- ]+\$?(\w+)\$?\s*\)?\s*\}?)"
)


def _numeral_in_base(text: str) -> tuple[str, Fraction] | None:
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
        if based[1] is not None:
            return (based[0] or (prediction.lstrip("0") or "0", based[1][1])) == based[1]
        if based[0] is not None:
            return False
        # A colon is a ratio, never a quotient.
        ratios = _split(prediction, _COLON), _split(gold, _COLON)
        if max(map(len, ratios)) > 1:
            return len(ratios[0]) == len(ratios[1]) and all(map(self.leaf, *ratios))
        return self.quantity(*_quantity(prediction), *_quantity(gold))

    def quantity(self, prediction: str, unit: units.Unit | None, gold: str, gold_unit: units.Unit | None) -> bool:
        left, right = _tree(prediction), _tree(gold)
        if (value := words_to_number(prediction)) is not None:
            left = ("num", value, "integer")
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
        angles = {
            (units.DEGREE.dimension, (("radian", 1),)): degrees[1:],
            ((("radian", 1),), units.DEGREE.dimension): radians[1:],
        }
        if (unit.dimension, gold.dimension) in angles:
            return angles[unit.dimension, gold.dimension]
        if unit.dimension != gold.dimension:
            return []
        ratio = unit.size / gold.size
        return [None if ratio == 1 else ("num", ratio, "integer")]

    # ------------------------------------------------------------------------------------------------------ structures

    def equal(self, prediction: str, gold: str) -> bool:
        if not prediction or not gold:
            return False
        if _compact(prediction) == _compact(gold):
            return True
        kind, items = _structure(prediction)
        gold_kind, gold_items = _structure(gold)
        if kind.startswith("relation") or gold_kind.startswith("relation"):
            return self.relations(prediction, (kind, items), gold, (gold_kind, gold_items))
        if {kind, gold_kind} == {"list", "union"}:
            listed = items if kind == "list" else gold_items
            ranges = [_interval(*_structure(item)) for item in listed]
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
    named = re.fullmatch(r"(?:\\(?:angle|triangle))?[A-Za-z]+(?:\^\{-1\})?(?:\(.*\))?", _compact(sides[0]))
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


# ------------------------------------------------------------------------------------------------------------ question

_FORMULA = re.compile(r"\$\$(.+?)\$\$|\\\[(.+?)\\\]|\\\((.+?)\\\)|(?<!\\)\$(.+?)(?<!\\)\$", re.DOTALL)


@lru_cache(maxsize=64)
def _formulas(question: str) -> frozenset[object]:
    """The formulas of a question and the sides of its equations: texts without blanks, and trees."""
    known: set[object] = set()
    for match in _FORMULA.finditer(question):
        whole = strict_normal_form(next(group for group in match.groups() if group is not None)).rstrip(",.?")
        for text in {whole, *_split(whole, _RELATION)}:
            known.add(_compact(text))
            if (tree := _tree(text)) is not None:
                known.add(canonical(tree))
    return frozenset(known)


def _restated(prediction: str, gold: str, question: str) -> bool:
    """Whether the answer is a formula of the question that is not the gold answer as it is written."""
    tree, gold_tree = (_tree(_quantity(text)[0]) for text in (prediction, gold))
    form = None if tree is None else canonical(tree)
    if form is not None and gold_tree is not None and form == canonical(gold_tree):
        return False
    bare = form[1] if form is not None and form[0] == "neg" else form
    if bare is not None and (bare[0] == "sym" or bare[2:] == ("integer",)):
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
