"""Unicode signs, raised and lowered digits and fractions, as LaTeX."""

from __future__ import annotations

import re
import unicodedata

_SIGNS = {
    "\u2212": "-", "\u2013": "-", "\u2014": "-", "\u221e": r"\infty ", "\u03c0": r"\pi ", "\u00d7": r"\times ",
    "\u00f7": r"\div ", "\u00b7": r"\cdot ", "\u22c5": r"\cdot ", "\u2264": r"\le ", "\u2265": r"\ge ", "\u2260": r"\ne ",
    "\u00b0": r"^\circ ", "\u00ba": r"^\circ ", "\u02da": r"^\circ ", "\u2026": r"\ldots ", "\u2248": r"\approx ",
    "\u00b1": r"\pm ", "\u222a": r"\cup ", "\u2208": r"\in ", "\u221a": r"\sqrt ", "\u03b8": r"\theta ",
}  # fmt: skip


def plain_characters(text: str) -> str:
    """Unicode signs, raised and lowered digits and fractions, as LaTeX."""
    text = re.sub(r"\u221a\s*(\d+|[A-Za-z])", r"\\sqrt{\1}", text)
    out: list[str] = []
    raised = ""
    for character in text:
        form = unicodedata.decomposition(character)
        if form.startswith("<super>") and character not in _SIGNS:
            raised += unicodedata.normalize("NFKC", character).replace("\u2212", "-")
            continue
        if raised:
            out.append(f"^{{{raised}}}")
            raised = ""
        if form.startswith("<fraction>"):
            top, _, bottom = unicodedata.normalize("NFKC", character).partition("\u2044")
            out.append(rf"\frac{{{top}}}{{{bottom}}}")
        elif form.startswith(("<sub>", "<wide>")):
            plain = unicodedata.normalize("NFKC", character)
            out.append(f"_{plain}" if form.startswith("<sub>") else plain)
        else:
            out.append(_SIGNS.get(character, character))
    return "".join(out) + (f"^{{{raised}}}" if raised else "")
