"""The numbers of the tables as the page shows them, each with the key that the check recomputes it by."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.experiment.runs import Asked, BaseEvaluation, base_answers
from harness.figures.style import colour_of
from harness.report.sources import Source
from harness.schema.evaluation import Metric
from harness.schema.run import RunSpec
from harness.statistics import stats
from harness.statistics.comparison import Comparison
from harness.tables import words as text
from harness.tables.cells import AVERAGE, Cell, Column, Decision, Row, Section, Table

#: Of what is no method: the base model as it is.
BASE_COLOUR = "#8a8a8a"
#: Width of an interval bar, in its own units; zero lies in the middle.
BAR = 100.0
#: An interval that reaches beyond this many times the median one is cut in a forest plot, so that the others can be told apart.
CUT = 4.0
#: Sentences that tell nothing apart fold away from this many on.
LONG = 4


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One number as it is printed, and what it is: ``table|model|method|metric|column|quantity``."""

    key: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Bar:
    """An interval as a picture: positions from 0 to ``BAR``, ``BAR / 2`` is zero."""

    low: float
    #: None where it lies beyond the ends.
    middle: float | None
    high: float
    #: Whether the interval goes on beyond 0, and beyond ``BAR``.
    cut: tuple[bool, bool]
    verdict: str


@dataclass(frozen=True, kw_only=True)
class Versus:
    """A comparison with another row."""

    other: str
    mean: Shown
    low: Shown
    high: Shown
    dof: Shown
    #: None for what is not decided.
    p: Shown | None
    #: None for what is only described.
    verdict: Shown | None
    bar: Bar


@dataclass(frozen=True, kw_only=True)
class CellView:
    """One cell; ``empty`` says why there is no number."""

    link: str
    name: str
    order: float | None
    mean: Shown | None
    stderr: Shown | None
    low: Shown | None
    high: Shown | None
    paper: Shown | None
    empty: str
    failed: str
    #: None where no seed has collapsed.
    collapsed: Shown | None
    versus: tuple[Versus, ...]


@dataclass(frozen=True, kw_only=True)
class RowView:
    #: The view that holds the method beside another one.
    link: str
    model: str
    label: str
    colour: str
    is_baseline: bool
    cells: tuple[CellView, ...]
    facts: tuple[tuple[float | None, Shown | None], ...]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """All rows of a table for one metric."""

    metric: Metric
    title: str
    columns: tuple[str, ...]
    rows: tuple[RowView, ...]


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """A comparison in words, and the cell that it is about."""

    key: str
    family: str
    text: str
    #: better, worse, equivalent, undecided, not decided, not run.
    ended: str
    #: Its first word, or failed: how it looks.
    verdict: str
    link: str
    colour: str


@dataclass(frozen=True, kw_only=True)
class ForestRow:
    """A method's difference to another as an interval; its colour and the view behind it."""

    label: str
    colour: str
    link: str
    versus: Versus


@dataclass(frozen=True, kw_only=True)
class Panel:
    """The rows of one model in one column that have a difference to the same other row, in the order of the table."""

    column: str
    other: str
    rows: tuple[ForestRow, ...]
    #: Methods without a difference, and why.
    absent: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """What all panels of a table share."""

    #: Such as "Accuracy, percentage points".
    unit: str
    #: Labels of its two ends.
    ends: tuple[str, str]
    #: Which end is the better one.
    better: Literal["left", "right"]
    #: Positions of the equivalence margin, and how it is written; None without one.
    margin: tuple[float, float, Shown] | None
    #: Whether some interval is cut.
    cut: bool


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a table says of one model: as a picture, in sentences, and in those that tell nothing apart."""

    heading: str
    panels: tuple[Panel, ...]
    sentences: tuple[Sentence, ...]
    rest: tuple[Sentence, ...]
    #: How those of ``rest`` ended, in words.
    rest_ended: str


@dataclass(frozen=True, kw_only=True)
class TableView:
    name: str
    #: Such as Table 1: math, code.
    title: str
    grids: tuple[Grid, ...]
    notes: tuple[Shown, ...]
    tally: Shown
    #: That the table decides nothing, where it does.
    nothing: str
    axis: Axis
    #: Of each model.
    answers: tuple[Answer, ...]


def cell_key(table: Table, section: Section, row: Row, metric: Metric, column: Column) -> str:
    return "|".join((table.name, section.model_key, row.method_key, metric, column.key))


def link_of(key: str) -> str:
    """The address of a number's own view inside the page."""
    return "#number/" + key.replace("|", "/")


# --------------------------------------------------------------------------------------------------------------- cells


def _reach(table: Table, metric: Metric) -> float:
    """The largest limit of any interval of a difference: the half width of every bar."""
    cells = [cell for s in table.sections for row in s.rows for (m, _), cell in row.cells.items() if m == metric]
    differences = [c.difference for cell in cells for c in (cell.comparison, cell.parent_comparison) if c is not None]
    return max((max(abs(d.low), abs(d.high)) for d in differences), default=0.0)


def _place(value: float, reach: float) -> float:
    """Where a difference lies on a bar whose half width is ``reach``: beyond it, at the bar's end."""
    return round(BAR / 2 * (1 + (max(-1.0, min(value / reach, 1.0)) if reach else 0.0)), 2)


def _versus(key: str, comparison: Comparison | None, other: str, metric: Metric, reach: float, prefix: str) -> Versus | None:
    if comparison is None:
        return None
    d = comparison.difference

    def shown(name: str, words: str) -> Shown:
        return Shown(key=f"{key}|{prefix}{name}", text=words)

    return Versus(
        other=other,
        mean=shown("difference", text.signed(d.mean, metric)),
        low=shown("difference_low", text.signed(d.low, metric)),
        high=shown("difference_high", text.signed(d.high, metric)),
        dof=shown("dof", text.dof(d)),
        p=None if comparison.p_adjusted is None else shown("p", text.p_value(comparison.p_adjusted)),
        verdict=None if comparison.word is None else shown("verdict", comparison.word),
        bar=Bar(
            low=_place(d.low, reach),
            middle=_place(d.mean, reach) if abs(d.mean) <= reach else None,
            high=_place(d.high, reach),
            cut=(d.low < -reach, d.high > reach),
            verdict=comparison.outcome or "none",
        ),
    )


def _failed(cell: Cell) -> str:
    return f"{cell.n_diverged} of {cell.n_seeds_planned} diverged" if cell.n_diverged else ""


def _empty(cell: Cell) -> str:
    if cell.n_diverged:
        return "failed"
    return "not run" if cell.n_missing else "not measured"


def _cell(table: Table, section: Section, row: Row, metric: Metric, column: Column, reach: float) -> CellView:
    cell = row.cells[metric, column.key]
    key = cell_key(table, section, row, metric, column)
    ours = cell.ours

    def shown(name: str, value: float) -> Shown:
        return Shown(key=f"{key}|{name}", text=text.level(value, metric))

    pairs = (
        (cell.comparison, text.baseline_label(section) or "", ""),
        (cell.parent_comparison, row.parent or "", "parent_"),
    )
    versus = (_versus(key, comparison, other, metric, reach, prefix) for comparison, other, prefix in pairs)
    spread = ours is not None and ours.stderr > 0
    return CellView(
        link=link_of(key),
        name=f"{row.label} on {column.label}, {section.ours_label}",
        order=None if ours is None else ours.mean,
        mean=None if ours is None else shown("mean", ours.mean),
        stderr=shown("stderr", ours.stderr) if ours is not None and spread else None,
        low=shown("low", ours.low) if ours is not None and not spread else None,
        high=shown("high", ours.high) if ours is not None and not spread else None,
        paper=Shown(key=f"{key}|paper", text=text.reported(cell))
        if cell.reported is not None and metric == "accuracy"
        else None,
        empty="" if ours is not None else _empty(cell),
        failed=_failed(cell),
        collapsed=Shown(key=f"{key}|collapsed", text=text.collapsed(cell)) if cell.n_collapsed else None,
        versus=tuple(v for v in versus if v is not None),
    )


def _facts(table: Table, section: Section, row: Row) -> tuple[tuple[float | None, Shown | None], ...]:
    """Trainable parameters, training time of a seed, peak memory: the value to sort by, and how it is written."""

    def fact(name: str, value: float | None, words: str) -> tuple[float | None, Shown | None]:
        key = "|".join((table.name, section.model_key, row.method_key, "", "", name))
        return value, None if value is None else Shown(key=key, text=words)

    seconds = None if row.seconds is None else row.seconds.mean
    return (
        fact("trainable_parameters", row.trainable_parameters, text.count(row.trainable_parameters)),
        fact("seconds", seconds, "" if seconds is None else text.duration(seconds)),
        fact("peak_memory_bytes", row.peak_memory_bytes, text.memory(row.peak_memory_bytes)),
    )


def _pair_link(table: Table, section: Section, row: Row) -> str:
    domain = next((column.domain for column in table.columns if column.domain is not None), "")
    mine = (domain, section.model_key, row.method_key)
    return "#pair/" + "/".join(("base", section.model_key) if row == section.base else mine)


def _grid(table: Table, metric: Metric) -> Grid:
    reach = _reach(table, metric)
    rows = tuple(
        RowView(
            link=_pair_link(table, section, row),
            model=section.ours_label,
            label=row.label,
            colour=BASE_COLOUR if row == section.base else colour_of(row.method_key),
            is_baseline=row.is_baseline,
            cells=tuple(_cell(table, section, row, metric, column, reach) for column in table.columns),
            facts=_facts(table, section, row) if metric == table.metric else (),
        )
        for section in table.sections
        for row in section.shown
    )
    titles = {"accuracy": "Accuracy, %", "gold_nll": "NLL of the gold answer, nats per token (less is better)"}
    return Grid(metric=metric, title=titles[metric], columns=tuple(map(text.heading, table.columns)), rows=rows)


# ----------------------------------------------------------------------------------------------------------- sentences


#: How sentences look that tell no two methods apart; not: decided, or run.
_NO_DIFFERENCE = ("equivalent", "undecided", "not")


def _sentences(table: Table, section: Section) -> Iterator[Sentence]:
    for one in table.decisions():
        if one.section == section:
            key = cell_key(table, section, one.row, one.metric, one.column)
            ended = text.ending(one)
            yield Sentence(
                key=f"{key}|{'parent_' if one.parent else ''}sentence",
                family=one.family.name if one.family else "",
                text=text.sentence(one),
                ended=ended,
                verdict="failed" if one.comparison is None and one.cell.n_diverged else ended.split()[0],
                link=link_of(key),
                colour=colour_of(one.row.method_key),
            )


# -------------------------------------------------------------------------------------------------------------- forest


def _nice(value: float) -> float:
    """The next larger number with few digits."""
    size = 10.0 ** math.floor(math.log10(value))
    return next(step * size for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if value <= step * size * (1 + 1e-9))


def _forest_reach(table: Table, margin: float | None) -> float:
    """The half width of a table's axis: it has room for the margin, and for all intervals but extreme ones."""
    found = [one.comparison for one in table.compared(table.metric)]
    return half_axis([max(abs(c.difference.low), abs(c.difference.high)) for c in found if c is not None], margin or 0.0)


def half_axis(reaches: Sequence[float], margin: float) -> float:
    """The half width of an axis for intervals that reach so far from zero; of two, the nearer one is the median."""
    widest = min(max(reaches), CUT * statistics.median_low(reaches)) if reaches else 0.0
    return _nice(max(widest, 1.25 * margin) or 1.0)


def _panels(table: Table, section: Section, reach: float) -> Iterator[Panel]:
    metric = table.metric
    own = [one for one in table.compared(metric) if one.section == section]
    grouped: dict[tuple[str, str], list[Decision]] = {}
    for one in sorted(own, key=lambda one: (table.columns.index(one.column), one.parent)):
        grouped.setdefault((text.heading(one.column), one.other or ""), []).append(one)
    for (heading, other), compared in grouped.items():
        rows, absent = [], []
        for one in compared:
            key, row = cell_key(table, section, one.row, metric, one.column), one.row
            versus = _versus(key, one.comparison, other, metric, reach, "parent_" if one.parent else "")
            if versus is None:
                absent.append(f"{row.label} ({_absent(one.cell)})")
            else:
                rows.append(ForestRow(label=row.label, colour=colour_of(row.method_key), link=link_of(key), versus=versus))
        if rows:
            yield Panel(column=heading, other=other, rows=tuple(rows), absent=tuple(absent))


def _absent(cell: Cell) -> str:
    """Why a row has no difference; a row that has run may lack a seed in common with the other."""
    return _empty(cell) if cell.ours is None else "no seed in common"


def _axis(table: Table, reach: float, margin: float | None, panels: Sequence[Panel]) -> Axis:
    metric = table.metric
    accuracy = metric == "accuracy"
    band = None
    if margin is not None:
        shown = Shown(key=f"{table.name}|margin", text=text.amount(margin, metric))
        band = (_place(-margin, reach), _place(margin, reach), shown)
    return Axis(
        unit="Accuracy, percentage points" if accuracy else "NLL of the gold answer, nats per token",
        ends=(text.signed(-reach, metric), text.signed(reach, metric)),
        better="right" if accuracy else "left",
        margin=band,
        cut=any(any(row.versus.bar.cut) for panel in panels for row in panel.rows),
    )


def _answer(table: Table, section: Section, panels: tuple[Panel, ...]) -> Answer:
    """Sentences of the first family stay, and those that tell apart; a long list of others folds away."""
    first = table.families[0].name if table.families else None
    sentences = tuple(_sentences(table, section))
    rest = [s for s in sentences if s.verdict in _NO_DIFFERENCE and (s.family != first or s.ended == "not run")]
    if len(rest) < LONG:
        rest = []
    counts = Counter(s.ended for s in rest)
    return Answer(
        heading=section.title,
        panels=panels,
        sentences=tuple(s for s in sentences if s not in rest),
        rest=tuple(rest),
        rest_ended=", ".join(f"{count} {word}" for word, count in counts.items()),
    )


def table_view(table: Table) -> TableView:
    """Everything that the page shows of a table."""
    margin = getattr(table.experiment.comparisons.margin, table.metric)
    reach = _forest_reach(table, margin)
    panels = {section.model_key: tuple(_panels(table, section, reach)) for section in table.sections}
    return TableView(
        name=table.name,
        title=f"Table {table.name.removeprefix('table')}: {', '.join(table.experiment.tables[table.name].domains)}",
        grids=tuple(_grid(table, metric) for metric in text.metrics_shown(table)),
        notes=tuple(Shown(key=f"{table.name}|note|{i}", text=note) for i, note in enumerate(text.notes(table))),
        tally=Shown(key=f"{table.name}|tally", text=" ".join(text.tallies(table))),
        nothing=" ".join(text.decides_nothing(table)),
        axis=_axis(table, reach, margin, [panel for own in panels.values() for panel in own]),
        answers=tuple(_answer(table, section, panels[section.model_key]) for section in table.sections),
    )


# -------------------------------------------------------------------------------------------------------------- details


def _comparison(comparison: Comparison | None, other: str | None) -> dict[str, Any] | None:
    if comparison is None:
        return None
    d = comparison.difference
    return {
        "other": other, "mean": d.mean, "low": d.low, "high": d.high, "dof": d.dof, "n_seeds": d.n_seeds,
        "family": comparison.family and comparison.family.name, "p_adjusted": comparison.p_adjusted,
        "p_equivalent": comparison.p_equivalent, "verdict": comparison.word,
        "detectable": stats.minimum_detectable_difference(d) if d.n_seeds > 1 else None,
    }  # fmt: skip


def _paper(cell: Cell) -> dict[str, Any] | None:
    if cell.paper is None:
        return None
    return {
        "value": cell.reported, "score": text.paper_word(cell.paper.score, cell.paper), "other": cell.paper.other,
        "difference": cell.paper.reported_difference,
        "difference_verdict": text.paper_word(cell.paper.difference, cell.paper),
        "settle": text.settle(cell.paper.seeds_to_settle),
    }  # fmt: skip


def _ours(estimate: stats.Estimate | None) -> dict[str, Any] | None:
    if estimate is None:
        return None
    names = ("mean", "stderr", "low", "high", "n_seeds", "n_examples")
    return {name: getattr(estimate, name) for name in names}


def _asked(model: str, column: Column, base: Mapping[Asked, BaseEvaluation]) -> list[str]:
    """The evaluations of a base model behind a column."""
    folders = [
        one.folder
        for (own, domain, task), one in base.items()
        if own == model and column.domain in (None, domain) and column.task in (AVERAGE, task)
    ]
    return list(dict.fromkeys(folders))


def details(source: Source, table: Table, runs: Sequence[RunSpec]) -> list[dict[str, Any]]:
    """Every cell of a table, unrounded, with the ids of the runs behind it, which are some of the table's ``runs``."""
    entries, base = [], base_answers(source.experiment, runs)
    for section in table.sections:
        for row in section.shown:
            mine = [r for r in runs if (r.model_key, r.method.key) == (section.model_key, row.method_key)]
            for column in table.columns:
                behind = [r.run_id for r in mine if column.domain in (None, r.domain)]
                if row == section.base:
                    behind = _asked(section.model_key, column, base)
                trace = source.harness(f"report.trace {table.name} {section.model_key} {row.method_key} {column.key}")
                for metric in text.metrics_shown(table):
                    cell = row.cells[metric, column.key]
                    key = cell_key(table, section, row, metric, column)
                    entries.append({
                        "key": key, "table": table.name, "model": section.ours_label, "method": row.label,
                        "method_key": row.method_key, "column": text.heading(column), "metric": metric,
                        "task": None if column.task == AVERAGE else column.task, "ours": _ours(cell.ours),
                        "seeds": list(cell.seeds), "failed": _failed(cell), "missing": cell.n_missing,
                        "collapsed": text.collapsed(cell),
                        "versus": _comparison(cell.comparison, text.baseline_label(section)),
                        "parent": _comparison(cell.parent_comparison, row.parent),
                        "paper": _paper(cell), "runs": behind, "trace": None if row == section.base else trace,
                    })  # fmt: skip
    return entries
