"""Whether an answer is worked out, judged by the shape of the gold answer: what is left to do in the answer, and is not left
in the gold, makes it a restatement of the question.

Equal values do not make equal answers: 2 + 3 is not the answer 5, nor is x^2 - 9 the answer (x - 3)(x + 3).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import gcd, prod

from evaluation.graders.expressions.parse import INVERSE, LOGARITHMS, TRIGONOMETRIC, Node, product
from evaluation.graders.expressions.values import children, names, symbols

#: Counts end here: more is as unevaluated as it gets.
_MOST = 10_000


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What is left to do in an expression. Each count is compared with the gold's."""

    #: Terms when products are multiplied out and no like terms are collected.
    terms: int
    #: Numerals in the numerator, the denominator or the factors of one product: 2 * 3, 6 * 1 and 20 * 1/2 have two. A decimal
    #: in a quotient counts twice.
    numerals: int
    #: Roots, and powers of numbers with other exponents than integers; of numerator or denominator.
    roots: int
    #: Roots from which an integer can be taken: that of 12.
    impure_roots: int
    #: Powers that can be worked out: of numbers other than integers, of powers, of products, of roots of numbers, of i (also
    #: 1/i), of 1, and first ones.
    powers: int
    #: Powers of integers.
    numeral_powers: int
    #: Powers of one variable in one product beyond the first: x^5 x^3, x^5 / x^3.
    repeated: int
    #: Sums with variables that another factor or a power waits to be multiplied into.
    brackets: int
    #: Fractions that are not in lowest terms: of integers, of sums all of whose terms have a factor in common, of fractions.
    reducible: int
    #: Whether there is a quotient at all.
    quotient: bool
    #: Names of families of functions.
    functions: frozenset[str]
    #: Factors of a product with a sum of variables among them; 1 for everything else.
    factors: int


def worked_out(answer: Node, gold: Node) -> bool:
    """Whether the answer leaves nothing to do that the gold does not leave: no sum, product, power, root or function more,
    and a product of factors where the gold is one. A denominator may be factored."""
    left, right = shape(answer), shape(gold)
    match answer, gold:
        case ("quot", top, bottom), ("quot", gold_top, _) if canonical(top) == canonical(gold_top) and _factors(bottom) > 1:
            left = replace(left, terms=right.terms, brackets=right.brackets)
    return (
        left.terms <= right.terms
        and left.numerals <= max(1, right.numerals)
        and left.roots <= right.roots
        and left.impure_roots <= right.impure_roots
        and left.powers <= right.powers
        and (left.numeral_powers <= right.numeral_powers or is_numeral(answer))
        and left.repeated <= right.repeated
        and left.brackets <= right.brackets
        # 14/2 is read as the number 7; 16/20 beside 4/5 is a fraction still to be reduced.
        and (left.reducible <= right.reducible or (is_numeral(answer) and not right.quotient))
        and left.functions <= right.functions
        and left.factors >= right.factors
    )


def shape(tree: Node) -> Shape:
    """The shape of an expression."""
    return Shape(
        terms=_terms(tree),
        numerals=_numerals(tree),
        roots=_roots(tree),
        impure_roots=_impure_roots(tree),
        powers=_powers(tree),
        numeral_powers=_numeral_powers(tree),
        repeated=_repeated(tree),
        brackets=_brackets(tree),
        reducible=_reducible(tree),
        quotient=_has_quotient(tree),
        functions=_functions(tree),
        factors=_factors(tree),
    )


def is_numeral(tree: Node) -> bool:
    """Whether a tree is one number as it is written: an integer, a decimal, a fraction, a power of an integer such as
    ``2^{10}``, scientific notation."""
    match tree:
        case ("num", *_):
            return True
        case ("neg", inner):
            return inner[0] != "neg" and is_numeral(inner)
        case ("quot", top, bottom):
            return _integer(top) is not None and _integer(bottom) is not None
        case ("pow", ("num", Fraction() as base, "integer"), exponent):
            return base > 1 and _integer(exponent) not in (None, 0, 1)
        case ("prod", (("num", *_), ("pow", ("num", Fraction(numerator=10), "integer"), exponent))):
            return _integer(exponent) is not None
    return False


def _integer(tree: Node) -> int | None:
    match tree:
        case ("num", Fraction(numerator=value), "integer"):
            return value
        case ("neg", ("num", Fraction(numerator=value), "integer")):
            return -value
    return None


def _terms(tree: Node) -> int:
    match tree:
        case ("sum", parts):
            return min(_MOST, sum(map(_terms, parts)))
        case ("prod", parts):
            count = 1
            for part in parts:
                count = min(_MOST, count * _terms(part))
            return count
        case ("quot", top, bottom):
            return _terms(top) + _terms(bottom) - 1
        case ("pow", base, exponent):
            times = _integer(exponent)
            each = _terms(base)
            grown = each ** min(abs(times), 20) if each > 1 and times else each
            return min(_MOST, grown + _terms(exponent) - 1)
        case ("fn", _, arguments):
            return min(_MOST, sum(map(_terms, arguments)) - len(arguments) + 1)
        case ("neg", ("neg", inner)):
            return _terms(inner) + 1
        case ("neg", inner):
            return _terms(inner)
    return 1


def _fraction(tree: Node) -> tuple[list[Node], list[Node]]:
    """Factors of numerator and denominator, quotients and products laid flat, signs dropped."""
    if is_numeral(tree) and tree[0] not in ("quot", "neg"):
        return [tree], []
    match tree:
        case ("neg", inner):
            return _fraction(inner)
        case ("prod", parts):
            sides = [_fraction(part) for part in parts]
            return [one for top, _ in sides for one in top], [one for _, bottom in sides for one in bottom]
        case ("quot", top, bottom):
            (over, under), (below, above) = _fraction(top), _fraction(bottom)
            return over + above, under + below
    return [tree], []


def _inner(tree: Node) -> list[Node]:
    """The parts that have a shape of their own: terms of sums, arguments, bases and exponents of factors."""
    top, bottom = _fraction(tree)
    return [child for factor in top + bottom if not is_numeral(factor) for child in children(factor)]


def _worst(own: int, parts: list[Node], count: Callable[[Node], int]) -> int:
    return max([own, *(count(part) for part in parts)])


def _is_one(tree: Node) -> bool:
    return tree[0] == "num" and tree[1] == 1


def _numerals(tree: Node) -> int:
    top, bottom = _fraction(tree)
    own = max(sum(is_numeral(factor) and not _is_one(factor) for factor in side) for side in (top, bottom))
    own += bool(bottom) and any(factor[2:] in (("decimal",), ("repeating",), ("mixed",)) for factor in top + bottom)
    return _worst(max(own, _numeral_factors(tree)), _inner(tree), _numerals)


def _numeral_factors(tree: Node) -> int:
    """Factors with a numeral: two in 20 * 1/2, one in 1/2 * x."""
    if is_numeral(tree):
        return 1
    match tree:
        case ("neg", inner):
            return _numeral_factors(inner)
        case ("prod", parts):
            return sum(map(_numeral_factors, parts))
        case ("quot", top, bottom):
            return max(_numeral_factors(top), _numeral_factors(bottom))
    return 0


def _roots(tree: Node) -> int:
    match tree:
        case ("quot", top, bottom):
            return max(_roots(top), _roots(bottom))
        case ("pow", _, exponent) if _integer(exponent) is None and not symbols(exponent):
            return 1 + sum(map(_roots, children(tree)))
        case ("fn", "root", (radicand, _)):
            return 1 + _roots(radicand)
    return sum(map(_roots, children(tree)))


def _powers(tree: Node) -> int:
    own = int(tree[0] == "quot" and "i" in names(tree[2]))
    if tree[0] == "pow" and not is_numeral(tree) and (_integer(tree[2]) is not None or symbols(tree) or tree[2][0] == "pow"):
        base, exponent = tree[1], tree[2]
        bare = base[1] if base[0] == "neg" else base
        own = bare[0] in ("num", "quot", "prod", "pow") or bare == ("sym", "i") or exponent[0] == "pow"
        own = own or (bare[:2] == ("fn", "root") and not symbols(bare))
    return own + sum(map(_powers, children(tree)))


def _repeated(tree: Node) -> int:
    top, bottom = _fraction(tree)
    bases = Counter(base[1] for factor in top + bottom if (base := factor[1] if factor[0] == "pow" else factor)[0] == "sym")
    return _worst(sum(bases.values()) - len(bases), _inner(tree), _repeated)


def _impure_roots(tree: Node) -> int:
    own = False
    match tree:
        case ("fn", "root", (radicand, degree)):
            value, times = _integer(radicand), _integer(degree)
            # Divisors to 1000 do: MATH's radicands are below 10^6.
            own = bool(value and times and times > 1 and any(not value % n**times for n in range(2, _root_limit(value, times))))
    return own + sum(map(_impure_roots, children(tree)))


def _root_limit(value: int, times: int) -> int:
    return min(1000, int(min(abs(value), 10**18) ** (1 / min(times, 60))) + 1) + 1


def _numeral_powers(tree: Node) -> int:
    return (tree[0] == "pow" and is_numeral(tree)) + sum(map(_numeral_powers, children(tree)))


def _brackets(tree: Node) -> int:
    own = 0
    if tree[0] == "prod":
        factors = [factor for factor in _fraction(tree)[0] if not _is_one(factor)]
        own = sum(_is_variable_sum(factor) for factor in factors) if len(factors) > 1 else 0
    elif tree[0] == "pow" and _is_variable_sum(tree[1]):
        own = max(1, min(_MOST, _integer(tree[2]) or 1))
    return own + sum(map(_brackets, children(tree)))


def _is_variable_sum(tree: Node) -> bool:
    return tree[0] == "sum" and bool(symbols(tree))


def _reducible(tree: Node) -> int:
    own = False
    if tree[0] == "quot":
        terms = [term for side in tree[1:] for term in _summands(side)]
        own = gcd(*map(_coefficient, terms)) > 1 or any(factor[0] == "quot" for term in terms for factor in _parts(term))
    return own + sum(map(_reducible, children(tree)))


def _parts(term: Node) -> Sequence[Node]:
    bare = term[1] if term[0] == "neg" else term
    return bare[1] if bare[0] == "prod" else (bare,)


def _summands(tree: Node) -> Sequence[Node]:
    return tree[1] if tree[0] == "sum" else (tree,)


def _coefficient(term: Node) -> int:
    match term:
        case ("num", Fraction(numerator=value), "integer"):
            return value
        case ("neg", inner):
            return _coefficient(inner)
        case ("prod", factors):
            return prod(map(_coefficient, factors))
    return 1


def _has_quotient(tree: Node) -> bool:
    return tree[0] == "quot" or any(map(_has_quotient, children(tree)))


def _functions(tree: Node) -> frozenset[str]:
    below: frozenset[str] = frozenset().union(*map(_functions, children(tree)))
    if tree[0] != "fn" or tree[1] == "root":
        return below
    name = tree[1]
    for family in (TRIGONOMETRIC, frozenset("arc" + one for one in INVERSE.values()), LOGARITHMS):
        if name in family:
            name = min(family)
    return below | {name}


def has_angle(tree: Node) -> bool:
    """Whether a function is applied to degrees: the sign in ``\\cos 58^\\circ`` is no unit of the cosine."""
    return (tree[0] == "fn" and "deg" in names(tree)) or any(map(has_angle, children(tree)))


def _factors(tree: Node) -> int:
    """A numeral other than 1 and each sum or power of one counts; of several powers of variables, one."""
    top, _ = _fraction(tree)
    sums = variables = numerals = 0
    for factor in top:
        base, times = (factor[1], _integer(factor[2]) or 1) if factor[0] == "pow" and not is_numeral(factor) else (factor, 1)
        if base[0] == "sum" and symbols(base):
            sums += max(1, times)
        elif symbols(factor):
            variables = 1
        elif not _is_one(factor):
            numerals = 1
    return sums + variables + numerals if sums else 1


def canonical(tree: Node) -> Node:
    """The tree with terms and factors in a fixed order and signs pulled out: equal for texts that differ only in order and in
    spelling."""
    match tree:
        case ("num" | "sym", *_):
            return tree
        case ("neg", ("neg", inner)):
            return canonical(inner)
        case ("neg", inner):
            flat = canonical(inner)
            return flat[1] if flat[0] == "neg" else ("neg", flat)
        case ("sum", parts):
            return ("sum", tuple(sorted(map(canonical, parts), key=repr)))
        case ("prod", parts):
            factors = [canonical(part) for part in parts]
            signs = sum(factor[0] == "neg" for factor in factors)
            bare = product(*(factor[1] if factor[0] == "neg" else factor for factor in factors))
            ordered: Node = ("prod", tuple(sorted(bare[1], key=repr)))
            return ("neg", ordered) if signs % 2 else ordered
        case ("quot", top, bottom):
            over, under = canonical(top), canonical(bottom)
            negative = (over[0] == "neg") != (under[0] == "neg")
            over, under = (side[1] if side[0] == "neg" else side for side in (over, under))
            return ("neg", ("quot", over, under)) if negative else ("quot", over, under)
        case ("fn", name, arguments):
            return ("fn", name, tuple(map(canonical, arguments)))
    return (tree[0], *map(canonical, tree[1:]))
