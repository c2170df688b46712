"""What each run of a target takes, and whether it is done: rows, steps, tokens, parameters, operations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config import (
    BuiltModel,
    ConfigError,
    Experiment,
    GeneratedData,
    HubModel,
    RunSpec,
    TrainingData,
    canonical_json,
    local_file,
    used_rows,
)
from harness.plan.parameter_counts import Parameters, architecture, count
from harness.records.read import StaleRecord, load_record, run_folder
from harness.records.training import read_training
from harness.records.versioned import MissingRecord, RecordError
from harness.train.steps import method_schedule, step_counts
from methods.base import OperationSteps

#: Steps of a run whose number of rows is unknown, only to count parameters: long enough for every method's schedule.
_ASSUMED_STEPS = 30_000


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Input tokens of one run: ``recorded`` by a finished run on the same data, ``measured`` on the cached tokens of the
    training set, or ``at most`` what max_length allows."""

    count: int
    how: str


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One run. None is unknown: rows that no file states, a model whose sizes are not known here."""

    run_id: str
    domain: str
    model: str
    method: str
    seed: int
    parameters: Parameters | None
    rows: int | None
    steps: int | None
    #: Optimizer steps after which the method operates on ranks, and those of them at which it prunes (``Method.schedule``).
    operations: tuple[int, ...]
    pruning: tuple[int, ...]
    tokens: Tokens | None
    #: done, diverged, trained (the evaluation is left), stale (made with other settings), broken, or missing.
    state: str

    @property
    def finished(self) -> bool:
        return self.state in ("done", "diverged")


class Planner:
    """Works out runs of one experiment; what runs share is worked out once."""

    def __init__(self, experiment: Experiment, *, models_dir: Path, cache_dir: Path, results: Path) -> None:
        self.experiment = experiment
        self.models_dir, self.cache_dir, self.results = models_dir, cache_dir, results
        self._rows: dict[str, int | None] = {}
        self._architectures: dict[str, Any] = {}
        self._parameters: dict[str, Parameters | None] = {}
        self._set_tokens: dict[str, int | None] = {}

    def plan(self, run: RunSpec) -> PlannedRun:
        """Work out one run.

        Raises:
            ConfigError: settings that do not fit the model or the data.
        """
        rows = self.rows(run.data)
        steps, per_epoch = (None, None) if rows is None else step_counts(run.training, examples=rows, world_size=1)
        if run.training.max_steps is not None:
            steps = run.training.max_steps
        schedule = _schedule(run, steps, per_epoch)
        return PlannedRun(
            run_id=run.run_id,
            domain=run.domain,
            model=run.model_key,
            method=run.method.key,
            seed=run.seed,
            parameters=self.parameters(run, steps=steps, per_epoch=per_epoch),
            rows=rows,
            steps=steps,
            operations=schedule.all,
            pruning=schedule.pruning,
            tokens=self.tokens(run, rows=rows, steps=steps),
            state=self.state(run),
        )

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

    def parameters(self, run: RunSpec, *, steps: int | None, per_epoch: int | None) -> Parameters | None:
        """What the run trains. Runs that differ in seed, data or length only are counted once."""
        if run.model_key not in self._architectures:
            self._architectures[run.model_key] = architecture(run, models_dir=self.models_dir)
        config = self._architectures[run.model_key]
        key = canonical_json([run.model_key, run.method.name, run.method.settings])
        if key not in self._parameters:
            total = steps or _ASSUMED_STEPS
            epoch = per_epoch or max(1, total // 3)
            counted = None if config is None else count(run, config, total_steps=total, steps_per_epoch=epoch)
            self._parameters[key] = counted
        return self._parameters[key]

    def tokens(self, run: RunSpec, *, rows: int | None, steps: int | None) -> Tokens | None:
        """How many tokens the run reads; padding is not counted."""
        recorded = self._recorded_tokens(run)
        if recorded is not None:
            return Tokens(count=recorded, how="recorded")
        if rows is None or steps is None:
            return None
        batch = run.training.per_device_train_batch_size * run.training.gradient_accumulation_steps
        epochs = run.training.num_train_epochs
        examples = steps * batch if epochs is None else rows * epochs
        in_set = self._tokens_of_set(run)
        if in_set is not None:
            return Tokens(count=round(in_set * examples / rows), how="measured")
        return Tokens(count=round(run.data.max_length * examples), how="at most")

    def _recorded_tokens(self, run: RunSpec) -> int | None:
        try:
            record = read_training(run_folder(run, results=self.results))
            return record["tokens"]["input"] if record["training_hash"] == run.training_hash() else None
        except (ConfigError, KeyError, TypeError):
            return None  # ``state`` says what is wrong with the record

    def _tokens_of_set(self, run: RunSpec) -> int | None:
        """Tokens of the whole training set, where it is at hand and its tokens are in the cache."""
        key = canonical_json([run.model_key, run.data])
        if key not in self._set_tokens:
            self._set_tokens[key] = self._cached_tokens(run)
        return self._set_tokens[key]

    def _cached_tokens(self, run: RunSpec) -> int | None:
        from safetensors import safe_open

        from harness.data.load import load_records, source_fingerprint
        from harness.data.tokens import tokens_file
        from harness.models.load import load_tokenizer, local_folder

        file = local_file(run.data.source, data_dir=self.experiment.data_dir)
        here = isinstance(run.data.source, GeneratedData) or (file is not None and file.is_file())
        folder = local_folder(run.model_key, run.model, models_dir=self.models_dir)
        built = not isinstance(run.model.source, BuiltModel) or (folder is not None and folder.is_dir())
        if not here or not built or isinstance(run.model.source, HubModel) or not self.cache_dir.is_dir():
            return None
        records = load_records(run.data.source, data_dir=self.experiment.data_dir, limit=run.data.limit)
        tokenizer = load_tokenizer(run.model_key, run.model, models_dir=self.models_dir)
        path = tokens_file(run.data, tokenizer, fingerprint=source_fingerprint(records), cache_dir=self.cache_dir)
        if not path.is_file():
            return None
        with safe_open(path, framework="pt") as stream:
            return int(stream.get_tensor("offsets")[-1])

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


def _schedule(run: RunSpec, steps: int | None, per_epoch: int | None) -> OperationSteps:
    """The method's own answer; none while the length of the run or of an epoch is unknown."""
    if steps is None or per_epoch is None:
        return OperationSteps()
    return method_schedule(run, total_steps=steps, steps_per_epoch=per_epoch)


def totals(runs: Sequence[PlannedRun]) -> dict[str, Any]:
    """Sums over runs; steps and tokens are None where a run's are unknown."""

    def total(values: Sequence[int | None]) -> int | None:
        return None if None in values else sum(value for value in values if value is not None)

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
    }
