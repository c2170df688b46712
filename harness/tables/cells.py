"""The parts of a table: cells with a score, its uncertainty, its paired differences and their verdicts; rows, sections."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness import reported
from harness.experiment.runs import Asked
from harness.records.matrices import check_same_answers, score_matrix
from harness.records.read import Predictions, RunRecord
from harness.schema.base_models import BaseModelSpec
from harness.schema.evaluation import Metric, TaskSpec, judged_by
from harness.schema.experiment import Experiment
from harness.schema.run import RunSpec
from harness.statistics import stats
from harness.statistics.comparison import Comparison, Family
from harness.tables.against_paper import PaperCheck

AVERAGE = "avg"

METRICS: tuple[Metric, ...] = ("accuracy", "gold_nll")


@dataclass(frozen=True, kw_only=True)
class Column:
    """A test set after fine-tuning on a domain; ``task`` is ``avg`` (and spec None) for the mean over a domain's, or, where the
    domain is None, over all.

    ``generated``: our numbers come, at least in part, from generated records instead of the public set.
    ``decides``: it shows all of one domain, so that families of comparisons may decide on it; other columns are descriptive.
    """

    domain: str | None
    task: str
    label: str
    spec: TaskSpec | None
    generated: bool
    decides: bool = False

    @property
    def key(self) -> str:
        return f"{self.domain}/{self.task}" if self.domain else self.task

    @property
    def counts(self) -> bool:
        """Whether it is in averages, or is one."""
        return self.spec is None or self.spec.split == "test"

    @property
    def partial(self) -> bool:
        """Whether only the first rows of the public set are evaluated."""
        return self.spec is not None and not self.generated and self.spec.limit is not None


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One metric of one method on one model in one column. Accuracies are fractions, NLL is in nats per token."""

    #: The paper's accuracy for the model that ours stands for; None where it has none.
    reported: float | None = None
    ours: stats.Estimate | None
    #: With the baseline; None for the baseline itself, and where either has not run.
    comparison: Comparison | None = None
    #: Of a variant with the method that it is a variant of; None for other rows, and where either has not run.
    parent_comparison: Comparison | None = None
    #: Ours beside the paper's; None where the paper has no number.
    paper: PaperCheck | None = None
    seeds: tuple[int, ...] = ()
    n_diverged: int = 0
    n_missing: int = 0
    #: In which the comparisons are decided, run or not; None where they are only described.
    family: Family | None = None
    parent_family: Family | None = None
    #: How many of the seeds answer one of the sets no better than a constant; they are in ours.
    n_collapsed: int = 0

    @property
    def n_seeds_planned(self) -> int:
        return len(self.seeds) + self.n_diverged + self.n_missing

    def compared(self, *, parent: bool) -> Comparison | None:
        """With the baseline, or with the method that the row is a variant of."""
        return self.parent_comparison if parent else self.comparison

    def family_of(self, *, parent: bool) -> Family | None:
        """The family of the same comparison."""
        return self.parent_family if parent else self.family


#: Which runs a table shows: see ``Table.rates``.
Rates = Literal["shared", "tuned"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A method on one model. ``seconds`` is the mean training time of a seed, all domains together."""

    method_key: str
    label: str
    is_baseline: bool = False
    #: The label of the method that this row is a variant of, where the section has it.
    parent: str | None = None
    trainable_parameters: int | None = None
    reported_millions: float | None = None
    seconds: stats.Interval | None = None
    peak_memory_bytes: int | None = None
    cells: Mapping[tuple[Metric, str], Cell]


@dataclass(frozen=True, kw_only=True)
class Section:
    """All methods on one base model."""

    model_key: str
    model: BaseModelSpec
    rows: tuple[Row, ...]
    #: What the base model scores without fine-tuning, where it was asked the same; compared with nothing.
    base: Row | None = None

    @property
    def shown(self) -> tuple[Row, ...]:
        """What stands in the table, from the top."""
        return self.rows if self.base is None else (self.base, *self.rows)

    @property
    def paper_label(self) -> str | None:
        return reported.MODEL_LABELS[self.model.stands_for] if self.model.stands_for else None

    @property
    def ours_label(self) -> str:
        return self.model.marked_label("stand-in")

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
    """Everything a rendering shows, unrounded. ``file_name``: of its files, without suffix."""

    name: str
    experiment: Experiment
    columns: tuple[Column, ...]
    sections: tuple[Section, ...]
    #: Seeds that are planned for some row.
    seeds: tuple[int, ...]
    #: shared: each method at the experiment's learning rate; tuned: at the rate that was best on validation tasks.
    rates: Rates
    #: Sentences about the rates.
    rate_notes: tuple[str, ...]
    #: Of the runs, sorted.
    learning_rates: tuple[float, ...]
    #: In the order of the experiment's file.
    families: tuple[Family, ...]
    n_examples: Mapping[str, int]
    cost: Cost
    missing: tuple[str, ...]
    stale: tuple[str, ...]
    #: The test sets that records were graded on by other code than this, or not all alike, and how.
    gradings: tuple[tuple[Column, str], ...] = ()

    @property
    def metric(self) -> Metric:
        """By what its rows are judged."""
        return judged_by(column.spec for column in self.columns if column.spec is not None and column.counts)

    @property
    def file_name(self) -> str:
        return f"{self.name}_tuned" if self.rates == "tuned" else self.name

    def decisions(self) -> list[Decision]:
        """What the table is to decide, family by family; where the experiment names none, every row's averages by ``metric``,
        described."""
        if not self.families:
            return self.compared(self.metric)
        return [one for family in self.families for one in self.compared(family.metric) if one.family == family]

    def compared(self, metric: Metric) -> list[Decision]:
        """Every row's averages against its other ones, run or not."""
        every = [
            Decision(section=section, row=row, column=column, metric=metric, parent=parent)
            for section in self.sections
            for row in section.rows
            for column in self.columns
            for parent in (False, True)
            if column.decides and not (row.is_baseline and not parent)
        ]
        return [one for one in every if one.other is not None]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One comparison of a table's averages: of a row with the section's baseline, or with its full method (``parent``)."""

    section: Section
    row: Row
    column: Column
    metric: Metric
    parent: bool

    @property
    def cell(self) -> Cell:
        return self.row.cells[self.metric, self.column.key]

    @property
    def family(self) -> Family | None:
        return self.cell.family_of(parent=self.parent)

    @property
    def comparison(self) -> Comparison | None:
        return self.cell.compared(parent=self.parent)

    @property
    def other_row(self) -> Row | None:
        """The row that this one is compared with."""
        rows = self.section.rows
        return next((row for row in rows if (row.label == self.row.parent if self.parent else row.is_baseline)), None)

    @property
    def other(self) -> str | None:
        """Its label."""
        return None if self.other_row is None else self.other_row.label

    @property
    def rows(self) -> list[Row]:
        """The two rows."""
        return [self.row, *([] if self.other_row is None else [self.other_row])]


def table_columns(runs: Iterable[RunSpec]) -> tuple[Column, ...]:
    """One column per domain and test task in the order of the runs, then the average of a domain that has several, and at last
    that of all domains. A domain's secondary tasks stand behind its average, and are in none.

    Validation tasks are in no table: learning rates are chosen on them.
    """
    domains: dict[str, dict[str, Column]] = {}
    for run in runs:
        for task, spec in run.evaluation.tasks.items():
            if spec.split == "validation":
                continue
            label = reported.label(task)
            if not reported.in_paper(run.domain, task):
                label = f"{label} (after {run.domain} fine-tuning)"
            column = Column(domain=run.domain, task=task, label=label, spec=spec, generated=spec.source.kind == "generated")
            domains.setdefault(run.domain, {}).setdefault(task, column)
    columns: list[Column] = []
    alone = sum(any(column.counts for column in tasks.values()) for tasks in domains.values()) < 2
    for domain, tasks in domains.items():
        own = [column for column in tasks.values() if column.counts]
        if len(own) == 1:
            own = [replace(own[0], decides=True)]
        elif own:
            own.append(_average(own, domain=None if alone else domain, decides=True))
        columns += own + [column for column in tasks.values() if not column.counts]
    counting = [column for column in columns if column.counts]
    return tuple(columns if alone else [*columns, _average(counting, domain=None, decides=False)])


def _average(columns: Iterable[Column], *, domain: str | None, decides: bool) -> Column:
    label = "Average" if domain is None else f"{domain.capitalize()} average"
    generated = any(column.generated for column in columns)
    return Column(domain=domain, task=AVERAGE, label=label, spec=None, generated=generated, decides=decides)


class Scores:
    """Score matrices of a table's successful runs."""

    def __init__(self, records: Sequence[RunRecord], columns: Sequence[Column]) -> None:
        """Check that all runs answered the same examples.

        Raises:
            RecordError: two runs of one test set answered different ones.
        """
        self.tasks = [column for column in columns if column.task != AVERAGE]
        #: A column's domain is None only for the average of all, which has no records of its own.
        self._records: dict[tuple[str, str, str | None, int], RunRecord] = {
            (r.run.model_key, r.run.method.key, r.run.domain, r.run.seed): r for r in records
        }
        self.n_examples: dict[str, int] = {}
        for column in self.tasks:
            done = [r for r in records if r.run.domain == column.domain and not r.diverged]
            check_same_answers(done, column.task)
            if done:
                self.n_examples[column.key] = len(done[0].predictions[column.task].ids)
        for column in columns:
            sizes = [self.n_examples.get(part.key) for part in self.parts(column)]
            if column.task == AVERAGE and None not in sizes:
                self.n_examples[column.key] = sum(size for size in sizes if size is not None)

    def parts(self, column: Column) -> list[Column]:
        """The tasks that a column shows: itself, or for an average those of its domain, or all."""
        if column.task != AVERAGE:
            return [column]
        return [task for task in self.tasks if task.counts and column.domain in (None, task.domain)]

    def outcomes(self, model: str, method: str, column: Column, seeds: Sequence[int]) -> dict[int, str]:
        """seed -> success, diverged or missing; of the average, the worst over its tasks."""
        outcomes = {}
        for seed in seeds:
            records = [self._records.get((model, method, part.domain, seed)) for part in self.parts(column)]
            diverged = any(r is not None and r.diverged for r in records)
            outcomes[seed] = "diverged" if diverged else "missing" if None in records else "success"
        return outcomes

    def n_collapsed(
        self, model: str, method: str, column: Column, seeds: Sequence[int], base: Mapping[Asked, Predictions | None]
    ) -> int:
        """How many finished seeds have collapsed on one of a column's sets, as far as ``base`` lets it be known."""
        done = self._done(model, method, column, seeds)
        at_floor = [
            any(self._records[model, method, part.domain, seed].collapsed_on([part.task], base) for part in self.parts(column))
            for seed in done
        ]
        return sum(at_floor)

    def estimate(self, model: str, method: str, column: Column, seeds: Sequence[int], metric: Metric) -> stats.Estimate | None:
        """The mean over finished seeds; None where there are none, or one did not measure the metric."""
        own = self._matrices(model, method, column, self._done(model, method, column, seeds), metric)
        # A fresh generator for each number: none depends on which others are computed before it.
        return stats.mean_score(own, rng=np.random.default_rng(0), binary=metric == "accuracy") if own else None

    def difference(
        self,
        model: str,
        method: str,
        other: str,
        column: Column,
        seeds: Sequence[int],
        metric: Metric,
        *,
        margin: float | None = None,
    ) -> stats.Difference | None:
        """Method minus other on those of the planned ``seeds`` that both finished; None where there are none."""
        finished = set(self._done(model, other, column, seeds))
        shared = [seed for seed in self._done(model, method, column, seeds) if seed in finished]
        first, second = (self._matrices(model, key, column, shared, metric) for key in (method, other))
        if not first or not second:
            return None
        rng, binary = np.random.default_rng(0), metric == "accuracy"
        return stats.paired_difference(first, second, rng=rng, binary=binary, margin=margin, planned=len(seeds))

    def _done(self, model: str, method: str, column: Column, seeds: Sequence[int]) -> list[int]:
        outcomes = self.outcomes(model, method, column, seeds)
        return [seed for seed in seeds if outcomes[seed] == "success"]

    def _matrices(
        self, model: str, method: str, column: Column, seeds: Sequence[int], metric: Metric
    ) -> list[NDArray[np.float64]] | None:
        """(seeds, examples) for each task of a column; None without seeds or where a run did not measure the metric."""
        matrices = []
        for part in self.parts(column) if seeds else ():
            records = [self._records[model, method, part.domain, seed] for seed in seeds]
            matrix = score_matrix(records, part.task, metric)
            if matrix is None:
                return None
            matrices.append(matrix)
        return matrices or None
