"""Scores after pruning.

In every module the given shares of its ranks are taken away, the least important first (sections 2.2 and 4.5, Figures 1 and 4),
and the run's tasks are asked and graded as in ``harness.evaluate.run``. Model and adapter are loaded once. Writes
``pruning.json``; interrupted, it goes on with the first share that is not finished.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import methods
from harness import files
from harness.cli import SCRATCH
from harness.errors import ConfigError
from harness.records import training
from harness.records.credit import digit
from harness.schema.evaluation import TaskSpec
from harness.schema.fields import SCHEMA_VERSION, content_hash
from harness.schema.run import RunSpec
from harness.threads import limit_threads

if TYPE_CHECKING:
    import torch
    from peft.tuners.lora import LoraLayer
    from transformers import PreTrainedModel

    from harness.schema.experiment import Experiment


def ranks_to_prune(fraction: float, ranks: int) -> int:
    """``fraction`` of ``ranks``, to the nearest whole rank."""
    return round(fraction * ranks)


class PrunableModel:
    """A fine-tuned model from which ranks of the adapter can be taken and given back, exactly.

    For each share the update of the ranks that stay is added to the base weights in float32 and cast once, as
    ``load_for_evaluation`` does: with nothing pruned the weights are the same to the bit. The original weights of the adapted
    modules stay in host memory.
    """

    def __init__(self, spec: RunSpec, *, adapter_dir: Path, models_dir: Path) -> None:
        """Load base model and adapter. Of a method with an export in ``lora/`` (BeamLoRA, scores folded into A) the export is
        taken: its importances are those of the trained ranks."""
        import torch
        from peft import PeftModel

        from harness.models.load import cast_weights, for_answering, load_base, served_adapter
        from methods.importance import importance_by_module
        from methods.peft_support import adapted_layers

        base, self.tokenizer = load_base(
            spec.model_key,
            spec.model,
            models_dir=models_dir,
            dtype=getattr(torch, spec.training.dtype),
            attn_implementation="sdpa",
        )
        wrapped = PeftModel.from_pretrained(base, str(served_adapter(adapter_dir)))
        #: Module name -> importances of its ranks, shape (r,), float32.
        self.importance: dict[str, torch.Tensor] = importance_by_module(wrapped)
        self._layers = adapted_layers(wrapped)
        self._original = {name: layer.get_base_layer().weight.data.cpu() for name, layer in self._layers.items()}
        self._dtype = getattr(torch, spec.evaluation.dtype)
        self.how = spec.evaluation
        unwrapped: PreTrainedModel = wrapped.unload()
        cast_weights(unwrapped, self._dtype)
        self.model = for_answering(unwrapped)
        self.prune(0.0)

    @property
    def ranks(self) -> int:
        """The number of ranks of all modules together."""
        return sum(len(values) for values in self.importance.values())

    def prune(self, fraction: float) -> int:
        """Take ``fraction`` of each module's ranks away, by the module's own importances, and give all others back.

        Returns:
            How many ranks are gone, over all modules.
        """
        import torch

        gone = 0
        for name, layer in self._layers.items():
            order = torch.argsort(self.importance[name], stable=True)
            least = order[: ranks_to_prune(fraction, len(order))]
            gone += len(least)
            with torch.no_grad(), _without(layer, least):
                weight = self._original[name].to(self.model.device).float() + layer.get_delta_weight("default")
            # A new tensor, since on the CPU the module's own may be the original.
            self.model.get_submodule(name).weight.data = weight.to(self._dtype)
        return gone


@contextmanager
def _without(layer: LoraLayer, ranks: torch.Tensor) -> Iterator[None]:
    """Zero the ranks' rows of A and columns of B for a while."""
    a, b = layer.lora_A["default"].weight.data, layer.lora_B["default"].weight.data
    rows, columns = a[ranks], b[:, ranks]
    a[ranks], b[:, ranks] = 0, 0
    try:
        yield
    finally:
        a[ranks], b[:, ranks] = rows, columns


# ----------------------------------------------------------------------------------------------------------------- one run


def _check_method(spec: RunSpec) -> None:
    named = methods.get(spec.method.name)
    if not named.cls.prunable:
        able = [name for name, other in methods.registry().items() if other.cls.prunable and name == other.cls.name]
        raise ConfigError(
            f"{spec.run_id}: found {named.label}, whose artefact is not a LoRA adapter of the ranks that were trained, "
            f"expected a method whose ranks can be pruned: {', '.join(sorted(able))}"
        )


def _training_record(spec: RunSpec, run_dir: Path) -> dict[str, Any]:
    record = training.read_training(run_dir)
    saved, expected = record.get("training_hash"), spec.training_hash()
    if saved != expected:
        where = f"{run_dir / training.FILE}: training_hash"
        raise ConfigError(f"{where}: found {saved}, expected {expected}: trained with other settings")
    return record


def prune_run(
    spec: RunSpec, experiment: Experiment, *, run_dir: Path, models_dir: Path, scratch_dir: Path = SCRATCH
) -> dict[str, Any]:
    """Evaluate one trained run at every share and write ``pruning.json``. A run that diverged gets its status and no numbers.

    Returns:
        What was written: for each task the ids, and for each share the accuracy, the mean NLL of the references in nats per
        token, and of each example, in the order of the ids, whether it was answered correctly ("1") or not ("0") and its NLL.
        Accuracy and answers are None where nothing is answered.

    Raises:
        ConfigError: the experiment prunes nothing, the method's ranks cannot be pruned, or the run is not trained.
    """
    from harness.provenance import git_state, versions

    pruning = experiment.pruning
    if pruning is None:
        raise ConfigError("pruning: found nothing in the experiment, expected the shares of ranks to prune")
    _check_method(spec)
    tasks = pruning.tasks_of(spec.evaluation)
    trained = _training_record(spec, run_dir)
    record: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "run_id": spec.run_id,
        "experiment": spec.experiment,
        "status": trained["status"],
        "pruning": pruning.model_dump(mode="json"),
        "evaluation": spec.evaluation.model_copy(update={"tasks": tasks, "lm_eval": None}).model_dump(mode="json"),
        "training_hash": trained["training_hash"],
        "artefact": trained["artefact"],
        "fractions": list(pruning.fractions),
        "versions": versions(),
        "git": git_state(Path(__file__).parent),
    }
    # Everything so far decides what the answers are: a part of another record is never taken up.
    part = scratch_dir / f"pruning-{content_hash(record)}.json"
    if record["status"] == "diverged":
        record |= {"tasks": {}}
    else:
        record |= _evaluate_fractions(
            spec,
            pruning.fractions,
            tasks,
            run_dir=run_dir,
            models_dir=models_dir,
            data_dir=experiment.data_dir,
            part=part,
        )
    files.write_json(run_dir / "pruning.json", record)
    part.unlink(missing_ok=True)
    return record


def _evaluate_fractions(
    spec: RunSpec,
    fractions: tuple[float, ...],
    tasks: dict[str, TaskSpec],
    *,
    run_dir: Path,
    models_dir: Path,
    data_dir: str | None,
    part: Path,
) -> dict[str, Any]:

    from harness.data.load import load_records, source_fingerprint
    from harness.provenance import hardware

    limit_threads()
    records = {name: load_records(task.source, data_dir=data_dir, limit=task.limit) for name, task in tasks.items()}
    data = {name: source_fingerprint(rows) for name, rows in records.items()}

    def read(path: Path) -> list[dict[str, Any]]:
        content = json.loads(path.read_text(encoding="utf-8"))
        return content["done"] if content["data_sha256"] == data else []

    done = files.read_or_set_aside(part, read) or []
    adapter = training.require_artefact(run_dir, training.read_training(run_dir))
    subject = PrunableModel(spec, adapter_dir=adapter, models_dir=models_dir)
    for fraction in fractions[len(done) :]:
        done.append(_evaluate_fraction(subject, fraction, tasks, records, title=f"prune {spec.run_id}"))
        files.write_json(part, {"data_sha256": data, "done": done})
    return {
        "ranks": subject.ranks,
        "pruned_ranks": [entry["pruned_ranks"] for entry in done],
        "tasks": {name: _joined([entry["tasks"][name] for entry in done]) | {"data_sha256": data[name]} for name in tasks},
        "wall_time_s": sum(entry["wall_time_s"] for entry in done),
        "hardware": hardware(),
    }


def _evaluate_fraction(
    subject: PrunableModel,
    fraction: float,
    tasks: dict[str, TaskSpec],
    records: dict[str, list[dict[str, Any]]],
    *,
    title: str,
) -> dict[str, Any]:
    from harness.evaluate.task import evaluate_task
    from harness.progress import Progress

    start = time.perf_counter()
    gone = subject.prune(fraction)
    progress = Progress(f"{title} · {fraction:.0%} of ranks")
    by_task = {}
    for name, task in tasks.items():
        result = evaluate_task(subject.model, subject.tokenizer, name, task, records[name], progress.update, how=subject.how)
        by_task[name] = {
            "ids": [row["id"] for row in result.predictions],
            "correct": None if task.grader is None else "".join(digit(row["correct"]) for row in result.predictions),
            "accuracy": result.metrics["accuracy"],
            "gold_nll": result.metrics["gold_nll"],
            "losses": [row["gold_nll"] for row in result.predictions],
            "grader": result.metrics["grader"],
            "sources": result.metrics["sources"],
        }
    return {"pruned_ranks": gone, "tasks": by_task, "wall_time_s": time.perf_counter() - start}


def _joined(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """One task's results at all shares; a series of None alone is None."""
    first = entries[0]
    keys = ("accuracy", "gold_nll", "correct", "losses")
    series = {key: None if first[key] is None else [entry[key] for entry in entries] for key in keys}
    shared = {key: first[key] for key in ("grader", "sources", "ids")}
    return {**shared, "n": len(first["ids"]), **series}
