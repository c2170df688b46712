"""A table as Markdown, TeX and CSV. The same table gives the same bytes."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from harness import stats
from harness import table_text as text
from harness.tables import AVERAGE, METRICS, Cell, Column, Metric, Row, Section, Table

# ------------------------------------------------------------------------------------------------------------ Markdown


def markdown(table: Table) -> str:
    """The table for GitHub and for a terminal: columns are padded to equal width."""
    experiment = table.experiment
    lines = [f"# {table.name} · {experiment.name}: {experiment.title}", ""]
    for section in table.sections:
        lines += [f"## {section.title}", "", *_overview(table, section), ""]
        for metric in text.metrics_shown(table):
            lines += _details(table, section, metric)
        lines += _cost(section)
    lines += ["## Notes", "", *(f"- {note}" for note in text.notes(table))]
    return "\n".join(lines) + "\n"


def _grid(header: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[int] = ()) -> list[str]:
    """A padded Markdown table; ``right`` are the columns aligned to the right."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    widths = [max(3, *(len(row[i]) for row in escaped)) for i in range(len(header))]
    flush = set(right)

    def line(row: Sequence[str]) -> str:
        pairs = enumerate(zip(row, widths, strict=True))
        padded = [cell.rjust(w) if i in flush else cell.ljust(w) for i, (cell, w) in pairs]
        return f"| {' | '.join(padded)} |"

    rule = [("-" * (w - 1) + ":") if i in flush else "-" * w for i, w in enumerate(widths)]
    return [line(escaped[0]), f"| {' | '.join(rule)} |", *(line(row) for row in escaped[1:])]


def _overview(table: Table, section: Section) -> list[str]:
    paper = section.paper_label
    if paper is None:
        legend = f"Accuracy of {section.ours_label} in %."
    else:
        legend = f"Accuracy in %, each cell: {paper} as the paper reports it / {section.ours_label}, ours."
    rows = []
    for row in section.rows:
        cells = []
        for column in table.columns:
            cell = row.cells["accuracy", column.key]
            shown = text.ours(cell, "accuracy")
            cells.append(shown if paper is None else f"{text.reported(cell)} / {shown}")
        rows.append([row.label, text.count(row.trainable_parameters), *cells])
    header = ["Method", "Trainable", *(text.heading(column) for column in table.columns)]
    return [legend, "", *_grid(header, rows, right=range(1, len(header)))]


def _details(table: Table, section: Section, metric: Metric) -> list[str]:
    lines = []
    baseline = text.baseline_label(section)
    paper = metric == "accuracy" and section.paper_label is not None
    for column in table.columns:
        name = "accuracy, %" if metric == "accuracy" else "NLL of the gold answer, nats per token (less is better)"
        header = ["Method", *(["Paper"] if paper else []), "Ours ± SE", "95 % interval", "Seeds"]
        if baseline:
            header += [f"vs {baseline}", "95 % interval", "p (Holm)", "Verdict"]
        rows = []
        for row in section.rows:
            cell = row.cells[metric, column.key]
            limits = text.interval(cell.ours.low, cell.ours.high, metric) if cell.ours else text.NOTHING
            shown = [row.label, *([text.reported(cell)] if paper else []), text.ours(cell, metric), limits]
            rows.append([*shown, text.seeds(cell), *(_comparison(row, cell, metric) if baseline else [])])
        right = range(1, len(header) - 1) if baseline else range(1, len(header))
        lines += [f"### {text.heading(column)}: {name}", "", *_grid(header, rows, right=right), ""]
    return lines


def _comparison(row: Row, cell: Cell, metric: Metric) -> list[str]:
    """Difference, interval, p-value and verdict of one row."""
    if row.is_baseline:
        return ["", "", "", "baseline"]
    if cell.difference is None:
        return [text.NOTHING] * 4
    d = cell.difference
    limits = text.interval(d.low, d.high, metric, with_sign=True)
    return [text.signed(d.mean, metric), limits, text.p_value(cell.p_adjusted), text.verdict(cell)]


def _cost(section: Section) -> list[str]:
    """What each method costs; the paper's parameter count is the real model's."""
    header = ["Method", "Trainable", "Trainable (paper)", "Training time per seed", "95 % interval", "Peak memory"]
    rows = []
    for row in section.rows:
        millions = text.NOTHING if row.reported_millions is None else text.count(round(row.reported_millions * 10**6))
        seconds = text.NOTHING if row.seconds is None else text.duration(row.seconds.mean)
        limits = text.NOTHING
        if row.seconds is not None and row.seconds.low is not None:
            limits = f"[{text.duration(max(0.0, row.seconds.low))}, {text.duration(row.seconds.high)}]"
        memory = text.NOTHING if row.peak_memory_bytes is None else f"{row.peak_memory_bytes / 2**30:.2f} GiB"
        rows.append([row.label, text.count(row.trainable_parameters), millions, seconds, limits, memory])
    title = "### Cost (runs may have shared the machine; not a benchmark)"
    return [title, "", *_grid(header, rows, right=range(1, len(header))), ""]


# ----------------------------------------------------------------------------------------------------------------- TeX

_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "—": "---", "−": "$-$", "†": r"$^\dagger$",
    "|": r"\textbar{}", "<": "$<$", ">": "$>$", "·": r"$\cdot$",
}  # fmt: skip


def tex_escape(plain: str) -> str:
    return "".join(_TEX.get(c, c) for c in plain)


def tex(table: Table) -> str:
    """A complete document for pdflatex with booktabs: per model the accuracies, then the differences to the baseline."""
    lines = [
        r"\documentclass[10pt,a4paper,landscape]{article}",
        r"\usepackage[utf8]{inputenc}",
        r"\usepackage[T1]{fontenc}",
        r"\usepackage[margin=15mm]{geometry}",
        r"\usepackage{booktabs,graphicx}",
        r"\begin{document}",
        rf"\section*{{{tex_escape(f'{table.name} · {table.experiment.name}: {table.experiment.title}')}}}",
    ]
    for section in table.sections:
        lines += [rf"\subsection*{{{tex_escape(section.title)}}}", *_tex_levels(table, section)]
        if text.baseline_label(section):
            for metric in text.metrics_shown(table):
                lines += _tex_differences(table, section, metric)
    lines += [r"\paragraph{Notes.}", *(f"{tex_escape(note)}\n" for note in text.notes(table)), r"\end{document}"]
    return "\n".join(lines) + "\n"


def _tabular(spec: str, header: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> list[str]:
    """``header`` are lines in TeX, ``rows`` are cells in plain text."""
    body = [" & ".join(tex_escape(cell) for cell in row) + r" \\" for row in rows]
    return [
        "",
        rf"\noindent {tex_escape(caption)}",
        "",
        r"\noindent\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{spec}}}",
        r"\toprule",
        *header,
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}}",
    ]


def _tex_levels(table: Table, section: Section) -> list[str]:
    n = len(table.columns)
    groups = [rf"\multicolumn{{2}}{{c}}{{{tex_escape(text.heading(c))}}}" for c in table.columns]
    rules = "".join(rf"\cmidrule(lr){{{3 + 2 * i}-{4 + 2 * i}}}" for i in range(n))
    header = [rf" & & {' & '.join(groups)} \\", rules, rf"Method & Trainable & {' & '.join(['paper', 'ours'] * n)} \\"]
    rows = []
    for row in section.rows:
        cells = [row.cells["accuracy", column.key] for column in table.columns]
        pairs = [shown for cell in cells for shown in (text.reported(cell), text.ours(cell, "accuracy"))]
        rows.append([row.label, text.count(row.trainable_parameters), *pairs])
    caption = f"Accuracy, %. paper: {section.paper_label or text.NOTHING}; ours: {section.ours_label}."
    return _tabular("lr" + "rr" * n, header, rows, caption)


def _tex_differences(table: Table, section: Section, metric: Metric) -> list[str]:
    header = [" & ".join(["Method", *(tex_escape(text.heading(c)) for c in table.columns)]) + r" \\"]
    rows = []
    for row in section.rows:
        if row.is_baseline:
            continue
        cells = []
        for column in table.columns:
            difference, limits, _, word = _comparison(row, row.cells[metric, column.key], metric)
            cells.append(text.NOTHING if difference == text.NOTHING else f"{difference} {limits} {word}")
        rows.append([row.label, *cells])
    what = "accuracy, points" if metric == "accuracy" else "NLL of the gold answer, nats per token, less is better"
    caption = f"Difference to {text.baseline_label(section)} ({what}), 95 % interval, verdict after Holm's correction."
    return _tabular("l" + "r" * len(table.columns), header, rows, caption)


# ----------------------------------------------------------------------------------------------------------------- CSV


def csv_text(table: Table) -> str:
    """Every number, unrounded, one line per model, method, column and metric. Accuracies are fractions, also the paper's."""
    stream = io.StringIO()
    writer: csv.DictWriter | None = None
    for section in table.sections:
        for row in section.rows:
            for column in table.columns:
                for metric in METRICS:
                    line = _csv_line(table, section, row, column, metric)
                    if writer is None:
                        writer = csv.DictWriter(stream, list(line), lineterminator="\n")
                        writer.writeheader()
                    writer.writerow({key: "" if value is None else value for key, value in line.items()})
    return stream.getvalue()


def _csv_line(table: Table, section: Section, row: Row, column: Column, metric: Metric) -> dict[str, object]:
    cell = row.cells[metric, column.key]
    difference = cell.difference
    parts = ("mean", "stderr", "seed_stderr", "example_stderr", "low", "high", "n_seeds")
    line: dict[str, object] = {
        "experiment": table.experiment.name,
        "table": table.name,
        "model_key": section.model_key,
        "model": section.model.label,
        "stands_for": section.model.stands_for,
        "is_stand_in": section.model.is_stand_in,
        "method_key": row.method_key,
        "method": row.label,
        "trainable_parameters": row.trainable_parameters,
        "reported_parameters_millions": row.reported_millions,
        "domain": column.domain,
        "task": column.task,
        "test_set": None if column.spec is None else column.spec.source.kind,
        "metric": metric,
        "n_examples": table.n_examples.get(column.key),
        "reported": cell.reported,
        "seeds": " ".join(map(str, cell.seeds)),
        "n_diverged": cell.n_diverged,
        "n_missing": cell.n_missing,
    }
    line |= {name: getattr(cell.ours, name, None) for name in parts}
    line |= {f"difference_{name}": getattr(difference, name, None) for name in parts}
    return line | {
        "p_value": difference.p_value if difference else None,
        "p_holm": cell.p_adjusted,
        "test": difference.test if difference else None,
        "comparisons": table.comparisons.get((metric, column.task == AVERAGE)) if difference else None,
        "minimum_detectable_difference": stats.minimum_detectable_difference(difference) if difference else None,
        "verdict": cell.verdict,
    }


def write(table: Table, folder: Path) -> list[Path]:
    """Write ``{name}.md``, ``.tex`` and ``.csv`` and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for suffix, content in (("md", markdown(table)), ("tex", tex(table)), ("csv", csv_text(table))):
        path = folder / f"{table.name}.{suffix}"
        path.write_text(content, encoding="utf-8")
        paths.append(path)
    return paths
