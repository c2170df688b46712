"""Train one run: ``python -m harness.train --configfile config/tiny.yaml --run math/llama-tiny/beamlora/seed0 ...``

Writes ``adapter/`` (the artefact) and ``train.json`` (the record) below the output folder. Interrupted, the same command goes
on from the newest complete checkpoint, bit for bit as if nothing had happened.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import methods
from harness import files
from harness.errors import ConfigError, Preempted
from harness.records import importance
from harness.schema.experiment import Experiment
from harness.schema.run import RunSpec
from harness.threads import limit_threads
from harness.train import reporting

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from harness.data.tokens import TokenizedSet
    from harness.train.trainer import MethodTrainer, StopWhenDiverged
    from methods.base import Method


@dataclass(frozen=True, kw_only=True)
class Folders:
    """Where one run reads and writes."""

    output: Path
    scratch: Path
    models: Path
    cache: Path


def train(spec: RunSpec, experiment: Experiment, folders: Folders) -> dict[str, Any]:
    """Train one run to its end and write its artefact and record. Under torchrun every process calls it.

    Returns:
        The record, as written to train.json.

    Raises:
        ConfigError: the model, the data or a setting is wrong.
        methods.base.MechanismError: the method did not do what its settings ask for.
        Preempted: SIGTERM came; a checkpoint is saved.
        OutOfMemory: on one of several processes; the next start computes micro-batches in smaller parts.
    """
    import torch

    from harness.provenance import git_state
    from harness.train.record import training_record
    from harness.train.shards import whole_model

    limit_threads()
    reporting.check(experiment.report_to)
    if "tensorboard" in experiment.report_to:  # else the Trainer puts it beside the checkpoints, which go
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(folders.output / "tensorboard")
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    git = git_state(Path(__file__).parent)  # of the code that is running, not of what the checkout holds at the end
    base = load_inputs(spec, experiment, folders)
    trainer, stop = make_trainer(spec, base, folders, report_to=experiment.report_to)
    _refuse_other_sharding(trainer, spec)
    _fit(trainer, folders.scratch)
    diverged = stop.reason is not None
    record = training_record(
        spec,
        trainer,
        base.dataset,
        status="diverged" if diverged else "success",
        reason=stop.reason,
        base={"parameters": base.parameters, "hash": base.hash},
        git=git,
        evidence={} if diverged else trainer.method.evidence(trainer.model),
    )
    record["rank_importance"] = _importance_record(trainer)
    model = whole_model(trainer.model)
    if trainer.is_world_process_zero():
        _write_results(record, trainer, model, base.tokenizer, folders)
    return record


@dataclass(frozen=True, kw_only=True)
class Base:
    """What every method starts from."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    dataset: TokenizedSet
    parameters: int
    hash: str


def load_inputs(spec: RunSpec, experiment: Experiment, folders: Folders, *, on_host: bool = False) -> Base:
    """The base model on its device, or ``on_host``, and the tokenised data."""
    import torch
    from transformers import set_seed

    from harness.data.tokens import note_lengths, training_set
    from harness.models.load import base_model_hash, load_base
    from harness.train import attention

    attention.register()
    set_seed(spec.seed)
    model, tokenizer = load_base(
        spec.model_key,
        spec.model,
        models_dir=folders.models,
        dtype=getattr(torch, spec.training.dtype),
        attn_implementation=spec.training.attn_implementation,
        on_host=on_host,
    )
    dataset = training_set(spec.data, tokenizer, data_dir=experiment.data_dir, cache_dir=folders.cache)
    note_lengths(dataset, spec.data, spec.model, cache_dir=folders.cache)
    return Base(
        model=model,
        tokenizer=tokenizer,
        dataset=dataset,
        parameters=model.num_parameters(),
        hash=base_model_hash(spec.model_key, spec.model, models_dir=folders.models),
    )


def _wrap(spec: RunSpec, base: Base, folders: Folders, *, world_size: int) -> tuple[Method[Any], torch.nn.Module, int]:
    """The method, the model it prepared, and the number of optimizer steps."""
    from transformers import set_seed

    from harness.train.steps import context, step_counts

    method = methods.of(spec.method)
    folders.scratch.mkdir(parents=True, exist_ok=True)
    set_seed(spec.seed)  # the same initial adapter, however many random numbers loading took
    try:
        total_steps, steps_per_epoch = step_counts(spec.training, examples=len(base.dataset), world_size=world_size)
        known = context(
            spec,
            total_steps=total_steps,
            steps_per_epoch=steps_per_epoch,
            world_size=world_size,
            cache_dir=folders.cache,
            base_model_hash=base.hash,
            log_dir=folders.scratch if int(os.environ.get("RANK", "0")) == 0 else None,
        )
        model = method.wrap(base.model, known)
    except ValueError as error:
        raise ConfigError(f"methods.{spec.method.key}: {error}") from error
    if spec.training.bf16_update == "float32":
        from harness.train.optimizer import train_in_float32

        train_in_float32(model)
    if spec.training.fused:
        from beamlora import fused

        fused.install(model)
    return method, model, total_steps


def make_trainer(
    spec: RunSpec, base: Base, folders: Folders, *, report_to: Sequence[str] = ()
) -> tuple[MethodTrainer, StopWhenDiverged]:
    """The Trainer of this run, and the callback that knows whether it diverged.

    Args:
        report_to: ``Experiment.report_to``.
    """
    from transformers import PrinterCallback

    from harness.data.batches import PackedCollator, PaddedCollator
    from harness.train.trainer import CompleteCheckpoints, MethodTrainer, PrintProgress, StopWhenDiverged, training_arguments

    training = spec.training
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    method, model, total_steps = _wrap(spec, base, folders, world_size=world_size)
    collator: Any = PaddedCollator(pad_token_id=base.tokenizer.pad_token_id)
    if training.packing:
        collator = PackedCollator(attn_implementation=training.attn_implementation)
    stop = StopWhenDiverged(training.divergence_factor)
    trainer = MethodTrainer(
        method=method,
        spec=training,
        model=model,
        train_dataset=base.dataset,
        data_collator=collator,
        args=training_arguments(
            training,
            total_steps=total_steps,
            world_size=world_size,
            output_dir=folders.scratch,
            seed=spec.seed,
            sharded=method.sharded and world_size > 1,
            report_to=report_to,
            run_name=f"{spec.experiment}/{spec.run_id}",
        ),
        callbacks=[*method.callbacks(), stop, PrintProgress(f"train {spec.run_id}"), CompleteCheckpoints()],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer, stop


def _refuse_other_sharding(trainer: MethodTrainer, spec: RunSpec) -> None:
    """What accelerate's own environment variables ask for is not what ``gpus`` stands for."""
    by_us = trainer.method.sharded and trainer.args.world_size > 1
    if trainer.is_deepspeed_enabled or (trainer.is_fsdp_enabled and not by_us):
        raise ConfigError(
            f"methods.{spec.method.key}: found sharded parameters (FSDP or DeepSpeed by accelerate's variables), expected "
            "whole ones: say gpus in the experiment, or start with torchrun"
        )


def _fit(trainer: MethodTrainer, scratch: Path) -> None:
    from harness.train.checkpoints import out_of_memory, take_latest
    from harness.train.preemption import SaveOnSigterm

    with trainer.args.main_process_first(local=False):  # which sets the others aside
        checkpoint = take_latest(scratch)
        trainer.out_of_memory = out_of_memory(scratch)
    if checkpoint is not None and trainer.is_world_process_zero():
        print(f"going on from {checkpoint}", flush=True)
    preemption = SaveOnSigterm()
    trainer.add_callback(preemption)
    with preemption.listening():
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if preemption.saved_at is not None:
        raise Preempted(f"ended by SIGTERM after step {preemption.saved_at}: a checkpoint is saved")


def _importance_record(trainer: MethodTrainer) -> dict[str, Any] | None:
    """What train.json says about the importance snapshots; None if the spec asks for none."""
    recorder = trainer.importance
    if recorder is None:
        return None
    reason = None if recorder.steps else f"{trainer.method.label}: its update is not a sum of ranks s_i b_i a_i"
    return {"every": recorder.every, "snapshots": len(recorder.steps), "reason": reason}


def _write_results(
    record: Mapping[str, Any],
    trainer: MethodTrainer,
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    folders: Folders,
) -> None:
    """The artefact, then the record, then away with the checkpoints."""
    from harness.provenance import file_sha256

    adapter = folders.output / "adapter"
    shutil.rmtree(adapter, ignore_errors=True)
    adapter.mkdir(parents=True)
    if record["status"] == "success":
        trainer.method.finalize(model, adapter)
        tokenizer.save_pretrained(adapter)
    log = folders.scratch / "operations.jsonl"
    if log.exists():
        shutil.copyfile(log, adapter / log.name)
    history = None if trainer.importance is None else trainer.importance.history()
    if history is not None:
        importance.write(adapter / importance.FILE, history)
    weights = sorted(adapter.rglob("*.safetensors"))
    artefact = {str(path.relative_to(adapter)): file_sha256(path) for path in weights}
    size = sum(path.stat().st_size for path in adapter.glob("*.safetensors"))  # without the copies in other forms below it
    train_info = {**record["train_info"], "file_size": size}
    files.write_json(folders.output / "train.json", {**record, "artefact": artefact, "train_info": train_info})
    # Renamed first: a kill must not leave a whole checkpoint beside a log of operations that is gone.
    done = folders.scratch.with_name(f"done-{folders.scratch.name}")
    shutil.rmtree(done, ignore_errors=True)
    folders.scratch.rename(done)
    shutil.rmtree(done)
