"""The loss of the training loop, its normalisation, and its settings."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import transformers.integrations.liger
from torch.nn.functional import cross_entropy
from transformers import TrainerCallback
from transformers.models.llama.modeling_llama import LlamaMLP

from harness.data.batches import PackedCollator, PaddedCollator
from harness.data.tokens import IGNORE_INDEX
from harness.errors import ConfigError, OutOfMemory
from harness.schema.training import TrainingSpec
from harness.train import attention
from harness.train import trainer as trainer_module
from harness.train.checkpoints import out_of_memory
from harness.train.steps import step_counts
from harness.train.trainer import MethodTrainer, StopWhenDiverged, training_arguments
from methods.base import Method, MethodSettings
from tests.rounding import assert_equal_but_for_rounding, sums_of, sums_of_scores
from tests.tiny_models import llama


class Penalised(Method[MethodSettings]):
    """Trains everything; a regulariser of a known size."""

    name, label, Settings = "penalised", "Penalised", MethodSettings

    def __init__(self, strength: float = 0.0) -> None:
        super().__init__(MethodSettings())
        self.strength = strength
        self.asked = 0

    def wrap(self, model: Any, context: Any) -> Any:
        return model

    def regularizer(self, model: torch.nn.Module) -> torch.Tensor | None:
        self.asked += 1
        return self.strength * next(model.parameters()).square().sum() if self.strength else None

    def finalize(self, model: torch.nn.Module, output_dir: Path) -> None:
        raise AssertionError("not called here")


def rows(count: int = 8) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    made = []
    for i in range(count):
        ids = torch.randint(0, 250, (6 + 3 * i,), generator=generator)
        made.append({"input_ids": ids, "labels": torch.cat([torch.full((2,), IGNORE_INDEX), ids[2:]])})
    return made


ONE_STEP: dict[str, Any] = {
    "learning_rate": 1e-3,
    "per_device_train_batch_size": 8,
    "max_steps": 1,
    "warmup_ratio": 0,
    "logging_steps": 1,
    "save_steps": 100,
}


def train(
    folder: Path, *, strength: float = 0.0, callbacks: tuple[Any, ...] = (), model: Any = None, **settings: Any
) -> MethodTrainer:
    attention.register()
    spec = TrainingSpec(**{**ONE_STEP, **settings})
    collator: Any = PaddedCollator(pad_token_id=258)
    if spec.packing:
        collator = PackedCollator(attn_implementation="packed_sdpa")
    trainer = MethodTrainer(
        method=Penalised(strength),
        spec=spec,
        callbacks=list(callbacks),
        data_collator=collator,
        train_dataset=rows(),
        model=model or llama(attn_implementation=spec.attn_implementation),
        args=training_arguments(spec, total_steps=spec.max_steps or 1, world_size=1, output_dir=folder, seed=0),
    )
    trainer.train()
    return trainer


def first(trainer: MethodTrainer, key: str) -> float:
    return next(entry[key] for entry in trainer.state.log_history if key in entry)


def assert_same_loss(loss: float, expected: float) -> None:
    assert_equal_but_for_rounding(loss, expected, **sums_of_scores(llama()))


def mean_loss_by_hand() -> float:
    model = llama()
    total, count = 0.0, 0
    for row in rows():
        with torch.no_grad():
            logits = model(input_ids=row["input_ids"][None]).logits[0, :-1]
        total += float(cross_entropy(logits, row["labels"][1:], ignore_index=IGNORE_INDEX, reduction="sum"))
        count += int((row["labels"][1:] != IGNORE_INDEX).sum())
    return total / count


@pytest.mark.numeric
def test_the_loss_is_the_mean_over_label_tokens(tmp_path: Path) -> None:
    assert_same_loss(first(train(tmp_path), "loss"), mean_loss_by_hand())


@pytest.mark.numeric
@pytest.mark.parametrize(
    "changes",
    [
        {"packing": False, "attn_implementation": "sdpa"},
        {"fused": False},
        {"fused": False, "packing": False, "attn_implementation": "sdpa"},
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
        {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8},
        {"gradient_checkpointing": True},
    ],
    ids=["padded", "logits", "padded, logits", "2 micro-batches", "8 micro-batches", "checkpointing"],
)
def test_packing_and_accumulation_change_neither_loss_nor_update(tmp_path: Path, changes: dict) -> None:
    reference, other = train(tmp_path / "a"), train(tmp_path / "b", **changes)
    assert_same_loss(first(other, "loss"), first(reference, "loss"))
    sums = sums_of(other.model)
    norms = (first(trainer, "grad_norm") for trainer in (other, reference))
    assert_equal_but_for_rounding(*norms, terms=sums["terms"], layers=2 * sums["layers"])


def test_liger_kernel_is_applied_to_the_model_where_the_run_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By transformers' own integration, with a package that stands in for the real one: its kernels need a GPU."""
    applied: list[tuple[str, set[str]]] = []

    def apply(*, model: torch.nn.Module, **kernels: bool) -> None:
        applied.append((type(model).__name__, {name for name, on in kernels.items() if on}))

    package, patching = ModuleType("liger_kernel"), ModuleType("liger_kernel.transformers")
    monkeypatch.setattr(patching, "_apply_liger_kernel_to_instance", apply, raising=False)
    monkeypatch.setitem(sys.modules, "liger_kernel", package)
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", patching)
    monkeypatch.setattr(transformers.integrations.liger, "is_liger_kernel_available", lambda: True)
    train(tmp_path / "without")
    assert applied == []
    train(tmp_path / "with", liger_kernel=True)
    assert applied == [("LlamaForCausalLM", {"rms_norm", "swiglu"})]


@pytest.mark.numeric
def test_where_transformers_asks_the_model_whether_the_loss_is_scaled_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """5.17 knows no ``loss_is_scaled_for_ga``, and would divide the loss of a model without **kwargs once more."""
    reference = train(tmp_path / "a")
    nothing = property(lambda self: None, lambda self, value: None)
    monkeypatch.setattr(MethodTrainer, "loss_is_scaled_for_ga", nothing, raising=False)
    monkeypatch.setattr("transformers.LlamaForCausalLM.accepts_loss_kwargs", False, raising=False)
    other = train(tmp_path / "b", per_device_train_batch_size=4, gradient_accumulation_steps=2)
    assert_same_loss(first(other, "loss"), first(reference, "loss"))


@pytest.mark.numeric
def test_microbatch_normalisation_differs_and_is_the_mean_of_means(tmp_path: Path) -> None:
    settings = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8}
    by_token = first(train(tmp_path / "a", **settings), "loss")
    by_batch = first(train(tmp_path / "b", **settings, loss_normalization="microbatch"), "loss")
    model, means = llama(), []
    for row in rows():
        with torch.no_grad():
            logits = model(input_ids=row["input_ids"][None]).logits[0, :-1]
        means.append(float(cross_entropy(logits, row["labels"][1:], ignore_index=IGNORE_INDEX)))
    assert_same_loss(by_batch, sum(means) / len(means))
    assert abs(by_batch - by_token) > 1e-4


def gradients(folder: Path, **settings: Any) -> tuple[MethodTrainer, dict[str, torch.Tensor]]:
    """A trainer after one step, and the gradients that the optimizer got."""
    kept: dict[str, torch.Tensor] = {}

    class Keep(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, *, model: Any, **_: Any) -> None:
            kept.update({name: p.grad.clone() for name, p in model.named_parameters()})

    return train(folder, callbacks=(Keep(),), max_grad_norm=1e9, **settings), kept


def assert_same_gradients(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], model: torch.nn.Module) -> None:
    sums = sums_of(model)
    for name, gradient in expected.items():
        largest = float(gradient.abs().max())
        assert_equal_but_for_rounding(found[name], gradient, terms=sums["terms"], layers=2 * sums["layers"], magnitude=largest)


@pytest.mark.numeric
@pytest.mark.parametrize(
    ("settings", "tokens"),
    [
        ({}, 1),
        ({}, 60),
        ({"packing": False, "attn_implementation": "sdpa"}, 60),
        ({"loss_normalization": "microbatch"}, 60),
    ],
    ids=["one example", "packed", "padded", "microbatch"],
)
def test_parts_of_a_micro_batch_have_its_loss_and_gradients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], tokens: int
) -> None:
    settings = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, **settings}
    computed = []
    whole, expected = gradients(tmp_path / "a", **settings)
    original = MethodTrainer.compute_loss

    def compute_loss(self: MethodTrainer, model: Any, inputs: dict[str, Any], *more: Any, **keys: Any) -> torch.Tensor:
        computed.append(inputs["input_ids"].numel())
        return original(self, model, inputs, *more, **keys)

    monkeypatch.setattr(MethodTrainer, "compute_loss", compute_loss)
    parted, found = gradients(tmp_path / "b", **settings, micro_batch_tokens=tokens)
    assert len(computed) > 2 and (max(computed) <= tokens or len(computed) == 8)
    assert_same_loss(first(parted, "loss"), first(whole, "loss"))
    assert_same_gradients(found, expected, whole.model)
    assert {key: parted.tokens[key] for key in ("input", "label")} == {key: whole.tokens[key] for key in ("input", "label")}
    assert parted.tokens["padding"] <= whole.tokens["padding"]


def out_of_memory_above(monkeypatch: pytest.MonkeyPatch, positions: int) -> None:
    """Let memory run out, after a part of the backward pass, wherever more than ``positions`` labels are computed at once."""
    original = trainer_module.label_loss

    def label_loss(hidden: torch.Tensor, head: Any, labels: torch.Tensor) -> torch.Tensor:
        loss = original(hidden, head, labels)
        if len(labels) > positions:
            loss.backward(retain_graph=True)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return loss

    monkeypatch.setattr(trainer_module, "label_loss", label_loss)


@pytest.mark.numeric
def test_out_of_memory_halves_the_parts_and_begins_the_step_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    whole, expected = gradients(tmp_path / "a", **settings)
    with monkeypatch.context() as patch:
        out_of_memory_above(patch, 35)
        small, found = gradients(tmp_path / "b", **settings)
    assert_same_gradients(found, expected, whole.model)
    assert small.tokens == whole.tokens and small.state.global_step == 1
    assert [entry["step"] for entry in small.out_of_memory] == [1] * len(small.out_of_memory) and small.out_of_memory
    assert all(entry["micro_batch_tokens"] == entry["tokens"] // 2 for entry in small.out_of_memory)
    assert "out of memory with" in capsys.readouterr().out


def test_out_of_memory_with_one_example_names_what_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out_of_memory_above(monkeypatch, 3)
    with pytest.raises(ConfigError, match=r"gradient_checkpointing: found False, and an example of \d+ tokens"):
        train(tmp_path)


def test_out_of_memory_one_of_several_processes_notes_it_for_all_and_ends(tmp_path: Path) -> None:
    """The others wait for its gradients: it cannot begin its step again by itself."""
    collator = PackedCollator(attn_implementation="packed_sdpa")
    args = SimpleNamespace(world_size=2, output_dir=str(tmp_path))
    one_of_two = SimpleNamespace(
        state=SimpleNamespace(global_step=6), args=args, out_of_memory=[], data_collator=collator, spec=TrainingSpec(**ONE_STEP)
    )
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    with pytest.raises(OutOfMemory, match="with 15 tokens at step 7: going on with 7, from the last checkpoint"):
        MethodTrainer._halve(one_of_two, collator(rows(2)), error)  # type: ignore[arg-type]
    assert out_of_memory(tmp_path) == [{"step": 7, "tokens": 15, "micro_batch_tokens": 7}]
    with pytest.raises(ConfigError, match="an example of 6 tokens, which did not fit into memory at step 7"):
        MethodTrainer._halve(one_of_two, collator(rows(1)), error)  # type: ignore[arg-type]
    assert len(out_of_memory(tmp_path)) == 1, "nothing that could be halved"


@pytest.mark.parametrize(("checkpointing", "passes"), [(False, 1), (True, 2)])
def test_gradient_checkpointing_computes_each_layer_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpointing: bool, passes: int
) -> None:
    original, calls = LlamaMLP.forward, []
    monkeypatch.setattr(LlamaMLP, "forward", lambda self, x: (calls.append(1), original(self, x))[1])
    model = llama(attn_implementation="packed_sdpa")
    in_training = len(calls)
    train(tmp_path, model=model, gradient_checkpointing=checkpointing)
    layers = model.config.num_hidden_layers
    assert len(calls) - in_training - layers == passes * layers  # the other one asks which head the model has


@pytest.mark.numeric
@pytest.mark.parametrize("accumulation", [1, 4])
def test_a_regulariser_counts_once_per_optimizer_step(tmp_path: Path, accumulation: int) -> None:
    settings = {"per_device_train_batch_size": 8 // accumulation, "gradient_accumulation_steps": accumulation}
    plain = first(train(tmp_path / "a", **settings), "loss")
    trainer = train(tmp_path / "b", strength=0.5, **settings)
    penalised = first(trainer, "loss")
    assert trainer.method.asked == 1
    weight = next(llama().parameters()).detach()
    added = 0.5 * weight.square().sum()
    assert_equal_but_for_rounding(penalised - plain, added, terms=weight.numel(), magnitude=penalised)


FOUR_STEPS = {"max_steps": 4, "per_device_train_batch_size": 4}


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The weights after four steps with the default settings."""
    return train(tmp_path_factory.mktemp("usual"), **FOUR_STEPS).model.state_dict()


@pytest.mark.parametrize(
    "changes",
    [
        {"learning_rate": 2e-3},
        {"weight_decay": 0.5},
        {"max_grad_norm": 0.01},
        {"adam_beta1": 0.5},
        {"adam_beta2": 0.9},
        {"adam_epsilon": 1e-2},
        {"lr_scheduler_type": "linear"},
        {"warmup_ratio": 0.5},
        {"warmup_steps": 2},
        {"max_steps": 3},
        {"fused": False},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_every_optimiser_setting_has_an_effect(tmp_path: Path, usual: dict[str, torch.Tensor], changes: dict) -> None:
    other = train(tmp_path, **{**FOUR_STEPS, **changes}).model.state_dict()
    assert any(not torch.equal(usual[name], other[name]) for name in usual)


def test_tokens_are_counted_apart_from_padding(tmp_path: Path) -> None:
    lengths = [len(row["input_ids"]) for row in rows()]
    labels = sum(length - 2 for length in lengths)
    packed = train(tmp_path / "a").tokens
    padded = train(tmp_path / "b", packing=False, attn_implementation="sdpa").tokens
    assert packed == {"input": sum(lengths), "label": labels, "padding": 0}
    assert padded == {"input": sum(lengths), "label": labels, "padding": 8 * max(lengths) - sum(lengths)}


def test_a_loss_that_is_not_finite_ends_the_run_as_diverged(tmp_path: Path) -> None:
    model = llama(attn_implementation="packed_sdpa")
    with torch.no_grad():
        model.lm_head.weight[0] = float("inf")
    stop = StopWhenDiverged(3.0)
    trainer = train(tmp_path, model=model, callbacks=(stop,), max_steps=5)
    assert trainer.state.global_step == 1
    assert stop.reason is not None and "nan" in stop.reason


def test_the_divergence_factor_decides(tmp_path: Path) -> None:
    settings = {"learning_rate": 3.0, "max_steps": 6}
    strict, lenient = StopWhenDiverged(1.5), StopWhenDiverged(1e9)
    assert train(tmp_path / "a", callbacks=(strict,), **settings).state.global_step < 6
    assert train(tmp_path / "b", callbacks=(lenient,), **settings).state.global_step == 6
    assert strict.reason is not None and "times the first" in strict.reason and lenient.reason is None


def test_steps_are_counted_as_the_trainer_counts_them() -> None:
    spec = TrainingSpec(learning_rate=1, per_device_train_batch_size=8, gradient_accumulation_steps=4, num_train_epochs=3)
    assert step_counts(spec, examples=395_000, world_size=1) == (37_032, 12_344)
    assert step_counts(spec, examples=395_000, world_size=4) == (37_032, 12_344)


def test_processes_share_one_global_batch() -> None:
    spec = TrainingSpec(learning_rate=1, per_device_train_batch_size=8, gradient_accumulation_steps=4, max_steps=1)
    assert [spec.per_process(processes) for processes in (1, 2, 4)] == [4, 2, 1]
