"""LaTeX or plain mathematics to a tree that keeps every operation as it was written: 6/2 stays a quotient.

Nodes are tuples: ``("num", Fraction, style)`` with style integer, decimal, repeating or mixed; ``("sym", name)``, among them
the constants pi, e, i, deg (pi/180) and oo; ``("neg", x)``, ``("sum", items)``, ``("prod", items)``, ``("quot", x, y)``,
``("pow", x, y)`` and ``("fn", name, arguments)``.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

Node = tuple[Any, ...]

#: Deeper nesting is not parsed. No gold answer of MATH has more than 6 levels.
_MAX_DEPTH = 40
_MAX_CHARACTERS = 1000

TRIGONOMETRIC = frozenset(("sin", "cos", "tan", "cot", "sec", "csc"))
INVERSE = {"arcsin": "sin", "arccos": "cos", "arctan": "tan", "asin": "sin", "acos": "cos", "atan": "tan"}
LOGARITHMS = frozenset(("log", "ln", "lg"))
_FUNCTIONS = TRIGONOMETRIC | INVERSE.keys() | LOGARITHMS | {"exp", "sinh", "cosh", "tanh", "gcd", "lcm", "max", "min", "det"}
_WORDS = _FUNCTIONS | {"sqrt", "pi", "abs"}
_ACCENTS = ("overline", "overrightarrow", "vec", "bar", "hat", "widehat", "triangle", "angle")
_GREEK = frozenset(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau upsilon phi "
    "varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega ell".split()
)
_TIMES = ("\\cdot", "\\times", "*")
_DIVIDED = "\\div"  # unlike a slash or a bar, which also write a fraction, a sign of what is still to be done
_FENCES = {"(": ")", "[": "]", "{": "}", "\\lfloor": "\\rfloor", "\\lceil": "\\rceil"}

_NUMBER = re.compile(r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d{1,3}(?: \d{3})+(?![\d/])|\d+)(?:\.\d+|\.(?!\d))?|\.\d+")
_REPEATING = re.compile(r"(\d*)\.(\d*)(?:\\(?:overline|bar|dot) ?(?:\{(\d+)\}|(\d))|\((\d+)\))")
_DOTTED = re.compile(r"(\d{0,20})\.(\d{0,20}?)(\d{1,20}?)\3+(?:\\l?dots|\.\.\.)")
_SLASHED = re.compile(r" +(\d+)/(\d+)(?![\d.^!])")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_LETTERS = re.compile(r"[A-Za-z]+")


class NotParsed(ValueError):
    """The text is no expression that this grammar knows."""


@lru_cache(maxsize=4096)
def parse(text: str) -> Node:
    """The tree of an expression in normal form (``notation.strict_normal_form``).

    Raises:
        NotParsed: relations, commas, text, unknown commands, unbalanced or too deep.
    """
    if len(text) > _MAX_CHARACTERS:
        raise NotParsed("too long")
    parser = _Parser(text)
    tree = parser.expression()
    if parser.peek():
        raise NotParsed(text)
    return tree


def product(*factors: Node) -> Node:
    """The product, with products among the factors laid flat."""
    return ("prod", tuple(part for factor in factors for part in (factor[1] if factor[0] == "prod" else (factor,))))


class _Parser:
    """Recursive descent over the characters of one text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.depth = 0

    def peek(self) -> str:
        """The next command or character, blanks skipped; empty at the end."""
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1
        command = _COMMAND.match(self.text, self.at)
        return command[0] if command else self.text[self.at : self.at + 1]

    def take(self, *tokens: str) -> str | None:
        """The next token if it is one of these."""
        token = self.peek()
        if not token or token not in tokens:
            return None
        self.at += len(token)
        return token

    def expect(self, token: str) -> None:
        if self.take(token) is None:
            raise NotParsed(self.text)

    def match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        match = pattern.match(self.text, self.at)
        if match:
            self.at = match.end()
        return match

    def expression(self) -> Node:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise NotParsed("too deep")
        terms = [self.signed_term()]
        while self.peek() and self.peek() in "+-":
            terms.append(self.signed_term())
        self.depth -= 1
        return terms[0] if len(terms) == 1 else ("sum", tuple(terms))

    def signed_term(self) -> Node:
        sign = self.take("+", "-")
        term = self.term()
        return ("neg", term) if sign == "-" else term

    def term(self) -> Node:
        node = self.factor()
        while True:
            if self.take(*_TIMES):
                node = product(node, self.signed_factor())
            elif self.take("/"):
                node = ("quot", node, self.signed_factor())
            elif self.take(_DIVIDED):
                node = ("fn", "div", (node, self.signed_factor()))
            elif self.starts_factor():
                node = product(node, self.factor())
            else:
                return node

    def starts_factor(self) -> bool:
        """Whether a factor follows without a sign of multiplication. A number never does: "x 2" is no product."""
        token = self.peek()
        if token.startswith("\\") and len(token) > 1:
            return token not in (*_TIMES, _DIVIDED, "\\rfloor", "\\rceil")
        return bool(token) and (token.isalpha() or token in "([{")

    def signed_factor(self) -> Node:
        return ("neg", self.factor()) if self.take("-") else self.factor()

    def factor(self) -> Node:
        node = self.atom()
        while True:
            if self.take("!"):
                node = ("fn", "factorial", (node,))
            elif self.take("\u00b0", "\\degree"):
                node = product(node, ("sym", "deg"))
            elif self.take("^"):
                if self.raised_circle():
                    node = product(node, ("sym", "deg"))
                else:
                    node = ("pow", node, self.exponent())
            else:
                return node

    def raised_circle(self) -> bool:
        return self.match(re.compile(r"\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))")) is not None

    def exponent(self) -> Node:
        """A group, or the whole run of digits in ``2^10``, which a reader takes for the exponent."""
        if self.take("-"):
            return ("neg", self.exponent())
        if self.peek().isdecimal():
            return self.digits()
        return self.atom()

    def digits(self) -> Node:
        match = self.match(re.compile(r"\d+"))
        assert match is not None
        return ("num", Fraction(match[0]), "integer")

    def group(self) -> Node:
        """An argument as TeX takes it: braces, or the next single token."""
        token = self.peek()
        if token.isdecimal():
            self.at += 1
            return ("num", Fraction(token), "integer")
        if token == "-":  # not TeX, but what "\frac-12" is read as
            self.at += 1
            return ("neg", self.group())
        return self.atom(single=True)

    def atom(self, *, single: bool = False) -> Node:
        token = self.peek()
        self.depth += 1
        if self.depth > _MAX_DEPTH or not token:
            raise NotParsed(self.text)
        if token.isdecimal() or token == ".":
            node = self.number()
        elif token in _FENCES:
            self.at += len(token)
            node = self.expression()
            self.expect(_FENCES[token])
            node = ("fn", token[2:], (node,)) if token[0] == "\\" else node
        elif token == "|":
            self.at += 1
            node = ("fn", "abs", (self.expression(),))
            self.expect("|")
        elif token.startswith("\\"):
            self.at += len(token)
            node = self.command(token[1:])
        elif token.isalpha():
            letters = self.match(_LETTERS)
            self.at += 0 if letters else len(token)
            node = self.letters(letters[0], single=single) if letters else self.named(token)
        else:
            raise NotParsed(self.text)
        self.depth -= 1
        return node

    def letters(self, word: str, *, single: bool) -> Node:
        if word in _WORDS and not single:
            return self.command(word)
        self.at -= len(word) - 1
        return self.named(word[0])

    def named(self, name: str) -> Node:
        if not name.isalpha():
            raise NotParsed(self.text)
        if self.text.startswith("_", self.at):
            self.at += 1
            subscript = self.match(re.compile(r"\s*(\{[^{}]*\}|\w)"))
            if subscript is None:
                raise NotParsed(self.text)
            name += "_" + subscript[1].strip("{} ")
        return ("sym", name)

    def number(self) -> Node:
        if (match := self.match(_REPEATING)) or (match := self.match(_DOTTED)):
            whole, fixed, *blocks = match.groups()
            block = next(one for one in blocks if one is not None)
            shift = 10 ** len(fixed)
            value = Fraction(int(whole + fixed or "0"), shift) + Fraction(int(block), shift * (10 ** len(block) - 1))
            return ("num", value, "repeating")
        match = self.match(_NUMBER)
        if match is None:
            raise NotParsed(self.text)
        digits = re.sub(r"[, ]", "", match[0])
        value = Fraction(digits.removesuffix("."))
        if not digits.isdecimal():
            return ("num", value, "decimal" if "." in digits.removesuffix(".") else "integer")
        return self.mixed(value) or ("num", value, "integer")

    def mixed(self, whole: Fraction) -> Node | None:
        """The fraction that follows an integer and belongs to it: ``3\\frac{1}{2}`` is a sum, never a product."""
        start = self.at
        if slashed := self.match(_SLASHED):
            numerator, denominator = int(slashed[1]), int(slashed[2])
            if denominator:
                return ("num", whole + Fraction(numerator, denominator), "mixed")
        elif self.peek() == "\\frac":
            self.at += len("\\frac")
            parts = self.group(), self.group()
            if all(part[0] == "num" and part[2] == "integer" for part in parts) and 0 < parts[0][1] < parts[1][1]:
                return ("num", whole + parts[0][1] / parts[1][1], "mixed")
        self.at = start
        return None

    def command(self, name: str) -> Node:
        if name == "frac":
            return ("quot", self.group(), self.group())
        if name == "sqrt":
            return self.root()
        if name == "pi" or name in _GREEK:
            return self.named(name)
        if name == "infty":
            return ("sym", "oo")
        if name in ("binom", "choose"):
            return ("fn", "binomial", (self.group(), self.group()))
        if name in _ACCENTS:
            return ("fn", name, (self.group(),))
        if name == "abs":
            return ("fn", "abs", (self.atom(),))
        if name in _FUNCTIONS:
            return self.function(name)
        raise NotParsed(self.text)

    def root(self) -> Node:
        degree: Node = ("num", Fraction(2), "integer")
        if self.take("["):
            degree = self.expression()
            self.expect("]")
        radicand = self.digits() if self.peek().isdecimal() else self.atom(single=True)
        return ("fn", "root", (radicand, degree))

    def function(self, name: str) -> Node:
        base = power = None
        for _ in range(2):
            if self.take("_"):
                base = self.subscript()
            elif self.take("^"):
                power = self.exponent()
        if self.peek() and self.peek() in "({[":
            argument = self.atom()
        else:
            argument = self.factor()
            while self.starts_factor() and self.peek().removeprefix("\\") not in _FUNCTIONS and self.peek() not in "([":
                argument = product(argument, self.factor())
        if name in INVERSE or (name in TRIGONOMETRIC and power == ("neg", ("num", Fraction(1), "integer"))):
            return ("fn", "arc" + INVERSE.get(name, name), (argument,))
        node: Node = ("fn", name, (argument,) if base is None else (argument, base))
        return node if power is None else ("pow", node, power)

    def subscript(self) -> Node:
        """The base of a logarithm: ``\\log_21`` has base 2 as TeX sets it, ``\\log_10 100`` has base 10."""
        if run := self.match(re.compile(r"(\d+)(?=\s+[\d\\(A-Za-z]|\()")):
            return ("num", Fraction(run[1]), "integer")
        return self.group()


def parsed(text: str) -> Node | None:
    """The tree of an expression in normal form, None where it is not understood."""
    try:
        return parse(text)
    except NotParsed:
        return None
