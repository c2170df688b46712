"""Plain tables of text as Markdown and TeX, for every table that the harness writes."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from harness.files import write_text

# ------------------------------------------------------------------------------------------------------------ Markdown


def markdown_grid(header: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[int] = ()) -> list[str]:
    """A Markdown table padded to equal width, for GitHub and for a terminal; ``right`` are the columns aligned to the
    right."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    widths = [max(3, *(len(row[i]) for row in escaped)) for i in range(len(header))]
    flush = set(right)

    def line(row: Sequence[str]) -> str:
        pairs = enumerate(zip(row, widths, strict=True))
        padded = [cell.rjust(w) if i in flush else cell.ljust(w) for i, (cell, w) in pairs]
        return f"| {' | '.join(padded)} |"

    rule = [("-" * (w - 1) + ":") if i in flush else "-" * w for i, w in enumerate(widths)]
    return [line(escaped[0]), f"| {' | '.join(rule)} |", *(line(row) for row in escaped[1:])]


# ----------------------------------------------------------------------------------------------------------------- TeX

_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "—": "---", "−": "$-$", "†": r"$^\dagger$",
    "Δ": r"$\Delta$", "|": r"\textbar{}", "<": "$<$", ">": "$>$", "·": r"$\cdot$",
}  # fmt: skip


#: Beyond Latin letters, what pdflatex sets as it is.
_PUNCTUATION = "–“”‘’…"


def tex_escape(plain: str) -> str:
    """Text for pdflatex; a character that it does not know becomes its code point, and two hyphens (as in ``--set``) stay
    two."""

    def one(c: str) -> str:
        return c if ord(c) < 0x180 or c in _PUNCTUATION else f"[U+{ord(c):04X}]"

    return "-{}-".join("".join(_TEX.get(c) or one(c) for c in part) for part in plain.split("--"))


def tex_document(title: str, body: Iterable[str], notes: Iterable[str]) -> str:
    """A complete document for pdflatex with booktabs. ``title`` and ``notes`` are plain text, ``body`` is TeX."""
    lines = [
        r"\documentclass[10pt,a4paper,landscape]{article}",
        r"\usepackage[utf8]{inputenc}",
        r"\usepackage[T1]{fontenc}",
        r"\usepackage[margin=15mm]{geometry}",
        r"\usepackage{booktabs,graphicx}",
        r"\begin{document}",
        rf"\section*{{{tex_escape(title)}}}",
        *body,
        r"\paragraph{Notes.}",
        *(f"{tex_escape(note)}\n" for note in notes),
        r"\end{document}",
    ]
    return "\n".join(lines) + "\n"


def tex_heading(plain: str) -> str:
    return rf"\subsection*{{{tex_escape(plain)}}}"


def tex_header(cells: Iterable[str]) -> str:
    """The header line of a tabular, from plain text."""
    return " & ".join(map(tex_escape, cells)) + r" \\"


def tex_tabular(spec: str, header: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> list[str]:
    """A caption and a tabular, shrunk to the page where it is wider; both stay on one page.

    Args:
        spec: the columns, such as ``lrr``.
        header: lines of TeX.
        rows: cells of plain text.
    """
    return [
        "",
        r"\noindent\begin{minipage}{\textwidth}",
        rf"\medskip\noindent {tex_escape(caption)}\par\smallskip",
        r"\noindent\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{spec}}}",
        r"\toprule",
        *header,
        r"\midrule",
        *(tex_header(row) for row in rows),
        r"\bottomrule",
        r"\end{tabular}}",
        r"\end{minipage}",
    ]


# ----------------------------------------------------------------------------------------------------------------- files


def csv_lines(lines: Iterable[Mapping[str, object]]) -> str:
    """One CSV line per mapping, all with the same keys; None is an empty cell."""
    stream = io.StringIO()
    writer: csv.DictWriter[str] | None = None
    for line in lines:
        if writer is None:
            writer = csv.DictWriter(stream, list(line), lineterminator="\n")
            writer.writeheader()
        writer.writerow({key: "" if value is None else value for key, value in line.items()})
    return stream.getvalue()


def write_formats(folder: Path, name: str, *, markdown: str, tex: str, csv_text: str) -> list[Path]:
    """Write ``{name}.md``, ``.tex`` and ``.csv`` and return their paths."""
    paths = []
    for suffix, content in (("md", markdown), ("tex", tex), ("csv", csv_text)):
        path = folder / f"{name}.{suffix}"
        write_text(path, content)
        paths.append(path)
    return paths
