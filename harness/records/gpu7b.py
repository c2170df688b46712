"""What ``python -m benchmarks.gpu7b`` writes: the record of the check at the paper's scale, and its one reader. No torch.

A record is written after every part, so that it may stop anywhere. A part that did not succeed has no result and says why.
"""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from harness.records.versioned import Recipe, read_json, validated
from harness.schema.fields import Frozen

#: Raised when the meaning of a field changes; records of another version are refused.
SCHEMA_VERSION = 1

# ------------------------------------------------------------------------------------------------------------------ results


class Measured(Frozen):
    """Neither NaN nor infinity, which JSON does not have: where one is measured, the part has failed."""

    model_config = ConfigDict(allow_inf_nan=False)


class MatmulRate(Measured):
    """Products of two square matrices of normal random numbers: the rate that utilisation is measured against."""

    kind: Literal["matmul"] = "matmul"
    size: int
    dtype: str
    #: Wall-clock seconds of each timed product.
    seconds: tuple[float, ...] = Field(min_length=1)
    #: 2 size^3 over the median of ``seconds``.
    flops_per_second: float

    @model_validator(mode="after")
    def _follows(self) -> MatmulRate:
        _check(self, "flops_per_second", 2 * self.size**3 / statistics.median(self.seconds))
        return self


class Step(Measured):
    """One optimizer step: wall-clock seconds with the device synchronised, tokens of the examples, and padding tokens."""

    seconds: float = Field(gt=0)
    tokens: int = Field(ge=1)
    padding: int = Field(ge=0)


class Logged(Measured):
    """What the Trainer logged after a step. None: not finite."""

    step: int
    loss: float | None
    grad_norm: float | None


class Training(Measured):
    """The first optimizer steps of one method. Memory in bytes."""

    kind: Literal["training"] = "training"
    method: str
    #: project: the training loop and method of this harness. peft: PEFT's adapter in a plain transformers.Trainer, padded.
    implementation: Literal["project", "peft"]
    #: What the method does in some of these steps beside training (``Method.extra_work``).
    work: tuple[str, ...]
    #: In what way this is not the method as it is; empty where it is.
    note: str
    parameters: int
    trainable_parameters: int
    warmup: tuple[Step, ...]
    #: Fewer than the setting's ``timed_steps`` where the part's time was up.
    timed: tuple[Step, ...] = Field(min_length=1)
    #: CPU seconds of the timed steps together.
    cpu_time_s: float
    logged: tuple[Logged, ...]
    #: Means over the timed steps.
    seconds_per_step: float
    tokens_per_second: float
    #: Of the forward and backward pass; ``benchmarks.gpu7b.scale`` says what is counted.
    flops_per_token: float
    #: Of the second forward pass, where the run has gradient checkpointing: it takes time, and is no part of ``mfu``.
    recomputed_per_token: float = 0.0
    #: Model FLOPs utilisation: flops_per_token x tokens_per_second over the measured rate; None where that is not known.
    mfu: float | None
    #: Of what the bytes are.
    memory_of: str
    #: Still held before the base model was built; None without an accelerator.
    before_bytes: int | None
    #: With the base model loaded and nothing else.
    loaded_bytes: int
    #: The largest value in training, without the method's initialisation.
    peak_bytes: int
    #: Largest reserved by the accelerator's allocator; None without one.
    reserved_bytes: int | None
    #: The harness's own prediction of ``peak_bytes`` (``harness.measure.rehearsal``) for the largest micro-batch of these
    #: steps; None for other loops, and without an accelerator.
    predicted_bytes: int | None = None

    @model_validator(mode="after")
    def _follows(self) -> Training:
        seconds = math.fsum(step.seconds for step in self.timed)
        _check(self, "seconds_per_step", seconds / len(self.timed))
        _check(self, "tokens_per_second", sum(step.tokens for step in self.timed) / seconds)
        return self


class Replay(Measured):
    """One BeamLoRA operation in training on the device, done again on the CPU from the tensors before it and its snapshot."""

    kind: Literal["replay"] = "replay"
    modules: int
    snapshot_step: int
    operation_step: int
    threshold: float
    #: Ranks that were pruned, over all modules.
    pruned_ranks: int
    #: Whether the CPU prunes the same ranks and copies the same ones.
    plans_equal: bool
    tensors: int
    #: Tensors that are not equal bit for bit.
    differing: tuple[str, ...]


class Variant(Measured):
    """One way to compute the same step, against the reference. Gradients are all of the adapter's, as one vector."""

    packing: bool
    dtype: str
    fused: bool
    loss: float
    loss_difference: float
    gradient_cosine: float
    #: |g - g_ref| / |g_ref|
    gradient_difference: float


class Precision(Measured):
    """Packed and padded batches, in bfloat16 and float32, on a model of the same widths with few layers."""

    kind: Literal["precision"] = "precision"
    layers: int
    tokens: int
    reference: str
    variants: tuple[Variant, ...] = Field(min_length=1)


class LoadedRotary(Measured):
    """The rotary frequencies of a model after one way of loading it in bfloat16."""

    loading: Literal["training", "evaluation"]
    dtype: str
    #: Largest relative difference from the float32 frequencies.
    largest_error: float


class Rotary(Measured):
    kind: Literal["rotary"] = "rotary"
    loaded: tuple[LoadedRotary, ...]


class DecomposedShape(Measured):
    """One call of ``methods.svd.decompose``, and |W V - U S| / |W| of its triplets (Frobenius)."""

    shape: tuple[int, int]
    #: Weights of this shape, or of its transpose, in the whole model.
    weights: int
    seconds: float
    residual: float


class Decomposition(Measured):
    kind: Literal["decomposition"] = "decomposition"
    r: int
    shapes: tuple[DecomposedShape, ...]
    #: Seconds times weights: what the initialisation of PiSSA or MiLoRA takes.
    whole_model_s: float

    @model_validator(mode="after")
    def _follows(self) -> Decomposition:
        _check(self, "whole_model_s", math.fsum(one.seconds * one.weights for one in self.shapes))
        return self


class Generation(Measured):
    """``harness.engine.generate`` on one batch; no row ends before ``new_tokens``."""

    kind: Literal["generation"] = "generation"
    rows: int
    num_beams: int
    prompt_tokens: int
    new_tokens: int
    seconds: float
    #: New tokens of all rows a second; of beams, those of the best.
    tokens_per_second: float
    peak_bytes: int
    memory_of: str

    @model_validator(mode="after")
    def _follows(self) -> Generation:
        _check(self, "tokens_per_second", self.rows * self.new_tokens / self.seconds)
        return self


def _check(result: Measured, field: str, expected: float) -> None:
    value = getattr(result, field)
    if not math.isclose(value, expected, rel_tol=1e-6):
        raise ValueError(f"{field}: found {value}, expected {expected}, which follows from the other fields")


Result = Annotated[
    MatmulRate | Training | Replay | Precision | Rotary | Decomposition | Generation, Field(discriminator="kind")
]

Kind = Literal["matmul", "training", "replay", "precision", "rotary", "decomposition", "generation"]

# ------------------------------------------------------------------------------------------------------------------- record


class Part(Frozen):
    """One part of the check. Seconds count from the start of the process."""

    name: str
    #: What a figure calls it.
    label: str
    #: Of the result that it has, or would have.
    kind: Kind
    status: Literal["success", "out_of_memory", "error", "skipped"]
    started_s: float
    seconds: float
    #: Why there is no result.
    error: str | None
    result: Result | None

    @model_validator(mode="after")
    def _result_or_error(self) -> Part:
        if (self.status == "success") != (self.result is not None) or (self.result is None) != (self.error is not None):
            raise ValueError(f"{self.name}: found status {self.status}, expected a result with success, else an error")
        if self.result is not None and self.result.kind != self.kind:
            raise ValueError(f"{self.name}: found a result of kind {self.result.kind}, expected {self.kind}")
        return self


class Device(Frozen):
    """Where it ran. Memory in bytes; None on the CPU, as driver and CUDA."""

    name: str
    memory_bytes: int | None
    driver: str | None
    cuda: str | None
    cpu: str
    cores: int
    threads: int
    #: Environment variables that change speed or memory, where they are set.
    environment: dict[str, str]


class Setting(Frozen):
    """What every training part has in common. Lengths are in tokens."""

    #: Fields of transformers.LlamaConfig; the weights are random.
    model: dict[str, Any]
    dtype: str
    r: int
    lora_alpha: float
    lora_dropout: float
    micro_batches: int
    examples: int
    mean_length: float
    sigma: float
    max_length: int
    distinct_examples: int
    rows: int
    seed: int
    warmup_steps: int
    timed_steps: int


class Gpu7bRecord(Frozen):
    """The whole file."""

    schema_version: int = SCHEMA_VERSION
    #: Whether this is the tiny run that shows that the check works; its numbers mean nothing.
    smoke: bool
    arguments: tuple[str, ...]
    #: UTC, ISO 8601.
    started_at: str
    versions: dict[str, str]
    git: dict[str, Any]
    device: Device
    setting: Setting
    parts: tuple[Part, ...]

    @model_validator(mode="after")
    def _names_differ(self) -> Gpu7bRecord:
        names = [part.name for part in self.parts]
        if len(set(names)) != len(names):
            raise ValueError(f"parts: found {names}, expected no repetition")
        return self

    def result(self, name: str) -> Result | None:
        """The result of a part; None where it has none."""
        return next((part.result for part in self.parts if part.name == name), None)


def read(path: Path) -> Gpu7bRecord:
    """A record, also of a check that was stopped.

    Raises:
        RecordError: the file is missing, broken, of another schema version, or contradicts itself.
    """
    recipe = Recipe.command("python -m benchmarks.gpu7b")
    return validated(path, read_json(path, recipe, version=SCHEMA_VERSION), Gpu7bRecord, recipe)
