"""The one training loop: transformers.Trainer with label-only logits, an explicit loss normalisation and exact checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.data_loader import DataLoaderShard  # type: ignore[import-untyped]
from accelerate.utils import (  # type: ignore[import-untyped]
    DistributedType,
    FullyShardedDataParallelPlugin,
    send_to_device,
)
from safetensors.torch import load_file, save_file
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from harness.data.batches import ShareOfBatches, is_empty
from harness.data.tokens import IGNORE_INDEX
from harness.errors import ConfigError, OutOfMemory
from harness.progress import Progress
from harness.records.importance import ImportanceHistory
from harness.schema.training import TrainingSpec
from harness.train import checkpoints
from harness.train.loss import hidden_states, label_loss, plain_head
from harness.train.optimizer import KahanAdamW
from harness.train.shards import as_sharded, sharded_optimizer_state, whole_optimizer_state, whole_tensors
from methods.base import Method
from methods.peft_support import private_seed

TENSORS_FILE = "trainable.safetensors"
STATE_FILE = "method_state.pt"
#: Gradient checkpointing among the Trainer's arguments: 5.17 knows the old name only, 5.23 warns at it.
_FIELDS = TrainingArguments.__dataclass_fields__
CHECKPOINTING = "activation_checkpointing" if "activation_checkpointing" in _FIELDS else "gradient_checkpointing"
#: For FSDP2. Whole gradients of all parameters are not kept from one micro-batch to the next.
_SHARDED: Mapping[str, Any] = {
    "fsdp": True,
    "fsdp_config": {"version": 2},
    "accelerator_config": {"gradient_accumulation_kwargs": {"sync_each_batch": True}},
}
#: What liger-kernel computes. The loss is ours (``harness.train.loss``), and its rotary embeddings change transformers' module.
LIGER: Mapping[str, bool] = {
    "rms_norm": True,
    "swiglu": True,
    "rope": False,
    "cross_entropy": False,
    "fused_linear_cross_entropy": False,
}


class MethodTrainer(Trainer):
    """Trains a model that ``Method.wrap`` prepared.

    The loss is computed here, not in the model, for three reasons: logits are made only where a label needs them; the
    normalisation is a setting (``TrainingSpec.loss_normalization``); and a method's regulariser counts once per optimizer
    step, whatever the accumulation and the number of processes.
    """

    #: Set by ``create_optimizer``; declared here, since the base class is not type-checked.
    optimizer: torch.optim.Optimizer | None
    #: Whether parameters are sharded over the processes.
    is_fsdp_enabled: bool

    def __init__(self, *, method: Method[Any], spec: TrainingSpec, **arguments: Any) -> None:
        self.method = method
        self.spec = spec
        #: Takes the snapshots of the ranks' importance; None where the spec asks for none.
        self.importance = None if spec.importance_every is None else RecordImportance(method, every=spec.importance_every)
        #: Processed so far on this process: input tokens, label tokens, and padding.
        self.tokens = {"input": 0, "label": 0, "padding": 0}
        #: Label tokens of the micro-batch that is computed in parts; None: the part is the whole.
        self.labels_in_all_parts: int | None = None
        #: Each time that memory ran out (``checkpoints.out_of_memory``).
        self.out_of_memory: list[dict[str, int]] = []
        #: Wall and CPU seconds of training in earlier, interrupted attempts, up to the checkpoint that is resumed.
        self.before = {"wall": 0.0, "cpu": 0.0}
        self.started = {"wall": time.monotonic(), "cpu": time.process_time()}
        super().__init__(**arguments)
        #: The output layer whose logits are never made; None where the model makes them. Sharded, its weight is whole from the
        #: forward pass to the end of the backward pass.
        self.head = plain_head(self.model) if spec.fused else None
        self.loss_is_scaled_for_ga = True
        self.model_accepts_loss_kwargs = True  # what transformers 5.17 asks instead
        if self.importance is not None:
            self.add_callback(self.importance)  # after the method's own, which may change the ranks at the same step

    def create_accelerator_and_postprocess(self) -> None:
        """With FSDP2 on the CPU too, for which accelerate lets go of its plugin without a word, and torch has it."""
        super().create_accelerator_and_postprocess()
        if self.args.fsdp and not self.is_fsdp_enabled:
            state = self.accelerator.state
            state.fsdp_plugin = FullyShardedDataParallelPlugin(**self.args.fsdp_plugin_args)
            state.distributed_type = DistributedType.FSDP
            self.is_fsdp_enabled = True

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW over the method's groups, or over all trainable parameters as one group."""
        if self.optimizer is None:
            parameters = [p for p in self.model.parameters() if p.requires_grad]
            groups = self.method.param_groups(self.model) or [{"params": parameters}]
            spec = self.spec
            compensated = spec.bf16_update == "kahan" and {p.dtype for p in parameters} == {torch.bfloat16}
            self.optimizer = (KahanAdamW if compensated else torch.optim.AdamW)(
                groups,
                lr=spec.learning_rate,
                betas=(spec.adam_beta1, spec.adam_beta2),
                eps=spec.adam_epsilon,
                weight_decay=spec.weight_decay,
            )
        return self.optimizer

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], torch.Tensor]:
        """The micro-batches of one optimizer step, and how many label tokens they hold on all processes together. None once the
        last step is done: resumed from its checkpoint in the middle of an epoch, the Trainer would take another one."""
        if self.state.global_step >= self.state.max_steps:
            return [], torch.tensor(0, device=device)
        batches = [batch for _, batch in zip(range(num_batches), epoch_iterator, strict=False)]
        labels = sum(int((b["labels"] != IGNORE_INDEX).sum()) for b in batches)
        labels, self.micro_batches = self.over_processes([labels, sum(not is_empty(b) for b in batches)])
        self._begin_step()
        return batches, torch.tensor(labels, device=device)

    def over_processes(self, counts: Sequence[int], *, largest: bool = False) -> list[int]:
        """The sums of these counts over all processes, or the largest of each. Every process must call it."""
        if self.args.world_size == 1:
            return list(counts)
        found = torch.tensor(counts, device=self.args.device)
        torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX if largest else torch.distributed.ReduceOp.SUM)
        return list(found.tolist())

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The micro-batches of this process: those that one process alone would compute, shared out."""
        loader = super().get_train_dataloader()
        if self.args.world_size == 1:
            return loader
        share = ShareOfBatches(
            loader.batch_sampler.batch_sampler, processes=self.args.world_size, index=self.args.process_index
        )
        return DataLoaderShard(loader.dataset, device=loader.device, batch_sampler=share, collate_fn=loader.collate_fn)

    def _begin_step(self) -> None:
        """Before the first micro-batch of an optimizer step: none is computed yet, and the regulariser neither."""
        self.computed: list[dict[str, Any]] = []
        self.penalised = False
        self.tokens_before = dict(self.tokens)

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """One micro-batch, forward and backward, in parts of at most ``most_tokens`` tokens; returns its share of the loss.

        Out of memory, the tokens of a part are halved and the optimizer step begins again, with the same batch: whatever the
        gradients hold by then is dropped. One of several processes ends instead, since the others wait for its share of sums
        that it cannot give: all of them begin again at the last checkpoint (``launch``).

        Raises:
            ConfigError: out of memory with one example.
            OutOfMemory: with more of them, in one of several processes.
        """
        again = list(self.computed)
        loss = self._in_parts(model, inputs, num_items_in_batch)
        while loss is None:
            model.zero_grad()
            self.tokens = dict(self.tokens_before)
            self._begin_step()
            for micro_batch in [*again, inputs]:
                loss = self._in_parts(model, micro_batch, num_items_in_batch)
                if loss is None:
                    break
        return loss

    def _in_parts(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None
    ) -> torch.Tensor | None:
        """The micro-batch's share of the loss, its gradients added; None if memory ran out, and ``most_tokens`` is halved.

        Its random numbers (dropout) are its own, whichever process computes it.
        """
        place = len(self.computed) * self.args.world_size + self.args.process_index
        torch.manual_seed(private_seed("micro-batch", self.args.seed, self.state.global_step, place))
        bound = self.most_tokens
        parts = [inputs] if bound is None else self.data_collator.split(inputs, most_tokens=bound)
        if self.is_fsdp_enabled and bound is not None:
            # Each part gathers the weights from all processes, which must ask for them equally often.
            (most,) = self.over_processes([len(parts)], largest=True)
            parts += [send_to_device(self.data_collator([]), self.args.device)] * (most - len(parts))
        self.labels_in_all_parts = None if len(parts) == 1 else int((inputs["labels"] != IGNORE_INDEX).sum())
        losses: list[torch.Tensor] = []
        for part in parts:
            last = len(losses) == len(parts) - 1
            try:
                # Sharded, whole gradients would be as large as what they are shared out to avoid.
                with nullcontext() if last or self.is_fsdp_enabled else self.accelerator.no_sync(model):
                    losses.append(super().training_step(model, part, num_items_in_batch))
            except torch.OutOfMemoryError as error:
                self._halve(part, error)
                break
        else:
            self.computed.append(inputs)
            return losses[0] if len(losses) == 1 else torch.stack(losses).sum()
        # Only here, where nothing of the failed part is referred to any more.
        torch.cuda.empty_cache()
        return None

    def _halve(self, part: dict[str, Any], error: torch.OutOfMemoryError) -> None:
        """Let parts have half the tokens of this one."""
        tokens = part["input_ids"].numel()
        found = f"{tokens} tokens, which did not fit into memory at step {self.state.global_step + 1}"
        reason = str(error).split(". ")[0]
        if len(self.data_collator.split(part, most_tokens=1)) == 1:
            raise ConfigError(
                f"training.gradient_checkpointing: found {self.spec.gradient_checkpointing}, and an example of {found} "
                f"({reason}); expected true, a smaller max_length of the data, or a larger GPU"
            ) from error
        entry = {"step": self.state.global_step + 1, "tokens": tokens, "micro_batch_tokens": tokens // 2}
        self.out_of_memory.append(entry)
        checkpoints.note_out_of_memory(Path(self.args.output_dir), entry)
        said = f"out of memory with {tokens} tokens at step {entry['step']}: going on with {tokens // 2}"
        if self.args.world_size > 1:
            raise OutOfMemory(f"{said}, from the last checkpoint") from error
        print(said, flush=True)

    @property
    def most_tokens(self) -> int | None:
        """Of a part of a micro-batch: what fitted last, or what the spec says; None: no bound."""
        tried = [entry["micro_batch_tokens"] for entry in self.out_of_memory]
        return min(tried, default=self.spec.micro_batch_tokens)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """This micro-batch's share of the optimizer step's loss, so that the shares of all micro-batches and the mean over
        processes (DDP averages gradients) give the loss of the whole batch. The regulariser is the first one's of them all."""
        inputs = dict(inputs)
        labels = inputs.pop("labels")
        with nullcontext() if self.head is None else hidden_states(self.head):
            outputs = self._logits(model, inputs)
        if "logits_to_keep" in inputs:
            outputs, real = outputs[0], inputs["input_ids"].numel()
        else:
            outputs, labels = outputs[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
            outputs, labels = outputs[labels != IGNORE_INDEX], labels[labels != IGNORE_INDEX]
            real = int(inputs["attention_mask"].sum())
        if not is_empty(inputs):
            self._count(real, len(labels), inputs["input_ids"].numel() - real)
        if self.head is None:
            total = cross_entropy(outputs.float(), labels, reduction="sum")
        else:
            total = label_loss(outputs, self.head, labels)
        if self.spec.loss_normalization == "token":
            loss = total * self.args.world_size / num_items_in_batch
        else:
            mean = total / max(self.labels_in_all_parts or len(labels), 1)
            loss = mean * self.args.world_size / self.micro_batches
        if self.penalised or not self.is_world_process_zero():
            return loss
        self.penalised = True
        penalty = self.method.regularizer(model)
        return loss if penalty is None else loss + penalty * self.args.world_size

    def _logits(self, model: torch.nn.Module, inputs: Mapping[str, Any]) -> torch.Tensor:
        """What the model returns. Of a sharded model accelerate leaves out the autocast that it puts around others; here it
        keeps no whole copies of weights in bfloat16."""
        logits: torch.Tensor
        if not (self.is_fsdp_enabled and self.spec.dtype == "bfloat16"):
            logits = model(**inputs, use_cache=False).logits
            return logits
        with torch.autocast(self.args.device.type, torch.bfloat16, cache_enabled=False):
            logits = model(**inputs, use_cache=False).logits
        return logits.float()

    def _count(self, real: int, label: int, padding: int) -> None:
        self.tokens["input"] += real
        self.tokens["label"] += label
        self.tokens["padding"] += padding

    @property
    def all_tokens(self) -> dict[str, int]:
        """``tokens`` of all processes together. Every process must ask for it."""
        return dict(zip(self.tokens, self.over_processes(list(self.tokens.values())), strict=True))

    @property
    def seconds(self) -> dict[str, float]:
        """Wall and CPU seconds of training, earlier attempts included."""
        now = {"wall": time.monotonic(), "cpu": time.process_time()}
        return {clock: self.before[clock] + now[clock] - self.started[clock] for clock in now}

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write what training changes: the method's tensors and its state, whole, so that any number of processes can go on
        from them. The artefact is ``Method.finalize``'s."""
        tensors = whole_tensors(self.method.checkpoint_tensors(self.model), keep=self.args.should_save)
        tokens = self.all_tokens
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / TENSORS_FILE)
        state = {
            "method": self.method.state_dict(),
            "tokens": tokens,
            "seconds": self.seconds,
        }
        if self.importance is not None:
            state["importance"] = self.importance.state_dict()
        torch.save(state, folder / STATE_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        folder = Path(resume_from_checkpoint)
        state = torch.load(folder / STATE_FILE, weights_only=True)
        # The state first: it may decide which tensors training changes.
        self.method.load_state_dict(state["method"])
        # They are those of all processes.
        self.tokens = state["tokens"] if self.is_world_process_zero() else dict.fromkeys(state["tokens"], 0)
        self.before = state["seconds"]
        if self.importance is not None:
            self.importance.load_state_dict(state["importance"])
        saved = load_file(folder / TENSORS_FILE)
        current = self.method.checkpoint_tensors(self.model)
        if set(saved) != set(current):
            raise ValueError(
                f"{folder / TENSORS_FILE}: found other tensors than the model's: {sorted(set(saved) ^ set(current))[:3]}"
            )
        with torch.no_grad():
            for name, tensor in current.items():
                tensor.copy_(as_sharded(saved[name], tensor))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """As one process alone does, with whole moments."""
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        assert self.optimizer is not None
        state = whole_optimizer_state(self.optimizer.state_dict(), keep=self.args.should_save)
        if self.args.should_save:
            torch.save(state, Path(output_dir) / OPTIMIZER_NAME)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not self.is_fsdp_enabled:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        assert self.optimizer is not None
        state = torch.load(Path(checkpoint) / OPTIMIZER_NAME, map_location="cpu", weights_only=True, mmap=True)
        self.optimizer.load_state_dict(sharded_optimizer_state(state, self.optimizer))
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True))


class CompleteCheckpoints(TrainerCallback):
    """Marks a checkpoint complete after everything is in it. Must be the last callback."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if args.should_save:
            checkpoints.mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}")


class StopWhenDiverged(TrainerCallback):
    """Ends training when the logged loss is not finite, or larger than ``factor`` times the first logged one. That step
    leaves no checkpoint."""

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.reason: str | None = None

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **event: Any) -> None:
        logs = event["logs"]
        if "loss" not in logs:
            return
        loss, norm = logs["loss"], logs.get("grad_norm", 0.0)
        first = next(entry["loss"] for entry in [*state.log_history, logs] if "loss" in entry)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self.reason = f"loss {loss} and gradient norm {norm} at step {state.global_step}"
        elif loss > self.factor * first:
            self.reason = f"loss {loss:.3g} at step {state.global_step}, {self.factor:g} times the first ({first:.3g})"
        if self.reason is not None:
            control.should_training_stop = True
            control.should_save = False  # resumed from there, the run would go on past its end


class RecordImportance(TrainerCallback):
    """Keeps the importance of every rank before the first step, every ``every`` optimizer steps and at the end: the norms
    only, 4 bytes a rank. On the main process; a method without such ranks leaves the record empty."""

    def __init__(self, method: Method[Any], *, every: int) -> None:
        self.method = method
        self.every = every
        #: Finished optimizer steps at each snapshot.
        self.steps: list[int] = []
        #: Module name in the base model -> one tensor (r,) for each of ``steps``.
        self.modules: dict[str, list[torch.Tensor]] = {}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **event: Any) -> None:
        if state.global_step == 0:
            self.steps, self.modules = [], {}
            self._record(state, event["model"])

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **event: Any) -> None:
        if state.global_step % self.every == 0:
            self._record(state, event["model"])

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **event: Any) -> None:
        if state.global_step not in self.steps[-1:]:
            self._record(state, event["model"])

    def _record(self, state: TrainerState, model: torch.nn.Module) -> None:
        by_module = self.method.rank_importance(model) if state.is_world_process_zero else None
        if by_module is None:
            return
        self.steps.append(state.global_step)
        for name, importances in by_module.items():
            self.modules.setdefault(name, []).append(importances)

    def state_dict(self) -> dict[str, Any]:
        """The snapshots so far; ``torch.load(weights_only=True)`` reads it."""
        return {"steps": list(self.steps), "modules": {name: torch.stack(values) for name, values in self.modules.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self.steps = list(state["steps"])
        self.modules = {name: list(values) for name, values in state["modules"].items()}

    def history(self) -> ImportanceHistory | None:
        """The snapshots so far; None without any."""
        if not self.steps:
            return None
        modules = {name: torch.stack(values).numpy() for name, values in self.modules.items()}
        return ImportanceHistory(steps=np.array(self.steps, dtype=np.int64), modules=modules)


class PrintProgress(TrainerCallback):
    """One line now and then: step, loss, time left."""

    def __init__(self, title: str) -> None:
        self.progress = Progress(title, whole_job=True)
        self.loss: float | None = None

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **event: Any) -> None:
        self.loss = event["logs"].get("loss", self.loss)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            note = "" if self.loss is None else f"loss {self.loss:.3f}"
            self.progress.update(state.global_step, state.max_steps, note)


def training_arguments(
    spec: TrainingSpec,
    *,
    total_steps: int,
    world_size: int,
    output_dir: Path,
    seed: int,
    sharded: bool = False,
    report_to: Sequence[str] = (),
    run_name: str | None = None,
) -> TrainingArguments:
    """The Trainer's arguments. Precision and parallelism come from the spec and the launcher, nothing from defaults that
    change between releases.

    Args:
        sharded: share parameters, gradients and moments out over the processes (FSDP2 through accelerate).
        report_to: ``Experiment.report_to``.
        run_name: what the run is called there.
    """
    warmup = spec.warmup_steps if spec.warmup_steps is not None else math.ceil(spec.warmup_ratio * total_steps)
    arguments = TrainingArguments(
        output_dir=str(output_dir),
        max_steps=total_steps,
        per_device_train_batch_size=spec.per_device_train_batch_size,
        gradient_accumulation_steps=spec.per_process(world_size),
        learning_rate=spec.learning_rate,
        lr_scheduler_type=spec.lr_scheduler_type,
        warmup_steps=warmup,
        max_grad_norm=spec.max_grad_norm,
        bf16=spec.dtype == "bfloat16",
        logging_steps=spec.logging_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=spec.save_steps,
        save_total_limit=2,
        seed=seed,
        data_seed=seed,
        report_to=list(report_to),
        run_name=run_name,
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_num_workers=0,
        ddp_find_unused_parameters=False,
        use_cpu=not torch.cuda.is_available(),
        use_liger_kernel=spec.liger_kernel,
        liger_kernel_config=dict(LIGER) if spec.liger_kernel else None,
        **{CHECKPOINTING: spec.gradient_checkpointing},
        **(_SHARDED if sharded else {}),
    )
    if sharded:
        # Autocast alone decides where bfloat16 is computed with, as in one process; gradients are summed in float32.
        arguments.fsdp_plugin_args["mixed_precision_policy"] = MixedPrecisionPolicy()
    return arguments
