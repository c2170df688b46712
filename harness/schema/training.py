"""Settings of the training loop."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from harness.schema.fields import BatchSize, Decay, Frozen, Rate, Steps


class TrainingSpec(Frozen):
    """Settings of the training loop, under their names in transformers.TrainingArguments where one exists."""

    learning_rate: Rate
    per_device_train_batch_size: BatchSize = Field(description="examples in one micro-batch")
    gradient_accumulation_steps: int = Field(
        1,
        ge=1,
        le=10**4,
        description="micro-batches in one optimizer step, over all processes together: ``gpus`` shares them out",
    )
    micro_batch_tokens: int | None = Field(
        None,
        ge=1,
        description="most input tokens of one forward and backward pass, padding included, or one longer example: a larger "
        "micro-batch is computed in parts, with the same batch and loss; null: whole",
    )
    num_train_epochs: float | None = Field(None, gt=0, le=10**4)
    max_steps: Steps | None = None
    lr_scheduler_type: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    warmup_steps: int | None = Field(None, ge=0, le=10**8, description="optimizer steps; takes the place of warmup_ratio")
    weight_decay: Decay = 0.0
    max_grad_norm: float = Field(1.0, gt=0, le=1e9)
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    adam_epsilon: float = Field(1e-8, gt=0, le=1)
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of the base weights; adapters stay float32")
    bf16_update: Literal["plain", "kahan", "float32"] = Field(
        "plain",
        description="how trained weights of dtype bfloat16 move (adapters are float32). plain: rounded at every step, which "
        "loses most of a small rate; kahan: what rounding cuts off is kept beside them, 10 bytes a weight in all, for one GPU "
        "(harness/train/optimizer.py); float32: they are kept in float32 and computed with in bfloat16, 16 bytes a weight",
    )
    loss_normalization: Literal["token", "microbatch"] = Field(
        "token",
        description="token: mean over all label tokens of the global batch (transformers 5); "
        "microbatch: mean of the micro-batches' means (transformers 4.45, the released code)",
    )
    packing: bool = Field(True, description="no padding inside a batch; same batches, same loss")
    attn_implementation: Literal["packed_sdpa", "sdpa", "eager", "flash_attention_2"] = "packed_sdpa"
    fused: bool = Field(
        True,
        description="adapted layers as one function each (beamlora/fused.py), the loss without logits in memory "
        "(harness/train/loss.py); false: PEFT's layers and torch's cross-entropy: the same sums, other rounding",
    )
    liger_kernel: bool = Field(
        False, description="RMSNorm and SwiGLU by liger-kernel's Triton kernels, on GPUs alone: the same sums, other rounding"
    )
    gradient_checkpointing: bool = False
    divergence_factor: float = Field(
        3.0, gt=1, description="a logged loss above this multiple of the first one ends the run as diverged"
    )
    logging_steps: int = Field(10, ge=1)
    save_steps: int = Field(200, ge=1, description="optimizer steps between checkpoints")
    importance_every: int | None = Field(
        None, ge=1, description="optimizer steps between snapshots of the ranks' importance; null: none"
    )

    @property
    def global_batch(self) -> int:
        """Examples in one optimizer step."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps

    def examples_read(self, rows: int) -> float:
        """How many examples a run on so many rows reads, each as often as it is read."""
        if self.max_steps is not None:
            return self.max_steps * self.global_batch
        assert self.num_train_epochs is not None
        return self.num_train_epochs * rows

    def per_process(self, processes: int) -> int:
        """Micro-batches in one optimizer step of one process. They are shared out whole: the loss of a micro-batch, and what
        dropout takes of it, are those of one process.

        Raises:
            ValueError: they cannot be shared out equally.
        """
        size, steps = self.per_device_train_batch_size, self.gradient_accumulation_steps
        if steps % processes == 0:
            return steps // processes
        size_then, left = divmod(self.global_batch, processes)
        same = f"; {processes} of {size_then} (per_device_train_batch_size) are the same batch" if left == 0 else ""
        raise ValueError(
            f"gradient_accumulation_steps: found {steps} micro-batches of {size} for {processes} processes, "
            f"expected a multiple of {processes}{same}"
        )

    @model_validator(mode="after")
    def _one_length(self) -> TrainingSpec:
        if (self.num_train_epochs is None) == (self.max_steps is None):
            raise ValueError(
                f"found num_train_epochs {self.num_train_epochs} and max_steps {self.max_steps}, expected exactly one of them"
            )
        if self.packing and self.attn_implementation not in ("packed_sdpa", "flash_attention_2"):
            raise ValueError(
                f"attn_implementation: found {self.attn_implementation!r} with packing, expected packed_sdpa or "
                "flash_attention_2 (the others attend across packed examples)"
            )
        return self
