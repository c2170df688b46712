"""timing.json: training time and memory of methods side by side, and their ratios to the baseline. No torch."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from harness.experiment.runs import timing_runs
from harness.records.versioned import Recipe, read_json, validated
from harness.schema.experiment import Experiment, TimingSpec
from harness.schema.fields import Frozen

#: Name of the record in an experiment's results folder.
FILE = "timing.json"
MADE = Recipe.command("python -m harness.measure.timing")

# ------------------------------------------------------------------------------------------------------------------ record


class Work(Frozen):
    """The timed steps of one kind."""

    #: What the method does in these steps beside training (``Method.extra_work``); none in ordinary ones.
    kinds: tuple[str, ...]
    #: How many steps of this kind the whole run has.
    steps_in_run: int = Field(ge=1)
    #: The steps that were timed, counted from 1, and the wall-clock seconds of each, data loading included.
    steps: tuple[int, ...] = Field(min_length=1)
    seconds: tuple[float, ...] = Field(min_length=1)


class Measurement(Frozen):
    """One method in one round. Memory in bytes: of the accelerator (allocated) where there is one, else of the process."""

    method: str
    round: int
    #: Place in the round, from 0.
    order: int
    work: tuple[Work, ...] = Field(min_length=1)
    #: Of all timed steps together; far more wall than CPU time per thread is a sign of a busy machine.
    wall_time_s: float
    cpu_time_s: float
    memory_of: str
    #: With the base model loaded and nothing else.
    loaded_bytes: int
    #: The largest value while training: without loading and the method's initialisation.
    peak_bytes: int
    #: Largest reserved by the accelerator's allocator; None on the CPU.
    reserved_bytes: int | None

    @property
    def seconds_per_step(self) -> float:
        """Seconds of a step of the whole run, on average."""
        total = sum(work.steps_in_run for work in self.work)
        return sum(work.steps_in_run * statistics.median(work.seconds) for work in self.work) / total

    @property
    def added_bytes(self) -> int:
        """What training needs beyond the loaded model."""
        return self.peak_bytes - self.loaded_bytes


class TimingRecord(Frozen):
    """What timing.json holds."""

    schema_version: int
    experiment: str
    timing: TimingSpec
    #: Method -> training hash of the measured settings, those that no measurement depends on left out.
    settings: dict[str, str]
    versions: dict[str, str]
    git: dict[str, Any]
    hardware: dict[str, Any]
    measurements: tuple[Measurement, ...]


def read(path: Path, recipe: Recipe = MADE) -> TimingRecord:
    """A finished record.

    Args:
        recipe: how the caller's reader makes it, for messages.

    Raises:
        RecordError: the file is missing, broken, of another schema version, or lacks measurements.
    """
    record = validated(path, read_json(path, recipe), TimingRecord, recipe)
    due = {(number, method) for number in range(record.timing.rounds) for method in record.timing.methods}
    missing = sorted(due - {(m.round, m.method) for m in record.measurements})
    if missing:
        first_round, method = missing[0]
        raise recipe.broken(path, f"found no measurement of {method} in round {first_round}, expected all of them")
    return record


def load(experiment: Experiment, *, results: Path, command: str) -> TimingRecord:
    """The measurements that an experiment plans.

    Args:
        command: how the experiment is run, for messages (``Config.snakemake``).

    Raises:
        RecordError: as ``read``; or the record is of other settings than the experiment's.
    """
    path = results / experiment.name / FILE
    recipe = Recipe.workflow(command, path)
    record = read(path, recipe)
    settings = {method: run.training_hash() for method, run in timing_runs(experiment).items()}
    if record.timing != experiment.timing or record.settings != settings:
        what = "timing" if record.timing != experiment.timing else "settings"
        raise recipe.broken(path, f"{what}: found others than the experiment's; the record is stale")
    return record


# ----------------------------------------------------------------------------------------------------------------- summary


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """The median over rounds of a method's value over the baseline's in the same round, and its percentile interval."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class TimingSummary:
    """One method: medians over rounds, and ratios to the baseline."""

    rounds: int
    seconds_per_step: float
    peak_bytes: float
    added_bytes: float
    time: Ratio
    peak: Ratio
    added: Ratio


def summarise(record: TimingRecord, *, confidence: float = 0.95, resamples: int = 10_000) -> dict[str, TimingSummary]:
    """Every method against the baseline, in the order of the experiment.

    The interval is that of a bootstrap over rounds, from a fixed stream; of a handful of rounds it is little more than their
    range. Of the baseline all ratios are 1.
    """
    rounds = sorted({m.round for m in record.measurements})
    by_method = {method: {m.round: m for m in record.measurements if m.method == method} for method in record.timing.methods}
    draws = np.random.default_rng(0).integers(len(rounds), size=(resamples, len(rounds)))

    def values(method: str, of: Callable[[Measurement], float]) -> np.ndarray:
        return np.array([of(by_method[method][number]) for number in rounds], dtype=float)

    def ratio(method: str, of: Callable[[Measurement], float]) -> Ratio:
        ratios = values(method, of) / values(record.timing.baseline, of)
        medians = np.median(ratios[draws], axis=1)
        low, high = np.quantile(medians, [(1 - confidence) / 2, (1 + confidence) / 2])
        return Ratio(median=float(np.median(ratios)), low=float(low), high=float(high))

    def seconds(m: Measurement) -> float:
        return m.seconds_per_step

    def peak(m: Measurement) -> float:
        return m.peak_bytes

    def added(m: Measurement) -> float:
        return m.added_bytes

    return {
        method: TimingSummary(
            rounds=len(rounds),
            seconds_per_step=float(np.median(values(method, seconds))),
            peak_bytes=float(np.median(values(method, peak))),
            added_bytes=float(np.median(values(method, added))),
            time=ratio(method, seconds),
            peak=ratio(method, peak),
            added=ratio(method, added),
        )
        for method in record.timing.methods
    }
