"""Tables of honest cells: the paper's number, ours with its uncertainty, and the paired difference to LoRA.

``build`` turns records into a ``Table`` of unrounded numbers; ``harness.table_formats`` writes it as Markdown, TeX and
CSV, ``harness.summary`` to the terminal.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness import cli, plan, reported, stats
from harness.config import BaseModelSpec, ConfigError, Experiment, RunSpec, TaskSpec
from harness.records import DEFAULT_RESULTS, Loaded, RecordError, RunRecord, load_records, snakemake_command

#: The method that all others are compared with, by its registered name.
BASELINE = "lora"
#: Significance level of verdicts, after Holm's correction.
ALPHA = 0.05
AVERAGE = "avg"

Metric = Literal["accuracy", "gold_nll"]
METRICS: tuple[Metric, ...] = ("accuracy", "gold_nll")
Verdict = Literal["better", "worse", "tie"]


@dataclass(frozen=True, kw_only=True)
class Column:
    """A test set after fine-tuning on a domain; ``task`` is ``avg`` (and domain and spec None) for the mean of all.

    ``generated``: our numbers come, at least in part, from generated records instead of the public set.
    """

    domain: str | None
    task: str
    label: str
    spec: TaskSpec | None
    generated: bool

    @property
    def key(self) -> str:
        return f"{self.domain}/{self.task}" if self.domain else self.task


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One metric of one method on one model in one column. Accuracies are fractions, NLL is in nats per token."""

    #: The paper's accuracy for the model that ours stands for; None where it has none.
    reported: float | None
    ours: stats.Estimate | None
    #: Method minus baseline on matching seeds; None for the baseline, and where either has not run.
    difference: stats.Difference | None
    p_adjusted: float | None
    verdict: Verdict | None
    seeds: tuple[int, ...]
    n_diverged: int
    n_missing: int

    @property
    def n_seeds_planned(self) -> int:
        return len(self.seeds) + self.n_diverged + self.n_missing


@dataclass(frozen=True, kw_only=True)
class Row:
    """A method on one model. ``seconds`` is the mean training time of a seed, all domains together."""

    method_key: str
    label: str
    is_baseline: bool
    trainable_parameters: int | None
    reported_millions: float | None
    seconds: stats.Interval | None
    peak_memory_bytes: int | None
    cells: Mapping[tuple[Metric, str], Cell]


@dataclass(frozen=True, kw_only=True)
class Section:
    """All methods on one base model."""

    model_key: str
    model: BaseModelSpec
    rows: tuple[Row, ...]

    @property
    def paper_label(self) -> str | None:
        return reported.MODEL_LABELS[self.model.stands_for] if self.model.stands_for else None

    @property
    def ours_label(self) -> str:
        unmarked = self.model.stands_for and self.model.is_stand_in and "stand-in" not in self.model.label.lower()
        return f"{self.model.label} stand-in" if unmarked else self.model.label

    @property
    def title(self) -> str:
        if self.paper_label is None:
            return f"{self.ours_label} [ours; not in the paper]"
        return f"{self.paper_label} [paper] | {self.ours_label} [ours]"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What the records of a table took, in seconds; ``cpu_s`` is None unless every record says it."""

    runs: int
    diverged: int
    wall_s: float
    cpu_s: float | None


@dataclass(frozen=True, kw_only=True)
class Table:
    """Everything a rendering shows, unrounded."""

    name: str
    experiment: Experiment
    columns: tuple[Column, ...]
    sections: tuple[Section, ...]
    #: Comparisons that Holm's correction counts: (metric, of averages or of single tasks) -> number.
    comparisons: Mapping[tuple[Metric, bool], int]
    n_examples: Mapping[str, int]
    cost: Cost
    missing: tuple[str, ...]
    stale: tuple[str, ...]


# --------------------------------------------------------------------------------------------------------------- cells


def table_columns(runs: Iterable[RunSpec]) -> tuple[Column, ...]:
    """One column per domain and task in the order of the runs, and their average where there are several."""
    found: dict[tuple[str, str], Column] = {}
    for run in runs:
        for task, spec in run.evaluation.tasks.items():
            label, home = reported.TASKS.get(task, (task, None))
            if home != run.domain:
                label = f"{label} (after {run.domain} fine-tuning)"
            column = Column(domain=run.domain, task=task, label=label, spec=spec, generated=spec.source.kind == "generated")
            found.setdefault((run.domain, task), column)
    columns = tuple(found.values())
    some_generated = any(column.generated for column in columns)
    average = Column(domain=None, task=AVERAGE, label="Average", spec=None, generated=some_generated)
    return (*columns, average) if len(columns) > 1 else columns


class _Scores:
    """Score matrices of a table's successful runs."""

    def __init__(self, records: Sequence[RunRecord], columns: Sequence[Column]) -> None:
        self.tasks = [column for column in columns if column.task != AVERAGE]
        self._records = {(r.run.model_key, r.run.method.key, r.run.domain, r.run.seed): r for r in records}
        self.n_examples: dict[str, int] = {}
        for column in self.tasks:
            done = [r for r in records if r.run.domain == column.domain and not r.diverged]
            for record in done[1:]:
                if record.predictions[column.task].ids != done[0].predictions[column.task].ids:
                    raise RecordError(
                        f"{record.folder}/predictions/{column.task}.jsonl: found other examples than "
                        f"{done[0].folder}/predictions/{column.task}.jsonl, expected the same in the same order"
                    )
            if done:
                self.n_examples[column.key] = len(done[0].predictions[column.task].ids)
        if len(self.tasks) > 1 and len(self.n_examples) == len(self.tasks):
            self.n_examples[AVERAGE] = sum(self.n_examples.values())

    def parts(self, column: Column) -> list[Column]:
        """The tasks that a column shows: itself, or all for the average."""
        return self.tasks if column.task == AVERAGE else [column]

    def outcomes(self, model: str, method: str, column: Column, seeds: Sequence[int]) -> dict[int, str]:
        """seed -> success, diverged or missing; of the average, the worst over its tasks."""
        found = {}
        for seed in seeds:
            records = [self._records.get((model, method, part.domain, seed)) for part in self.parts(column)]
            diverged = any(r is not None and r.diverged for r in records)
            found[seed] = "diverged" if diverged else "missing" if None in records else "success"
        return found

    def matrices(
        self, model: str, method: str, column: Column, seeds: Sequence[int], metric: Metric
    ) -> list[NDArray[np.float64]] | None:
        """(seeds, examples) for each task of a column; None where a run did not measure the metric."""
        matrices = []
        for part in self.parts(column):
            found = [self._records[model, method, part.domain, seed].predictions[part.task] for seed in seeds]
            rows = [p.correct if metric == "accuracy" else p.gold_nll for p in found]
            if any(row is None for row in rows):
                return None
            matrices.append(np.stack(rows))
        return matrices


def _estimate_cell(
    scores: _Scores, *, model: str, method: str, baseline: str | None, column: Column, seeds: Sequence[int], metric: Metric
) -> Cell:
    """A cell without the paper's number and before the correction over the table."""
    binary = metric == "accuracy"
    outcomes = scores.outcomes(model, method, column, seeds)
    done = [seed for seed in seeds if outcomes[seed] == "success"]
    own = scores.matrices(model, method, column, done, metric) if done else None
    # A fresh generator for each number: none depends on which others are computed before it.
    ours = stats.mean_score(own, rng=np.random.default_rng(0), binary=binary) if own else None
    difference = None
    if own and baseline is not None and baseline != method:
        other = scores.outcomes(model, baseline, column, seeds)
        shared = [seed for seed in done if other[seed] == "success"]
        first = scores.matrices(model, method, column, shared, metric) if shared else None
        second = scores.matrices(model, baseline, column, shared, metric) if shared else None
        if first and second:
            difference = stats.paired_difference(first, second, rng=np.random.default_rng(0), binary=binary)
    values = list(outcomes.values())
    return Cell(
        reported=None,
        ours=ours,
        difference=difference,
        p_adjusted=None,
        verdict=None,
        seeds=tuple(done),
        n_diverged=values.count("diverged"),
        n_missing=values.count("missing"),
    )


def _verdict(difference: stats.Difference, p_adjusted: float, metric: Metric) -> Verdict:
    if p_adjusted >= ALPHA or difference.mean == 0:
        return "tie"
    return "better" if (difference.mean > 0) == (metric == "accuracy") else "worse"


CellKey = tuple[str, str, Metric, str]  # model, method, metric, column


def _correct(cells: dict[CellKey, Cell]) -> dict[tuple[Metric, bool], int]:
    """Adjust p-values and set verdicts in place. A family is one metric, and single tasks or averages, of all
    models."""
    families: dict[tuple[Metric, bool], list[CellKey]] = {}
    for key, cell in cells.items():
        if cell.difference is not None:
            families.setdefault((key[2], key[3] == AVERAGE), []).append(key)
    for keys in families.values():
        adjusted = stats.holm([cells[key].difference.p_value for key in keys])
        for key, p in zip(keys, adjusted, strict=True):
            verdict = _verdict(cells[key].difference, p, key[2])
            cells[key] = replace(cells[key], p_adjusted=p, verdict=verdict)
    return {family: len(keys) for family, keys in families.items()}


# --------------------------------------------------------------------------------------------------------------- table


def _baseline_key(runs: Iterable[RunSpec]) -> str | None:
    """The row to compare with: the one keyed ``lora``, else the first that runs the registered method of that name."""
    keys = [run.method.key for run in runs if run.method.name == BASELINE]
    return BASELINE if BASELINE in keys else (keys[0] if keys else None)


def _names(run: RunSpec) -> tuple[str, str]:
    """Under which the paper's file may have a row."""
    return run.method.label, run.method.key


def _reported(run: RunSpec, column: Column, parts: Sequence[Column], table: str) -> float | None:
    """The paper's number for a cell, if the row's model stands for one of the paper's."""
    model = run.model.stands_for
    if model is None:
        return None
    if column.task == AVERAGE:
        pairs = [(part.domain, part.task) for part in parts]
        return reported.average(table=table, model=model, method_names=_names(run), parts=pairs)
    return reported.value(table=table, model=model, method_names=_names(run), domain=column.domain, task=column.task)


def _row(
    runs: Sequence[RunSpec],
    records: Sequence[RunRecord],
    cells: Mapping[tuple[Metric, str], Cell],
    *,
    is_baseline: bool,
) -> Row:
    mine = [r for r in records if (r.run.model_key, r.run.method.key) == (runs[0].model_key, runs[0].method.key)]
    domains = {run.domain for run in runs}
    by_seed: dict[int, list[RunRecord]] = {}
    for record in mine:
        by_seed.setdefault(record.run.seed, []).append(record)
    seconds = [
        sum(r.train.wall_time_s for r in group)
        for group in by_seed.values()
        if len(group) == len(domains) and not any(r.diverged for r in group)
    ]
    model = runs[0].model.stands_for
    millions = reported.parameters_millions(model=model, method_names=_names(runs[0])) if model else None
    memory = [r.train.peak_memory_bytes for r in mine if r.train.peak_memory_bytes is not None]
    return Row(
        method_key=runs[0].method.key,
        label=runs[0].method.label,
        is_baseline=is_baseline,
        trainable_parameters=max((r.train.trainable_parameters for r in mine), default=None),
        reported_millions=millions,
        seconds=stats.mean_over_seeds(seconds) if seconds else None,
        peak_memory_bytes=max(memory, default=None),
        cells=cells,
    )


def _cost(records: Sequence[RunRecord]) -> Cost:
    cpu = [part.cpu_time_s for r in records for part in (r.train, r.metrics)]
    return Cost(
        runs=len(records),
        diverged=sum(r.diverged for r in records),
        wall_s=sum(r.train.wall_time_s + (r.metrics.wall_time_s or 0.0) for r in records),
        cpu_s=None if None in cpu or not cpu else sum(cpu),
    )


def build(experiment: Experiment, name: str, runs: Sequence[RunSpec], loaded: Loaded) -> Table:
    """A table from the records of its runs.

    Args:
        runs: all planned runs (``plan.table_runs``).
        loaded: their records; planned runs without one become missing seeds.
    """
    columns = table_columns(runs)
    scores = _Scores(loaded.records, columns)
    groups: dict[tuple[str, str], list[RunSpec]] = {}
    for run in runs:
        groups.setdefault((run.model_key, run.method.key), []).append(run)
    baselines = {model: _baseline_key(r for r in runs if r.model_key == model) for model, _ in groups}
    cells: dict[CellKey, Cell] = {}
    for (model, method), group in groups.items():
        seeds = sorted({run.seed for run in group})
        for column in columns:
            paper = _reported(group[0], column, scores.parts(column), name)
            for metric in METRICS:
                cell = _estimate_cell(
                    scores, model=model, method=method, baseline=baselines[model], column=column, seeds=seeds, metric=metric
                )
                shown = paper if metric == "accuracy" else None
                cells[model, method, metric, column.key] = replace(cell, reported=shown)
    comparisons = _correct(cells)
    sections = []
    for model in dict.fromkeys(model for model, _ in groups):
        rows = [
            _row(
                group,
                loaded.records,
                {key[2:]: cell for key, cell in cells.items() if key[:2] == (model, method)},
                is_baseline=method == baselines[model],
            )
            for (m, method), group in groups.items()
            if m == model
        ]
        sections.append(Section(model_key=model, model=experiment.models[model], rows=tuple(rows)))
    return Table(
        name=name,
        experiment=experiment,
        columns=columns,
        sections=tuple(sections),
        comparisons=comparisons,
        n_examples=scores.n_examples,
        cost=_cost(loaded.records),
        missing=tuple(r.run_id for r in loaded.missing),
        stale=tuple(r.run_id for r in loaded.stale),
    )


def load_table(
    name: str, configfiles: Sequence[Path], overrides: Mapping[str, object], *, results: Path, allow_missing: bool
) -> Table:
    """Read an experiment and its records and build one of its tables.

    Raises:
        ConfigError: bad input, or records that are missing (unless allowed) or broken.
    """
    experiment = plan.load_experiment(configfiles, overrides)
    runs = plan.table_runs(experiment, name, paths=configfiles)
    command = snakemake_command(configfiles, overrides)
    loaded = load_records(runs, results=results, command=command, allow_missing=allow_missing)
    return build(experiment, name, runs, loaded)


def add_table_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that ``harness.tables`` and ``harness.summary`` share."""
    parser.add_argument("table", help="a table of the experiment, such as table1")
    cli.add_config_arguments(parser)
    parser.add_argument("--experiment", metavar="NAME", help="short for --configfile config/NAME.yaml")
    parser.add_argument("--results-dir", type=Path, default=DEFAULT_RESULTS, help="default: %(default)s")
    parser.add_argument("--allow-missing", action="store_true", help="show what has not run as —, not as an error")


def parse_table_arguments(args: argparse.Namespace) -> tuple[list[Path], dict[str, object]]:
    """Experiment files and overrides of parsed arguments."""
    configfiles, overrides = cli.parse_config(args)
    if args.experiment is None:
        return configfiles, overrides
    if configfiles != [cli.DEFAULT_CONFIGFILE]:
        raise ConfigError("--experiment: found --configfile as well, expected one of them")
    return [Path("config") / f"{args.experiment}.yaml"], overrides


def main(argv: list[str] | None = None) -> int:
    from harness import table_formats

    description = "Write a table as Markdown, TeX and CSV."
    parser = argparse.ArgumentParser(prog="python -m harness.tables", description=description)
    add_table_arguments(parser)
    parser.add_argument("--output-dir", type=Path, metavar="DIR", help="default: {results-dir}/{experiment}/tables")
    args = parser.parse_args(argv)
    configfiles, overrides = parse_table_arguments(args)
    table = load_table(args.table, configfiles, overrides, results=args.results_dir, allow_missing=args.allow_missing)
    folder = args.output_dir or args.results_dir / table.experiment.name / "tables"
    for path in table_formats.write(table, folder):
        print(path)
    return 0


if __name__ == "__main__":
    cli.run(main)
