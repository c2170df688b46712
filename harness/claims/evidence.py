"""What the records say on a question: paired differences, importance histories, pruning curves, time and memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.claims.verdicts import Part, Quantity, Range, of_difference
from harness.experiment.runs import SweepRun, metric_of, pruning_runs, sweep_runs, table_runs
from harness.records import importance, pruning, timing
from harness.records.matrices import paired_matrices
from harness.records.read import Loaded, RunRecord, load_records
from harness.records.versioned import Recipe
from harness.schema.evaluation import Metric
from harness.schema.experiment import Experiment
from harness.schema.run import RunSpec
from harness.statistics import stats
from harness.statistics.comparison import Comparison, Family
from harness.tables.build import build_table
from harness.tables.cells import AVERAGE, Table, table_columns


class Missing(Exception):
    """The runs or the measurement that a claim needs are not there. The message says which."""


class Evidence:
    """The records of one experiment. What has not run is missing; broken records are errors."""

    def __init__(self, experiment: Experiment, *, results: Path, command: str) -> None:
        self.experiment, self.results, self.command = experiment, results, command
        self._records: dict[str, RunRecord | None] = {}
        self._tables: dict[str, Table] = {}

    def records(self, runs: Sequence[RunSpec], *, allow_missing: bool = True) -> list[RunRecord]:
        """The finished ones among ``runs``, each read once."""
        new = [run for run in runs if run.run_id not in self._records]
        loaded = load_records(new, results=self.results, command=self.command, allow_missing=allow_missing)
        self._records |= {run.run_id: None for run in new} | {record.run.run_id: record for record in loaded.records}
        return [record for run in runs if (record := self._records[run.run_id]) is not None]

    def table(self, name: str) -> list[RunSpec]:
        """The runs of a table, or none where the experiment has no such table."""
        return table_runs(self.experiment, name) if name in self.experiment.tables else []

    def sweep(self, name: str) -> list[SweepRun]:
        """The runs of a sweep, or none where the experiment has no such sweep."""
        return sweep_runs(self.experiment, name) if name in self.experiment.sweeps else []

    def _finished(self, runs: Sequence[RunSpec], *, of: str) -> dict[int, RunRecord]:
        """seed -> finished run, in the order of the seeds, without those that diverged.

        Args:
            runs: one method on one model and domain, a run for each seed.
            of: what the runs are, for the message.

        Raises:
            Missing: there is none.
        """
        done = {record.run.seed: record for record in self.records(runs) if not record.diverged}
        if not done:
            raise Missing(f"no finished run of {of}")
        return dict(sorted(done.items()))

    def compared(self, runs: Sequence[RunSpec], others: Sequence[RunSpec], *, of: str, and_of: str) -> Comparison:
        """``runs`` minus ``others`` by ``metric_of`` both, averaged over the domain's test tasks, on the seeds of both.

        Raises:
            Missing: one of them has not run, or they share no seed.
        """
        first, second, _ = self.paired(runs, others, of=of, and_of=and_of)
        metric = metric_of([*runs, *others])
        return self.comparison(first, second, metric, binary=metric == "accuracy", planned=len({run.seed for run in runs}))

    def comparison(
        self,
        first: Sequence[NDArray[np.float64]],
        second: Sequence[NDArray[np.float64]],
        metric: Metric,
        *,
        binary: bool,
        planned: int,
    ) -> Comparison:
        """The first minus the second of two sets of matrices of a metric, not yet decided; ``planned``: seeds."""
        rng, margin = np.random.default_rng(0), getattr(self.experiment.comparisons.margin, metric)
        difference = stats.paired_difference(first, second, rng=rng, binary=binary, margin=margin, planned=planned)
        return Comparison(difference=difference)

    def decided(
        self, table: str, metric: Metric, *, domain: str, model: str, method: str, other: str
    ) -> tuple[Family | None, Comparison | None]:
        """The family in which a table decides a comparison by a metric over a domain, and how, if it has run."""
        if table not in self._tables:
            runs = self.table(table)
            records = self.records(runs)
            loaded = Loaded(records=records, missing=[run for run in runs if self._records[run.run_id] is None], stale=[])
            self._tables[table] = build_table(self.experiment, table, runs, loaded)
        domains = {column.domain for column in self._tables[table].columns if column.domain}
        for one in self._tables[table].decisions():
            over = one.column.domain or (domain if domains == {domain} else None)
            if (one.section.model_key, one.metric, over) != (model, metric, domain):
                continue
            against = None if one.other_row is None else one.other_row.method_key
            if (one.row.method_key, against) == (method, other):
                return one.family, one.comparison
            if (one.row.method_key, against) == (other, method):
                return one.family, one.comparison.mirrored() if one.comparison else None
        return None, None

    def paired(
        self, runs: Sequence[RunSpec], others: Sequence[RunSpec], *, of: str, and_of: str
    ) -> tuple[list[NDArray[np.float64]], list[NDArray[np.float64]], tuple[int, ...]]:
        """The matrices of ``metric_of`` both on the seeds that both finished, task by task, and these seeds.

        Raises:
            Missing: one of them has not run, or they share no seed.
            RecordError: two runs answered different examples.
        """
        first, second = self._finished(runs, of=of), self._finished(others, of=and_of)
        ours, theirs, shared = paired_matrices(first, second, _tasks(first.values()), metric_of([*runs, *others]))
        if not shared:
            raise Missing(f"{of} and {and_of} have no seed in common")
        return ours, theirs, shared

    def histories(self, method: str) -> dict[int, importance.ImportanceHistory]:
        """seed -> importance of the ranks during training, of the runs that are pruned.

        Raises:
            Missing: the experiment prunes no such run, or none has finished with snapshots.
        """
        runs = [run for run in pruning_runs(self.experiment) if run.method.key == method]
        if any(run.training.importance_every is None for run in runs) or not runs:
            raise Missing(f"no snapshots of {method}: training.importance_every and pruning are not set")
        histories = {}
        for record in self.records(runs):
            path = record.folder / "adapter" / importance.FILE
            if not record.diverged and path.exists():
                histories[record.run.seed] = importance.read(path, Recipe.beside(self.command, record.folder / "train.json"))
        if not histories:
            raise Missing(f"no finished run of {method} with snapshots")
        return histories

    def pruning_curves(self, method: str) -> dict[int, dict[float, float]]:
        """seed -> share of ranks pruned -> accuracy or NLL (``pruning_metric``), averaged over tasks.

        Raises:
            Missing: no pruning evaluation of the method.
            RecordError: one is of another training or other shares than the experiment's, or two answered different examples.
        """
        by_seed = {}
        for run, curves in self._pruned:
            if run.method.key == method:
                means = np.mean([curve.means for curve in curves], axis=0)
                by_seed[run.seed] = dict(zip(curves[0].fractions.tolist(), means.tolist(), strict=True))
        if not by_seed:
            raise Missing(f"no pruning evaluation of {method}")
        return by_seed

    @cached_property
    def _pruned(self) -> list[tuple[RunSpec, list[pruning.PruningCurve]]]:
        """The finished runs that have been pruned, with their curves, one for each task."""
        records = [record for record in self.records(pruning_runs(self.experiment)) if not record.diverged]
        runs = [record.run for record in records if (record.folder / pruning.FILE).exists()]
        loaded = pruning.load(self.experiment, runs, results=self.results, command=self.command)
        return [(run, list(loaded[run.run_id].values())) for run in runs]

    def costs(self) -> dict[str, timing.TimingSummary]:
        """method -> time and memory relative to the baseline.

        Raises:
            Missing: no measurement.
            RecordError: one of other settings than the experiment's, or broken.
        """
        path = self.results / self.experiment.name / timing.FILE
        if self.experiment.timing is None or not path.exists():
            raise Missing("no measurement of time and memory")
        return timing.summarise(timing.load(self.experiment, results=self.results, command=self.command))


def _tasks(records: Iterable[RunRecord]) -> list[str]:
    """The test tasks of runs of one domain, in the order of a table's columns."""
    columns = table_columns(record.run for record in records)
    return [column.task for column in columns if column.task != AVERAGE and column.counts]


def part_of(
    label: str,
    expected: Range | Mapping[Metric, Range],
    runs: Sequence[RunSpec],
    measure: Callable[[], Quantity | Comparison],
) -> Part:
    """A part of a claim; without its evidence it says what is missing.

    Args:
        expected: of a difference of runs, by the metric that they are judged by.
    """
    metric = metric_of(runs)
    where = expected if isinstance(expected, Range) else expected[metric]
    common: dict[str, Any] = {"label": label, "expected": where, "runs": tuple(run.run_id for run in runs)}
    try:
        measured = measure()
    except Missing as error:
        return Part(**common, quantity=None, reason=str(error))
    if isinstance(measured, Quantity):
        return Part(**common, quantity=measured)
    return Part(**common, quantity=of_difference(measured.difference, metric), comparison=measured)
