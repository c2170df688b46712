"""Everything behind one number of a table: with its interval and difference, each seed's run with what it was made of, the
command that repeats it, and whether the predictions, read anew, give the same number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from harness.did_you_mean import suggestion
from harness.errors import ConfigError
from harness.experiment.runs import table_runs
from harness.provenance import file_sha256
from harness.records.grader_sources import graded_otherwise
from harness.records.read import read_metrics
from harness.report.made import describe
from harness.report.recompute import Raw, TableNumbers
from harness.report.sources import Source
from harness.schema.evaluation import Metric, judged_by
from harness.schema.run import RunSpec
from harness.statistics import stats
from harness.statistics.comparison import count_seeds
from harness.tables import words as text
from harness.tables.cells import AVERAGE, Cell, Column, Row, Section, Table

FoundT = TypeVar("FoundT")


@dataclass(frozen=True, kw_only=True)
class Number:
    """One cell of a table: the score of a method on a test set, by which it is judged there."""

    table: Table
    section: Section
    row: Row
    column: Column

    @property
    def metric(self) -> Metric:
        return self.table.metric if self.column.spec is None else judged_by([self.column.spec])

    @property
    def cell(self) -> Cell:
        return self.row.cells[self.metric, self.column.key]


def pick(name: str, named: Mapping[FoundT, Sequence[str]], *, what: str) -> FoundT:
    """The one thing that goes by a name, in any case.

    Args:
        named: thing -> its names, the one to suggest first.

    Raises:
        ConfigError: nothing, or more than one, goes by it.
    """
    plain = name.lower()
    matches = [one for one, names in named.items() if plain in (known.lower() for known in names)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        choices = ", ".join(named[one][0] for one in matches)
        raise ConfigError(f"{what}: found {name!r}, which {len(matches)} go by; expected one of {choices}")
    known = {other.lower(): other for names in named.values() for other in names}
    first = ", ".join(names[0] for names in named.values())
    near = suggestion(plain, known, shown=known.__getitem__) or f"expected one of {first}"
    raise ConfigError(f"{what}: found unknown {name!r}; {near}")


def find(table: Table, *, model: str, method: str, task: str) -> Number:
    """A number by what people call its parts.

    Args:
        model: key, label, or the paper's model that it stands for.
        method: key or label.
        task: task, domain/task, label, or ``avg``.

    Raises:
        ConfigError: there is no such model, method or task, or more than one.
    """
    sections = {
        i: [s.model_key, s.model.label, *([s.model.stands_for, s.paper_label or ""] if s.model.stands_for else [])]
        for i, s in enumerate(table.sections)
    }
    section = table.sections[pick(model, sections, what=f"model of {table.name}")]
    rows = {i: [row.method_key, row.label] for i, row in enumerate(section.rows)}
    row = section.rows[pick(method, rows, what=f"method of {table.name} on {section.model_key}")]
    columns = {
        i: [column.key, *([] if column.task == AVERAGE else [column.task]), column.label]
        for i, column in enumerate(table.columns)
    }
    column = table.columns[pick(task, columns, what=f"test set of {table.name}")]
    return Number(table=table, section=section, row=row, column=column)


# --------------------------------------------------------------------------------------------------------------- words


def _line(name: str, words: str, *, indent: int = 0) -> str:
    return f"{' ' * indent}{name:<{14 - indent}}{words}"


def _score(cell: Cell, metric: Metric) -> str:
    ours = cell.ours
    if ours is None:
        return text.ours(cell, metric)
    limits = text.interval(ours.low, ours.high, metric)
    lost = f"; {cell.n_diverged} of {cell.n_seeds_planned} diverged" if cell.n_diverged else ""
    lost += f"; {cell.n_missing} of {cell.n_seeds_planned} not run" if cell.n_missing else ""
    lost += f"; {text.collapsed(cell)}" if cell.n_collapsed else ""
    unit = "%" if metric == "accuracy" else "nats per token"
    return (
        f"{text.level(ours.mean, metric)} ± {text.level(ours.stderr, metric)} {unit}, 95 % interval {limits}, "
        f"{count_seeds(ours.n_seeds)}, n = {ours.n_examples}{lost}"
    )


def _differences(number: Number) -> list[str]:
    lines, metric = [], number.metric
    pairs = ((text.baseline_label(number.section), number.cell.comparison), (number.row.parent, number.cell.parent_comparison))
    for other, comparison in pairs:
        if other is None or comparison is None:
            continue
        d = comparison.difference
        shown = f"{text.signed(d.mean, metric)} {text.interval(d.low, d.high, metric, with_sign=True)}"
        words = [] if d.dof is None else [f"df {text.dof(d)}"]
        if comparison.family is not None:
            words.append(f"{comparison.word} (family {comparison.family.name})")
        if comparison.p_adjusted is not None:
            words.append(f"p = {text.p_value(comparison.p_adjusted)} after Holm's correction")
        lines.append(_line(f"{text.MINUS} {other}", ", ".join([shown, *words])))
        if d.n_seeds > 1:
            detectable = text.amount(stats.minimum_detectable_difference(d), metric)
            lines.append(_line("", f"a true difference of {detectable} would be found four times in five"))
    return lines


_NAMES: dict[Metric, str] = {"accuracy": "accuracy", "gold_nll": "gold NLL"}


def _header(number: Number) -> list[str]:
    section, column, cell = number.section, number.column, number.cell
    lines = [
        f"{number.table.name} · {section.title} · {number.row.label} · {text.heading(column)}",
        _line(_NAMES[number.metric], _score(cell, number.metric)),
    ]
    lines += _differences(number)
    if cell.paper is not None:
        word = text.paper_word(cell.paper.score, cell.paper)
        lines.append(_line("paper", f"{text.reported(cell)} %: {word}"))
    if column.spec is not None:
        spec = number.table.experiment.domains[column.domain or ""].evaluation
        lines.append(_line("protocol", f"{spec.protocol}, grader {column.spec.grader}"))
        lines.append(_line("test set", describe(column.spec.source, limit=column.spec.limit)))
    return lines


def _short(value: Any) -> str:
    return str(value)[:16] if value else text.NOTHING


def _sources(recorded: Mapping[str, str]) -> str:
    """Hashes in short, releases in words."""
    return "; ".join(f"{part} {_short(what) if part != 'packages' else what}" for part, what in recorded.items())


def _adapter(folder: Path, artefact: Mapping[str, str]) -> tuple[list[str], bool]:
    """A line for every file of the adapter, and whether all that are here are those of the record."""
    lines, agree = [], True
    for name, digest in artefact.items():
        path = folder / "adapter" / name
        if not path.is_file():
            word = "not on this machine"
        elif file_sha256(path) == digest:
            word = "the file agrees"
        else:
            word, agree = f"the file here has {_short(file_sha256(path))}", False
        lines.append(_line("adapter", f"{name} sha256 {_short(digest)}: {word}", indent=2))
    return lines, agree


def _run(source: Source, raw: Raw, run: RunSpec, tasks: Sequence[str], metric: Metric) -> tuple[list[str], bool]:
    """The lines of one run, and whether its files agree with its record."""
    folder = source.run_folder(run)
    status = raw.status.get(run.run_id, "not run, or made with other settings")
    lines = ["", f"seed {run.seed}  {folder}" + ("" if status == "success" else f": {status}")]
    again = f"{source.command} --force -- {folder / 'train.json'} && {source.command} -- {folder / 'metrics.json'}"
    if run.run_id not in raw.status:
        return [*lines, _line("make it", f"{source.command} -- {folder / 'metrics.json'}", indent=2)], True
    train = raw.train(run.run_id)
    data, git = train.get("data") or {}, train.get("git") or {}
    metrics = read_metrics(folder)
    for task in tasks if status == "success" else ():
        rows = raw.rows(run.run_id, task)
        how = f"data {_short(metrics['tasks'][task].get('data_sha256'))}"
        if metric == "accuracy":
            solved = sum(row["correct"] for row in rows)
            how = f"grader {metrics['tasks'][task]['grader']}; {how}"
            mean = f"{100 * solved / len(rows):.1f} % = {solved:g} of {len(rows)}"
        else:
            mean = f"{sum(row['gold_nll'] for row in rows) / len(rows):.4f} nats, mean of {len(rows)}"
        lines.append(_line(_NAMES[metric], f"{mean} in predictions/{task}.jsonl ({how})", indent=2))
        sources = metrics["tasks"][task].get("sources")
        graded = graded_otherwise(sources, run.evaluation.tasks[task]) or "as this code grades"
        lines.append(_line("graded", f"{graded}: {_sources(sources)}" if sources else graded, indent=2))
    dirty = " with uncommitted changes" if git.get("dirty") else ""
    adapter, agree = _adapter(folder, train.get("artefact") or {})
    lines += [
        _line("commit", f"{git.get('commit') or text.NOTHING}{dirty}", indent=2),
        _line("spec hash", train.get("training_hash") or text.NOTHING, indent=2),
        _line("data", f"{data.get('rows', text.NOTHING)} rows, sha256 {_short(data.get('sha256'))}", indent=2),
        _line("base model", f"sha256 {_short(train.get('base_model_hash'))}", indent=2),
        *adapter,
        _line("versions", ", ".join(f"{n} {v}" for n, v in (train.get("versions") or {}).items()) or text.NOTHING, indent=2),
        _line("again", again, indent=2),
    ]
    return lines, agree


def _recomputed(number: Number, raw: Raw) -> tuple[str, bool]:
    """Whether the predictions, read anew, give the same mean and differences."""
    table, column = TableNumbers(raw, number.table.name), number.column
    place = (column.domain, None if column.task == AVERAGE else column.task)
    model, method = number.section.model_key, number.row.method_key
    estimate = table.estimate(model, method, place, number.metric)
    ours = number.cell.ours
    pairs = [(None if ours is None else ours.mean, None if estimate is None else estimate[0])]
    for parent, shown in ((False, number.cell.comparison), (True, number.cell.parent_comparison)):
        compared = table.compared.get((model, method, number.metric, place, parent))
        pairs.append((None if shown is None else shown.difference.mean, None if compared is None else compared.mean))
    agree = all(a is b if a is None or b is None else math.isclose(a, b, abs_tol=1e-12) for a, b in pairs)
    if pairs[0] == (None, None):
        return "nothing to recompute", agree
    return ("the predictions, read anew, give the same numbers" if agree else "THE PREDICTIONS GIVE OTHER NUMBERS"), agree


def trace(source: Source, number: Number) -> tuple[list[str], bool]:
    """All lines, and whether every number and file is as the records say."""
    raw = Raw(source)
    column = number.column
    tasks = [c for c in number.table.columns if c.task != AVERAGE and c.counts and column.domain in (None, c.domain)]
    parts = tasks if column.task == AVERAGE else [column]
    words, agree = _recomputed(number, raw)
    lines = [*_header(number), _line("recomputed", words)]
    runs = [
        run
        for run in table_runs(source.experiment, number.table.name)
        if (run.model_key, run.method.key) == (number.section.model_key, number.row.method_key)
        and run.domain in {part.domain for part in parts}
    ]
    for run in runs:
        more, good = _run(source, raw, run, [part.task for part in parts if part.domain == run.domain], number.metric)
        lines, agree = lines + more, agree and good
    return lines, agree
