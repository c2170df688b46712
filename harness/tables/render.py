"""A table as Markdown, TeX and CSV. The same table gives the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

from harness.schema.evaluation import Metric
from harness.statistics import stats
from harness.statistics.comparison import Comparison
from harness.tables import words as text
from harness.tables.against_paper import PaperCheck
from harness.tables.cells import METRICS, Cell, Column, Row, Section, Table
from harness.tables.markup import (
    csv_lines,
    markdown_grid,
    tex_document,
    tex_escape,
    tex_header,
    tex_heading,
    tex_tabular,
    write_formats,
)

#: With more columns than this, the paper's number and ours get a line each.
WIDE = 6

# ------------------------------------------------------------------------------------------------------------ Markdown


def markdown(table: Table) -> str:
    """The table for GitHub and for a terminal: columns are padded to equal width."""
    lines = [f"# {text.file_title(table)}", "", *_decided(table)]
    for section in table.sections:
        lines += [f"## {section.title}", "", *_overview(table, section), ""]
        lines += _paper(table, section)
        for metric in text.metrics_shown(table):
            lines += _details(table, section, metric)
        lines += _cost(section)
    lines += ["## Notes", "", *(f"- {note}" for note in text.notes(table))]
    return "\n".join(lines) + "\n"


def _decided(table: Table) -> list[str]:
    """What the table decides, before anything else."""
    rows = [
        [
            one.family.name if one.family else text.NOTHING,
            f"{one.row.label} {text.MINUS} {one.other}",
            one.section.ours_label,
            text.heading(one.column),
            "accuracy, points" if one.metric == "accuracy" else "NLL, nats",
            *text.comparison(one.comparison, one.metric),
            *text.decision(one),
        ]
        for one in table.decisions()
    ]
    lines = [f"- {said}" for said in (*text.decides_nothing(table), *text.tallies(table))] + [""]
    if not rows or not table.families:
        return lines
    header = ["Family", "Comparison", "Base model", "Test sets", "Measure", "Difference", "95 % interval", "df"]
    header += ["Seeds", "p (Holm)", "p beyond margin", "p (signs)", "Word"]
    return ["## What is decided", "", *lines, *markdown_grid(header, rows, right=range(5, len(header) - 1)), ""]


def _overview(table: Table, section: Section) -> list[str]:
    metric = table.metric
    paper = section.paper_label if metric == "accuracy" else None
    wide = len(table.columns) > WIDE
    if paper is None:
        legend = text.levels_of(table, section.ours_label, unit=" in")
    else:
        where, then = ("first line", "; second line:") if wide else ("each cell", " /")
        legend = f"Accuracy in %, {where}: {paper} as the paper reports it{then} {section.ours_label}, ours."
    rows = []
    for row in section.shown:
        cells = [row.cells[metric, column.key] for column in table.columns]
        shown = [text.ours(cell, metric) for cell in cells]
        trainable = text.count(row.trainable_parameters)
        if paper is None:
            rows.append([row.label, trainable, *shown])
        elif wide:
            rows.append([row.label, "paper", *map(text.reported, cells)])
            rows.append(["", trainable, *shown])
        else:
            both = [f"{text.reported(cell)} / {ours}" for cell, ours in zip(cells, shown, strict=True)]
            rows.append([row.label, trainable, *both])
    header = ["Method", "Trainable", *(text.heading(column) for column in table.columns)]
    return [legend, "", *markdown_grid(header, rows, right=range(1, len(header)))]


def _paper(table: Table, section: Section) -> list[str]:
    """Ours beside the paper's numbers, one line per column and method; of a stand-in only the differences."""
    checks = {(row.method_key, column): check for row, column, check in text.paper_checks(section)}
    comparable = any(check.comparable for check in checks.values())
    header = ["Test set", "Method", *(["Score: ours − paper", "Score"] if comparable else []), "Compared with"]
    header += ["Difference: paper", "Difference: ours", "Difference", "Seeds to settle"]
    rows = []
    for column, row in product(table.columns, section.rows):
        check = checks.get((row.method_key, column.key))
        if check is None or (check.other is None and not comparable):
            continue
        cell = row.cells["accuracy", column.key]
        mine = cell.parent_comparison if row.parent == check.other else cell.comparison
        theirs = text.NOTHING if check.reported_difference is None else f"{100 * check.reported_difference:+.2f}"
        line = [text.heading(column), row.label]
        line += [text.gap(check.score_gap), text.paper_word(check.score, check)] if comparable else []
        line += [check.other or text.NOTHING, theirs.replace("-", text.MINUS), text.difference(mine, "accuracy")]
        rows.append([*line, text.paper_word(check.difference, check), text.settle(check.seeds_to_settle)])
    right = [i for i, name in enumerate(header) if ":" in name]
    return ["### Against the paper: accuracy, points", "", *markdown_grid(header, rows, right=right), ""] if rows else []


def _details(table: Table, section: Section, metric: Metric) -> list[str]:
    lines = []
    baseline, parent = text.baseline_label(section), _has_parents(section)
    paper = metric == "accuracy" and section.paper_label is not None
    for column in table.columns:
        if metric != table.metric and not any(row.cells[metric, column.key].ours for row in section.rows):
            continue
        name = "accuracy, %" if metric == "accuracy" else "NLL of the gold answer, nats per token (less is better)"
        header = ["Method", *(["Paper"] if paper else []), "Ours ± SE", "95 % interval", "Seeds"]
        for other in (baseline, "full method" if parent else None):
            header += [f"vs {other}", "95 % interval", "df"] if other else []
        rows = []
        for row in section.shown:
            cell = row.cells[metric, column.key]
            limits = text.interval(cell.ours.low, cell.ours.high, metric) if cell.ours else text.NOTHING
            shown = [row.label, *([text.reported(cell)] if paper else []), text.ours(cell, metric), limits, text.seeds(cell)]
            shown += _comparison(row, cell, metric) if baseline else []
            shown += _parent_comparison(row, cell, metric) if parent else []
            rows.append(shown)
        lines += [f"### {text.heading(column)}: {name}", "", *markdown_grid(header, rows, right=range(1, len(header))), ""]
    return lines


def _has_parents(section: Section) -> bool:
    return any(row.parent for row in section.rows)


def _comparison(row: Row, cell: Cell, metric: Metric) -> list[str]:
    """Difference to the baseline, interval and degrees of freedom of one row."""
    return ["baseline", "", ""] if row.is_baseline else text.comparison(cell.comparison, metric)


def _parent_comparison(row: Row, cell: Cell, metric: Metric) -> list[str]:
    """The same to the full method of a variant; other rows have none."""
    return [""] * 3 if row.parent is None else text.comparison(cell.parent_comparison, metric)


def _cost(section: Section) -> list[str]:
    """What each method costs; the paper's parameter count is the real model's."""
    header = ["Method", "Trainable", "Trainable (paper)", "Training time per seed", "95 % interval", "Peak memory"]
    rows = []
    for row in section.rows:
        millions = text.NOTHING if row.reported_millions is None else text.count(round(row.reported_millions * 10**6))
        seconds = text.NOTHING if row.seconds is None else text.duration(row.seconds.mean)
        limits = text.NOTHING
        if row.seconds is not None and row.seconds.low is not None and row.seconds.high is not None:
            limits = f"[{text.duration(max(0.0, row.seconds.low))}, {text.duration(row.seconds.high)}]"
        trainable, memory = text.count(row.trainable_parameters), text.memory(row.peak_memory_bytes)
        rows.append([row.label, trainable, millions, seconds, limits, memory])
    title = "### Cost (runs may have shared the machine; not a benchmark)"
    return [title, "", *markdown_grid(header, rows, right=range(1, len(header))), ""]


# ----------------------------------------------------------------------------------------------------------------- TeX


def tex(table: Table) -> str:
    """A complete document for pdflatex: per model the accuracies, the differences, and ours beside the paper's."""
    lines = []
    for section in table.sections:
        lines += [tex_heading(section.title), *_tex_levels(table, section)]
        others = [row for row in section.rows if not row.is_baseline]
        variants = [row for row in section.rows if row.parent]
        for metric in text.metrics_shown(table):
            if others and text.baseline_label(section):
                compared = [(row.label, [row.cells[metric, c.key].comparison for c in table.columns]) for row in others]
                lines += _tex_differences(table, metric, f"Difference to {text.baseline_label(section)}", compared)
            if variants:
                compared = [
                    (row.label, [row.cells[metric, c.key].parent_comparison for c in table.columns]) for row in variants
                ]
                lines += _tex_differences(table, metric, "Difference of variants to their full method", compared)
        lines += _tex_paper(table, section)
    return tex_document(text.file_title(table), lines, text.notes(table))


def _tex_levels(table: Table, section: Section) -> list[str]:
    """Ours alone, or beside the paper's in columns, or in a wide table in lines."""
    metric = table.metric
    paper_label = section.paper_label if metric == "accuracy" else None
    n, wide = len(table.columns), len(table.columns) > WIDE
    headings = [text.heading(column) for column in table.columns]
    rows = []
    for row in section.shown:
        cells = [row.cells[metric, column.key] for column in table.columns]
        paper, ours = [text.reported(cell) for cell in cells], [text.ours(cell, metric) for cell in cells]
        trainable = text.count(row.trainable_parameters)
        if paper_label is None:
            rows.append([row.label, trainable, *ours])
        elif wide:
            rows += [[row.label, "paper", *paper], [trainable, "ours", *ours]]
        else:
            rows.append([row.label, trainable, *(shown for pair in zip(paper, ours, strict=True) for shown in pair)])
    if paper_label is None:
        header = [tex_header(["Method", "Trainable", *headings])]
        return tex_tabular("lr" + "r" * n, header, rows, text.levels_of(table, section.ours_label, unit=","))
    caption = f"Accuracy, %. paper: {paper_label}; ours: {section.ours_label}."
    if wide:
        return tex_tabular("ll" + "r" * n, [tex_header(["Method", "", *headings])], rows, caption)
    groups = [rf"\multicolumn{{2}}{{c}}{{{tex_escape(heading)}}}" for heading in headings]
    rules = "".join(rf"\cmidrule(lr){{{3 + 2 * i}-{4 + 2 * i}}}" for i in range(n))
    header = [rf" & & {' & '.join(groups)} \\", rules, tex_header(["Method", "Trainable", *["paper", "ours"] * n])]
    return tex_tabular("lr" + "rr" * n, header, rows, caption)


def _tex_differences(
    table: Table, metric: Metric, caption: str, compared: Sequence[tuple[str, Sequence[Comparison | None]]]
) -> list[str]:
    """``compared``: of each row its label and the comparison in each column."""
    rows = []
    for label, comparisons in compared:
        rows.append([label, *(_tex_difference(one, metric) for one in comparisons)])
    what = "accuracy, points" if metric == "accuracy" else "NLL of the gold answer, nats per token, less is better"
    return _tex_by_column(table, rows, f"{caption} ({what}), 95 % interval, and the word of what is decided.")


def _tex_difference(compared: Comparison | None, metric: Metric) -> str:
    word = compared.word if compared is not None else None
    return text.difference(compared, metric) + (f" {word}" if word else "")


def _tex_by_column(table: Table, rows: Sequence[Sequence[str]], caption: str) -> list[str]:
    """A tabular of long cells; a wide table's columns are shared out over several, to stay readable.

    Args:
        rows: label of the method, and one cell for each column of the table.
    """
    parts = -(-len(table.columns) // WIDE)
    size = -(-len(table.columns) // parts)
    lines = []
    for start in range(0, len(table.columns), size):
        columns = table.columns[start : start + size]
        header = [tex_header(["Method", *(text.heading(c) for c in columns)])]
        shown = [[row[0], *row[1 + start : 1 + start + size]] for row in rows]
        lines += tex_tabular("l" + "r" * len(columns), header, shown, caption if start == 0 else "Continued.")
    return lines


def _tex_paper(table: Table, section: Section) -> list[str]:
    checks = {(row.method_key, column): check for row, column, check in text.paper_checks(section)}
    comparable = any(check.comparable for check in checks.values())
    rows = []
    for row in section.rows:
        if row.is_baseline and not comparable:
            continue
        row_checks = [checks.get((row.method_key, column.key)) for column in table.columns]
        rows.append([row.label, *(text.NOTHING if check is None else _paper_words(check, comparable) for check in row_checks)])
    if not checks or not rows:
        return []
    score = "the score; " if comparable else ""
    return _tex_by_column(table, rows, f"Against the paper: {score}the difference; the seeds that would settle it.")


def _paper_words(check: PaperCheck, comparable: bool) -> str:
    words = [text.paper_word(check.score, check)] if comparable else []
    return "; ".join([*words, text.paper_word(check.difference, check), text.settle(check.seeds_to_settle)])


# ----------------------------------------------------------------------------------------------------------------- CSV


def csv_text(table: Table) -> str:
    """Every number, unrounded, one line per model, method, column and metric. Accuracies are fractions, also the paper's."""
    return csv_lines(
        _csv_line(table, section, row, column, metric)
        for section in table.sections
        for row in section.shown
        for column in table.columns
        for metric in METRICS
    )


def _csv_line(table: Table, section: Section, row: Row, column: Column, metric: Metric) -> dict[str, object]:
    cell = row.cells[metric, column.key]
    difference, parent_difference = (one.difference if one else None for one in (cell.comparison, cell.parent_comparison))
    parts = ("mean", "stderr", "seed_stderr", "example_stderr", "low", "high", "n_seeds", "dof")
    line: dict[str, object] = {
        "experiment": table.experiment.name,
        "table": table.name,
        "rates": table.rates,
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
        "n_collapsed": cell.n_collapsed,
    }
    line |= {name: getattr(cell.ours, name, None) for name in parts}
    line |= {f"difference_{name}": getattr(difference, name, None) for name in parts}
    paper = cell.paper
    line |= _csv_decision(cell.comparison, "") | {
        "mcnemar_by_seed": _joined(difference.p_by_seed) if difference else None,
        "parent": row.parent,
    }
    line |= {f"parent_difference_{name}": getattr(parent_difference, name, None) for name in parts}
    line |= _csv_decision(cell.parent_comparison, "parent_")
    return line | {
        "paper_score": paper.score if paper else None,
        "paper_score_low": paper.score_gap.low if paper and paper.score_gap else None,
        "paper_score_high": paper.score_gap.high if paper and paper.score_gap else None,
        "reported_difference": paper.reported_difference if paper else None,
        "reported_difference_to": paper.other if paper else None,
        "paper_difference": paper.difference if paper else None,
        "paper_difference_low": paper.difference_gap.low if paper and paper.difference_gap else None,
        "paper_difference_high": paper.difference_gap.high if paper and paper.difference_gap else None,
        "seeds_to_settle": paper.seeds_to_settle if paper else None,
    }


def _csv_decision(compared: Comparison | None, prefix: str) -> dict[str, object]:
    """The tests and the word of a comparison in a family; of others only what they could have found."""
    difference, family = (compared.difference, compared.family) if compared else (None, None)
    decided = difference if compared is not None and compared.outcome is not None else None
    several = difference is not None and difference.n_seeds > 1
    values = {
        "family": family.name if family else None,
        "comparisons": family.size if family else None,
        "margin": family.margin if family else None,
        "p_value": decided.p_value if decided else None,
        "p_holm": compared.p_adjusted if compared else None,
        "p_beyond_margin": decided.p_equivalent if decided else None,
        "p_beyond_margin_holm": compared.p_equivalent if compared else None,
        "p_sign_flip": decided.p_sign_flip if decided else None,
        "minimum_detectable_difference": stats.minimum_detectable_difference(difference) if difference and several else None,
        "verdict": compared.outcome or compared.word if compared else None,
    }
    return {f"{prefix}{name}": value for name, value in values.items()}


def _joined(values: Sequence[float] | None) -> str | None:
    return None if values is None else " ".join(map(repr, values))


def write(table: Table, folder: Path) -> list[Path]:
    """Write ``{name}.md``, ``.tex`` and ``.csv`` and return their paths."""
    return write_formats(folder, table.file_name, markdown=markdown(table), tex=tex(table), csv_text=csv_text(table))
