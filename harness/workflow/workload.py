"""What the jobs of a workflow have to do, before any has run: enough to weigh one against another. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from harness.experiment.runs import timing_runs
from harness.schema.data import DataSource, used_rows
from harness.schema.evaluation import TaskSpec
from harness.schema.run import RunSpec
from harness.workflow.dag import Dag

#: A training step reads each token forwards and backwards, and the way back costs twice the way there.
_TRAINING = 3
#: Tokens through the model once that take as long as generating one: 15 on SmolLM2-135M, 40 on the reduced stand-ins. It
#: weighs only until the first evaluation has finished.
_ANSWERING = 20
#: Tokens of a row whose reference and choices are scored. It weighs only beside tasks that generate.
_SCORING = 250
#: Rows of a set whose number nothing states. It weighs only until a job on the set has finished.
_ROWS = 10_000
#: Seconds of a job that runs no model, its start included: means over a reduced `tiny` of 43 runs on two cores. They weigh only
#: until a job of the rule has finished.
_RENDERING = {"table": 2.5, "figure": 5.0, "claims": 6.5, "records": 1.5, "report": 14.5}


def _rows(source: DataSource, limit: int | None) -> int:
    return used_rows(source, limit=limit) or min(_ROWS, limit or _ROWS)


def _training(run: RunSpec) -> float:
    """Tokens at most, as if every row were as long as allowed: the rows of one set weigh the same."""
    return _TRAINING * run.training.examples_read(_rows(run.data.source, run.data.limit)) * run.data.max_length


def _answering(tasks: Iterable[TaskSpec]) -> float:
    """As for training, of the tokens that are generated at most and those that are scored."""
    return sum(
        _rows(task.source, task.limit) * (_ANSWERING * task.max_new_tokens * task.num_beams + _SCORING) for task in tasks
    )


@dataclass(frozen=True)
class Work:
    """What one job has to do: title, kind and amount (``work``) as in ``time_left.Job``."""

    title: str
    kind: tuple[str, ...]
    amount: float


class Workload:
    """The work of each job of an experiment's DAG."""

    def __init__(self, dag: Dag) -> None:
        self.dag = dag
        self._of: dict[str, Callable[[Any], Work]] = {
            "base_model": self._base_model,
            "train": self._train,
            "evaluate": self._evaluate,
            "prune": self._prune,
            "evaluate_base": self._evaluate_base,
            "timing": self._timing,
            **{rule: partial(_rendering, rule) for rule in _RENDERING},
        }

    def of(self, rule: str, wildcards: Any) -> Work | None:
        """The work of one job; None for a rule that only names others' files."""
        return self._of[rule](wildcards) if rule in self._of else None

    def _base_model(self, wildcards: Any) -> Work:
        model, source = self.dag.base_models[wildcards.name]
        recipe = source.pretraining
        tokens = recipe.max_steps * recipe.per_device_train_batch_size * recipe.sequence_length
        return Work(f"base model {model}", ("tokens", "training", "base_model", model), _TRAINING * tokens)

    def _train(self, wildcards: Any) -> Work:
        run = self.dag.run(wildcards)
        return Work(f"train {run.run_id}", ("tokens", "training", "train", *_parts(run)), _training(run))

    def _evaluate(self, wildcards: Any) -> Work:
        run = self.dag.run(wildcards)
        tokens = _answering(run.evaluation.tasks.values())
        return Work(f"evaluate {run.run_id}", ("tokens", "answering", "evaluate", *_parts(run)), tokens)

    def _prune(self, wildcards: Any) -> Work:
        run, spec = self.dag.run(wildcards), self.dag.experiment.pruning
        assert spec is not None
        tokens = len(spec.fractions) * _answering(spec.tasks_of(run.evaluation).values())
        return Work(f"prune {run.run_id}", ("tokens", "answering", "prune", *_parts(run)), tokens)

    def _evaluate_base(self, wildcards: Any) -> Work:
        title = f"evaluate {wildcards.model} ({wildcards.protocol})"
        tokens = _answering(self.dag.base_evaluation(wildcards).tasks.values())
        return Work(title, ("tokens", "answering", "evaluate_base", wildcards.model), tokens)

    def _timing(self, wildcards: Any) -> Work:
        spec = self.dag.experiment.timing
        assert spec is not None
        steps = spec.rounds * (spec.warmup_steps + spec.steps)
        tokens = 0
        for run in timing_runs(self.dag.experiment).values():
            tokens += steps * run.training.global_batch * run.data.max_length
        return Work(f"time {self.dag.experiment.name}", ("tokens", "training", "timing", spec.model), _TRAINING * tokens)


def _rendering(rule: str, wildcards: Any) -> Work:
    return Work(" ".join((rule, *wildcards)), ("seconds", rule, *wildcards), _RENDERING[rule])


def _parts(run: RunSpec) -> tuple[str, str, str]:
    return run.model_key, run.domain, run.method.key
