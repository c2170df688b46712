"""The numbers of a report, computed a second time from ``predictions/*.jsonl``, ``train.json``, ``pruning.json`` and
``timing.json``, without the code that puts them on the page. Means and differences are plain sums; intervals and p-values come
from ``harness.stats``.
"""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

import methods
from harness import reported
from harness.experiment.runs import Asked, all_runs, base_answers, shows_base, sweep_runs, table_runs
from harness.records import bench, timing
from harness.records.read import load_records
from harness.report.sources import Source
from harness.schema.evaluation import Metric, Split, judged_by
from harness.schema.experiment import Experiment
from harness.schema.fields import BASELINE
from harness.schema.run import RunSpec
from harness.statistics import stats
from harness.statistics.collapse import has_lost_answers, is_at_floor
from harness.tables import words as text
from harness.tables.base_row import KEY as BASE
from harness.tables.base_row import load_base_answers

#: A column of a table: domain and task; the task is None for the average over a domain, both for that of all.
Column = tuple[str | None, str | None]
#: The fields of a prediction that the metrics are.
FIELDS = {"accuracy": "correct", "gold_nll": "gold_nll"}
LEVEL = 0.05


#: Model, method, metric, column, and whether the comparison is with the method that the row is a variant of.
ComparisonKey = tuple[str, str, str, Column, bool]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The lines of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One row minus another; p-values and word where it is decided."""

    difference: stats.Difference
    mean: float
    family: str | None = None
    p_adjusted: float | None = None
    p_equivalent: float | None = None
    outcome: str | None = None

    @property
    def verdict(self) -> str | None:
        """The word beside it."""
        if self.family is None:
            return None
        if self.outcome is None:
            done, planned = self.difference.n_seeds, self.difference.n_planned
            return f"not decided ({done}{'' if done == planned else f' of {planned}'} seed{'' if planned == 1 else 's'})"
        small = self.outcome in ("better", "worse") and _or_one(self.p_equivalent) < LEVEL
        return self.outcome + (" (by less than the margin)" if small else "")


def _or_one(p: float | None) -> float:
    return 1.0 if p is None else p


class Raw:
    """The raw files of an experiment's usable runs."""

    def __init__(self, source: Source) -> None:
        self.source = source
        runs = all_runs(source.experiment)
        loaded = load_records(runs, results=source.results, command=source.command, allow_missing=True)
        #: (model, domain, task) -> the folder of what the base model answered to it before fine-tuning, where it has.
        self.base = usable_base_records(source, runs)
        self.status = {record.run.run_id: record.train.status for record in loaded.records}
        #: Of (run, task): its scores by metric. Not its texts: those of a large experiment do not fit in memory.
        self._values: dict[tuple[str, str], dict[str, np.ndarray | None]] = {}
        #: Of (run, task): the share of the commonest gold answer.
        self._commonest: dict[tuple[str, str], float] = {}
        self._collapsed: dict[str, frozenset[str]] = {}
        self._graded: dict[tuple[str, str, str], list[tuple[float, float]]] = {}

    def rows(self, folder: str, task: str) -> list[dict[str, Any]]:
        """Predictions of a run, or of a base evaluation, by its folder below the experiment's."""
        return read_rows(self.source.folder / folder / "predictions" / f"{task}.jsonl")

    def train(self, run_id: str) -> dict[str, Any]:
        return json.loads((self.source.folder / run_id / "train.json").read_text(encoding="utf-8"))

    def values(self, run_id: str, task: str, metric: str) -> np.ndarray | None:
        """The examples' scores; None where one was not measured."""
        if (run_id, task) not in self._values:
            rows = self.rows(run_id, task)
            by_metric = {name: [row.get(field) for row in rows] for name, field in FIELDS.items()}
            arrays = {name: None if None in scores else np.array(scores, dtype=float) for name, scores in by_metric.items()}
            self._values[run_id, task] = arrays
            self._commonest[run_id, task] = max(Counter(str(row.get("gold")) for row in rows).values()) / len(rows)
        return self._values[run_id, task][metric]

    def collapsed(self, run_id: str) -> frozenset[str]:
        """The tasks whose answers are worth no more than a constant, by the run's predictions; those without choices, by its
        record, where the base model's are worth more."""
        if run_id not in self._collapsed:
            content = json.loads((self.source.folder / run_id / "metrics.json").read_text(encoding="utf-8"))
            open_answers = {task: scores.get("floor") is None for task, scores in content["tasks"].items()}
            self._collapsed[run_id] = frozenset(task for task in open_answers if self._lost(run_id, task, open_answers[task]))
        return self._collapsed[run_id]

    def _lost(self, run_id: str, task: str, open_answers: bool) -> bool:
        own = self.values(run_id, task, "accuracy")
        if own is None:
            return False
        constant = self._commonest[run_id, task]
        if not open_answers:
            return is_at_floor(mean(own.tolist()), constant, len(own))
        domain, model, *_ = run_id.split("/")
        base = self.base.get((model, domain, task))
        if base is None or [row["id"] for row in self.rows(base, task)] != [row["id"] for row in self.rows(run_id, task)]:
            return False
        return has_lost_answers(own, self.values(base, task, "accuracy"), constant=constant)

    def graded(self, place: str, model: str, task: str) -> list[tuple[float, float]]:
        """What the sound grader and Math-Verify gave every answer to a task after fine-tuning on a domain, or in a base
        evaluation's folder."""
        key = place, model, task
        if key not in self._graded:
            runs = [run for run, status in self.status.items() if status == "success" and run.startswith(f"{place}/{model}/")]
            verdicts = [row["verdicts"] for folder in runs or [place] for row in self.rows(folder, task)]
            self._graded[key] = [(float(one["sound"]), float(one["math_verify"])) for one in verdicts]
        return self._graded[key]

    def matrices(self, ids: Sequence[Sequence[str]], tasks: Sequence[str], metric: str) -> list[np.ndarray] | None:
        """One (seeds, examples) matrix per task from the run ids of each task; None without any, or where not measured."""
        matrices = []
        for runs, task in zip(ids, tasks, strict=True):
            rows = [values for run in runs if (values := self.values(run, task, metric)) is not None]
            if not rows or len(rows) < len(runs):
                return None
            matrices.append(np.stack(rows))
        return matrices or None


def plain_mean(matrices: Sequence[np.ndarray]) -> float:
    """Mean over tasks of the means over seeds and examples, by plain sums."""
    return mean(mean(mean(row) for row in matrix.tolist()) for matrix in matrices)


class TableNumbers:
    """One table: means, differences and verdicts of every cell."""

    def __init__(self, raw: Raw, name: str) -> None:
        self.raw, self.name = raw, name
        self.runs = table_runs(raw.source.experiment, name)
        self.rows = list(dict.fromkeys((run.model_key, run.method.key) for run in self.runs))
        self.answered = {
            (run.domain, task) for run in self.runs for task, spec in run.evaluation.tasks.items() if spec.grader is not None
        }
        splits = {(run.domain, task): spec.split for run in self.runs for task, spec in run.evaluation.tasks.items()}
        domains = list(dict.fromkeys(domain for domain, _ in splits))
        own, beside = (
            {domain: [task for task in splits if task[0] == domain and splits[task] == split] for domain in domains}
            for split in ("test", "secondary")
        )
        tested = [domain for domain in domains if own[domain]]
        self.columns: list[Column] = []
        for domain in domains:
            average = [(domain if len(tested) > 1 else None, None)] if len(own[domain]) > 1 else []
            self.columns += [*own[domain], *average, *beside[domain]]
        self.columns += [(None, None)] if len(tested) > 1 else []
        every = [task for tasks in own.values() for task in tasks]
        self.parts = {column: [column] if column[1] else own[column[0]] if column[0] else every for column in self.columns}
        #: Those of ``raw.base`` that the table shows.
        self.base = usable_base_records(raw.source, self.runs) if shows_base(self.runs) else {}
        #: All test sets of one domain.
        self.decisive = [c for c in self.columns if self.parts[c] in own.values()]

    @property
    def all_rows(self) -> list[tuple[str, str]]:
        """Those of the methods, and those of base models."""
        return [*dict.fromkeys((model, BASE) for model, _, _ in self.base), *self.rows]

    def runs_of(self, model: str, method: str) -> list[RunSpec]:
        return [run for run in self.runs if (run.model_key, run.method.key) == (model, method)]

    def _key(self, model: str, registered: str) -> str | None:
        keys = [run.method.key for run in self.runs if run.model_key == model and run.method.name == registered]
        return registered if registered in keys else next(iter(keys), None)

    def other(self, model: str, method: str, *, parent: bool) -> str | None:
        """The row that a row is compared with, if any."""
        if not parent:
            key = self._key(model, BASELINE)
        else:
            name = self.runs_of(model, method)[0].method.name
            plugin = methods.registry().get(name)
            key = None if plugin is None or plugin.cls.name == name else self._key(model, plugin.cls.name)
        return None if key == method else key

    def planned(self, model: str, method: str, column: Column) -> dict[int, list[str]]:
        """Seed -> its runs on the domains of a column."""
        domains = {domain for domain, _ in self.parts[column]}
        seeds = sorted({run.seed for run in self.runs_of(model, method) if run.domain in domains})
        return {seed: [f"{domain}/{model}/{method}/seed{seed}" for domain in domains] for seed in seeds}

    def seeds(self, model: str, method: str, column: Column) -> list[int]:
        """Seeds that finished on every domain of a column."""
        planned, status = self.planned(model, method, column), self.raw.status
        return [seed for seed, runs in planned.items() if all(status.get(run) == "success" for run in runs)]

    def collapsed(self, model: str, method: str, column: Column, metric: str) -> int:
        """How many of the seeds behind an accuracy collapsed on one of its sets."""
        if method == BASE or metric != "accuracy":
            return 0
        seeds = self.seeds(model, method, column)
        runs = [[(f"{domain}/{model}/{method}/seed{seed}", task) for domain, task in self.parts[column]] for seed in seeds]
        return sum(any(task in self.raw.collapsed(run) for run, task in parts) for parts in runs)

    def matrices(self, model: str, method: str, column: Column, seeds: Sequence[int], metric: str) -> list[np.ndarray] | None:
        parts = self.parts[column]
        ids = [[f"{domain}/{model}/{method}/seed{seed}" for seed in seeds] for domain, _ in parts]
        return self.raw.matrices(ids, [str(task) for _, task in parts], metric)

    def estimate(self, model: str, method: str, column: Column, metric: str) -> tuple[float, stats.Estimate] | None:
        """The mean by plain sums, and the estimate with its interval."""
        if method == BASE:
            matrices = self._of_base(model, column, metric)
        else:
            matrices = self.matrices(model, method, column, self.seeds(model, method, column), metric)
        if matrices is None:
            return None
        rng = np.random.default_rng(0)
        return plain_mean(matrices), stats.mean_score(matrices, rng=rng, binary=metric == "accuracy")

    def _of_base(self, model: str, column: Column, metric: str) -> list[np.ndarray] | None:
        folders = [self.base.get((model, str(domain), str(task))) for domain, task in self.parts[column]]
        known = [folder for folder in folders if folder is not None]
        if len(known) < len(folders):
            return None
        return self.raw.matrices([[folder] for folder in known], [str(task) for _, task in self.parts[column]], metric)

    @cached_property
    def families(self) -> dict[str, list[ComparisonKey]]:
        """Name -> the comparisons that the experiment decides in this table, run or not."""
        here = {n: f for n, f in self.raw.source.experiment.comparisons.families.items() if self.name in f.tables}
        named = {(f.against, method) for f in here.values() for method in f.methods or ()}
        return {
            name: [
                (model, method, family.metric, column, parent)
                for (model, method), column, parent in product(self.rows, self.decisive, (False, True))
                if self.other(model, method, parent=parent) == family.against
                and (method in family.methods if family.methods else (family.against, method) not in named)
            ]
            for name, family in here.items()
        }

    @cached_property
    def compared(self) -> Mapping[ComparisonKey, Compared]:
        """Every comparison, decided within its family as the experiment says."""
        rules = self.raw.source.experiment.comparisons
        raw: dict[ComparisonKey, Compared] = {}
        for (model, method), metric, column, parent in product(self.rows, FIELDS, self.columns, (False, True)):
            other = self.other(model, method, parent=parent)
            if other is None:
                continue
            finished = self.seeds(model, other, column)
            seeds = [seed for seed in self.seeds(model, method, column) if seed in finished]
            first = self.matrices(model, method, column, seeds, metric)
            second = self.matrices(model, other, column, seeds, metric)
            if first is None or second is None:
                continue
            rng, margin = np.random.default_rng(0), getattr(rules.margin, metric)
            planned, binary = len(self.planned(model, method, column)), metric == "accuracy"
            difference = stats.paired_difference(first, second, rng=rng, binary=binary, margin=margin, planned=planned)
            mean = plain_mean(first) - plain_mean(second)
            raw[model, method, metric, column, parent] = Compared(difference=difference, mean=mean)
        for name, keys in self.families.items():
            raw |= {key: replace(raw[key], family=name) for key in keys if key in raw}
            ran = {key: raw[key].difference for key in keys if key in raw}
            enough = [key for key, d in ran.items() if d.n_seeds == d.n_planned >= rules.min_seeds]
            lost = [1.0] * (len(keys) - len(enough))
            unlike = stats.holm([*(raw[key].difference.p_value or 0.0 for key in enough), *lost])
            alike = stats.holm([*(_or_one(raw[key].difference.p_equivalent) for key in enough), *lost])
            for key, p, q in zip(enough, unlike, alike, strict=False):
                gain = raw[key].mean * (1 if key[2] == "accuracy" else -1)
                word = "equivalent" if q < LEVEL else "undecided"
                if p < LEVEL and gain:
                    word = "better" if gain > 0 else "worse"
                tested = raw[key].difference.p_equivalent is not None
                raw[key] = replace(raw[key], p_adjusted=p, p_equivalent=q if tested else None, outcome=word)
        return raw

    def paper(self, model: str, method: str, metric: str, column: Column) -> float | None:
        """The paper's accuracy (a fraction) for a cell, from its own file."""
        if method == BASE:
            return None
        run = self.runs_of(model, method)[0]
        if metric != "accuracy" or run.model.stands_for is None or not self.answered.issuperset(self.parts[column]):
            return None
        where: dict[str, Any] = {
            "table": self.name,
            "model": run.model.stands_for,
            "method_names": (run.method.label, run.method.key),
        }
        domain, task = column
        parts = [(str(d), str(t)) for d, t in self.parts[column]]
        values = [reported.value(**where, domain=d, task=t) for d, t in parts]
        if task is not None:
            return values[0]
        printed = reported.average(**where, parts=parts)
        known = [value for value in values if value is not None]
        own = domain is not None and len(known) == len(values)
        return mean(known) if printed is None and own else printed

    def tally(self) -> tuple[float, ...]:
        """Of each family its size, and how its comparisons ended."""
        numbers: list[float] = []
        for keys in self.families.values():
            ended = Counter(self._ending(key) for key in keys)
            words = ("better", "worse", "equivalent", "undecided", "not decided", "not run")
            numbers += [len(keys), *(ended[word] for word in words)]
        return tuple(numbers) or (0.0,)

    def _ending(self, key: ComparisonKey) -> str:
        if key in self.compared:
            return self.compared[key].outcome or "not decided"
        model, method, _, column, parent = key
        rows = (method, self.other(model, method, parent=parent))
        runs = [run for row in rows if row for own in self.planned(model, row, column).values() for run in own]
        return "not decided" if all(run in self.raw.status for run in runs) else "not run"

    def cells(self) -> Iterator[tuple[str, str, str, str, Column]]:
        """(key, model, method, metric, column) of every cell."""
        for (model, method), metric, column in product(self.all_rows, FIELDS, self.columns):
            place = f"{column[0]}/{column[1] or 'avg'}" if column[0] else "avg"
            yield "|".join((self.name, model, method, metric, place)), model, method, metric, column

    def facts(self, model: str, method: str) -> dict[str, float]:
        """Trainable parameters, seconds of a seed and peak memory."""
        runs = [run for run in self.runs_of(model, method) if run.run_id in self.raw.status]
        records = {run.run_id: self.raw.train(run.run_id) for run in runs}
        domains = {run.domain for run in self.runs_of(model, method)}
        seconds = []
        for seed in {run.seed for run in runs}:
            mine = [records[run.run_id] for run in runs if run.seed == seed]
            if len(mine) == len(domains) and all(record["status"] == "success" for record in mine):
                seconds.append(sum(record["wall_time_s"] for record in mine))
        memory = [r["peak_memory_bytes"] for r in records.values() if r["peak_memory_bytes"] is not None]
        facts = {"trainable_parameters": max((r["trainable_parameters"] for r in records.values()), default=None),
                 "seconds": mean(seconds) if seconds else None, "peak_memory_bytes": max(memory, default=None)}  # fmt: skip
        return {name: value for name, value in facts.items() if value is not None}


def usable_base_records(source: Source, runs: Sequence[RunSpec]) -> dict[Asked, str]:
    """(model, domain, task) -> the folder of the base model's record, below the experiment's, if its settings are these."""
    command = source.command
    answers = load_base_answers(source.experiment, runs, results=source.results, command=command, allow_missing=True)
    folders = base_answers(source.experiment, runs)
    return {asked: folders[asked].folder for asked, own in answers.items() if own is not None}


def timing_numbers(source: Source) -> dict[str, tuple[float, ...]]:
    """Milliseconds per step and ratios of medians from timing.json."""
    path = source.folder / timing.FILE
    if source.experiment.timing is None or not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    baseline = content["timing"]["baseline"]
    numbers: dict[str, tuple[float, ...]] = {}

    def series(method: str, of: Any) -> list[float]:
        mine = [m for m in content["measurements"] if m["method"] == method]
        return [of(m) for m in sorted(mine, key=lambda m: m["round"])]

    def seconds(m: dict[str, Any]) -> float:
        steps = sum(work["steps_in_run"] for work in m["work"])
        return sum(work["steps_in_run"] * statistics.median(work["seconds"]) for work in m["work"]) / steps

    for method, summary in timing.summarise(timing.read(path)).items():
        numbers[f"timing|{method}|ms_per_step"] = (1000 * statistics.median(series(method, seconds)),)
        for name, of, ratio in (("time", seconds, summary.time), ("peak", lambda m: m["peak_bytes"], summary.peak)):
            ratios = [a / b for a, b in zip(series(method, of), series(baseline, of), strict=True)]
            numbers[f"timing|{method}|{name}"] = (statistics.median(ratios),)
            numbers[f"timing|{method}|{name}_interval"] = (ratio.low, ratio.high)
    return numbers


def bench_numbers(source: Source) -> dict[str, tuple[float, ...]]:
    """Medians and quartiles over rounds from bench.json."""
    path = source.results / bench.FILE
    if not path.is_file():
        return {}
    numbers: dict[str, tuple[float, ...]] = {}
    for i, row in enumerate(json.loads(path.read_text(encoding="utf-8"))["rows"]):
        what = "bytes" if row["of"] == "memory" else "cpu_s"
        ratios = [one["ours"][what] / (one["peer"][what] if one["peer"] else 1) for one in row["rounds"]]
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
        numbers |= {f"bench|{i}|value": (statistics.median(ratios),), f"bench|{i}|quartiles": (low, high)}
    return numbers


def rate_number(raw: Raw, parts: Sequence[str]) -> tuple[float, ...] | None:
    """A number of the learning-rate tables by the parts of its key: domain, model, run key, quantity[, other's run key]; None
    where there is none, also of what ``rate_words`` says."""
    domain, model, key, quantity, *other = parts
    if quantity not in ("validation", "test", "minus"):
        return None
    experiment = raw.source.experiment
    planned = experiment.sweeps["learning_rate"].seeds or experiment.seeds
    asked = experiment.domains[domain].evaluation.on("validation" if quantity == "validation" else "test")
    tasks, metric = list(asked), judged_by(asked.values())
    binary = metric == "accuracy"
    scale = 100 if binary else 1

    def ids(key: str, seeds: Iterable[int]) -> list[str]:
        runs = [f"{domain}/{model}/{key}/seed{seed}" for seed in seeds]
        return [run for run in runs if raw.status.get(run) == "success"]

    def matrices(runs: Sequence[str]) -> list[np.ndarray] | None:
        return raw.matrices([runs] * len(tasks), tasks, metric)

    if quantity != "minus":
        scores = matrices(ids(key, sorted(planned)))
        return None if scores is None else (scale * plain_mean(scores),)
    finished = {run.rpartition("/")[2] for run in ids(other[0], planned)}
    shared = [int(run.rpartition("seed")[2]) for run in ids(key, sorted(planned)) if run.rpartition("/")[2] in finished]
    first, second = matrices(ids(key, shared)), matrices(ids(other[0], shared))
    if first is None or second is None:
        return None
    d = stats.paired_difference(first, second, rng=np.random.default_rng(0), binary=binary)
    return scale * (plain_mean(first) - plain_mean(second)), scale * d.low, scale * d.high


def rate_words(raw: Raw) -> dict[str, str]:
    """What the learning-rate tables conclude from their numbers: each method's best rate, whether it ends the grid, and the
    ranks at the shared and at the best rates."""
    experiment = raw.source.experiment
    grids: dict[tuple[str, str], dict[str, dict[float, str]]] = {}
    for point in sweep_runs(experiment, "learning_rate") if "learning_rate" in experiment.sweeps else ():
        grid = grids.setdefault((point.run.domain, point.run.model_key), {}).setdefault(point.method, {})
        grid[point.run.training.learning_rate] = point.run.method.key
    words: dict[str, str] = {}
    for place, by_method in grids.items():
        at = "|".join(("learning_rate", *place))
        best = {method: _best_rate(raw, place, grid) for method, grid in by_method.items()}
        words |= {f"{at}|{by_method[method][rate]}|best": "best" for method, rate in best.items() if rate is not None}
        if not experiment.domains[place[0]].evaluation.on("test"):
            continue
        for method, rate in best.items():
            lowest, highest = min(by_method[method]), max(by_method[method])
            inside = rate is None or lowest < rate < highest
            words[f"{at}|{method}|edge"] = "" if inside else "lowest" if rate == lowest else "highest"
        planned = {run.method.key: run.training.learning_rate for run in _tuned_runs(experiment, place)}
        chosen = {method: by_method[method][rate] for method, rate in best.items() if rate is not None}
        for name, keys in (("shared", {method: method for method in by_method}), ("best", chosen)):
            scores = {method: _rate_score(raw, place, key, "test") for method, key in keys.items()}
            for method in by_method:
                own, rate = scores.get(method), planned.get(keys.get(method, ""))
                rank = None if own is None else 1 + sum(other is not None and other < own for other in scores.values())
                words[f"{at}|{method}|{name}_rate"] = text.NOTHING if rate is None else f"{rate:g}"
                words[f"{at}|{method}|{name}_rank"] = text.NOTHING if rank is None else str(rank)
    return words


def _tuned_runs(experiment: Experiment, place: tuple[str, str]) -> list[RunSpec]:
    """Of a domain and model, the runs on the seeds of the learning-rate sweep, its own and those of the tables."""
    seeds = experiment.sweeps["learning_rate"].seeds or experiment.seeds
    return [run for run in all_runs(experiment) if (run.domain, run.model_key) == place and run.seed in seeds]


def _rate_score(raw: Raw, place: tuple[str, str], key: str, split: Split, metric: Metric | None = None) -> float | None:
    """The mean of a run key's seeds over the tasks of a split, less being better, far above rounding errors: the error rate,
    or the NLL.

    Args:
        metric: by default that by which the split is judged.
    """
    asked = raw.source.experiment.domains[place[0]].evaluation.on(split)
    metric = metric or judged_by(asked.values())
    ids = [run.run_id for run in _tuned_runs(raw.source.experiment, place) if run.method.key == key]
    done = [run for run in ids if raw.status.get(run) == "success"]
    scores = raw.matrices([done] * len(asked), list(asked), metric)
    return None if scores is None else round(plain_mean(scores) * (-1 if metric == "accuracy" else 1), 9)


def _best_rate(raw: Raw, place: tuple[str, str], grid: Mapping[float, str]) -> float | None:
    """The rate with the best validation score, of equal ones that with the lower NLL, then the lower rate; none with a seed
    that diverged or has not run can be it."""
    seeds = raw.source.experiment.sweeps["learning_rate"].seeds or raw.source.experiment.seeds
    candidates = []
    for rate, key in grid.items():
        if all(raw.status.get(f"{place[0]}/{place[1]}/{key}/seed{seed}") == "success" for seed in seeds):
            score, nll = _rate_score(raw, place, key, "validation"), _rate_score(raw, place, key, "validation", "gold_nll")
            candidates.append((0.0 if score is None else score, np.inf if nll is None else nll, rate))
    return min(candidates)[-1] if candidates else None


def grader_number(raw: Raw, parts: Sequence[str]) -> tuple[float, ...]:
    """A number of the graders' table by the parts of its key: place, model, task, quantity."""
    place, model, task, quantity = parts
    pairs = raw.graded(place, model, task)
    counts = {
        "agreement": 100 * sum(ours == theirs for ours, theirs in pairs) / len(pairs),
        "sound": sum(ours > theirs for ours, theirs in pairs),
        "math_verify": sum(theirs > ours for ours, theirs in pairs),
        "n": len(pairs),
    }
    return (counts[quantity],)
