"""Train one run: ``python -m harness.train --configfile config/tiny.yaml --run math/llama-tiny/beamlora/seed0 ...``

Writes ``adapter/`` (the artefact) and ``train.json`` (the record) below the output folder. Interrupted, the same command goes
on from the newest complete checkpoint, bit for bit as if nothing had happened.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import methods
from harness.cli import CACHE, SCRATCH, add_config_arguments, add_models_argument, parse_config, run
from harness.config import ConfigError, Experiment, RunSpec
from harness.plan import load_run

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from harness.data import TokenizedSet
    from harness.trainer import MethodTrainer
    from methods.base import Method


@dataclass(frozen=True, kw_only=True)
class Folders:
    """Where one run reads and writes."""

    output: Path
    scratch: Path
    models: Path
    cache: Path


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically: a reader sees the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def train(spec: RunSpec, experiment: Experiment, folders: Folders) -> dict[str, Any]:
    """Train one run to its end and write its artefact and record.

    Returns:
        The record, as written to train.json.

    Raises:
        ConfigError: the model, the data or a setting is wrong.
        methods.base.MechanismError: the method did not do what its settings ask for.
    """
    import torch
    from transformers import set_seed

    from harness import attention, data
    from harness.models import base_model_hash, load_base
    from harness.provenance import git_state
    from harness.trainer import step_counts
    from methods.base import TrainingContext

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    attention.register()
    git = git_state(Path(__file__).parent)  # of the code that is running, not of what the checkout holds at the end
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    main = int(os.environ.get("RANK", "0")) == 0

    set_seed(spec.seed)
    model, tokenizer = load_base(
        spec.model_key, spec.model, models_dir=folders.models, dtype=getattr(torch, spec.training.dtype),
        attn_implementation=spec.training.attn_implementation,
    )
    base_hash = base_model_hash(spec.model_key, spec.model, models_dir=folders.models)
    dataset = data.training_set(spec.data, tokenizer, data_dir=experiment.data_dir, cache_dir=folders.cache)
    try:
        total_steps, steps_per_epoch = step_counts(spec.training, examples=len(dataset), world_size=world_size)
    except ValueError as error:
        raise ConfigError(f"training.{error}") from error

    named = methods.get(spec.method.name)
    method = named.cls(named.cls.Settings.model_validate(spec.method.settings))
    context = TrainingContext(
        total_steps=total_steps, steps_per_epoch=steps_per_epoch, seed=spec.seed,
        learning_rate=spec.training.learning_rate, weight_decay=spec.training.weight_decay,
        gradient_accumulation_steps=spec.training.per_process(world_size)[1], world_size=world_size,
        cache_dir=folders.cache, base_model_hash=base_hash, log_dir=folders.scratch if main else None,
    )
    if torch.cuda.is_available():
        model.to("cuda", non_blocking=True)
    base_parameters = model.num_parameters()
    set_seed(spec.seed)
    folders.scratch.mkdir(parents=True, exist_ok=True)
    try:
        model = method.wrap(model, context)
    except ValueError as error:
        raise ConfigError(f"methods.{spec.method.key}: {error}") from error
    trainer, stop = _trainer(spec, method, model, tokenizer, dataset, total_steps=total_steps, world_size=world_size,
                             folders=folders)
    _refuse_sharding(trainer, method, spec)
    _fit(trainer, folders.scratch, print_refused=main)
    record = _record(
        spec, trainer, method, dataset, status="success" if stop.reason is None else "diverged", reason=stop.reason,
        base={"parameters": base_parameters, "hash": base_hash}, git=git,
    )
    if trainer.is_world_process_zero():
        _write_results(record, method, model, tokenizer, folders)
    return record


def _trainer(
    spec: RunSpec, method: Method, model: Any, tokenizer: PreTrainedTokenizerBase, dataset: TokenizedSet,
    *, total_steps: int, world_size: int, folders: Folders,
) -> tuple[MethodTrainer, Any]:
    """The Trainer of this run and the callback that knows whether it diverged."""
    from transformers import PrinterCallback

    from harness import data
    from harness.trainer import CompleteCheckpoints, MethodTrainer, PrintProgress, StopWhenDiverged, training_arguments

    training = spec.training
    collator: Any = data.PaddedCollator(pad_token_id=tokenizer.pad_token_id)
    if training.packing:
        collator = data.PackedCollator(attn_implementation=training.attn_implementation)
    stop = StopWhenDiverged(training.divergence_factor)
    trainer = MethodTrainer(
        method=method, spec=training, model=model, train_dataset=dataset, data_collator=collator,
        args=training_arguments(training, total_steps=total_steps, world_size=world_size, output_dir=folders.scratch,
                                seed=spec.seed),
        callbacks=[*method.callbacks(), stop, PrintProgress(f"train {spec.run_id}"), CompleteCheckpoints()],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer, stop


def _refuse_sharding(trainer: MethodTrainer, method: Method, spec: RunSpec) -> None:
    if (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled) and not method.supports_sharded_optimizer:
        raise ConfigError(f"methods.{spec.method.key}: found a sharded optimizer (FSDP or DeepSpeed), expected whole optimizer "
                          "states: this method edits them; launch with torchrun instead")


def _fit(trainer: MethodTrainer, scratch: Path, *, print_refused: bool) -> None:
    from harness.checkpoints import latest_complete

    def report(text: str) -> None:
        if print_refused:
            print(text, flush=True)

    checkpoint = latest_complete(scratch, report=report)
    if checkpoint is not None:
        report(f"going on from {checkpoint}")
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))


def _write_results(
    record: Mapping[str, Any], method: Method, model: Any, tokenizer: PreTrainedTokenizerBase, folders: Folders
) -> None:
    """The artefact, then the record, then away with the checkpoints."""
    adapter = folders.output / "adapter"
    shutil.rmtree(adapter, ignore_errors=True)
    adapter.mkdir(parents=True)
    if record["status"] == "success":
        method.finalize(model, adapter)
        tokenizer.save_pretrained(adapter)
    log = folders.scratch / "operations.jsonl"
    if log.exists():
        shutil.copyfile(log, adapter / log.name)
    write_json(folders.output / "train.json",
               {**record, "artefact": _artefact(adapter), "train_info": {**record["train_info"], "file_size": _size(adapter)}})
    shutil.rmtree(folders.scratch)


def _artefact(adapter: Path) -> dict[str, str]:
    from harness.provenance import file_sha256

    return {str(path.relative_to(adapter)): file_sha256(path) for path in sorted(adapter.rglob("*.safetensors"))}


def _size(adapter: Path) -> int:
    return sum(path.stat().st_size for path in adapter.rglob("*.safetensors"))


def _record(
    spec: RunSpec, trainer: MethodTrainer, method: Method, dataset: TokenizedSet, *, status: str, reason: str | None,
    base: dict[str, Any], git: dict[str, Any],
) -> dict[str, Any]:
    from harness import record_blocks

    return record_blocks.training_record(spec, trainer, dataset, status=status, reason=reason, base=base, git=git,
                                         evidence=method.evidence(trainer.model) if status == "success" else {})


def main(arguments: list[str] | None = None) -> int:
    """The command line. Exit status 0 means train.json is written, also for a run recorded as diverged."""
    parser = argparse.ArgumentParser(prog="python -m harness.train", description=__doc__.split("\n")[0])
    add_config_arguments(parser)
    parser.add_argument("--run", required=True, metavar="ID", help="domain/model/method/seedN")
    parser.add_argument("--run-dir", type=Path, required=True, help="where adapter/ and train.json go")
    parser.add_argument("--scratch", type=Path, default=SCRATCH, metavar="DIR",
                        help="where checkpoints go, one folder per spec (default: %(default)s)")
    add_models_argument(parser)
    parser.add_argument("--cache-dir", type=Path, default=CACHE, metavar="DIR",
                        help="folder of tokenised data and decompositions (default: %(default)s)")
    parser.add_argument("--training-hash", help="refuse to train if the run's spec has another hash (set by the workflow)")
    args = parser.parse_args(arguments)
    configfiles, overrides = parse_config(args)
    experiment, spec = load_run(configfiles, overrides, args.run)
    if args.training_hash not in (None, spec.training_hash()):
        raise ConfigError(f"{configfiles[-1]}: changed while the workflow was running; repeat the command")
    folders = Folders(output=args.run_dir, scratch=args.scratch / spec.training_hash(), models=args.models_dir,
                      cache=args.cache_dir)
    train(spec, experiment, folders)
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
