"""BeamLoraCallback in stock Trainers: timing, logs, exact resume, refusals, data parallelism, TRL."""

from __future__ import annotations

import json
import math
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import Trainer

from beamlora import BeamLoraCallback
from beamlora.adapter_state import AdapterTensors, trainable_adapter, unwrap
from beamlora.callback import losses_around
from beamlora.model import beam_modules
from tests.beamlora.beam_fixtures import (
    TARGETS,
    TokenData,
    adapter_tensors,
    beam_config,
    beam_model,
    beam_trainer,
    randomize,
    tiny_llama,
    training_arguments,
)
from tests.paths import ROOT
from tests.tiny_models import byte_tokenizer, llama

#: Arguments of a run that is resumed.
SAVED = {"save_strategy": "steps", "save_steps": 5, "max_steps": 12}


class RecordingCallback(BeamLoraCallback):
    """Notes after how many optimizer steps snapshots and operations take place, counted by the optimizer itself."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.snapshots: list[int] = []
        self.operations: list[int] = []

    def steps(self) -> int:
        state = self.beam.adapter.optimizer.state
        return int(next(iter(state.values()))["step"]) if state else 0

    def on_step_end(self, args, state, control, **kwargs: Any) -> None:
        before, count = self.beam.snapshot, len(self.records)
        super().on_step_end(args, state, control, **kwargs)
        if self.beam.snapshot is not None and self.beam.snapshot is not before:
            self.snapshots.append(self.steps())
        if len(self.records) > count:
            self.operations.append(self.steps())


def read_log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "operations.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """What 12 steps with an operation after the sixth leave: the folder, with the checkpoints of steps 5, 10 and 12, and the
    adapter."""
    folder = tmp_path_factory.mktemp("saved")
    trainer = beam_trainer(folder, **SAVED)
    trainer.train()
    return folder, adapter_tensors(trainer.model)


@pytest.fixture
def checkpoint(saved: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path) -> Path:
    """A copy of that run's checkpoint of step 5, between snapshot and operation."""
    return shutil.copytree(saved[0] / "checkpoint-5", tmp_path / "checkpoint-5")


@pytest.mark.parametrize("accumulation", [1, 2])
def test_timing_is_that_of_the_released_callback(tmp_path: Path, accumulation: int) -> None:
    """Interval 6, 24 steps, p = 1 from step 16 on, in optimizer steps whatever the accumulation."""
    callback = RecordingCallback()
    beam_trainer(tmp_path, callback=callback, gradient_accumulation_steps=accumulation).train()
    assert callback.snapshots == [4, 10]
    assert callback.operations == [6, 12, 18]
    log = read_log(tmp_path)
    assert [record["step"] for record in log] == [6, 12, 18]
    assert [round(record["p"], 6) for record in log] == [0.961111, 0.988889, 1.0]
    totals = [sum(module["K"] for module in record["modules"]) for record in log]
    assert totals[0] >= len(TARGETS) and totals[1] >= len(TARGETS) and totals[2] == 0
    assert all(len(m["pruned"]) == len(m["sources"]) == m["K"] for record in log for m in record["modules"])


def test_horizon_is_two_epochs_of_the_data_loader(tmp_path: Path) -> None:
    """64 rows in batches of 4 are 16 steps; with accumulation 2, 8."""
    for accumulation, horizon in ((1, 32), (2, 16)):
        callback = BeamLoraCallback()
        trainer = beam_trainer(
            tmp_path,
            callback=callback,
            config={"horizon_steps": None, "delta_t": 4},
            gradient_accumulation_steps=accumulation,
            max_steps=8,
        )
        trainer.train()
        assert callback.beam.schedule.horizon == horizon


def test_operation_copies_the_snapshot_and_its_moments(tmp_path: Path) -> None:
    """In a real run, the pruned ranks are the source ranks of two steps ago, with their Adam moments of then."""

    class Spy(RecordingCallback):
        def on_step_end(self, args, state, control, **kwargs: Any) -> None:
            if state.global_step == 6:
                self.old = self.beam.snapshot
                self.before = {n: {k: t.clone() for k, t in m.items()} for n, m in self.beam.adapter.items()}
            super().on_step_end(args, state, control, **kwargs)
            if state.global_step == 6:
                self.after = {n: {k: t.clone() for k, t in m.items()} for n, m in self.beam.adapter.items()}

    spy = Spy()
    beam_trainer(tmp_path, callback=spy, max_steps=12).train()
    for module in spy.records[0]["modules"]:
        pruned, sources = module["pruned"], module["sources"]
        before, old, after = (part[module["name"]] for part in (spy.before, spy.old, spy.after))
        for key in ("A", "A.exp_avg", "A.exp_avg_sq"):
            assert torch.equal(after[key][pruned], old[key][sources])
        for key in ("B", "B.exp_avg", "B.exp_avg_sq"):
            assert torch.equal(after[key][:, pruned], old[key][:, sources])
        assert not torch.equal(before["A"][pruned], after["A"][pruned])
        assert not torch.equal(before["A"][sources], old["A"][sources]), "history must break the symmetry"
        assert not after["g.exp_avg"].any() and before["g.exp_avg"].any()


def test_losses_before_and_after_come_from_pure_logging_windows(tmp_path: Path) -> None:
    trainer = beam_trainer(tmp_path, logging_steps=3)
    trainer.train()
    logged = {entry["step"]: entry["loss"] for entry in trainer.state.log_history if "loss" in entry}
    for record in read_log(tmp_path):
        assert (record["loss_before"], record["loss_after"]) == (logged[record["step"]], logged[record["step"] + 3])


def test_a_window_across_the_operation_belongs_to_neither_side() -> None:
    history = [
        {"loss": 4.0, "step": 4},
        {"eval_loss": 9.0, "step": 4},
        {"loss": 3.0, "step": 8},
        {"loss": 2.0, "step": 12},
    ]
    assert losses_around(history, step=6) == (4.0, 2.0)
    assert losses_around(history, step=8) == (3.0, 2.0)
    assert losses_around(history, step=3) == (None, 3.0)
    assert losses_around(history, step=12) == (2.0, None)
    assert losses_around([], step=3) == (None, None)


# ---- resume


def test_resume_is_bit_identical_from_every_kind_of_step(tmp_path: Path) -> None:
    """Before a snapshot, between snapshot and operation, right after either; dropout's random stream is in play."""
    settings = {"config": {"lora_dropout": 0.1}, "max_steps": 18}
    whole = beam_trainer(tmp_path, save_strategy="steps", save_steps=1, **settings)
    whole.train()
    expected, log = adapter_tensors(whole.model), read_log(tmp_path)
    assert [record["step"] for record in log] == [6, 12]
    for step in (2, 4, 5, 6, 11):
        (tmp_path / "operations.jsonl").unlink()
        resumed = beam_trainer(tmp_path, **settings)
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        tensors = adapter_tensors(resumed.model)
        assert tensors.keys() == expected.keys()
        assert all(torch.equal(tensors[name], expected[name]) for name in expected), f"resumed from step {step}"
        assert read_log(tmp_path) == log


def test_the_snapshot_matters_to_a_resumed_run(saved: tuple, checkpoint: Path, tmp_path: Path) -> None:
    """The test above would notice: with another snapshot the result is another."""
    path = checkpoint / "beam_state.pt"
    contents = torch.load(path, weights_only=True)
    for tensors in contents["snapshot"].values():
        tensors["A"].add_(0.01)
    torch.save(contents, path)
    resumed = beam_trainer(tmp_path, **SAVED)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    expected, actual = saved[1], adapter_tensors(resumed.model)
    assert not all(torch.equal(actual[name], expected[name]) for name in expected)


def test_snapshot_is_saved_only_where_an_operation_will_use_it(tmp_path: Path) -> None:
    beam_trainer(tmp_path, save_strategy="steps", save_steps=1, max_steps=18, config={"horizon_steps": 11}).train()
    held = [
        step
        for step in range(1, 19)
        if torch.load(tmp_path / f"checkpoint-{step}" / "beam_state.pt", weights_only=True)["snapshot"]
    ]
    assert held == [4, 5]  # p = 1 at the operation after step 12


@pytest.mark.parametrize("comparison", ["exceeds", "reaches"])
def test_what_the_snapshots_take_is_given_back(tmp_path: Path, comparison: str) -> None:
    config = {"horizon_steps": 11, "topp_comparison": comparison}
    trainer = beam_trainer(tmp_path, max_steps=18, config=config)
    trainer.train()
    (callback,) = (c for c in trainer.callback_handler.callbacks if isinstance(c, BeamLoraCallback))
    for_a_longer_run = 16 if comparison == "reaches" else None
    assert callback.beam.snapshot_step == for_a_longer_run and (callback.beam.snapshot is None) == (for_a_longer_run is None)
    pruned = [record["step"] for record in callback.records if any(module["K"] for module in record["modules"])]
    assert pruned == ([6] if comparison == "exceeds" else [6, 12])


def test_resume_without_or_with_a_foreign_state_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    beam_trainer(tmp_path / "b", config={"lora_dropout": 0.1}, **SAVED).train()
    with pytest.raises(ValueError, match="state of other weights"):
        beam_trainer(tmp_path / "b", **SAVED).train(resume_from_checkpoint=str(checkpoint))
    named = beam_trainer(tmp_path / "b", resume_from_checkpoint=str(checkpoint), **SAVED)
    named.train(resume_from_checkpoint=str(checkpoint))
    (checkpoint / "beam_state.pt").unlink()
    with pytest.raises(FileNotFoundError, match="beam_state.pt: found no such file, expected .* step 5"):
        beam_trainer(tmp_path, **SAVED).train(resume_from_checkpoint=str(checkpoint))


@pytest.mark.parametrize(
    ("config", "seed", "name"),
    [
        ({"delta_t": 8}, None, "delta_t: found 8, expected 6"),
        ({"p_init": 0.9}, None, "p_init: found 0.9, expected 0.95"),
        ({"gate_temperature": 0.2}, None, "gate_temperature: found 0.2, expected 0.05"),
        ({"flavor": "released"}, None, "flavor: found 'released', expected 'paper'"),
        ({"operations": False}, None, "operations: found False, expected True"),
        ({}, 4, "seed: found 4, expected 3"),
    ],
    ids=str,
)
def test_resume_with_another_setting_is_refused_before_the_first_step(
    checkpoint: Path, tmp_path: Path, config: dict[str, Any], seed: int | None, name: str
) -> None:
    resumed = beam_trainer(tmp_path, callback=BeamLoraCallback(seed=seed), config=config, **{**SAVED, "max_steps": 16})
    with pytest.raises(ValueError, match=f"checkpoint-5/beam_state.pt: .*{name}"):
        resumed.train(resume_from_checkpoint=str(checkpoint))
    assert resumed.state.global_step == 5


def test_more_steps_are_no_other_setting(checkpoint: Path, tmp_path: Path) -> None:
    """The horizon is what it was."""
    longer = beam_trainer(tmp_path, **{**SAVED, "max_steps": 16})
    longer.train(resume_from_checkpoint=str(checkpoint))
    assert longer.state.global_step == 16


def test_a_finished_run_goes_on_for_more_epochs(tmp_path: Path) -> None:
    """16 steps an epoch, p = 1 from step 32 on. After step 12 too few steps remained in the first run; the operation after
    step 18 uses the snapshot of step 16, the last of the first run."""
    config = {"horizon_steps": None}
    first = {"num_train_epochs": 1, "max_steps": -1, "save_strategy": "steps", "save_steps": 16}
    beam_trainer(tmp_path, config=config, **first).train()
    assert [record["step"] for record in read_log(tmp_path)] == [6]
    longer = beam_trainer(tmp_path, config=config, max_steps=-1, num_train_epochs=3)
    longer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-16"))
    records = read_log(tmp_path)
    assert [record["step"] for record in records] == [6, 18, 24, 30, 36, 42]
    assert sum(module["K"] for module in records[1]["modules"]) > 0


def test_scores_without_operations_resume_with_their_temperature(tmp_path: Path) -> None:
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    beam_trainer(tmp_path, config={"operations": False}, **settings).train()
    resumed = beam_trainer(tmp_path, config={"operations": False, "gate_temperature": 0.2}, **settings)
    with pytest.raises(ValueError, match="gate_temperature: found 0.2, expected 0.05"):
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "list"])
def test_a_torn_state_is_named(checkpoint: Path, tmp_path: Path, damage: str) -> None:
    path = checkpoint / "beam_state.pt"
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "text": b"not a zip", "list": b""}[damage])
    if damage == "list":
        torch.save([1], path)
    with pytest.raises(ValueError, match="checkpoint-5/beam_state.pt: found a (torn or foreign file|list), expected BeamLoRA"):
        beam_trainer(tmp_path, **SAVED).train(resume_from_checkpoint=str(checkpoint))


class Trial(dict):
    """A trial of a hyperparameter search, as the Trainer knows optuna's."""

    def __init__(self, number: int, **parameters: Any) -> None:
        super().__init__(parameters)
        self.number, self.params = number, parameters


def search(folder: Path, monkeypatch: pytest.MonkeyPatch, callback: BeamLoraCallback, **arguments: Any) -> Trainer:
    """A Trainer amid ``hyperparameter_search``, without the search's own package."""
    from transformers.trainer_utils import HPSearchBackend

    monkeypatch.setattr("transformers.integrations.hp_params", dict)
    trainer = Trainer(
        model_init=lambda: beam_model(),
        args=training_arguments(folder, save_strategy="steps", save_steps=5, max_steps=12, **arguments),
        train_dataset=TokenData(),
        callbacks=[callback],
    )
    trainer.hp_search_backend, trainer.hp_space = HPSearchBackend.OPTUNA, dict
    return trainer


def test_the_trials_of_a_hyperparameter_search_write_where_the_trainer_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = search(tmp_path, monkeypatch, BeamLoraCallback())
    for number, rate in ((0, 1e-2), (3, 2e-2)):
        trainer.train(trial=Trial(number, learning_rate=rate))
    written = {str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob("beam_state.pt")}
    assert written == {str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob("trainer_state.json")}
    assert written == {f"run-{number}/checkpoint-{step}" for number in (0, 3) for step in (5, 10, 12)}
    logs = [read_log(tmp_path / f"run-{number}") for number in (0, 3)]
    assert [[record["step"] for record in log] for log in logs] == [[6], [6]] and logs[0] != logs[1]
    assert not (tmp_path / "operations.jsonl").exists(), "a trial must not write over another's log"


def test_a_named_trial_has_its_log_from_the_first_operation_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = search(tmp_path, monkeypatch, BeamLoraCallback(save_with_checkpoints=False))
    trainer.hp_name = lambda trial: f"rate-{trial.number}"
    trainer.train(trial=Trial(7, learning_rate=1e-2))
    assert [record["step"] for record in read_log(tmp_path / "rate-7")] == [6]


def test_a_trainer_that_saves_elsewhere_and_an_adapter_of_another_name(tmp_path: Path) -> None:
    class Elsewhere(Trainer):
        def _get_output_dir(self, trial: Any) -> str:
            return str(tmp_path / "elsewhere")

    trainer = Elsewhere(
        model=get_peft_model(tiny_llama(), beam_config(), adapter_name="mine"),
        args=training_arguments(tmp_path / "out", save_strategy="steps", save_steps=5, max_steps=12),
        train_dataset=TokenData(),
        callbacks=[BeamLoraCallback()],
    )
    trainer.train()
    assert (tmp_path / "elsewhere" / "checkpoint-5" / "beam_state.pt").is_file()
    assert (tmp_path / "elsewhere" / "checkpoint-5" / "mine" / "adapter_config.json").is_file()


def test_an_operation_never_uses_a_missing_or_stale_snapshot(checkpoint: Path, tmp_path: Path) -> None:
    forgetful = BeamLoraCallback(save_with_checkpoints=False)
    trainer = beam_trainer(tmp_path, callback=forgetful, **SAVED)
    with pytest.raises(RuntimeError, match="after step 6: found a snapshot of step None, expected one of step 4"):
        trainer.train(resume_from_checkpoint=str(checkpoint))
    forgetful.load_state_dict({"snapshot": None})
    with pytest.raises(ValueError, match="records"):
        trainer.train(resume_from_checkpoint=str(checkpoint))


def test_a_callback_used_twice_starts_afresh(tmp_path: Path) -> None:
    callback = BeamLoraCallback()
    settings = {"config": {"max_prune_fraction": 1.0, "p_init": 0.5}, "max_steps": 18}
    beam_trainer(tmp_path / "one", callback=callback, seed=3, **settings).train()
    first = read_log(tmp_path / "one")
    beam_trainer(tmp_path / "two", callback=callback, seed=4, **settings).train()
    assert [record["step"] for record in callback.records] == [6, 12]
    assert read_log(tmp_path / "one") == first != read_log(tmp_path / "two") == callback.records
    alone = beam_trainer(tmp_path / "three", seed=4, **settings)
    alone.train()
    assert read_log(tmp_path / "three") == read_log(tmp_path / "two"), "the second Trainer's seed draws"


# ---- seeds


def test_same_seed_same_result_and_the_seed_draws_the_pairing(tmp_path: Path) -> None:
    def run(**arguments: Any) -> tuple[dict[str, torch.Tensor], list]:
        callback = BeamLoraCallback(**arguments)
        config = {"max_prune_fraction": 1.0, "p_init": 0.5}
        trainer = beam_trainer(tmp_path, callback=callback, config=config, max_steps=12)
        trainer.train()
        return adapter_tensors(trainer.model), [m["sources"] for m in callback.records[0]["modules"]]

    (one, pairing), (two, _), (_, other) = run(), run(), run(seed=99)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert other != pairing and [sorted(s) for s in other] == [sorted(s) for s in pairing]


# ---- refusals


def test_too_short_a_run_is_refused_before_training(tmp_path: Path) -> None:
    trainer = beam_trainer(tmp_path, max_steps=11)
    with pytest.raises(ValueError, match="delta_t: found 6 in a run of 11 optimizer steps"):
        trainer.train()
    assert trainer.state.global_step == 0
    beam_trainer(tmp_path, max_steps=11, config={"operations": False}).train()


def test_a_model_without_the_adapter_is_refused(tmp_path: Path) -> None:
    model = get_peft_model(tiny_llama(), LoraConfig(r=4, target_modules=["q_proj"]))
    trainer = Trainer(model=model, args=training_arguments(tmp_path), train_dataset=TokenData(), callbacks=[BeamLoraCallback()])
    with pytest.raises(TypeError, match="found trainable BeamLoRA adapters \\[\\]"):
        trainer.train()


def test_an_optimizer_without_adams_moments_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"found the optimizer torch\.optim\.sgd\.SGD, expected torch.optim.AdamW"):
        beam_trainer(tmp_path, optim="sgd").train()


def test_sharded_or_flattened_parameters_are_refused() -> None:
    model = beam_model()
    parameters = [p for p in model.parameters() if p.requires_grad]
    AdapterTensors.of(model, torch.optim.AdamW(parameters), adapter="default").check_optimizer(masked=False)
    flat = nn.Parameter(torch.cat([p.detach().flatten() for p in parameters]))
    with pytest.raises(ValueError, match="lora_A|q_proj.A.*FSDP, ZeRO"):
        AdapterTensors.of(model, torch.optim.AdamW([flat]), adapter="default").check_optimizer(masked=False)


def test_wrappers_of_model_and_optimizer_are_taken_off() -> None:
    model = beam_model()
    compiled = torch.compile(model, backend="eager")  # the same wrapper, without the import of a compiler
    assert unwrap(nn.DataParallel(model)) is model and unwrap(compiled) is model
    assert trainable_adapter(nn.DataParallel(model))[0] == "default"

    class Wrapper(torch.optim.Optimizer):
        def __init__(self, optimizer: torch.optim.Optimizer) -> None:
            self.optimizer = optimizer

    adam = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    assert AdapterTensors.of(model, Wrapper(adam), adapter="default").optimizer is adam


# ---- other trainers

SHARED_ARGUMENTS = (
    "output_dir",
    "max_steps",
    "per_device_train_batch_size",
    "learning_rate",
    "logging_steps",
    "save_strategy",
    "report_to",
    "disable_tqdm",
    "seed",
    "optim",
)


def test_trl_sft_trainer(tmp_path: Path) -> None:
    """TRL's SFTTrainer on text, with the config or with a ready model."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    words = ["<pad>", "<eos>", "<unk>", *(f"w{i}" for i in range(50))]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
    data = Dataset.from_dict({"text": [f"w{i} w{i + 1} w{i + 2} w{i}" for i in range(48)]})
    arguments = {key: value for key, value in training_arguments(tmp_path).to_dict().items() if key in SHARED_ARGUMENTS}
    for model, config in ((tiny_llama(), beam_config()), (beam_model(), None)):
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(**arguments, max_length=16, use_cpu=True),
            train_dataset=data,
            processing_class=tokenizer,
            peft_config=config,
            callbacks=[BeamLoraCallback()],
        )
        trainer.train()
        assert [record["step"] for record in read_log(tmp_path)] == [6, 12, 18]
        assert all(m.lora_gate["default"].weight.abs().sum() > 0 for _, m in beam_modules(trainer.model, "default"))
        (tmp_path / "operations.jsonl").unlink()


def test_trl_dpo_trainer_starts_at_ln_2(tmp_path: Path) -> None:
    """The reference is a copy of the trained adapter, scores included: policy and reference agree until the first step."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    trained = get_peft_model(llama(), beam_config(delta_t=4))
    randomize(trained)
    trained.save_pretrained(tmp_path)
    arguments = {key: value for key, value in training_arguments(tmp_path).to_dict().items() if key in SHARED_ARGUMENTS}
    trainer = DPOTrainer(
        model=PeftModel.from_pretrained(llama(), tmp_path, is_trainable=True),
        args=DPOConfig(**(arguments | {"max_steps": 8}), max_length=32, use_cpu=True, bf16=False),
        train_dataset=Dataset.from_dict({"prompt": ["ab", "cd"] * 8, "chosen": ["xy", "zz"] * 8, "rejected": ["qq", "rr"] * 8}),
        processing_class=byte_tokenizer(),
        callbacks=[BeamLoraCallback()],
    )
    for _, module in beam_modules(trainer.model, "ref"):
        assert module.lora_gate["default"].weight.any()
        assert torch.equal(module.lora_gate["ref"].weight, module.lora_gate["default"].weight)
    trainer.train()
    first = next(float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry)
    assert first == pytest.approx(math.log(2), abs=1e-6)


WORKER = """
import sys, torch
import torch.distributed as dist
from pathlib import Path
from beamlora import BeamLoraCallback
from beamlora.adapter_state import check_replicas
from tests.beamlora.beam_fixtures import adapter_tensors, beam_trainer

folder = Path(sys.argv[1])
callback = BeamLoraCallback()
trainer = beam_trainer(folder, callback=callback, per_device_train_batch_size=2, ddp_backend="gloo")
trainer.train()
torch.save(adapter_tensors(trainer.model), folder / f"rank{dist.get_rank()}.pt")
if dist.get_rank() == 1:
    next(iter(callback.beam.adapter.values()))["A"].add_(1.0)
try:
    check_replicas(callback.beam.adapter, step=24)
except RuntimeError as error:
    (folder / f"error{dist.get_rank()}.txt").write_text(str(error))
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_data_parallel_replicas_are_identical_and_equal_one_process(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path)],
            cwd=ROOT,
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
        )
        for rank in range(2)
    ]
    assert [process.wait(timeout=200) for process in processes] == [0, 0]
    one, two = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert "differs between processes" in (tmp_path / "error0.txt").read_text()
    assert len(read_log(tmp_path)) == 3
    # The same micro-batches one after the other; the sum of two gradients has no order: equal to the bit.
    alone = beam_trainer(tmp_path / "alone", per_device_train_batch_size=2, gradient_accumulation_steps=2)
    alone.train()
    for name, value in adapter_tensors(alone.model).items():
        assert torch.equal(one[name.removeprefix("module.")], value), name
