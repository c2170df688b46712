"""Time and memory of the first optimizer steps of each method, by the harness's loop or by a plain transformers.Trainer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerControl, TrainerState, TrainingArguments

from benchmarks.gpu7b.bench import MODEL_HASH, Bench
from benchmarks.gpu7b.scale import flops_per_token, recomputed_per_token
from harness.data.batches import PaddedCollator
from harness.measure.rehearsal import peak_bytes
from harness.measure.time_lapse import PlannedStep, TimeLapse, peak_memory, reset_peak_memory
from harness.models.architecture import Architecture
from harness.records.gpu7b import Logged, Step, Training
from harness.schema.run import RunSpec
from harness.train.run import Base, Folders, make_trainer
from harness.train.steps import step_counts
from harness.train.trainer import MethodTrainer, PrintProgress, training_arguments
from methods import svd
from methods.peft_support import add_adapter

PISSA_NOTE = (
    "PiSSA's step alone: its factors are random orthonormal vectors with the largest singular value of random weights, read "
    "from the cache of decompositions in place of the weights' own; the part 'decomposition' times those"
)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A method whose step is measured."""

    method: str
    label: str
    implementation: Literal["project", "peft"]
    note: str
    attn_implementation: str
    #: Makes the Trainer from a new base model; it may write to the folder.
    trainer: Callable[[Bench, PreTrainedModel, Path], Trainer]
    #: What is trained, by the harness's own loop; None by another.
    run: RunSpec | None = None


class StepMeter(TimeLapse):
    """Times the first steps of a run and counts their tokens; ends the run after the last, or when the time is up and at least
    one step is timed. Must be the last callback."""

    def __init__(self, model: torch.nn.Module, *, warmup: int, timed: int, deadline: float) -> None:
        super().__init__([PlannedStep(step=i + 1, kinds=(), batch=i) for i in range(warmup + timed)], warmup=warmup)
        self.deadline = deadline
        #: Tokens of the examples and of padding, in each step so far.
        self.tokens: list[tuple[int, int]] = []
        #: Tokens of the examples in the largest packed micro-batch so far.
        self.largest: list[int] = []
        self._inputs: list[tuple[int, torch.Tensor | int]] = []
        model.register_forward_pre_hook(self._note_inputs, with_kwargs=True)

    def _note_inputs(self, module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        size, mask = kwargs["input_ids"].numel(), kwargs.get("attention_mask")
        self.largest = max(self.largest, kwargs.get("segment_lengths", []), key=sum)
        self._inputs.append((size, size if mask is None else mask.sum()))  # on the device: read when the step is over

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **event: Any) -> None:
        if len(self.seconds) >= self.warmup and time.monotonic() > self.deadline:
            self.plan = self.plan[: len(self.seconds) + 1]
        super().on_step_end(args, state, control, **event)
        real = sum(int(tokens) for _, tokens in self._inputs)
        self.tokens.append((real, sum(size for size, _ in self._inputs) - real))
        self._inputs.clear()

    def steps(self) -> list[Step]:
        """The steps so far, the warm-up's first."""
        pairs = zip(self.seconds, self.tokens, strict=True)
        return [Step(seconds=seconds, tokens=real, padding=padding) for seconds, (real, padding) in pairs]


def measure(bench: Bench, candidate: Candidate, *, folder: Path, rate: float | None, deadline: float) -> Training:
    """Build a base model, prepare it, and train.

    Args:
        folder: for whatever the Trainer writes.
        rate: floating-point operations a second of a large product on this device, if it is known.
        deadline: of ``time.monotonic``; no step begins after it but the first timed one.
    """
    before = torch.cuda.memory_allocated() if bench.device.type == "cuda" else None
    base = bench.model(attn_implementation=candidate.attn_implementation)
    parameters = base.num_parameters()
    reset_peak_memory()
    loaded = peak_memory()["bytes"]
    trainer = candidate.trainer(bench, base, folder)
    trainer.remove_callback(PrintProgress)  # the meter ends the run long before its last step
    meter = StepMeter(trainer.model, warmup=bench.scale.warmup_steps, timed=bench.scale.timed_steps, deadline=deadline)
    trainer.add_callback(meter)
    reset_peak_memory()
    trainer.train()
    if isinstance(trainer, MethodTrainer) and trainer.out_of_memory:
        raise torch.OutOfMemoryError(f"{trainer.out_of_memory[0]['tokens']} tokens did not fit")
    if not meter.peak:
        raise RuntimeError(f"training ended after {len(meter.seconds)} steps, expected {len(meter.plan)}")
    steps = meter.steps()
    warmup, timed = steps[: meter.warmup], steps[meter.warmup :]
    seconds = math.fsum(step.seconds for step in timed)
    speed = sum(step.tokens for step in timed) / seconds
    adapter = _adapter_parameters(trainer.model)
    flops = flops_per_token(bench.scale, parameters=parameters, adapter=adapter)
    twice = candidate.run is not None and candidate.run.training.gradient_checkpointing
    return Training(
        method=candidate.method,
        implementation=candidate.implementation,
        work=_work(trainer, steps=len(steps)),
        note=candidate.note,
        parameters=parameters,
        trainable_parameters=sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        warmup=tuple(warmup),
        timed=tuple(timed),
        cpu_time_s=meter.cpu_time_s,
        logged=_logged(trainer.state.log_history),
        seconds_per_step=seconds / len(timed),
        tokens_per_second=speed,
        flops_per_token=flops,
        recomputed_per_token=recomputed_per_token(bench.scale, adapter=adapter) if twice else 0.0,
        mfu=None if rate is None else flops * speed / rate,
        memory_of=meter.peak["of"],
        before_bytes=before,
        loaded_bytes=loaded,
        peak_bytes=meter.peak["bytes"],
        reserved_bytes=meter.peak["reserved"],
        predicted_bytes=None if before is None or candidate.run is None else predicted(bench, candidate.run, meter.largest),
    )


def predicted(bench: Bench, run: RunSpec, lengths: list[int]) -> int | None:
    """The harness's prediction of the peak of a run on this model, with a largest micro-batch of these lengths."""
    base = Architecture(fields={"model_type": "llama", **bench.scale.model})
    return peak_bytes(run, base, lengths=lengths, gpu=bench.device.type == "cuda")


def _adapter_parameters(model: torch.nn.Module) -> int:
    """Trained parameters beside frozen ones; 0 where all are trained."""
    trained = [p.requires_grad for p in model.parameters()]
    return 0 if all(trained) else sum(p.numel() for p in model.parameters() if p.requires_grad)


def _work(trainer: Trainer, *, steps: int) -> tuple[str, ...]:
    """The kinds of work beside training in the first ``steps`` steps."""
    if not isinstance(trainer, MethodTrainer):
        return ()
    kinds = trainer.method.extra_work()
    return tuple(sorted(kind for kind, members in kinds.items() if any(step <= steps for step in members)))


def _logged(history: Iterable[dict[str, Any]]) -> tuple[Logged, ...]:
    def finite(value: float | None) -> float | None:
        return value if value is not None and math.isfinite(value) else None

    return tuple(
        Logged(step=entry["step"], loss=finite(entry["loss"]), grad_norm=finite(entry.get("grad_norm")))
        for entry in history
        if "loss" in entry
    )


# -------------------------------------------------------------------------------------------------------------- the harness


def harness_trainer(bench: Bench, spec: RunSpec, base: PreTrainedModel, folder: Path) -> MethodTrainer:
    """The Trainer of ``harness.train`` for a run, on this base model."""
    inputs = Base(
        model=base, tokenizer=bench.tokenizer, dataset=bench.dataset, parameters=base.num_parameters(), hash=MODEL_HASH
    )
    folders = Folders(output=folder, scratch=folder, models=folder, cache=folder)
    return make_trainer(spec, inputs, folders)[0]


def harness_candidate(bench: Bench, method: str, *, fused: bool = True) -> Candidate:
    """A method of the harness with the settings of its run; PiSSA with random factors. Not fused: with PEFT's layers and logits
    in memory."""
    spec = bench.runs[method]
    spec = spec.model_copy(update={"training": spec.training.model_copy(update={"fused": fused})})

    def trainer(bench: Bench, base: PreTrainedModel, folder: Path) -> Trainer:
        if method == "pissa":
            write_random_factors(base, spec.method.settings, cache_dir=folder)
        return harness_trainer(bench, spec, base, folder)

    return Candidate(
        method=method,
        label=spec.method.label if fused else f"{spec.method.label} (not fused)",
        implementation="project",
        note=PISSA_NOTE if method == "pissa" else "",
        attn_implementation=spec.training.attn_implementation,
        trainer=trainer,
        run=spec,
    )


def write_random_factors(model: PreTrainedModel, settings: Mapping[str, Any], *, cache_dir: Path) -> None:
    """Fill the cache of decompositions for all target weights: one file for each shape, and links to it. A decomposition of all
    weights of LLaMA2-7B would take longer than everything else together."""
    r, made = settings["r"], {}
    for name, module in model.named_modules():
        if name.rsplit(".", 1)[-1] not in settings["target_modules"]:
            continue
        path = svd.cache_file(cache_dir, model_hash=MODEL_HASH, name=name, r=r)
        shape = tuple(module.weight.shape)
        if shape in made:
            path.symlink_to(made[shape].resolve())
        else:
            std = model.config.initializer_range
            svd.write_extremes(svd.Extremes(top=_triplets(*shape, r=r, std=std), bottom=_triplets(*shape, r=r, std=std)), path)
            made[shape] = path


def _triplets(out: int, inside: int, *, r: int, std: float) -> svd.Triplets:
    """Random orthonormal vectors, with the largest singular value that a matrix of independent entries has."""
    u, v = (torch.linalg.qr(torch.randn(rows, r))[0] for rows in (out, inside))
    return svd.Triplets(u=u, s=torch.full((r,), std * (math.sqrt(out) + math.sqrt(inside))), v=v)


# -------------------------------------------------------------------------------------------------------------------- PEFT


def peft_candidate(bench: Bench, method: str, label: str, **options: Any) -> Candidate:
    """PEFT's own adapter in a plain ``transformers.Trainer``: padded batches, the model's own loss over all logits, the
    Trainer's own optimizer. ``options`` are those of ``peft.LoraConfig`` beside the settings of the run of LoRA."""
    spec = bench.runs["lora"]

    def trainer(bench: Bench, base: PreTrainedModel, folder: Path) -> Trainer:
        settings = {**spec.method.settings, "target_modules": list(spec.method.settings["target_modules"])}
        model = add_adapter(base, LoraConfig(**settings, task_type="CAUSAL_LM", **options), seed=spec.seed)
        total_steps, _ = step_counts(spec.training, examples=len(bench.dataset), world_size=1)
        made = Trainer(
            model=model,
            train_dataset=bench.dataset,
            data_collator=PaddedCollator(pad_token_id=bench.tokenizer.pad_token_id),
            args=training_arguments(spec.training, total_steps=total_steps, world_size=1, output_dir=folder, seed=spec.seed),
        )
        made.remove_callback(PrinterCallback)
        return made

    return Candidate(
        method=method,
        label=label,
        implementation="peft",
        note="",
        attn_implementation="sdpa",
        trainer=trainer,
    )
