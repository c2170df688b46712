"""How large everything is: at the paper's scale, and in the smoke run. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.experiment.runs import load_experiment, timing_runs
from harness.models.architecture import Architecture
from harness.plan import cost
from harness.schema.run import RunSpec

CONFIGFILE = Path(__file__).resolve().parent.parent.parent / "config" / "paper.yaml"


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The sizes of one check. Lengths are in tokens."""

    smoke: bool
    #: Fields of transformers.LlamaConfig.
    model: Mapping[str, Any]
    #: Examples: lognormal lengths before they are cut, and how many differ before they repeat.
    mean_length: float
    max_length: int
    distinct_examples: int
    sigma: float = 0.45
    seed: int = 0
    #: Dotted keys of config/paper.yaml -> values in place of the paper's.
    overrides: Mapping[str, Any] = field(default_factory=dict)
    warmup_steps: int
    timed_steps: int
    #: Rows of the square matrices whose product gives the rate.
    matmul_size: int
    #: Of the model that packing, padding and precision are compared on.
    few_layers: int = 2
    prompt_length: int
    new_tokens: int
    #: (rows, beams) of each generation.
    generations: tuple[tuple[int, int], ...]


#: LLaMA2-7B as released: 6.74 G parameters.
LLAMA2_7B = {
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}

#: MetaMathQA's examples have about 250 tokens [assumed], at most 512 [config/paper.yaml].
PAPER = Scale(
    smoke=False,
    model=LLAMA2_7B,
    mean_length=250,
    max_length=512,
    distinct_examples=4096,
    warmup_steps=3,
    timed_steps=8,
    matmul_size=8192,
    prompt_length=150,
    new_tokens=256,
    generations=((32, 1), (128, 1), (32, 4)),
)

SMOKE = Scale(
    smoke=True,
    model={
        **LLAMA2_7B,
        "vocab_size": 320,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
    },
    mean_length=12,
    max_length=24,
    distinct_examples=64,
    overrides={"adapter": {"r": 8, "lora_alpha": 16}},
    warmup_steps=1,
    timed_steps=2,
    matmul_size=128,
    prompt_length=6,
    new_tokens=4,
    generations=((2, 1), (4, 1), (2, 2)),
)


def timed_runs(scale: Scale) -> dict[str, RunSpec]:
    """Method -> the run that ``config/paper.yaml`` times, all with the batch of its low-rank methods: it gives full
    fine-tuning and ReLoRA four times as many micro-batches, which costs a step but not a token."""
    runs = timing_runs(load_experiment([CONFIGFILE], scale.overrides))
    batch = {"gradient_accumulation_steps": runs["lora"].training.gradient_accumulation_steps}
    return {name: run.model_copy(update={"training": run.training.model_copy(update=batch)}) for name, run in runs.items()}


def flops_per_token(scale: Scale, *, parameters: int, adapter: int) -> float:
    """``harness.plan.cost.flops_per_token`` at this scale.

    Args:
        parameters: of the base model.
        adapter: of the adapter; 0: the base itself is trained.
    """
    hidden = scale.model["hidden_size"]
    return cost.flops_per_token(
        products=parameters - scale.model["vocab_size"] * hidden,
        adapter=adapter,
        hidden=hidden,
        layers=scale.model["num_hidden_layers"],
        length=scale.mean_length,
    )


def recomputed_per_token(scale: Scale, *, adapter: int) -> float:
    """``harness.plan.cost.recomputed_flops`` at this scale.

    Args:
        adapter: parameters of the adapter; 0: the base itself is trained.
    """
    base = Architecture(fields={"model_type": "llama", **scale.model})
    hidden = scale.model["hidden_size"]
    return cost.recomputed_flops(
        products=base.block_products, adapter=adapter, hidden=hidden, layers=base.layers, length=scale.mean_length
    )
