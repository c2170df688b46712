"""What each run of a target takes, and whether it is done: rows, steps, tokens, parameters, operations, memory, time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import methods
from harness.data.tokens import noted_lengths
from harness.errors import ConfigError
from harness.experiment.gpus import gpus_of
from harness.models.architecture import Architecture, architecture
from harness.plan import cost
from harness.plan.calibration import read as calibration_of
from harness.plan.parameter_counts import Parameters, count
from harness.plan.peaks import Peaks, largest_batch
from harness.records.read import StaleRecord, load_record, run_folder
from harness.records.training import read_training
from harness.records.versioned import MissingRecord, RecordError
from harness.schema.data import TrainingData, local_file, used_rows
from harness.schema.experiment import Experiment
from harness.schema.fields import canonical_json
from harness.schema.run import RunSpec
from harness.train.steps import method_schedule, step_counts
from methods.base import OperationSteps

#: Steps of a run whose number of rows is unknown, only to count parameters: long enough for every method's schedule.
_ASSUMED_STEPS = 30_000


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Input tokens of one run: ``recorded`` by the finished run, ``measured`` when the training set was tokenised or by
    another run of the same model and data that is finished or calibrated, or ``at most`` what max_length allows."""

    count: int
    how: str

    @property
    def likely(self) -> float:
        """What the cost is worked out from: the share of a bound that examples are assumed to use."""
        return self.count * cost.LENGTH_SHARE if self.how == "at most" else self.count


@dataclass(frozen=True, kw_only=True)
class Hours:
    """Hours of one GPU, or of the CPU where the experiment needs none.

    ``how`` training's are known: ``recorded`` by the finished run, ``measured`` on a run of the same method and model or by
    ``benchmarks.gpu7b``, ``calibrated`` by a few steps on the machine at hand, or ``estimated`` from floating-point operations.
    Evaluation: of generation alone; None: unknown."""

    training: float
    evaluation: float | None
    how: str

    @property
    def total(self) -> float:
        return self.training + (self.evaluation or 0.0)


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One run. None is unknown: rows that no file states, a model whose sizes are not known here."""

    run_id: str
    domain: str
    model: str
    method: str
    seed: int
    parameters: Parameters | None
    #: Numbers in the artefact, and in one checkpoint (``Method.disk_parameters``).
    written: tuple[int, int] | None
    rows: int | None
    steps: int | None
    #: Optimizer steps after which the method operates on ranks, and those of them at which it prunes (``Method.schedule``).
    operations: tuple[int, ...]
    pruning: tuple[int, ...]
    tokens: Tokens | None
    #: Largest predicted bytes of tensors in training on one device; None also where nothing is predicted yet.
    peak_bytes: int | None
    hours: Hours | None
    #: done, diverged, trained (the evaluation is left), stale (made with other settings), broken, or missing.
    state: str

    @property
    def finished(self) -> bool:
        return self.state in ("done", "diverged")

    @property
    def disk_bytes(self) -> int | None:
        """What it needs while it trains."""
        return None if self.written is None else cost.disk_bytes([self.written])


class Planner:
    """Works out runs of one experiment; what runs share is worked out once."""

    def __init__(
        self,
        experiment: Experiment,
        *,
        models_dir: Path,
        cache_dir: Path,
        results: Path,
        gpu: cost.Gpu = cost.DEFAULT_GPU,
        predict_memory: bool = False,
    ) -> None:
        """Memory that no earlier plan has predicted is predicted only on request: it takes seconds for each kind of run."""
        self.experiment = experiment
        self.models_dir, self.cache_dir, self.results = models_dir, cache_dir, results
        self.gpu, self.predict_memory = gpu, predict_memory
        self.peaks = Peaks(cache_dir, gpu=experiment.gpu)
        self._known_speed: cost.Speed | None = None
        #: (model, method) -> tokens a second, and how they are known.
        self._rates: dict[tuple[str, str], tuple[float, str]] = {}
        self._calibrated: dict[str, float] = {}
        self._records: dict[str, dict[str, Any] | None] = {}
        self._rows: dict[str, int | None] = {}
        self._architectures: dict[str, Architecture | None] = {}
        self._parameters: dict[str, Parameters | None] = {}
        self._lengths: dict[str, dict[int, int]] = {}
        #: Model and data -> mean tokens of an example, by runs that read them.
        self._read_lengths: dict[str, float] = {}

    def plan(self, run: RunSpec) -> PlannedRun:
        """Work out one run.

        Raises:
            ConfigError: settings that do not fit the model or the data.
        """
        rows, (steps, per_epoch) = self.rows(run.data), self.steps(run)
        schedule = _schedule(run, steps, per_epoch)
        parameters = self.parameters(run, steps=steps, per_epoch=per_epoch)
        tokens = self.tokens(run, rows=rows)
        return PlannedRun(
            run_id=run.run_id,
            domain=run.domain,
            model=run.model_key,
            method=run.method.key,
            seed=run.seed,
            parameters=parameters,
            written=self.written(run, parameters),
            rows=rows,
            steps=steps,
            operations=schedule.all,
            pruning=schedule.pruning,
            tokens=tokens,
            peak_bytes=self.peak(run),
            hours=self.hours(run, tokens),
            state=self.state(run),
        )

    def steps(self, run: RunSpec) -> tuple[int | None, int | None]:
        """Optimizer steps of a run and of one of its epochs."""
        rows = self.rows(run.data)
        steps, per_epoch = (None, None) if rows is None else step_counts(run.training, examples=rows, world_size=1)
        return (steps if run.training.max_steps is None else run.training.max_steps), per_epoch

    def rows(self, data: TrainingData) -> int | None:
        """Training examples: as the experiment states them, or those of the local file."""
        key = canonical_json(data)
        if key not in self._rows:
            self._rows[key] = self._count_rows(data)
        return self._rows[key]

    def _count_rows(self, data: TrainingData) -> int | None:
        rows = used_rows(data.source, limit=data.limit)
        file = local_file(data.source, data_dir=self.experiment.data_dir)
        if rows is None and file is not None and file.is_file():
            from harness.data.load import load_records

            rows = len(load_records(data.source, data_dir=self.experiment.data_dir, limit=data.limit))
        return rows

    def base(self, run: RunSpec) -> Architecture | None:
        """The sizes of the run's base model, where they are known."""
        if run.model_key not in self._architectures:
            self._architectures[run.model_key] = architecture(run, models_dir=self.models_dir)
        return self._architectures[run.model_key]

    def parameters(self, run: RunSpec, *, steps: int | None, per_epoch: int | None) -> Parameters | None:
        """What the run trains. Runs that differ in seed, data or length only are counted once."""
        base = self.base(run)
        key = canonical_json([run.model_key, run.method.name, run.method.settings])
        if key not in self._parameters:
            total = steps or _ASSUMED_STEPS
            epoch = per_epoch or max(1, total // 3)
            counted = None if base is None else count(run, base, total_steps=total, steps_per_epoch=epoch)
            self._parameters[key] = counted
        return self._parameters[key]

    def written(self, run: RunSpec, parameters: Parameters | None) -> tuple[int, int] | None:
        """Numbers in the artefact, and in one checkpoint."""
        base = self.base(run)
        if base is None or parameters is None:
            return None
        return methods.of(run.method).disk_parameters(adapter=parameters.trainable, base=base.parameters)

    def peak(self, run: RunSpec) -> int | None:
        """The predicted peak of memory."""
        base = self.base(run)
        if base is None:
            return None
        longest = chain.from_iterable(repeat(*each) for each in sorted(self._lengths_of_set(run).items(), reverse=True))
        lengths = largest_batch(run, list(islice(longest, run.training.per_device_train_batch_size)))
        gpus = gpus_of(self.experiment, run)
        return self.peaks.of(run, base, lengths=lengths, gpus=gpus, predict=self.predict_memory)

    def hours(self, run: RunSpec, tokens: Tokens | None) -> Hours | None:
        """What the run takes on one GPU; None where nothing says it."""
        speed = self._speed()
        evaluation = cost.evaluation_seconds(run.evaluation.tasks.values(), decoding_s=speed.decoding_s)
        recorded = self._recorded_seconds(run)
        rate = self._rates.get((run.model_key, run.method.name))
        if recorded is not None:
            seconds, how = recorded, "recorded"
        elif tokens is not None and rate is not None:
            seconds, how = tokens.likely / rate[0], rate[1]
        elif self.experiment.gpu or speed.calibrated:  # of a CPU nothing else is known
            length = self._mean_length(run) or run.data.max_length * cost.LENGTH_SHARE
            flops = self._flops(run, length=length)
            if flops is None or tokens is None:
                return None
            operations, how = speed.of(run.method.name)
            seconds = tokens.likely * flops / operations
        else:
            return None
        answering = None if evaluation is None or not self.experiment.gpu else evaluation / 3600
        return Hours(training=seconds / 3600, evaluation=answering, how=how)

    def _speed(self) -> cost.Speed:
        if self._known_speed is None:
            self._known_speed = replace(cost.speed(self.gpu, results=self.results), calibrated=self._calibrated)
        return self._known_speed

    def tokens(self, run: RunSpec, *, rows: int | None) -> Tokens | None:
        """How many tokens the run reads; padding is not counted."""
        recorded = self._recorded_tokens(run)
        if recorded is not None:
            return Tokens(count=recorded, how="recorded")
        if rows is None:
            return None
        examples, length = run.training.examples_read(rows), self._mean_length(run)
        if length is not None:
            return Tokens(count=round(length * examples), how="measured")
        return Tokens(count=round(run.data.max_length * examples), how="at most")

    def _recorded_tokens(self, run: RunSpec) -> int | None:
        record = self._record(run)
        return None if record is None else record["tokens"]["input"]

    def _record(self, run: RunSpec) -> dict[str, Any] | None:
        """The record of this very training, where it is whole. ``state`` says what is wrong with another."""
        if run.run_id not in self._records:
            try:
                record = read_training(run_folder(run, results=self.results))
                whole = record["training_hash"] == run.training_hash() and record["tokens"]["input"]
            except (ConfigError, KeyError, TypeError):
                whole = False
            self._records[run.run_id] = record if whole else None
        return self._records[run.run_id]

    def _recorded_seconds(self, run: RunSpec) -> float | None:
        """Seconds of one GPU that the finished training took, where it had the kind of GPU that hours are asked for; of the
        machine, where it needs none."""
        record = self._record(run)
        if record is None or "wall_time_s" not in record:
            return None
        seconds: float = record["wall_time_s"]
        if not self.experiment.gpu:
            return seconds
        accelerators = record["hardware"]["accelerators"]
        return seconds * record["world_size"] if accelerators and self.gpu.name in accelerators[0] else None

    def learn_rates(self, runs: Iterable[RunSpec]) -> None:
        """Take tokens a second from the finished runs among these, for others of their model and method, else from those that
        were calibrated, and from these operations a second, for all others; from both the tokens of an example, for others of
        their model and data. Before anything is planned."""
        for run in runs:
            kind, tokens, seconds = (run.model_key, run.method.name), self._recorded_tokens(run), self._recorded_seconds(run)
            if tokens is not None and seconds is not None:
                self._rates[kind] = tokens / seconds, "measured"
            rows, record = self.rows(run.data), self._record(run)
            if record is not None and record["status"] == "success" and rows is not None:
                self._read_lengths[_set_key(run)] = record["tokens"]["input"] / run.training.examples_read(rows)
            calibration = calibration_of(run, cache_dir=self.cache_dir)
            if calibration is not None:
                self._read_lengths.setdefault(_set_key(run), calibration.tokens_per_example)
            if calibration is not None and calibration.is_of(self.gpu if self.experiment.gpu else None):
                self._rates.setdefault(kind, (calibration.tokens_per_second, "calibrated"))
                flops = self._flops(run, length=calibration.tokens_per_example)
                if flops is not None:
                    self._calibrated[run.method.name] = flops * calibration.tokens_per_second

    def _flops(self, run: RunSpec, *, length: float) -> float | None:
        """Operations for a token of examples of a mean length; None where the model's sizes do not say them."""
        base, (steps, per_epoch) = self.base(run), self.steps(run)
        parameters = self.parameters(run, steps=steps, per_epoch=per_epoch)
        if base is None or not base.is_uniform or parameters is None:
            return None
        recomputed = run.training.gradient_checkpointing
        return cost.training_flops(base, trainable=parameters.trainable, length=length, recomputed=recomputed)

    def _mean_length(self, run: RunSpec) -> float | None:
        """Mean tokens of an example, where the training set was tokenised for the model, or another run has read it."""
        counts = self._lengths_of_set(run)
        if not counts:
            return self._read_lengths.get(_set_key(run))
        return sum(length * count for length, count in counts.items()) / sum(counts.values())

    def _lengths_of_set(self, run: RunSpec) -> dict[int, int]:
        """Tokens of an example -> how many examples of the training set have so many; empty where that is not noted, or was
        noted of another number of rows."""
        key = _set_key(run)
        if key not in self._lengths:
            counts = noted_lengths(run.data, run.model, cache_dir=self.cache_dir) or {}
            self._lengths[key] = counts if self.rows(run.data) in (None, sum(counts.values())) else {}
        return self._lengths[key]

    def state(self, run: RunSpec) -> str:
        """Whether the run is done, by its records."""
        try:
            record = load_record(run, results=self.results)
        except MissingRecord:
            trained = (run_folder(run, results=self.results) / "train.json").is_file()
            return "trained" if trained else "missing"
        except StaleRecord:
            return "stale"
        except RecordError:
            return "broken"
        return "diverged" if record.diverged else "done"


def _set_key(run: RunSpec) -> str:
    """Of the tokens that a run trains on."""
    return canonical_json([run.model_key, run.data])


def _schedule(run: RunSpec, steps: int | None, per_epoch: int | None) -> OperationSteps:
    """The method's own answer; none while the length of the run or of an epoch is unknown."""
    if steps is None or per_epoch is None:
        return OperationSteps()
    return method_schedule(run, total_steps=steps, steps_per_epoch=per_epoch)


def totals(runs: Sequence[PlannedRun]) -> dict[str, Any]:
    """Sums over runs; steps and tokens are None where a run's are unknown."""

    def total(values: Sequence[int | None]) -> int | None:
        return None if None in values else sum(value for value in values if value is not None)

    def hours(runs: Sequence[PlannedRun]) -> float | None:
        return None if any(run.hours is None for run in runs) else sum(run.hours.total for run in runs if run.hours)

    left = [run for run in runs if not run.finished]
    states = {state: sum(run.state == state for run in runs) for state in dict.fromkeys(run.state for run in runs)}
    return {
        "runs": len(runs),
        "left": len(left),
        "states": states,
        "steps": total([run.steps for run in runs]),
        "steps_left": total([run.steps for run in left]),
        "tokens": total([None if run.tokens is None else run.tokens.count for run in runs]),
        "tokens_left": total([None if run.tokens is None else run.tokens.count for run in left]),
        "tokens_how": sorted({run.tokens.how for run in runs if run.tokens}),
        "hours": hours(runs),
        "hours_left": hours(left),
        "hours_how": sorted({run.hours.how for run in runs if run.hours}),
        "disk_bytes": cost.disk_bytes(run.written for run in runs if run.written),
    }


def kinds(runs: Sequence[PlannedRun], experiment: Experiment) -> list[cost.Kind]:
    """What is left of each kind of run, where its hours are known."""
    priorities = cost.priorities(experiment)
    groups: dict[tuple[str, str, str], list[float]] = {}
    for run in runs:
        if run.hours is not None and not run.finished:
            groups.setdefault((run.domain, run.model, run.method), []).append(run.hours.total)
    return [
        cost.Kind(
            domain=key[0],
            model=key[1],
            method=key[2],
            runs=len(hours),
            hours=sum(hours),
            priority=priorities.get(key, 2),
        )
        for key, hours in groups.items()
    ]


def hours_of_seeds(runs: Sequence[PlannedRun], seeds: int) -> float | None:
    """What every kind of these runs would take with this many seeds."""
    means: dict[tuple[str, str, str], list[float]] = {}
    for run in runs:
        if run.hours is None:
            return None
        means.setdefault((run.domain, run.model, run.method), []).append(run.hours.total)
    return seeds * sum(sum(hours) / len(hours) for hours in means.values())
