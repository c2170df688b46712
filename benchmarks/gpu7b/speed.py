"""How fast the device is at what surrounds training: a large product, decompositions, generation."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.gpu7b.bench import Bench
from harness.engine.generate import generate
from harness.measure.time_lapse import peak_memory, reset_peak_memory
from harness.records.gpu7b import DecomposedShape, Decomposition, Generation, MatmulRate
from methods.svd import Extremes, decompose

#: Products before the clock starts, and timed ones.
WARMUP, TIMED = 3, 10


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Wall-clock seconds, the device's work included."""
    _synchronize(device)
    start = time.perf_counter()
    work()
    _synchronize(device)
    return time.perf_counter() - start


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_rate(bench: Bench) -> MatmulRate:
    """Products of two bfloat16 matrices."""
    size = bench.scale.matmul_size
    left, right = (torch.randn(size, size, device=bench.device).bfloat16() for _ in range(2))
    seconds = [seconds_of(lambda: left @ right, bench.device) for _ in range(WARMUP + TIMED)][WARMUP:]
    return MatmulRate(
        size=size, dtype="bfloat16", seconds=tuple(seconds), flops_per_second=2 * size**3 / statistics.median(seconds)
    )


def decomposition_time(bench: Bench) -> Decomposition:
    """One decomposition of each of the model's two kinds of target weights: square, and MLP (down_proj is transposed)."""
    model, r = bench.scale.model, bench.runs["pissa"].method.settings["r"]
    hidden, inner, layers = model["hidden_size"], model["intermediate_size"], model["num_hidden_layers"]
    decompose(_weight(bench, (2 * r, 2 * r)), r=r)  # the libraries behind it start here
    shapes = []
    for shape, count in (((hidden, hidden), 4 * layers), ((inner, hidden), 3 * layers)):
        weight = _weight(bench, shape)
        extremes: list[Extremes] = []
        seconds = seconds_of(lambda w=weight, f=extremes: f.append(decompose(w, r=r)), bench.device)
        shapes.append(DecomposedShape(shape=shape, weights=count, seconds=seconds, residual=_residual(weight, extremes[0])))
    return Decomposition(r=r, shapes=tuple(shapes), whole_model_s=math.fsum(one.seconds * one.weights for one in shapes))


def _weight(bench: Bench, shape: tuple[int, int]) -> torch.Tensor:
    """As transformers draws a weight."""
    return (0.02 * torch.randn(shape, device=bench.device)).bfloat16()


def _residual(weight: torch.Tensor, extremes: Extremes) -> float:
    """|W V - U S| / |W| of the largest and smallest triplets."""
    w = weight.double()
    parts = [(w @ t.v.double() - t.u.double() * t.s.double()).square().sum() for t in (extremes.top, extremes.bottom)]
    return float((sum(parts) / w.square().sum()).sqrt())


def generation_speed(bench: Bench, *, rows: int, num_beams: int) -> Generation:
    """Greedy decoding, or by beams, of one batch of equally long prompts, by a model without end-of-sequence token."""
    scale = bench.scale
    model = bench.model(attn_implementation="sdpa", bos_token_id=None, eos_token_id=None)
    prompts = ["a" * scale.prompt_length] * rows

    def run(new_tokens: int) -> list[int]:
        completions = generate(model, bench.tokenizer, prompts, max_new_tokens=new_tokens, batch_size=rows, num_beams=num_beams)
        return [completion.tokens for completion in completions]

    run(2)
    reset_peak_memory()
    written: list[int] = []
    seconds = seconds_of(lambda: written.extend(run(scale.new_tokens)), bench.device)
    if written != [scale.new_tokens] * rows:
        raise RuntimeError(f"found rows of {min(written)} to {max(written)} new tokens, expected {scale.new_tokens} in each")
    peak = peak_memory()
    return Generation(
        rows=rows,
        num_beams=num_beams,
        prompt_tokens=scale.prompt_length,
        new_tokens=scale.new_tokens,
        seconds=seconds,
        tokens_per_second=rows * scale.new_tokens / seconds,
        peak_bytes=peak["bytes"],
        memory_of=peak["of"],
    )
