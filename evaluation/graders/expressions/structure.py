"""What an answer is made of: a set, a list, an interval, a union, a matrix, a relation, or one expression."""

from __future__ import annotations

import re

from evaluation.graders.expressions import values
from evaluation.graders.expressions.notation import bare, compact, unwrapped
from evaluation.graders.expressions.parse import parsed

RELATION = re.compile(r"\\(le|ge|ne|in)(?![A-Za-z])|([<>=])")
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


def split(text: str, pattern: re.Pattern[str]) -> list[str]:
    """The parts between the matches outside all brackets."""
    cuts = _cuts(text, pattern)
    starts, ends = [0, *(cut.end() for cut in cuts)], [*(cut.start() for cut in cuts), len(text)]
    return [text[start:end].strip() for start, end in zip(starts, ends, strict=True)]


_COMMA = re.compile(r"[,;]")
UNION = re.compile(r"\\cup(?![a-z])")
COLON = re.compile(r":|\\text\s*\{\s*to\s*\}|(?<!\\)\bto\b")


def _matching(text: str) -> bool:
    """Whether the first character's bracket closes at the last one. Half-open intervals count."""
    depth = 0
    for position, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0:
            return position == len(text) - 1
    return False


APPROXIMATELY = re.compile(r"\\approx(?![A-Za-z])")
_SET_MINUS = re.compile(r"\\setminus(?![A-Za-z])|\\backslash(?![A-Za-z])|-(?=\s*\\\{)")
_SET_BUILDER = re.compile(r"\\\{\s*([A-Za-z])\s*(?:\\in\s*\(-\\infty,\\infty\)\s*)?[:|](.*)\\\}", re.DOTALL)
_REALS = re.compile(
    r"(?:the set of )?(?:all |any )?(?:(positive|negative|non-?negative|non-?positive|non-?zero) )?real(?:s| numbers?)"
)
_REAL_SETS = {
    "": r"(-\infty,\infty)", "positive": r"(0,\infty)", "negative": r"(-\infty,0)", "nonnegative": r"[0,\infty)",
    "nonpositive": r"(-\infty,0]", "nonzero": r"(-\infty,0)\cup(0,\infty)",
}  # fmt: skip


def as_set(text: str) -> str:
    """Set builders without their frame, the reals in words or without some points as intervals; no solution as the empty
    set."""
    if builder := _SET_BUILDER.fullmatch(text):
        return builder[2].strip()
    plain = bare(text).strip().lower()
    if words := _REALS.fullmatch(plain):
        return _REAL_SETS[(words[1] or "").replace("-", "")]
    if re.fullmatch(r"(?:there (?:is|are) )?no (?:real )?solutions?", plain):
        return r"\emptyset"
    whole, *removed = split(text, _SET_MINUS)
    if compact(whole) == r"(-\infty,\infty)" and len(removed) == 1 and (points := structure(removed[0]))[0] == "set":
        return without(points[1]) or text
    return text


def without(points: list[str]) -> str:
    """The reals but for some points, where it is plain which point is the larger."""
    trees = [parsed(point) for point in points]
    known = [None if tree is None else values.rational(tree) for tree in trees]
    if len(points) > 1:
        if None in known:
            return ""
        points = [point for _, point in sorted(zip(known, points, strict=True))]
    ends = [r"-\infty", *points, r"\infty"]
    return r"\cup".join(f"({left},{right})" for left, right in zip(ends[:-1], ends[1:], strict=True))


def structure(text: str) -> tuple[str, list[str]]:
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
        return "set", [one for part in split(braced[1] or braced[2] or "", _COMMA) for one in _signs(part)]
    parts = [part for piece in split(unwrapped(text), _COMMA) for part in _CONJUNCTION.split(f" {piece}") if part.strip()]
    grouped = re.fullmatch(r"[^\d]*\d{1,3}(?:,\d{3})+(?!\d)(?:[^,]|,(?=\d{3}(?!\d)))*", text)
    if len(parts) > 1 and not grouped:
        return "list", [one for part in parts for one in _signs(part.strip())]
    if cuts := _cuts(text, RELATION):
        return "relation " + " ".join(cut[1] or cut[2] for cut in cuts), split(text, RELATION)
    if len(union := split(text, UNION)) > 1:
        return "union", union
    if len(text) > 1 and text[0] in "([" and text[-1] in ")]" and _matching(text):
        inner = split(text[1:-1], _COMMA)
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
