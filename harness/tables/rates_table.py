"""The learning-rate sweep as a table: the validation scores of each grid, their differences to LoRA's at the same rate, and, of
a domain with test sets, the methods' ranks on them at the shared rate and at each method's best."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy.stats import rankdata

from harness import cli, reported
from harness.experiment.resolve import label_of
from harness.experiment.runs import all_runs, load_experiment, metric_of, unique
from harness.records.grader_sources import how_graded
from harness.records.read import Loaded, RunRecord, load_records
from harness.schema.evaluation import Metric
from harness.schema.experiment import Experiment
from harness.schema.run import RunSpec
from harness.statistics import stats
from harness.tables import words as text
from harness.tables.arguments import output_folder
from harness.tables.cells import Column, Scores, table_columns
from harness.tables.markup import csv_lines, markdown_grid, tex_document, tex_header, tex_heading, tex_tabular, write_formats
from harness.tables.rates import Choice, Point, Tuning, Where, baseline, differences, load_tuning


@dataclass(frozen=True, kw_only=True)
class Score:
    """A method's mean over the domain's test tasks at one rate; None where it has not run there."""

    rate: float | None
    estimate: stats.Estimate | None
    #: To the baseline under the same rule (shared rate, or its own best rate).
    difference: stats.Difference | None
    #: 1 is the best mean; equal means share a rank.
    rank: int | None


@dataclass(frozen=True, kw_only=True)
class Line:
    """One method on one model and domain."""

    where: Where
    label: str
    is_baseline: bool
    choice: Choice
    #: Of every point of the grid, in its order: its validation score minus that of the baseline.
    differences: tuple[stats.Difference | None, ...]
    shared: Score
    tuned: Score
    #: Test means of every point of the grid, in its order.
    test: tuple[stats.Estimate | None, ...]


@dataclass(frozen=True, kw_only=True)
class Group:
    """The methods on one model and domain."""

    title: str
    #: Names of the test sets; empty where the domain has none: then nothing but the validation grid is shown.
    tests: str
    #: What the validation grid is of, and what the test scores are.
    validation: Metric
    metric: Metric
    lines: tuple[Line, ...]


@dataclass(frozen=True, kw_only=True)
class RateComparison:
    experiment: Experiment
    groups: tuple[Group, ...]
    notes: tuple[str, ...]


def build_rates_table(experiment: Experiment, tuning: Tuning, *, results: Path, command: str) -> RateComparison:
    """Test scores at the shared and at the best rates.

    The shared rate of a method is the one that the experiment sets for it; where the grid has not that rate, its ordinary runs
    of the tables are read, if they are there.
    """
    seeds = {point.run.seed for point in tuning.points}
    places = {(domain, model) for domain, model, _ in tuning.choices}
    keys = {method for _, _, method in tuning.choices}
    ordinary = [
        run
        for run in all_runs(experiment)
        if run.method.key in keys and (run.domain, run.model_key) in places and run.seed in seeds
    ]
    shared = load_records(ordinary, results=results, command=command, allow_missing=True)
    groups = []
    for domain, model in dict.fromkeys(where[:2] for where in tuning.choices):
        runs = [p.run for p in tuning.points if (p.run.domain, p.run.model_key) == (domain, model)]
        runs += [run for run in ordinary if (run.domain, run.model_key) == (domain, model)]
        groups.append(_group(experiment, unique(runs), tuning, shared, domain=domain, model=model))
    notes = [*_notes(experiment, tuning, groups), *text.gradings(_gradings([*tuning.loaded.records, *shared.records]))]
    return RateComparison(experiment=experiment, groups=tuple(groups), notes=tuple(notes))


def _gradings(records: Sequence[RunRecord]) -> list[tuple[str, str]]:
    """The tasks, of validation and test, that runs were not graded on as this code grades, or not all alike, and how."""
    asked: dict[tuple[str, str], list[RunRecord]] = {}
    for record in records:
        for task in record.predictions:
            asked.setdefault((record.run.domain, task), []).append(record)
    ways = {
        f"{reported.label(task)} ({domain})": how_graded(
            [record.predictions[task].sources for record in own], own[0].run.evaluation.tasks[task]
        )
        for (domain, task), own in asked.items()
    }
    return [(name, how) for name, how in ways.items() if how]


def _group(
    experiment: Experiment, runs: Sequence[RunSpec], tuning: Tuning, shared: Loaded, *, domain: str, model: str
) -> Group:
    columns = table_columns(runs)
    column = next((column for column in columns if column.decides), None)
    ids = {run.run_id for run in runs}
    records = {r.run.run_id: r for r in (*tuning.loaded.records, *shared.records) if r.run.run_id in ids}
    scores = Scores(list(records.values()), columns)
    choices = {where: choice for where, choice in tuning.choices.items() if where[:2] == (domain, model)}
    best = {where[2]: choice.best.run_key for where, choice in choices.items() if choice.best is not None}
    own = {method: method for _, _, method in choices}
    metric, validation = metric_of(runs), metric_of(runs, "validation")
    to_baseline = differences(tuning, "validation", validation)
    pick = _Pick(scores=scores, column=column, metric=metric, model=model, runs=runs, baseline=baseline(tuning, domain, model))
    first, second = pick.scores_of(own), pick.scores_of(best)
    lines = [
        Line(
            where=where,
            label=label_of(experiment, where[2]),
            is_baseline=where[2] == pick.baseline,
            choice=choice,
            differences=tuple(to_baseline.get((where, point.rate)) for point in choice.points),
            shared=first[where[2]],
            tuned=second.get(where[2], Score(rate=None, estimate=None, difference=None, rank=None)),
            test=tuple(pick.estimate(point.run_key) for point in choice.points),
        )
        for where, choice in choices.items()
    ]
    tests = ", ".join(text.heading(c) for c in scores.tasks if c.counts)
    title = f"{domain} on {experiment.models[model].label}"
    return Group(title=title, tests=tests, validation=validation, metric=metric, lines=tuple(lines))


@dataclass(frozen=True, kw_only=True)
class _Pick:
    """Test scores of chosen runs of each method on one model and domain."""

    scores: Scores
    #: None without test sets.
    column: Column | None
    metric: Metric
    model: str
    runs: Sequence[RunSpec]
    baseline: str | None

    def seeds(self, key: str) -> list[int]:
        return sorted({run.seed for run in self.runs if run.method.key == key})

    def estimate(self, key: str) -> stats.Estimate | None:
        if self.column is None:
            return None
        return self.scores.estimate(self.model, key, self.column, self.seeds(key), self.metric)

    def difference(self, key: str, other: str | None) -> stats.Difference | None:
        if self.column is None or other is None or key == other:
            return None
        return self.scores.difference(self.model, key, other, self.column, self.seeds(key), self.metric)

    def scores_of(self, keys: dict[str, str]) -> dict[str, Score]:
        """method -> its score; ``keys`` maps methods to the keys of the runs to take."""
        estimates = {method: self.estimate(key) for method, key in keys.items()}
        known = {method: round(e.mean, 9) for method, e in estimates.items() if e is not None}
        better = -1 if self.metric == "accuracy" else 1
        ranks = dict(zip(known, rankdata([better * mean for mean in known.values()], method="min"), strict=True))
        other = keys.get(self.baseline or "")
        return {
            method: Score(
                rate=next((run.training.learning_rate for run in self.runs if run.method.key == key), None),
                estimate=estimates[method],
                difference=self.difference(key, other),
                rank=int(ranks[method]) if method in ranks else None,
            )
            for method, key in keys.items()
        }


# ---------------------------------------------------------------------------------------------------------------- words


def _notes(experiment: Experiment, tuning: Tuning, groups: Sequence[Group]) -> list[str]:
    seeds = sorted({point.run.seed for point in tuning.points})
    notes = [
        *experiment.notes,
        "Every method has the same grid and the same seeds: " + ", ".join(map(str, seeds)) + ".",
        "The best rate has the highest mean accuracy on the domain's validation tasks, which are in no table (ties, and where "
        "not all are answered: the lowest NLL of the gold answer). A rate at which a seed diverged or has not run cannot win.",
    ]
    paired = [d for group in groups for line in group.lines for d in line.differences if d is not None]
    if paired:
        alone = ", over examples alone where they share one seed" if min(d.n_seeds for d in paired) == 1 else ""
        notes.append(f"Differences are paired by seed and example; [..] is a 95 % interval{alone}.")
    if any(group.tests for group in groups):
        notes += [
            "Shared: the rate that the experiment sets for a method, as in the paper one for all low-rank methods.",
            "± is one standard error, [..] a 95 % interval of the difference at the same rule. A rank is no verdict: "
            "python -m harness.tables table1 --rates tuned decides by the experiment's families.",
        ]
    edges = [f"{'/'.join(where)} ({choice.edge})" for where, choice in tuning.choices.items() if choice.edge]
    if edges:
        notes.append(f"The best rate ends the grid, so a better one may lie beyond it: {', '.join(edges)}.")
    missing, stale = ([run.run_id for run in runs] for runs in (tuning.loaded.missing, tuning.loaded.stale))
    return [*notes, *text.partial("sweep", missing, stale)]


def _validation(point: Point, *, best: bool) -> str:
    """A point's validation score, or why it has none; the best one is marked."""
    total = len(point.seeds) + point.n_diverged + point.n_missing
    parts = [] if point.score is None else [text.level(point.score, point.metric)]
    if point.n_diverged:
        parts.append(f"diverged ({point.n_diverged} of {total})")
    if point.n_missing:
        parts.append(f"not run ({point.n_missing} of {total})")
    return "; ".join(parts) + (" *" if best else "")


def _difference(difference: stats.Difference | None, metric: Metric) -> str:
    if difference is None:
        return text.NOTHING
    d = difference
    return f"{text.signed(d.mean, metric)} {text.interval(d.low, d.high, metric, with_sign=True)}"


def _score(score: Score, metric: Metric) -> list[str]:
    rate = text.NOTHING if score.rate is None else f"{score.rate:g}"
    if score.estimate is None:
        return [rate, "not run", text.NOTHING, text.NOTHING]
    e = score.estimate
    # As in the tables: where no variance shows, the interval takes the place of "± 0".
    spread = f"± {text.level(e.stderr, metric)}" if e.stderr > 0 else text.interval(e.low, e.high, metric)
    return [rate, f"{text.level(e.mean, metric)} {spread}", str(score.rank), _difference(score.difference, metric)]


#: What scores are, and in what unit, as the end of a heading.
MEASURES: dict[Metric, tuple[str, str]] = {
    "accuracy": ("accuracy", "%"),
    "gold_nll": ("NLL", "nats per token, less is better"),
}


def grid_title(group: Group) -> str:
    """Of the validation scores."""
    what, unit = MEASURES[group.validation]
    return f"Validation {what} by learning rate, {unit}"


def score_heading(group: Group) -> str:
    """Of a column of test scores."""
    return "test accuracy, %" if group.metric == "accuracy" else "test NLL, nats"


@dataclass(frozen=True, kw_only=True)
class _Grid:
    """Rows under a heading; the first column is of names, the last of words where ``words_last``."""

    heading: str
    header: list[str]
    rows: list[list[str]]
    words_last: bool = False


def _grids(group: Group) -> list[_Grid]:
    """Validation scores; their differences to LoRA's, where anything is compared with it; where there are tests, the ranks."""
    rates = sorted({point.rate for line in group.lines for point in line.choice.points})
    header = ["Method", *(f"{rate:g}" for rate in rates)]
    scores, differences = [], []
    for line in group.lines:
        points = line.choice.points
        own = {point.rate: _validation(point, best=point == line.choice.best) for point in points}
        scores.append([line.label, *(own.get(rate, text.NOTHING) for rate in rates)])
        apart = {point.rate: _difference(d, group.validation) for point, d in zip(points, line.differences, strict=True)}
        if any(line.differences):
            differences.append([line.label, *(apart.get(rate, text.NOTHING) for rate in rates)])
    grids = [_Grid(heading=f"{grid_title(group)} (* the best)", header=header, rows=scores)]
    if differences:
        what, unit = MEASURES[group.validation]
        heading = f"Validation {what} minus that of LoRA at the same rate, {unit}, with 95 % intervals"
        grids.append(_Grid(heading=heading, header=header, rows=differences))
    if group.tests:
        names = ("rate", score_heading(group), "rank", "difference to LoRA")
        header = ["Method", *(f"shared: {name}" for name in names), *(f"best: {name}" for name in names), "End of the grid"]
        ranks = [
            [line.label, *_score(line.shared, group.metric), *_score(line.tuned, group.metric), line.choice.edge or ""]
            for line in group.lines
        ]
        heading = f"Test {MEASURES[group.metric][0]} ({group.tests}) at the shared and at the best rate"
        grids.append(_Grid(heading=heading, header=header, rows=ranks, words_last=True))
    return grids


def _title(comparison: RateComparison) -> str:
    return f"learning_rate · {comparison.experiment.name}: {comparison.experiment.title}"


def markdown(comparison: RateComparison) -> str:
    lines = [f"# {_title(comparison)}", ""]
    for group in comparison.groups:
        lines += [f"## {group.title}", ""]
        for grid in _grids(group):
            right = range(1, len(grid.header) - grid.words_last)
            lines += [f"### {grid.heading}", "", *markdown_grid(grid.header, grid.rows, right=right), ""]
    lines += ["## Notes", "", *(f"- {note}" for note in comparison.notes)]
    return "\n".join(lines) + "\n"


def tex(comparison: RateComparison) -> str:
    lines: list[str] = []
    for group in comparison.groups:
        lines.append(tex_heading(group.title))
        for grid in _grids(group):
            spec = "l" + "r" * (len(grid.header) - 1 - grid.words_last) + "l" * grid.words_last
            lines += tex_tabular(spec, [tex_header(grid.header)], grid.rows, f"{grid.heading}.")
    return tex_document(_title(comparison), lines, comparison.notes)


def csv_text(comparison: RateComparison) -> str:
    """One line per domain, model, method and rate, unrounded. Accuracies are fractions; difference is the validation score
    minus LoRA's at the same rate; test_low and test_high are of the test metric that stands before them."""
    return csv_lines(
        {
            "experiment": comparison.experiment.name,
            "domain": line.where[0],
            "model_key": line.where[1],
            "method_key": line.where[2],
            "method": line.label,
            "learning_rate": point.rate,
            "run_key": point.run_key,
            "seeds": " ".join(map(str, point.seeds)),
            "n_diverged": point.n_diverged,
            "n_missing": point.n_missing,
            "validation_accuracy": point.accuracy,
            "validation_gold_nll": point.gold_nll,
            "difference": apart.mean if apart else None,
            "difference_low": apart.low if apart else None,
            "difference_high": apart.high if apart else None,
            "best": point == line.choice.best,
            "edge": line.choice.edge if point == line.choice.best else None,
            "test_accuracy": test.mean if test and group.metric == "accuracy" else None,
            "test_gold_nll": test.mean if test and group.metric == "gold_nll" else None,
            "test_low": test.low if test else None,
            "test_high": test.high if test else None,
            "shared_rate": line.shared.rate if group.tests else None,
            "shared_rank": line.shared.rank,
            "best_rank": line.tuned.rank,
        }
        for group in comparison.groups
        for line in group.lines
        for point, apart, test in zip(line.choice.points, line.differences, line.test, strict=True)
    )


def write(comparison: RateComparison, folder: Path) -> list[Path]:
    """Write ``learning_rate.md``, ``.tex`` and ``.csv`` and return their paths."""
    return write_formats(
        folder, "learning_rate", markdown=markdown(comparison), tex=tex(comparison), csv_text=csv_text(comparison)
    )


def write_table(args: argparse.Namespace) -> int:
    """Write the table, for ``python -m harness.tables learning_rate``."""
    config = cli.parse_config(args)
    experiment = load_experiment(config.files, config.overrides)
    command = config.snakemake
    tuning = load_tuning(experiment, results=args.results_dir, command=command, allow_missing=args.allow_missing)
    comparison = build_rates_table(experiment, tuning, results=args.results_dir, command=command)
    for path in write(comparison, output_folder(args, experiment)):
        print(path)
    return 0
