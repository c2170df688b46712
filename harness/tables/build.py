"""Tables of honest cells: the paper's number, ours with its uncertainty, and the paired difference to LoRA.

``build`` turns records into a ``Table`` of unrounded numbers; ``harness.tables.render`` writes it as Markdown, TeX and
CSV, ``harness.tables.summary`` to the terminal.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Literal

import methods
from harness import reported
from harness.cli import Config
from harness.errors import ConfigError
from harness.experiment.runs import load_experiment, shows_base, table_runs
from harness.experiment.yaml_file import placed
from harness.records.grader_sources import how_graded
from harness.records.read import Loaded, RunRecord, load_records
from harness.schema.base_models import BaseModelSpec
from harness.schema.evaluation import Metric, judged_by
from harness.schema.experiment import Experiment
from harness.schema.fields import BASELINE
from harness.schema.run import RunSpec
from harness.statistics import stats
from harness.statistics.comparison import Comparison, Family, decide
from harness.tables.against_paper import PaperCheck, Reported, check
from harness.tables.base_row import BaseAnswers, base_row, load_base_answers
from harness.tables.cells import (
    AVERAGE,
    METRICS,
    Cell,
    Column,
    Cost,
    Rates,
    Row,
    Scores,
    Section,
    Table,
    table_columns,
)
from harness.tables.rates import load_tuning, tuned_runs

# ---------------------------------------------------------------------------------------------------------------- rows


def _row_key(runs: Iterable[RunSpec], name: str) -> str | None:
    """The row that stands for a registered method: the one of that key, else the first that runs it."""
    keys = [run.method.key for run in runs if run.method.name == name]
    return name if name in keys else (keys[0] if keys else None)


def _parent_key(run: RunSpec, runs: Iterable[RunSpec]) -> str | None:
    """The row of the method that a run's method is a registered variant of (an ablation of BeamLoRA: BeamLoRA)."""
    named = methods.registry().get(run.method.name)
    if named is None or named.cls.name == run.method.name:
        return None
    return _row_key(runs, named.cls.name)


def _names(run: RunSpec) -> tuple[str, str]:
    """Under which the paper's file may have a row."""
    return run.method.label, run.method.key


def _reported(run: RunSpec, column: Column, parts: Sequence[Column], table: str) -> Reported | None:
    """The paper's number for a cell, if the row's model stands for one of the paper's."""
    model = run.model.stands_for
    if model is None:
        return None
    pairs = [(part.domain or "", part.task) for part in parts]
    where: dict[str, Any] = {"table": table, "model": model, "method_names": _names(run)}
    value = None
    if column.task != AVERAGE:
        ((domain, task),) = pairs
        value = reported.value(**where, domain=domain, task=task)
    elif (value := reported.average(**where, parts=pairs)) is None and column.domain is not None:
        return _mean_reported([_reported(run, part, [part], table) for part in parts])
    stderr = reported.stderr(**where, parts=pairs)
    return None if value is None or stderr is None else Reported(value=value, stderr=stderr)


def _mean_reported(numbers: Sequence[Reported | None]) -> Reported | None:
    """The mean of the paper's numbers over a domain's test sets, where it prints none itself."""
    known = [number for number in numbers if number is not None]
    if len(known) < len(numbers):
        return None
    stderr = math.sqrt(sum(number.stderr**2 for number in known)) / len(known)
    return Reported(value=sum(number.value for number in known) / len(known), stderr=stderr)


def _incomparable(model: BaseModelSpec, parts: Sequence[Column]) -> Literal["stand-in", "other test set"] | None:
    """Why absolute numbers have nothing to do with the paper's, if they have not."""
    if model.is_stand_in:
        return "stand-in"
    return "other test set" if any(part.generated or part.partial for part in parts) else None


def _row(
    runs: Sequence[RunSpec],
    records: Sequence[RunRecord],
    cells: Mapping[tuple[Metric, str], Cell],
    *,
    is_baseline: bool,
    parent: str | None,
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
        parent=parent,
        trainable_parameters=max((r.train.trainable_parameters for r in mine), default=None),
        reported_millions=millions,
        seconds=stats.mean_over_seeds(seconds) if seconds else None,
        peak_memory_bytes=max(memory, default=None),
        cells=cells,
    )


def _cost(records: Sequence[RunRecord]) -> Cost:
    cpu = [part.cpu_time_s for r in records for part in (r.train, r.metrics)]
    known = [seconds for seconds in cpu if seconds is not None]
    return Cost(
        runs=len(records),
        diverged=sum(r.diverged for r in records),
        wall_s=sum(r.train.wall_time_s + (r.metrics.wall_time_s or 0.0) for r in records),
        cpu_s=sum(known) if known and len(known) == len(cpu) else None,
    )


def _gradings(columns: Sequence[Column], records: Sequence[RunRecord], base: BaseAnswers) -> tuple[tuple[Column, str], ...]:
    """The test sets that runs and base models were not graded on as this code grades, or not all alike, and how, in words."""
    found = []
    for column in columns:
        own = [r.predictions[column.task] for r in records if r.run.domain == column.domain and not r.diverged]
        own += [answers for asked, answers in base.items() if asked[1:] == (column.domain, column.task) and answers is not None]
        if column.spec is not None:
            found.append((column, how_graded([predictions.sources for predictions in own], column.spec)))
    return tuple((column, words) for column, words in found if words)


#: Model, method, metric, column, and whether the comparison is with the full method of a variant and not with the baseline.
ComparisonKey = tuple[str, str, Metric, str, bool]


class _Builder:
    """What ``build`` computes on its way from runs and records to cells."""

    def __init__(self, experiment: Experiment, name: str, runs: Sequence[RunSpec], loaded: Loaded, base: BaseAnswers) -> None:
        self.experiment, self.name, self.records = experiment, name, loaded.records
        self.columns = table_columns(runs)
        self.scores, self.base = Scores(loaded.records, self.columns), base
        self.groups: dict[tuple[str, str], list[RunSpec]] = {}
        for run in runs:
            self.groups.setdefault((run.model_key, run.method.key), []).append(run)
        by_model = {model: [run for run in runs if run.model_key == model] for model, _ in self.groups}
        self.baselines = {model: _row_key(mine, BASELINE) for model, mine in by_model.items()}
        self.parents = {key: _parent_key(group[0], by_model[key[0]]) for key, group in self.groups.items()}
        self.families = self._families()
        self.comparisons = self._compare()

    def seeds(self, key: tuple[str, str], column: Column) -> list[int]:
        """Planned for what a column shows; domains may have different ones."""
        domains = {part.domain for part in self.scores.parts(column)}
        return sorted({run.seed for run in self.groups[key] if run.domain in domains})

    def other(self, model: str, method: str, *, parent: bool) -> str | None:
        """The row that a row is compared with: the baseline, or the full method of a variant."""
        key = self.parents[model, method] if parent else self.baselines[model]
        return None if key == method else key

    def _keys(self) -> list[ComparisonKey]:
        return [
            (model, method, metric, column.key, parent)
            for (model, method), metric, column, parent in product(self.groups, METRICS, self.columns, (False, True))
            if self.other(model, method, parent=parent) is not None
        ]

    def _families(self) -> dict[ComparisonKey, Family]:
        """The planned comparisons that the experiment decides.

        Raises:
            ConfigError: a family compares rows as this table does not.
        """
        spec = self.experiment.comparisons
        here = {name: family for name, family in spec.families.items() if self.name in family.tables}
        named = {(family.against, method) for family in here.values() for method in family.methods or ()}
        decided = {column.key for column in self.columns if column.decides}
        families: dict[ComparisonKey, Family] = {}
        for name, family in here.items():
            members = [
                key
                for key in self._keys()
                if key[2] == family.metric
                and key[3] in decided
                and self.other(key[0], key[1], parent=key[4]) == family.against
                and (key[1] in family.methods if family.methods else (family.against, key[1]) not in named)
            ]
            for method in family.methods or (None,):
                if not any(method in (None, key[1]) for key in members):
                    raise ConfigError(
                        f"comparisons: families: {name}: against: found {family.against!r}, with which {self.name} does not "
                        f"compare {method or 'any row left'}; expected its baseline, or the full method of a variant"
                    )
            planned = Family(
                name=name,
                metric=family.metric,
                size=len(members),
                margin=getattr(spec.margin, family.metric),
                min_seeds=spec.min_seeds,
            )
            families |= dict.fromkeys(members, planned)
        return families

    def _compare(self) -> dict[ComparisonKey, Comparison]:
        """Every row against its other ones: decided within its family, or described."""
        columns = {column.key: column for column in self.columns}
        differences: dict[ComparisonKey, stats.Difference] = {}
        for key in self._keys():
            model, method, metric, column, parent = key
            difference = self.scores.difference(
                model,
                method,
                self.other(model, method, parent=parent) or "",
                columns[column],
                self.seeds((model, method), columns[column]),
                metric,
                margin=getattr(self.experiment.comparisons.margin, metric),
            )
            if difference is not None:
                differences[key] = difference
        comparisons = {key: Comparison(difference=difference) for key, difference in differences.items()}
        for family in set(self.families.values()):
            comparisons |= decide({k: d for k, d in differences.items() if self.families.get(k) == family}, family)
        return comparisons

    def label(self, model: str, method: str) -> str:
        return self.groups[model, method][0].method.label

    def cell(self, model: str, method: str, metric: Metric, column: Column) -> Cell:
        seeds = self.seeds((model, method), column)
        outcomes = self.scores.outcomes(model, method, column, seeds)
        values = list(outcomes.values())
        plain, parent = ((model, method, metric, column.key, parent) for parent in (False, True))
        ours = self.scores.estimate(model, method, column, seeds, metric)
        answered = judged_by(part.spec for part in self.scores.parts(column) if part.spec) == "accuracy"
        paper = self._reported(model, method, column) if answered and metric == "accuracy" else None
        return Cell(
            reported=None if paper is None else paper.value,
            ours=ours,
            comparison=self.comparisons.get(plain),
            parent_comparison=self.comparisons.get(parent),
            family=self.families.get(plain),
            parent_family=self.families.get(parent),
            paper=None if paper is None else self._check(model, method, column, ours, paper),
            seeds=tuple(seed for seed in seeds if outcomes[seed] == "success"),
            n_diverged=values.count("diverged"),
            n_missing=values.count("missing"),
            n_collapsed=self.scores.n_collapsed(model, method, column, seeds, self.base) if metric == "accuracy" else 0,
        )

    def _reported(self, model: str, method: str, column: Column) -> Reported | None:
        return _reported(self.groups[model, method][0], column, self.scores.parts(column), self.name)

    def _check(self, model: str, method: str, column: Column, ours: stats.Estimate | None, paper: Reported) -> PaperCheck:
        """Beside the paper: the score, and the difference to the parent, or to the baseline where there is none."""
        parent = self.parents[model, method] is not None
        other_key = self.other(model, method, parent=parent)
        other = None
        if other_key is not None:
            number = self._reported(model, other_key, column)
            other = None if number is None else (self.label(model, other_key), number)
        return check(
            ours,
            paper,
            incomparable=_incomparable(self.groups[model, method][0].model, self.scores.parts(column)),
            other=other,
            comparison=self.comparisons.get((model, method, "accuracy", column.key, parent)),
            min_seeds=self.experiment.comparisons.min_seeds,
        )

    def section(self, model: str, spec: BaseModelSpec, base: BaseAnswers) -> Section:
        rows = []
        for (m, method), group in self.groups.items():
            if m != model:
                continue
            cells = {
                (metric, column.key): self.cell(model, method, metric, column)
                for column, metric in product(self.columns, METRICS)
            }
            parent = self.parents[m, method]
            row = _row(
                group,
                self.records,
                cells,
                is_baseline=method == self.baselines[model],
                parent=None if parent is None else self.label(model, parent),
            )
            rows.append(row)
        own = [record for record in self.records if record.run.model_key == model]
        return Section(
            model_key=model, model=spec, rows=tuple(rows), base=base_row(model, self.columns, self.scores, base, own)
        )


def build_table(
    experiment: Experiment,
    name: str,
    runs: Sequence[RunSpec],
    loaded: Loaded,
    *,
    base: BaseAnswers | None = None,
    rates: Rates = "shared",
    rate_notes: Sequence[str] = (),
) -> Table:
    """A table from the records of its runs.

    Args:
        runs: all planned runs (``plan.table_runs``).
        loaded: their records; planned runs without one become missing seeds.
        base: what the base models answered (``base_row.load_base_answers``), for a row of theirs where the table has one, and
            to tell what runs have lost.
        rates: what the learning rates of these runs are.
        rate_notes: sentences about them.
    """
    builder = _Builder(experiment, name, runs, loaded, base or {})
    shown = base if base and shows_base(runs) else {}
    models = dict.fromkeys(model for model, _ in builder.groups)
    return Table(
        name=name,
        experiment=experiment,
        columns=builder.columns,
        sections=tuple(builder.section(model, experiment.models[model], shown) for model in models),
        seeds=tuple(sorted({run.seed for run in runs})),
        rates=rates,
        rate_notes=tuple(rate_notes),
        learning_rates=tuple(sorted({run.training.learning_rate for run in runs})),
        families=tuple(dict.fromkeys(builder.families.values())),
        n_examples=builder.scores.n_examples,
        cost=_cost(loaded.records),
        missing=tuple(r.run_id for r in loaded.missing),
        stale=tuple(r.run_id for r in loaded.stale),
        gradings=_gradings(builder.scores.tasks, loaded.records, shown),
    )


def load_table(
    name: str,
    config: Config,
    *,
    results: Path,
    allow_missing: bool,
    rates: Rates = "shared",
) -> Table:
    """Read an experiment and its records and build one of its tables.

    Args:
        rates: ``tuned`` takes each method's runs at the rate that was best on validation tasks (``harness.tables.rates``).

    Raises:
        ConfigError: bad input, or records that are missing (unless allowed) or broken.
    """
    experiment = load_experiment(config.files, config.overrides)
    with placed(config.files, config.overrides):
        runs = table_runs(experiment, name)
    command = config.snakemake
    base = load_base_answers(experiment, runs, results=results, command=command, allow_missing=allow_missing)
    if rates == "shared":
        target = f"reproduce_{name}"
        loaded = load_records(runs, results=results, command=command, target=target, allow_missing=allow_missing)
        return build_table(experiment, name, runs, loaded, base=base)
    chosen = load_tuning(experiment, results=results, command=command, allow_missing=allow_missing)
    runs, loaded, notes = tuned_runs(runs, chosen)
    return build_table(experiment, name, runs, loaded, base=base, rates=rates, rate_notes=notes)
