"""AdaLoRA: allocation, artefacts, what PEFT gets wrong, and a run in the real Trainer."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from methods.base import MechanismError
from methods.peft_support import ADAPTER, adapted_layers
from tests.methods import toy
from tests.rounding import assert_equal_but_for_rounding, sums_of


def test_ranks_fall_to_the_target_and_differ(tmp_path):
    loop = toy.start("adalora", tmp_path).run()
    evidence = loop.method.evidence(loop.model)
    assert evidence["initial_rank"] == 6 and evidence["mean_rank"] == 4.0
    assert len(set(evidence["ranks"].values())) > 1
    for name, layer in adapted_layers(loop.model).items():
        assert int((layer.lora_E[ADAPTER] != 0).sum()) == evidence["ranks"][name]


def test_log_shows_a_falling_budget(tmp_path):
    toy.start("adalora", tmp_path).run()
    lines = [json.loads(line) for line in (tmp_path / "log" / "operations.jsonl").read_text().splitlines()]
    totals = [sum(line["ranks"].values()) for line in lines]
    assert [line["step"] for line in lines] == list(range(3, 11))
    assert totals == sorted(totals, reverse=True) and totals[0] < 6 * toy.MODULES and totals[-1] == 4 * toy.MODULES


def test_an_allocation_that_never_happened_is_an_error(tmp_path):
    loop = toy.start("adalora", tmp_path).run(2)
    with pytest.raises(MechanismError, match="made 0 allocations and kept 42 ranks, expected at least one and at most 28"):
        loop.method.evidence(loop.model)
    loop.run(3)
    with pytest.raises(MechanismError, match="made 2 allocations and kept"):
        loop.method.evidence(loop.model)


def test_no_regulariser_without_a_weight(tmp_path):
    loop = toy.start("adalora", tmp_path, orth_reg_weight=0)
    assert loop.method.regularizer(loop.model) is None


@pytest.mark.numeric
def test_regulariser_equals_the_one_peft_adds_to_the_loss(tmp_path):
    loop = toy.start("adalora", tmp_path).run(3)
    loop.model.eval()
    ids = toy.batch(0)
    whole, plain = loop.model(input_ids=ids, labels=ids).loss, loop.model.base_model.model(input_ids=ids, labels=ids).loss
    penalty = loop.method.regularizer(loop.model)
    assert_equal_but_for_rounding(penalty, whole - plain, terms=ids.numel(), magnitude=whole.item())


@pytest.mark.numeric
def test_regulariser_is_added_once_per_step_where_peft_adds_it_per_micro_batch(tmp_path):
    """Its share of the gradient is the same for 1 and 4 micro-batches. (The loop passes no labels to the model.)"""
    shares = []
    sums = sums_of(toy.base_model())
    for accumulation in (1, 4):
        grads = []
        for weight in (0.0, 0.5):
            loop = toy.start("adalora", tmp_path, accumulation=accumulation, orth_reg_weight=weight)
            loop.backward()
            grads.append(adapted_layers(loop.model)["model.layers.0.mlp.up_proj"].lora_A[ADAPTER].grad.clone())
        shares.append(grads[1] - grads[0])
    assert shares[0].norm() > 1e-3
    largest = float(grads[1].abs().max())
    assert_equal_but_for_rounding(shares[0], shares[1], terms=sums["terms"], layers=2 * sums["layers"], magnitude=largest)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scaling_is_no_trained_parameter(dtype, tmp_path):
    """PEFT makes the constant ``ranknum`` trainable where it casts or moves it, and does not save it."""
    model = toy.make("adalora").wrap(toy.base_model().to(dtype), toy.context(tmp_path))
    numbers = [layer.ranknum[ADAPTER] for layer in adapted_layers(model).values()]
    assert not any(number.requires_grad for number in numbers)
    assert all(number.dtype == torch.float32 and number.item() == 6.0 for number in numbers)


@pytest.mark.numeric
def test_modules_without_ranks_are_exported(tmp_path):
    """A module that lost all its ranks is a row of zeros in the plain LoRA."""
    loop = toy.start("adalora", tmp_path).run()
    name = "model.layers.0.mlp.down_proj"
    loop.method._config.rank_pattern[f"{name}.lora_E.{ADAPTER}"] = [False] * 6
    adapted_layers(loop.model)[name].lora_E[ADAPTER].data.zero_()
    expected = toy.logits(loop.model)
    loop.method.finalize(loop.model, tmp_path / "out")
    tensors = load_file(tmp_path / "out" / "lora" / "adapter_model.safetensors")
    assert tensors[f"base_model.model.{name}.lora_A.weight"].shape == (1, 48)
    logits = toy.logits(toy.reload(tmp_path / "out" / "lora"))
    assert_equal_but_for_rounding(logits, expected, **sums_of(loop.model))


def test_export_stores_only_the_ranks_that_are_left(tmp_path):
    loop = toy.start("adalora", tmp_path).run()
    loop.method.finalize(loop.model, tmp_path / "out")
    tensors = load_file(tmp_path / "out" / "lora" / "adapter_model.safetensors")
    for name, rank in loop.method.ranks().items():
        assert tensors[f"base_model.model.{name}.lora_B.weight"].shape[1] == max(1, rank)


class Rows(Dataset):
    """The toy batches as single examples."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = toy.batch(index, rows=1)[0]
        return {"input_ids": ids, "labels": ids}


class LogitsTrainer(Trainer):
    """Takes the loss from logits and adds the method's term once per step, as the project's loop does."""

    method = None

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss = toy.next_token_loss(model, inputs["input_ids"])
        return (loss + self.method.regularizer(model)) / self.args.gradient_accumulation_steps


@pytest.mark.parametrize("name", ["adalora", "relora", "increlora"])
def test_mechanism_happens_in_the_real_trainer(name, tmp_path):
    """The Trainer calls the events that the methods count on, with gradients in place and 0-based steps."""
    method = toy.make(name)
    method.regularizer = method.regularizer if name != "relora" else lambda model: torch.zeros(())
    model = method.wrap(toy.base_model(), toy.context(tmp_path))
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "trainer"),
        max_steps=20,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        learning_rate=5e-3,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
        logging_steps=1,
    )
    trainer = LogitsTrainer(model=model, args=arguments, train_dataset=Rows(), callbacks=method.callbacks())
    trainer.method = method
    trainer.train()
    evidence = method.evidence(model)
    steps = [json.loads(line)["step"] for line in (tmp_path / "log" / "operations.jsonl").read_text().splitlines()]
    expected = {"adalora": list(range(3, 11)), "relora": [6, 12], "increlora": [2, 4, 6, 8]}
    assert steps == expected[name]
    assert evidence["merges"] == 2 if name == "relora" else evidence["mean_rank"] == 4.0
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert rates == pytest.approx([5e-3 * (1 - step / 20) for step in range(20)])
