"""When two math answers count as equal in published evaluations: Hendrycks's normalisation, and the tolerant
comparison of the released one. No text of a model is ever evaluated as Python: algebra is left to
``evaluation.graders.algebra``."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

#: Decides whether two leaves (expressions without top-level brackets or commas) are equal.
Algebra = Callable[[str, str], bool]

# ------------------------------------------------------------------------------------------- Hendrycks's normalisation


class NotNormalisable(ValueError):
    """The original normalisation raises on this answer."""


def brace_fractions(text: str) -> str:
    """``\\frac12`` and ``\\frac1{2}`` with braces. A ``\\frac`` with a single character after it leaves the text as
    it is.

    Raises:
        NotNormalisable: nothing follows ``\\frac``.
    """
    first, *parts = text.split("\\frac")
    out = first
    for part in parts:
        if not part:
            raise NotNormalisable(text)
        if part[0] != "{":
            if len(part) < 2:
                return text
            tail = part[1:] if part[1] == "{" else "{" + part[1] + "}" + part[2:]
            part = "{" + part[0] + "}" + tail
        out += "\\frac" + part
    return out


def _brace_roots(text: str) -> str:
    first, *parts = text.split("\\sqrt")
    if any(not part for part in parts):
        raise NotNormalisable(text)
    return first + "".join("\\sqrt" + (part if part[0] == "{" else "{" + part[0] + "}" + part[1:]) for part in parts)


def _slash_fraction(text: str) -> str:
    """``a/b`` in canonical decimal integers as ``\\frac{a}{b}``; other integers stay as they are.

    Raises:
        NotNormalisable: one slash with something else than an integer beside it, which the original converts unguarded.
    """
    sides = text.split("/")
    if len(sides) != 2:
        return text
    try:
        top, bottom = map(int, sides)
    except ValueError:
        raise NotNormalisable(text) from None
    return rf"\frac{{{top}}}{{{bottom}}}" if text == f"{top}/{bottom}" else text


def hendrycks_normal_form(text: str) -> str:
    """The string normalisation of Hendrycks et al.'s MATH release, which MetaMath, PiSSA and MiLoRA copied.

    Raises:
        NotNormalisable: where the original raises (a cut-off ``\\frac`` or ``\\sqrt``, two ``\\text{ ``, one slash beside
        something that is no integer).
    """
    for old, new in (
        ("\n", ""),
        ("\\!", ""),
        ("\\\\", "\\"),
        ("tfrac", "frac"),
        ("dfrac", "frac"),
        ("\\left", ""),
        ("\\right", ""),
        ("^{\\circ}", ""),
        ("^\\circ", ""),
        ("\\$", ""),
    ):
        text = text.replace(old, new)
    if text.count("\\text{ ") > 1:
        raise NotNormalisable(text)
    text = text.partition("\\text{ ")[0]
    for old, new in (("\\%", ""), (" .", " 0."), ("{.", "{0.")):
        text = text.replace(old, new)
    if not text:
        return text
    if text[0] == ".":
        text = "0" + text
    left, equals, right = text.partition("=")
    if equals and "=" not in right and len(left) <= 2:
        text = right
    text = brace_fractions(_brace_roots(text).replace(" ", ""))
    return _slash_fraction("\\frac{1}{2}" if text == "0.5" else text)


def hendrycks_equal(prediction: str, gold: str) -> bool:
    """Equality of the normal forms; of the raw strings where one has none."""
    try:
        return hendrycks_normal_form(prediction) == hendrycks_normal_form(gold)
    except NotNormalisable:
        return prediction == gold


# --------------------------------------------------------------------------- tolerant comparison (released evaluation)


def _float(text: str) -> float | None:
    try:
        return float(text.replace("{,}", "") if "{,}" in text else text.replace(",", ""))
    except ValueError:
        return None


def _bracketed(text: str, brackets: str) -> bool:
    return text.startswith(brackets[0]) and text.endswith(brackets[1])


def tolerant_equal(prediction: str, gold: str, algebra: Algebra) -> bool:
    """The comparison that MiLoRA and the released BeamLoRA evaluation add to string equality: numbers within 1e-4 of
    the gold, its hundredfold or its hundredth; strings equal without braces and round brackets; tuples item by item;
    else ``algebra``. Known to accept wrong answers: it is kept to reproduce published scores only."""
    left, right = _float(prediction), _float(gold)
    # The original reads numbers with "{,}" but then fails to convert them, and falls through to strings.
    if left is not None and right is not None and "{,}" not in prediction + gold:
        return any(math.isclose(target, left, rel_tol=1e-4) for target in (right / 100, right, right * 100))
    if not prediction:
        return False
    prediction, gold = prediction.strip(), gold.strip()
    bare_prediction, bare_gold = prediction, gold
    if (_bracketed(prediction, "[]") and not gold.startswith("(")) or (
        _bracketed(prediction, "()") and not gold.startswith("[")
    ):
        bare_prediction, bare_gold = prediction.strip("[]()"), gold.strip("[]()")
    delete = str.maketrans("", "", "{}()")
    if bare_prediction.translate(delete) == bare_gold.translate(delete):
        return True
    if any(_bracketed(prediction, kind) and _bracketed(gold, kind) for kind in ("[]", "()")):
        items, gold_items = prediction[1:-1].split(","), gold[1:-1].split(",")
        if len(items) == len(gold_items) and all(map(tolerant_equal, items, gold_items, itertools.repeat(algebra))):
            return True
    return algebra(prediction, gold)


def released_equal(prediction: str, gold: str, algebra: Algebra) -> bool:
    """MATH comparison of the released evaluation. Where normalisation raises, the original compares the prediction
    with itself, and so accepts whatever is not empty."""
    try:
        left, right = hendrycks_normal_form(prediction), hendrycks_normal_form(gold)
    except NotNormalisable:
        return tolerant_equal(prediction, prediction, algebra) or prediction == gold
    return tolerant_equal(left, right, algebra) or left == right
