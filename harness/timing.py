"""Training time and memory of methods side by side: ``python -m harness.timing --configfile FILE --output timing.json``

Every method is measured once in each round, in an order that rotates from round to round, each time in a process of its own, by
the training loop of ``harness.train`` on the experiment's model, data, batch and settings (Figures 8 and 9).

A step that prunes ranks or allocates them costs more than an ordinary one, and a run has few of them or many. A measurement
therefore visits steps of the *whole* run's schedule and skips most of the ordinary ones: each kind of step is taken
``timing.steps`` times, or as often as the run has it if that is less. The time of a step is the mean of the kinds' median
times, weighted with how often the run has them. The n-th step of every kind, in every method of a round, trains on the same
batch; another round has other batches.

Measurements are kept as they come: interrupted, the same command goes on with the next.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, ValidationError

from harness import files
from harness.cli import CACHE, SCRATCH, add_config_arguments, add_models_argument, parse_config, run
from harness.config import SCHEMA_VERSION, ConfigError, Experiment, Frozen, TimingSpec, content_hash
from harness.plan import load_experiment, timing_runs

#: Name of the record in an experiment's results folder.
FILE = "timing.json"

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


def read(path: Path) -> TimingRecord:
    """A finished record.

    Raises:
        ConfigError: the file is missing, broken, of another schema version, or lacks measurements.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: found no such file, expected the output of python -m harness.timing") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON: {error}") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise ConfigError(f"{path}: schema_version: found {version!r}, expected {SCHEMA_VERSION}")
    try:
        record = TimingRecord.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    due = {(number, method) for number in range(record.timing.rounds) for method in record.timing.methods}
    missing = sorted(due - {(m.round, m.method) for m in record.measurements})
    if missing:
        raise ConfigError(f"{path}: found no measurement of {missing[0][1]} in round {missing[0][0]}, expected all of them")
    return record


# ----------------------------------------------------------------------------------------------------------------- summary


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """The median over rounds of a method's value over the baseline's in the same round, and its percentile interval."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One method: medians over rounds, and ratios to the baseline."""

    rounds: int
    seconds_per_step: float
    peak_bytes: float
    added_bytes: float
    time: Ratio
    peak: Ratio
    added: Ratio


def summarise(record: TimingRecord, *, confidence: float = 0.95, resamples: int = 10_000) -> dict[str, Comparison]:
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
        method: Comparison(
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


# -------------------------------------------------------------------------------------------------------------------- plan


@dataclass(frozen=True, kw_only=True)
class PlannedStep:
    """One step of a measurement: which step of the run it is, counted from 1, its kinds of work, and its batch's number."""

    step: int
    kinds: tuple[str, ...]
    batch: int


def kinds_of_steps(total_steps: int, extra_work: dict[str, Collection[int]]) -> dict[tuple[str, ...], list[int]]:
    """The steps 1..``total_steps`` by their kinds of work: sorted kinds -> steps, increasing."""
    kinds: dict[int, list[str]] = {}
    for kind in sorted(extra_work):
        for step in extra_work[kind]:
            kinds.setdefault(step, []).append(kind)
    found: dict[tuple[str, ...], list[int]] = {}
    for step in range(1, total_steps + 1):
        found.setdefault(tuple(kinds.get(step, ())), []).append(step)
    return found


def plan_steps(by_kind: dict[tuple[str, ...], list[int]], *, steps: int) -> list[PlannedStep]:
    """Which steps of the run to time, in their order: ``steps`` of each kind, or all that there are.

    Ordinary steps are spread over the run. Of the others the first are taken, so that what one needs from another (BeamLoRA's
    operation its snapshot) has happened.
    """
    planned = []
    for kinds, members in by_kind.items():
        count = min(steps, len(members))
        spread = 1 if kinds else len(members) / count
        chosen = [members[int(index * spread)] for index in range(count)]
        planned += [PlannedStep(step=step, kinds=kinds, batch=batch) for batch, step in enumerate(chosen)]
    return sorted(planned, key=lambda entry: entry.step)


# ---------------------------------------------------------------------------------------------------------------- measuring


def measure_all(
    experiment: Experiment,
    *,
    command: list[str],
    output: Path,
    scratch_dir: Path = SCRATCH,
) -> TimingRecord:
    """Make every measurement that is not there yet, one after another, and write ``output``.

    Args:
        command: what makes one measurement; ``--measure METHOD --round N --output FILE`` is added.

    Raises:
        ConfigError: the experiment has no timing.
        RuntimeError: a measurement failed; its words are on stderr.
    """
    import torch

    from harness.progress import Progress
    from harness.provenance import git_state, hardware, versions

    spec = experiment.timing
    if spec is None:
        raise ConfigError("timing: found nothing in the experiment, expected the methods to measure")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))  # as every measured process does: it is recorded
    head: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "experiment": experiment.name,
        "timing": spec.model_dump(mode="json"),
        "settings": {key: found.training_hash() for key, found in timing_runs(experiment).items()},
        "versions": versions(),
        "git": git_state(Path(__file__).parent),
        "hardware": hardware(),
    }
    # The record itself is the workflow's to delete; a part made under other conditions is never taken up.
    part = scratch_dir / f"timing-{content_hash(head)}.json"
    done = [Measurement.model_validate(item) for item in json.loads(part.read_text())] if part.exists() else []
    progress = Progress(f"time {experiment.name}", interval=0, whole_job=True)
    due = [
        (number, order, spec.methods[(number + order) % len(spec.methods)])
        for number in range(spec.rounds)
        for order in range(len(spec.methods))
    ]
    for number, order, method in due[len(done) :]:
        progress.update(len(done), len(due), f"round {number + 1} of {spec.rounds}: {method}")
        done.append(_measure_in_process(command, method=method, number=number, order=order))
        files.write_json(part, [measurement.model_dump(mode="json") for measurement in done])
    record = TimingRecord.model_validate({**head, "measurements": done})
    files.write_json(output, record.model_dump(mode="json"))
    part.unlink(missing_ok=True)
    return record


def _measure_in_process(command: list[str], *, method: str, number: int, order: int) -> Measurement:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "measurement.json"
        arguments = ["--measure", method, "--round", str(number), "--output", str(output)]
        done = subprocess.run([*command, *arguments], stdout=sys.stderr)
        if done.returncode != 0 or not output.exists():
            raise RuntimeError(f"timing: measuring {method} in round {number} ended with exit status {done.returncode}")
        return Measurement.model_validate({**json.loads(output.read_text()), "order": order})


def main(arguments: list[str] | None = None) -> int:
    """The command line. Exit status 0 means the output is written."""
    parser = argparse.ArgumentParser(prog="python -m harness.timing", description=__doc__.split("\n")[0])
    add_config_arguments(parser)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the JSON record to write")
    parser.add_argument("--measure", metavar="METHOD", help="make one measurement, in this process, instead of all")
    parser.add_argument("--round", type=int, default=0, metavar="N", help="of --measure: chooses the batches (default: 0)")
    parser.add_argument(
        "--scratch",
        type=Path,
        default=SCRATCH,
        metavar="DIR",
        help="where measurements are kept meanwhile (default: %(default)s)",
    )
    add_models_argument(parser)
    parser.add_argument(
        "--cache-dir",
        type=Path,
        default=CACHE,
        metavar="DIR",
        help="folder of tokenised data and decompositions (default: %(default)s)",
    )
    args = parser.parse_args(arguments)
    configfiles, overrides = parse_config(args)
    experiment = load_experiment(configfiles, overrides)
    if args.measure is not None:
        from harness.time_lapse import measure

        found = measure(experiment, args.measure, number=args.round, models_dir=args.models_dir, cache_dir=args.cache_dir)
        files.write_json(args.output, found)
        return 0
    command = [sys.executable, "-m", "harness.timing", "--configfile", *map(str, args.configfile)]
    command += ["--set", *args.overrides] if args.overrides else []
    command += ["--models-dir", str(args.models_dir), "--cache-dir", str(args.cache_dir)]
    record = measure_all(experiment, command=command, output=args.output, scratch_dir=args.scratch)
    for method, found in summarise(record).items():
        print(
            f"{method}: {found.time.median:.2f} times the step of {record.timing.baseline} "
            f"[{found.time.low:.2f}, {found.time.high:.2f}], {found.peak.median:.2f} times its memory "
            f"[{found.peak.low:.2f}, {found.peak.high:.2f}], {found.rounds} rounds"
        )
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
