"""When a reader would call two math answers equal: same structure, worked out as far, items equal in exact value. Strict where
the lineages' comparisons are lenient, tolerant of notation where they are strict. No text of a model is evaluated as
Python."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import Protocol

from evaluation.graders.expressions import measures, relations, units, values
from evaluation.graders.expressions.notation import bare, compact, digits, strict_normal_form, unwrapped
from evaluation.graders.expressions.parse import Node, parsed, product
from evaluation.graders.expressions.shape import canonical, is_numeral, worked_out
from evaluation.graders.expressions.structure import APPROXIMATELY, COLON, RELATION, as_set, split, structure


class Algebra(Protocol):
    """What may take long: ``evaluation.graders.algebra.AlgebraWorker``."""

    def same_value(self, prediction: Node, gold: Node) -> bool:
        """``values.same_value``."""

    def proportional(self, prediction: Node, gold: Node, *, positive: bool) -> bool:
        """``values.proportional``."""

    def latex_equal(self, prediction: str, gold: str) -> bool:
        """Math-Verify's verdict."""


# --------------------------------------------------------------------------------------------------------------- words


def _plain_text(text: str) -> str:
    return re.sub(r"[\s.]+", " ", bare(text)).strip().strip("()").strip().lower()


_CHOICE = re.compile(r"\(?([A-Z])\)?")
_CHOSEN = re.compile(r"(?i:option|choice|answer)?\s*(?:\(([A-Z])\)|([A-Z])(?=$|[:.)]))[:.)]?(?:\s.*)?", re.DOTALL)


def _words_equal(prediction: str, gold: str) -> bool | None:
    """The verdict where the gold answer is words, a choice or a time of day; None where it is mathematics."""
    bare_prediction, bare_gold = bare(prediction).strip(), bare(gold).strip()
    if (time := measures.minutes(gold)) is not None:
        return time == measures.minutes(prediction)
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


# ---------------------------------------------------------------------------------------------------------- comparison

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
        if compact(prediction) == compact(gold):
            return bool(gold)
        prediction, gold = (_ORDINAL.sub("", text) for text in (prediction, gold))
        words = _words_equal(prediction, gold)
        if words is not None:
            return words
        prediction, gold = unwrapped(prediction), unwrapped(gold)
        based = measures.numeral_in_base(prediction), measures.numeral_in_base(gold)
        if based[1] is not None and based[0] is None:  # "1a3_{16}"; beside another gold, 2a_1 is a product
            based = (
                measures.numeral_in_base(re.sub(r"[a-f](?=[0-9a-fA-F]*_)", lambda digit: digit[0].upper(), prediction)),
                based[1],
            )
        if based[1] is not None:
            return (based[0] or (prediction.lstrip("0") or "0", based[1][1])) == based[1]
        if based[0] is not None:
            return based[0][1] == 10 and self.leaf(based[0][0], gold)
        # A colon is a ratio, never a quotient.
        ratios = split(prediction, COLON), split(gold, COLON)
        if max(map(len, ratios)) > 1:
            return len(ratios[0]) == len(ratios[1]) and all(map(self.leaf, *ratios))
        return self.quantity(*measures.quantity(prediction), *measures.quantity(gold))

    def quantity(self, prediction: str, unit: units.Unit | None, gold: str, gold_unit: units.Unit | None) -> bool:
        left, right = parsed(prediction), parsed(gold)
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
        prediction, gold = as_set(digits(prediction)), as_set(digits(gold))
        if not prediction or not gold:
            return False
        if compact(prediction) == compact(gold):
            return True
        if len(sides := split(prediction, APPROXIMATELY)) > 1:
            return self.approximated(sides, gold)
        kind, items = structure(prediction)
        gold_kind, gold_items = structure(gold)
        if kind == "list" and gold_kind != "list":
            prediction = relations.as_one(prediction, items, gold_kind)
            kind, items = structure(prediction)
        if kind.startswith("relation") or gold_kind.startswith("relation"):
            return self.relations(prediction, (kind, items), gold, (gold_kind, gold_items))
        if {kind, gold_kind} == {"list", "union"}:
            listed = items if kind == "list" else gold_items
            ranges = [relations.range_of(item, brackets=kind == "list") for item in listed]
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
        if not first or (relations.is_name(first) and not relations.is_constant(first)):
            return len(rest) == 1 and self.equal(rest[0], gold)
        if not relations.is_value(rest[-1]):
            return False
        tree = parsed(measures.quantity(gold)[0])
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
        left, right = relations.interval(kind, sides), relations.interval(gold_kind, gold_sides)
        if left or right:
            names = [relations.variable(sides), relations.variable(gold_sides)] if both else []
            if len({name for name in names if name}) > 1:
                return False
            if (left or not kind.startswith("relation")) and (right or not gold_kind.startswith("relation")):
                return self.equal(left or prediction, right or gold)
            return False
        if both:
            return self.inequalities((kind, sides), (gold_kind, gold_sides))
        if set(kind.split()[1:]) == {"="}:
            if relations.is_false(sides):
                return False
            return (
                self.equal(sides[-1], gold)
                if relations.states_value(sides)
                else self.equal(sides[0], gold) and relations.is_value(sides[0])
            )
        if gold_kind == "relation =" and (named := [side for side in gold_sides if relations.is_name(side)]):
            return self.equal(prediction, gold_sides[1] if named[0] == gold_sides[0] else gold_sides[0])
        return False

    def equations(self, sides: list[str], gold_sides: list[str]) -> bool:
        """The same equation, moved or scaled. One that is solved must be met by one that is solved."""
        if any(all(map(self.equal, order, gold_sides)) for order in (sides, sides[::-1])):
            return True
        left, right = (relations.difference(one) for one in (sides, gold_sides))
        if left is None or right is None or (relations.solved(gold_sides) and not relations.solved(sides)):
            return False
        return self.algebra.proportional(left, right, positive=False)

    def inequalities(self, structure: tuple[str, list[str]], gold_structure: tuple[str, list[str]]) -> bool:
        one, gold = relations.ascending(*structure), relations.ascending(*gold_structure)
        if one is None or gold is None or one[0] != gold[0]:
            return False
        if all(map(self.equal, one[1], gold[1])):
            return True
        if len(gold[0]) > 1:
            return False
        left, right = (relations.difference(sides) for sides in (one[1], gold[1]))
        return left is not None and right is not None and self.algebra.proportional(left, right, positive=True)


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
        for text in {whole, *split(whole, RELATION)}:
            number, _ = measures.quantity(text)
            known.update((compact(text), compact(number)))
            if (tree := parsed(number)) is not None:
                known.add(canonical(tree))
    return frozenset(known)


def _restated(prediction: str, gold: str, question: str) -> bool:
    """Whether the answer is a formula of the question, or a number whose form was to be changed, that is not the gold answer as
    it is written."""
    (number, _), (gold_number, _) = measures.quantity(prediction), measures.quantity(gold)
    tree, gold_tree = parsed(number), parsed(gold_number)
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
    return compact(prediction) in known or form in known


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
    if compact(prediction) == compact(gold):
        return True
    if question and _restated(prediction, gold, question):
        return False
    return _Comparison(algebra, question).equal(prediction, gold)
