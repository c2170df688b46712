"""``BeamLoraCallback``: BeamLoRA's snapshots and operations between the steps of a transformers ``Trainer`` (TRL's
included)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from methods.beamlora.adapter_state import AdapterTensors, check_replicas, trainable_adapter
from methods.beamlora.operation import SNAPSHOT_KEYS, OperationPlan, apply_plan, make_plan, private_permutations
from methods.beamlora.schedule import Schedule

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

STATE_FILE = "beam_state.pt"
LOG_FILE = "operations.jsonl"


class BeamLoraCallback(TrainerCallback):
    """Takes the half-interval snapshots, prunes and expands, logs each operation, and makes Trainer checkpoints resume
    exactly.

    All settings come from the adapter's own ``BeamLoraConfig``.

    Args:
        steps_per_epoch: optimizer steps; None derives it from the Trainer's data loader.
        seed: of the random pairings; None takes ``TrainingArguments.seed``.
        log_dir: where ``operations.jsonl`` is written; None takes ``TrainingArguments.output_dir``.
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
        #: What operations.jsonl holds.
        self.records: list[dict[str, Any]] = []
        self._snapshot: dict[str, dict[str, torch.Tensor]] | None = None
        self._snapshot_step: int | None = None
        self._schedule: Schedule | None = None
        self._adapter: AdapterTensors | None = None

    # ---- events

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Refuse what cannot work, before the first step.

        Raises:
            TypeError: no single trainable BeamLoRA adapter, or an optimizer without Adam's moments.
            ValueError: no operation fits into the run, the optimizer's state is sharded, or ``beam_state.pt`` belongs
                to another checkpoint.
            FileNotFoundError: a resumed checkpoint lacks ``beam_state.pt``.
        """
        name, config = trainable_adapter(kwargs["model"])
        if self.seed is None:
            self.seed = args.seed
        if self.log_dir is None:
            self.log_dir = Path(args.output_dir)
        if state.global_step == 0:
            self.records, self._snapshot, self._snapshot_step = [], None, None
        self._schedule = Schedule.for_run(
            config.beam_settings,
            total_steps=state.max_steps,
            steps_per_epoch=self.steps_per_epoch or _steps_per_epoch(args, kwargs.get("train_dataloader")),
        )
        self._schedule.check()
        self._adapter = AdapterTensors.of(kwargs["model"], kwargs["optimizer"], adapter=name)
        if not self._schedule.settings.operations:
            return
        self._adapter.check_optimizer()
        if state.global_step > 0 and self.save_with_checkpoints:
            self._load_from_checkpoint(args, state)

    def on_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Take the snapshot. The Trainer calls this after the update and before it counts the step."""
        step = state.global_step + 1
        schedule, adapter = self._running()
        if schedule.is_snapshot_step(step):
            self._snapshot = {
                name: {key: value.detach().to("cpu", copy=True) for key, value in tensors.items() if key in SNAPSHOT_KEYS}
                for name, tensors in adapter.items()
            }
            self._snapshot_step = step

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Operate."""
        if self._running()[0].is_operation_step(state.global_step):
            plan = self._operate(state.global_step)
            self.records.append({**plan.to_json(), "loss_before": None, "loss_after": None})
            self._write_log(state)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Complete the losses in the log."""
        if any(record["loss_after"] is None for record in self.records):
            self._write_log(state)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Put ``beam_state.pt`` beside the Trainer's own files."""
        if not self.save_with_checkpoints:
            return
        schedule, adapter = self._running()
        if schedule.settings.operations and state.is_world_process_zero:
            path = _checkpoint_folder(args, state) / STATE_FILE
            contents = {"gates": adapter.gate_digest(), "callback": self.state_dict()}
            torch.save(contents, path.with_suffix(".tmp"))
            os.replace(path.with_suffix(".tmp"), path)

    def _running(self) -> tuple[Schedule, AdapterTensors]:
        """What ``on_train_begin`` made.

        Raises:
            RuntimeError: training has not begun.
        """
        if self._schedule is None or self._adapter is None:
            raise RuntimeError("BeamLoraCallback: found an event before on_train_begin, expected it first")
        return self._schedule, self._adapter

    # ---- state

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside model and optimizer; ``torch.load(weights_only=True)`` reads it. A snapshot
        that no operation will use is left out."""
        needed = self._snapshot is not None and self._snapshot_is_needed()
        return {
            "snapshot": self._snapshot if needed else None,
            "snapshot_step": self._snapshot_step if needed else None,
            "records": json.dumps(self.records),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned.

        Raises:
            ValueError: ``state`` lacks a part.
        """
        missing = {"snapshot", "snapshot_step", "records"} - state.keys()
        if missing:
            raise ValueError(f"BeamLoRA state: found {sorted(state)}, expected also {sorted(missing)}")
        self._snapshot = state["snapshot"]
        self._snapshot_step = state["snapshot_step"]
        self.records = json.loads(state["records"])

    def _snapshot_is_needed(self) -> bool:
        """Whether an operation that prunes will read the present snapshot; True before the schedule is known."""
        schedule = self._schedule
        return schedule is None or any(schedule.snapshot_step(t) == self._snapshot_step for t in schedule.pruning_steps())

    def _load_from_checkpoint(self, args: TrainingArguments, state: TrainerState) -> None:
        folder = _checkpoint_folder(args, state)
        if args.resume_from_checkpoint and Path(args.resume_from_checkpoint).is_dir():
            folder = Path(args.resume_from_checkpoint)
        path = folder / STATE_FILE
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: found no such file, expected BeamLoRA's state of the resumed step {state.global_step}; a "
                "checkpoint elsewhere is named by TrainingArguments.resume_from_checkpoint, and one saved without "
                "BeamLoraCallback cannot be resumed exactly"
            )
        contents = torch.load(path, map_location="cpu", weights_only=True)
        if contents["gates"] != self._running()[1].gate_digest():
            raise ValueError(
                f"{path}: found the state of other weights than those that were loaded, expected that of the "
                "resumed checkpoint; one in another folder is named by TrainingArguments.resume_from_checkpoint"
            )
        self.load_state_dict(contents["callback"])

    # ---- operation

    @torch.no_grad()
    def _operate(self, step: int) -> OperationPlan:
        schedule, adapter = self._running()
        assert self.seed is not None  # since training began
        settings = schedule.settings
        scores = adapter.scores()
        plan = make_plan(
            scores,
            step=step,
            p=schedule.threshold(step),
            settings=settings,
            permutations=private_permutations(seed=self.seed, step=step),
        )
        history = self._history(step) if any(m.pruned for m in plan.modules) else {}
        for module in plan.modules:
            current = adapter[module.name]
            after = apply_plan(current, history.get(module.name), module, settings=settings)
            for key, value in after.items():
                current[key].copy_(value)
        self._snapshot = self._snapshot_step = None
        check_replicas(adapter, step=step)
        return plan

    def _history(self, step: int) -> dict[str, dict[str, torch.Tensor]]:
        """The snapshot for the operation after ``step``; empty where the settings need none."""
        schedule, _ = self._running()
        settings = schedule.settings
        if not settings.expansion or settings.source == "current":
            return {}
        expected = schedule.snapshot_step(step)
        if self._snapshot is None or self._snapshot_step != expected:
            raise RuntimeError(
                f"operation after step {step}: found a snapshot of step {self._snapshot_step}, expected one of step "
                f"{expected}; was the run resumed without BeamLoRA's state?"
            )
        return self._snapshot

    def _write_log(self, state: TrainerState) -> None:
        for record in self.records:
            record["loss_before"], record["loss_after"] = losses_around(state.log_history, step=record["step"])
        if not state.is_world_process_zero:
            return
        assert self.log_dir is not None  # since training began
        self.log_dir.mkdir(parents=True, exist_ok=True)
        path = self.log_dir / LOG_FILE
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


def _checkpoint_folder(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


def _steps_per_epoch(args: TrainingArguments, dataloader: Any) -> int | None:
    """Optimizer steps per epoch, as the Trainer counts them; None for data without a length."""
    try:
        batches = len(dataloader)
    except TypeError:
        return None
    return max(-(-batches // args.gradient_accumulation_steps), 1)
