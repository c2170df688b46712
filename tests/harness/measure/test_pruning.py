"""Pruning a trained adapter: what is taken away, what comes back, and what is written."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.errors import ConfigError
from harness.evaluate.run import evaluate_run
from harness.experiment.runs import load_run
from harness.measure import prune as measuring
from harness.measure.prune import PrunableModel, prune_run, ranks_to_prune
from harness.models.load import load_for_evaluation
from harness.records import importance
from harness.records.pruning import FILE, read
from harness.schema.experiment import Experiment
from harness.schema.fields import SCHEMA_VERSION
from harness.schema.run import RunSpec
from harness.train.run import Folders, train
from tests.experiments import miniature, write
from tests.rounding import assert_equal_but_for_rounding

METHODS = {"lora": {}, "beamlora": {"settings": {"delta_t": 4, "horizon_steps": 12, "p_init": 0.6}}, "pissa": {}}
PRUNING = {"domain": "math", "model": "llama-mini", "methods": ["lora", "beamlora"], "fractions": [0.0, 0.5, 1.0]}


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A finished run of the miniature."""

    experiment: Experiment
    spec: RunSpec
    folder: Path
    models: Path

    def load(self) -> PrunableModel:
        return PrunableModel(self.spec, adapter_dir=self.folder / "adapter", models_dir=self.models)


def experiment_of(folder: Path, **changes: Any) -> Path:
    content = miniature(
        **{
            "training.importance_every": 6,
            "methods": METHODS,
            "tables.table1.methods": {"llama-mini": list(METHODS)},
            "pruning": PRUNING,
            **changes,
        }
    )
    return write(folder, content)


@pytest.fixture(scope="module", params=["lora", "beamlora"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, models_dir: Path) -> Trained:
    folder = tmp_path_factory.mktemp(request.param)
    experiment, spec = load_run([experiment_of(folder)], {}, f"math/llama-mini/{request.param}/seed0")
    where = Folders(output=folder / "run", scratch=folder / "scratch", models=models_dir, cache=folder / "cache")
    train(spec, experiment, where)
    return Trained(experiment=experiment, spec=spec, folder=where.output, models=models_dir)


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_equal(tensors: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert tensors.keys() == expected.keys()
    assert [name for name in tensors if not torch.equal(tensors[name], expected[name])] == []


# ----------------------------------------------------------------------------------------------------------------- weights


def test_with_nothing_pruned_the_model_is_the_evaluated_one_to_the_bit_also_after_pruning(trained: Trained) -> None:
    expected, _ = load_for_evaluation(trained.spec, adapter_dir=trained.folder / "adapter", models_dir=trained.models)
    subject = trained.load()
    assert_equal(weights(subject.model), weights(expected))
    for fraction in (0.3, 1.0, 0.6):
        subject.prune(fraction)
    assert any(not torch.equal(a, b) for a, b in zip(subject.model.parameters(), expected.parameters(), strict=True))
    assert subject.prune(0.0) == 0
    assert_equal(weights(subject.model), weights(expected))


def test_with_everything_pruned_it_is_the_base_model_to_the_bit(trained: Trained) -> None:
    from harness.models.load import load_base

    base, _ = load_base(
        trained.spec.model_key, trained.spec.model, models_dir=trained.models, dtype=torch.float32, attn_implementation="sdpa"
    )
    subject = trained.load()
    assert subject.prune(1.0) == subject.ranks == 7 * 8
    assert_equal(weights(subject.model), weights(base))


@pytest.mark.numeric
def test_the_importances_are_those_at_the_end_of_training(trained: Trained) -> None:
    history = importance.read(trained.folder / "adapter" / importance.FILE)
    subject = trained.load()
    assert subject.importance.keys() == history.modules.keys()
    for name, values in history.last.items():
        assert_equal_but_for_rounding(subject.importance[name], values, terms=subject.model.get_submodule(name).weight.numel())


@pytest.mark.numeric
def test_the_least_important_ranks_of_every_module_go(trained: Trained) -> None:
    """What pruning half of the ranks takes from a weight has the rank and the norms of the least important ones."""
    subject = trained.load()
    whole = weights(subject.model)
    assert subject.prune(0.5) == 7 * 4
    for name, values in subject.importance.items():
        removed = (whole[f"{name}.weight"] - subject.model.get_submodule(name).weight).double()
        layer = subject._layers[name]
        a, b = (getattr(layer, f"lora_{part}")["default"].weight.double() for part in "AB")
        least = torch.argsort(values)[:4]
        expected = layer.scaling["default"] * b[:, least] @ a[least]
        largest = float(whole[f"{name}.weight"].abs().max())  # both terms of the difference are rounded
        assert_equal_but_for_rounding(removed, expected, terms=layer.r["default"], magnitude=largest)


def test_shares_are_rounded_to_whole_ranks() -> None:
    assert [ranks_to_prune(share / 10, 16) for share in range(11)] == [0, 2, 3, 5, 6, 8, 10, 11, 13, 14, 16]
    assert [ranks_to_prune(share / 10, 10) for share in range(11)] == list(range(11))


def test_weights_are_cast_once_to_the_dtype_of_the_evaluation(trained: Trained) -> None:
    evaluation = trained.spec.evaluation.model_copy(update={"dtype": "bfloat16"})
    spec = trained.spec.model_copy(update={"evaluation": evaluation})
    expected, _ = load_for_evaluation(spec, adapter_dir=trained.folder / "adapter", models_dir=trained.models)
    subject = PrunableModel(spec, adapter_dir=trained.folder / "adapter", models_dir=trained.models)
    subject.prune(0.5)
    subject.prune(0.0)
    assert subject.model.lm_head.weight.dtype == torch.bfloat16
    assert_equal(weights(subject.model), weights(expected))


# ------------------------------------------------------------------------------------------------------------------ record


def prune(trained: Trained, scratch: Path, **changes: Any) -> dict[str, Any]:
    experiment = trained.experiment
    if changes:
        experiment = experiment.model_copy(update={"pruning": experiment.pruning.model_copy(update=changes)})
    return prune_run(trained.spec, experiment, run_dir=trained.folder, models_dir=trained.models, scratch_dir=scratch)


def test_the_record_holds_every_answer_and_agrees_with_the_evaluation(trained: Trained, tmp_path: Path) -> None:
    metrics = evaluate_run(trained.spec, run_dir=trained.folder, models_dir=trained.models, data_dir=None)["tasks"]["gsm8k"]
    record = prune(trained, tmp_path)
    assert json.loads((trained.folder / FILE).read_text()) == record
    assert record["pruned_ranks"] == [0, 28, 56] and record["ranks"] == 56
    task = record["tasks"]["gsm8k"]
    assert (task["n"], len(task["ids"])) == (8, 8)
    assert (task["accuracy"][0], task["gold_nll"][0]) == (metrics["accuracy"], metrics["gold_nll"])
    assert (task["data_sha256"], task["sources"]) == (metrics["data_sha256"], metrics["sources"])
    assert len(set(task["gold_nll"])) == 3  # each share is another model
    curve = read(trained.folder / FILE, "accuracy")["gsm8k"]
    assert curve.scores.shape == (3, 8) and curve.means.tolist() == task["accuracy"]
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_is_answered_the_record_holds_the_nll_of_every_example(trained: Trained, tmp_path: Path) -> None:
    evaluation = trained.spec.evaluation
    task = evaluation.tasks["gsm8k"].model_copy(update={"grader": None, "max_new_tokens": 0})
    spec = trained.spec.model_copy(update={"evaluation": evaluation.model_copy(update={"tasks": {"gsm8k": task}})})
    record = prune_run(spec, trained.experiment, run_dir=trained.folder, models_dir=trained.models, scratch_dir=tmp_path)
    pruned = record["tasks"]["gsm8k"]
    assert (pruned["accuracy"], pruned["correct"], pruned["grader"]) == (None, None, None)
    curve = read(trained.folder / FILE, "gold_nll")["gsm8k"]
    assert curve.scores.shape == (3, 8) and curve.means.tolist() == pytest.approx(pruned["gold_nll"])
    assert len(set(pruned["gold_nll"])) == 3
    with pytest.raises(ConfigError, match="tasks.gsm8k.correct: found nothing, expected a value of each example"):
        read(trained.folder / FILE, "accuracy")


def test_the_limit_of_the_pruning_is_used(trained: Trained, tmp_path: Path) -> None:
    record = prune(trained, tmp_path, limit=3, fractions=(0.0, 1.0))
    assert record["tasks"]["gsm8k"]["n"] == 3 and len(record["tasks"]["gsm8k"]["correct"]) == 2
    assert record["evaluation"]["tasks"]["gsm8k"]["limit"] == 3


def test_finished_shares_survive_a_kill(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = prune(trained, tmp_path)
    evaluated: list[float] = []
    original = measuring._evaluate_fraction

    def killed(subject: Any, fraction: float, *args: Any, **kwargs: Any) -> Any:
        if fraction == 1.0 and len(evaluated) < 3:
            evaluated.append(fraction)
            raise KeyboardInterrupt
        evaluated.append(fraction)
        return original(subject, fraction, *args, **kwargs)

    monkeypatch.setattr(measuring, "_evaluate_fraction", killed)
    with pytest.raises(KeyboardInterrupt):
        prune(trained, tmp_path)
    again = prune(trained, tmp_path)
    assert evaluated == [0.0, 0.5, 1.0, 1.0]
    assert again["tasks"] == whole["tasks"]
    prune(trained, tmp_path, limit=2)
    assert evaluated[4:] == [0.0, 0.5, 1.0]  # another pruning takes up nothing


def test_a_run_that_diverged_has_a_status_and_no_numbers(trained: Trained, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained.folder, folder)
    record = json.loads((folder / "train.json").read_text())
    (folder / "train.json").write_text(json.dumps({**record, "status": "diverged"}))
    shutil.rmtree(folder / "adapter")
    pruned = prune_run(trained.spec, trained.experiment, run_dir=folder, models_dir=trained.models, scratch_dir=tmp_path)
    assert (pruned["status"], pruned["tasks"]) == ("diverged", {})
    assert read(folder / FILE, "accuracy") == {}


# --------------------------------------------------------------------------------------------------------------- bad input


def refused(folder: Path, run: str = "lora", **changes: Any) -> str:
    experiment, spec = load_run([experiment_of(folder, **changes)], {}, f"math/llama-mini/{run}/seed0")
    with pytest.raises(ConfigError) as error:
        prune_run(spec, experiment, run_dir=folder, models_dir=folder, scratch_dir=folder)
    return str(error.value)


def test_bad_input_is_named(tmp_path: Path) -> None:
    assert "found PiSSA, whose artefact is not" in refused(tmp_path, "pissa")
    assert refused(tmp_path, "pissa").endswith("can be pruned: beamlora, lora, lora-fa")
    assert "train.json: found no such file" in refused(tmp_path)
    (tmp_path / "train.json").write_text(
        json.dumps({"schema_version": SCHEMA_VERSION, "training_hash": "0", "status": "success"})
    )
    assert "training_hash: found 0, expected" in refused(tmp_path)
    assert refused(tmp_path, pruning=None).startswith("pruning: found nothing")


def test_a_record_whose_numbers_are_not_those_of_its_answers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / FILE
    task = {"ids": ["a", "b"], "correct": ["11", "10"], "accuracy": [1.0, 0.5], "gold_nll": [1.0, 2.0]}
    record: dict[str, Any] = {"schema_version": 1, "fractions": [0.0, 0.5], "tasks": {"t": task}}

    def message() -> str:
        path.write_text(json.dumps(record))
        with pytest.raises(ConfigError) as error:
            read(path, "accuracy")
        return str(error.value)

    task["accuracy"] = [1.0, 0.4]
    assert "tasks.t.accuracy: found [1.0, 0.4], expected the means of correct: [1.0, 0.5]" in message()
    task |= {"accuracy": [1.0, 0.5], "losses": [[1.0, 1.0], [2.0, 3.0]]}
    path.write_text(json.dumps(record))
    with pytest.raises(ConfigError, match="tasks.t.gold_nll: found"):
        read(path, "gold_nll")
    task["correct"] = ["11", "1"]
    assert "tasks.t.correct: found" in message()
    del task["ids"]
    assert "found no record of pruning (KeyError('ids'))" in message()
    record["schema_version"] = 99
    assert "schema_version: found 99" in message()
    path.unlink()
    with pytest.raises(ConfigError, match="found no such file"):
        read(path, "accuracy")
