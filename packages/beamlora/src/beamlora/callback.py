"""``BeamLoraCallback``: ``BeamLora`` as a callback of a transformers ``Trainer`` (TRL's included)."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from beamlora.adapter_state import trainable_adapter
from beamlora.beam import BeamLora
from beamlora.schedule import Schedule

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from beamlora.config import BeamLoraConfig

STATE_FILE = "beam_state.pt"
LOG_FILE = "operations.jsonl"


class BeamLoraCallback(TrainerCallback):
    """Calls ``BeamLora.step`` after each optimizer step, logs each operation, and makes Trainer checkpoints resume exactly.

    All settings come from the adapter's own ``BeamLoraConfig``. A callback may be used by several Trainers, one after the
    other.

    Args:
        steps_per_epoch: optimizer steps; None derives it from the Trainer's data loader.
        seed: of the random pairings; None takes ``TrainingArguments.seed``.
        log_dir: where ``operations.jsonl`` is written; None takes ``TrainingArguments.output_dir``, and in a
            hyperparameter search the trial's own folder there, from its first checkpoint on.
        save_with_checkpoints: write ``beam_state.pt`` into every Trainer checkpoint and read it on resume. False where
            the caller keeps ``state_dict`` itself.

    Each line of ``operations.jsonl`` is one operation: the plan (step, p, and per module K, the pruned ranks and their
    sources), and ``loss_before`` / ``loss_after``: the mean training losses that the Trainer logged last before the
    operation and first after it, leaving out a logging window that contains the operation; null until such a window is
    complete.
    """

    def __init__(
        self,
        *,
        steps_per_epoch: int | None = None,
        seed: int | None = None,
        log_dir: str | Path | None = None,
        save_with_checkpoints: bool = True,
    ) -> None:
        self.steps_per_epoch = steps_per_epoch
        self.seed = seed
        self.log_dir = None if log_dir is None else Path(log_dir)
        self.save_with_checkpoints = save_with_checkpoints
        #: What takes the steps; None before training.
        self.beam: BeamLora | None = None
        #: State to be resumed from, until training begins.
        self._resumed: Mapping[str, Any] | None = None
        self._log_folder: Path | None = None

    # ---- events

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Refuse what cannot work, before the first step.

        Raises:
            TypeError: no single trainable BeamLoRA adapter, or an optimizer without Adam's moments.
            ValueError: no operation fits into the run, the optimizer's state is sharded, or ``beam_state.pt`` is torn,
                belongs to another checkpoint or was written under other settings.
            FileNotFoundError: a resumed checkpoint lacks ``beam_state.pt``.
        """
        _, config = trainable_adapter(kwargs["model"])
        steps_per_epoch = self.steps_per_epoch or _steps_per_epoch(args, kwargs.get("train_dataloader"))
        # Refuses data without a length where epochs matter: a Trainer has epochs, whether it can count them or not.
        Schedule.for_run(config.beam_settings, total_steps=state.max_steps, steps_per_epoch=steps_per_epoch)
        beam = BeamLora(
            kwargs["model"],
            kwargs["optimizer"],
            total_steps=state.max_steps,
            steps_per_epoch=steps_per_epoch,
            seed=args.seed if self.seed is None else self.seed,
        )
        self._log_folder = self.log_dir or _run_folder(args, state)
        if state.global_step > 0:
            if self.save_with_checkpoints:
                _load_from_checkpoint(beam, args, state)
            elif self._resumed is not None:
                beam.load_state_dict(self._resumed)
        self.beam, self._resumed = beam, None

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Snapshot or operate."""
        beam = self._running()
        beam.steps = state.global_step - 1  # the Trainer's count holds, also where it jumps
        if beam.step() is not None:
            self._write_log(state)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Complete the losses in the log."""
        if any(record.get("loss_after") is None for record in self.records):
            self._write_log(state)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Put ``beam_state.pt`` beside the Trainer's own files."""
        if not (self.save_with_checkpoints and args.should_save):
            return
        _, config = trainable_adapter(kwargs["model"])
        folder = _written_checkpoint(config, args, state)
        path = folder / STATE_FILE
        torch.save(self.state_dict(), path.with_suffix(".tmp"))
        os.replace(path.with_suffix(".tmp"), path)
        if self._log_folder is None:
            self._log_folder = folder.parent
            self._write_log(state)

    def _running(self) -> BeamLora:
        """What ``on_train_begin`` made.

        Raises:
            RuntimeError: training has not begun.
        """
        if self.beam is None:
            raise RuntimeError("BeamLoraCallback: found an event before on_train_begin, expected it first")
        return self.beam

    # ---- state

    @property
    def records(self) -> list[dict[str, Any]]:
        """What operations.jsonl holds."""
        if self._resumed is not None:
            return json.loads(self._resumed["records"])
        return [] if self.beam is None else self.beam.records

    def state_dict(self) -> dict[str, Any]:
        """``BeamLora.state_dict``; before training begins, what was loaded."""
        if self._resumed is not None:
            return dict(self._resumed)
        return self._running().state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Keep what ``state_dict`` returned until the resumed training begins, which checks and restores it."""
        self._resumed = state

    def _write_log(self, state: TrainerState) -> None:
        for record in self.records:
            record["loss_before"], record["loss_after"] = losses_around(state.log_history, step=record["step"])
        if not state.is_world_process_zero or self._log_folder is None:
            return
        self._log_folder.mkdir(parents=True, exist_ok=True)
        path = self._log_folder / LOG_FILE
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(record) + "\n" for record in self.records))
        os.replace(temporary, path)


def losses_around(log_history: list[dict[str, Any]], *, step: int) -> tuple[float | None, float | None]:
    """The mean losses of the last logging window that ends at or before ``step`` and of the first that begins there or
    later. An entry of the Trainer's history covers the steps since the entry before it; an entry after ``step`` that
    also covers steps before it belongs to neither side."""
    before = after = None
    start = 0
    for entry in log_history:
        if "loss" not in entry:
            continue
        if entry["step"] <= step:
            before = entry["loss"]
        elif start >= step:
            after = entry["loss"]
            break
        start = entry["step"]
    return before, after


def _load_from_checkpoint(beam: BeamLora, args: TrainingArguments, state: TrainerState) -> None:
    """Read ``beam_state.pt`` of the checkpoint that is resumed."""
    folder = Path(args.output_dir) / _checkpoint_name(state)
    if args.resume_from_checkpoint and Path(args.resume_from_checkpoint).is_dir():
        folder = Path(args.resume_from_checkpoint)
    path = folder / STATE_FILE
    elsewhere = "a checkpoint elsewhere is named by TrainingArguments.resume_from_checkpoint"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: found no such file, expected BeamLoRA's state of the resumed step {state.global_step}; {elsewhere}, "
            "and one saved without BeamLoraCallback cannot be resumed exactly"
        )
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, LookupError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path}: found a torn or foreign file, expected BeamLoRA's state ({error})") from None
    if not isinstance(contents, dict):
        raise ValueError(f"{path}: found a {type(contents).__name__}, expected BeamLoRA's state")
    try:
        beam.load_state_dict(contents)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; {elsewhere}") from None


def _checkpoint_name(state: TrainerState) -> str:
    return f"checkpoint-{state.global_step}"


def _run_folder(args: TrainingArguments, state: TrainerState) -> Path | None:
    """Where the Trainer writes its checkpoints, if that is known before the first: a trial of a hyperparameter search has
    a folder of its own, whose name the Trainer tells only if the user gave one."""
    if not state.is_hyper_param_search:
        return Path(args.output_dir)
    return None if state.trial_name is None else Path(args.output_dir) / state.trial_name


def _written_checkpoint(config: BeamLoraConfig, args: TrainingArguments, state: TrainerState) -> Path:
    """The checkpoint that the Trainer has just written: where it wrote the adapter's configuration, or in a folder above it
    for an adapter of another name than ``default``."""
    name = _checkpoint_name(state)
    saved_to = config.saved_to or Path()
    return next((folder for folder in (saved_to, *saved_to.parents) if folder.name == name), Path(args.output_dir) / name)


def _steps_per_epoch(args: TrainingArguments, dataloader: Any) -> int | None:
    """Optimizer steps per epoch, as the Trainer counts them; None for data without a length."""
    try:
        batches = len(dataloader)
    except TypeError:
        return None
    return max(-(-batches // args.gradient_accumulation_steps), 1)
