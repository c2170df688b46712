"""The parts of the check in their order, and how one is attempted: whatever happens in it, the next one goes on."""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from benchmarks.gpu7b.bench import Bench
from benchmarks.gpu7b.checks import check_operation, check_precision, check_rotary
from benchmarks.gpu7b.speed import decomposition_time, generation_speed, matmul_rate
from benchmarks.gpu7b.training import Candidate, harness_candidate, measure, peft_candidate
from harness.records.gpu7b import Kind, MatmulRate, Part, Result

#: Seconds from the start of the process after which nothing more begins that could last longer than is left.
BUDGET_S = 450.0
#: Seconds of one training part, the model's construction included, after which no further step begins: eleven steps of PEFT's
#: DoRA, the slowest, at a fifth of an H100's rate.
TRAINING_S = 35.0
#: Characters of a traceback that are kept, its end.
TRACEBACK = 4000


@dataclass(frozen=True, kw_only=True)
class Circumstances:
    """What a part is told when it begins."""

    #: An empty folder of its own.
    folder: Path
    #: Of ``time.monotonic``.
    deadline: float
    #: Floating-point operations a second of a large product, once that part has succeeded.
    rate: float | None


@dataclass(frozen=True)
class PlannedPart:
    """A part that is to be made, and the seconds that it may take at most: estimated, no GPU was at hand."""

    name: str
    label: str
    kind: Kind
    make: Callable[[Circumstances], Result]
    at_most_s: float


def planned_parts(bench: Bench) -> Iterator[PlannedPart]:
    """All parts: what the paper reports first, so that a check that is cut short has it."""
    yield PlannedPart("matmul", "Matrix product", "matmul", lambda _: matmul_rate(bench), at_most_s=10)
    for name, label, candidate in candidates(bench):
        yield PlannedPart(name, label, "training", partial(_measure, bench, candidate), at_most_s=TRAINING_S)
    yield PlannedPart("operation", "BeamLoRA's operation", "replay", lambda c: check_operation(bench, c.folder), at_most_s=40)
    yield PlannedPart(
        "precision", "Packing and precision", "precision", lambda c: check_precision(bench, c.folder), at_most_s=30
    )
    yield PlannedPart("rotary", "Rotary frequencies", "rotary", lambda c: check_rotary(bench, c.folder), at_most_s=10)
    yield PlannedPart("decomposition", "Decompositions", "decomposition", lambda _: decomposition_time(bench), at_most_s=30)
    for rows, beams in bench.scale.generations:
        name, label = f"generation-{rows}", f"Generation, {rows} rows"
        if beams > 1:
            name, label = f"{name}-beams-{beams}", f"{label}, {beams} beams"
        yield PlannedPart(name, label, "generation", partial(_generate, bench, rows, beams), at_most_s=40)


def candidates(bench: Bench) -> list[tuple[str, str, Candidate]]:
    """(name, label, method) of the training parts: LoRA first and last, so that drift shows; before the last one the one that
    may not fit."""
    lora, *others = (
        (name, candidate.label, candidate)
        for name, candidate in (
            ("lora", harness_candidate(bench, "lora")),
            ("peft-lora", peft_candidate(bench, "lora", "LoRA (PEFT)")),
            ("beamlora", harness_candidate(bench, "beamlora")),
            ("dora", harness_candidate(bench, "dora")),
            ("peft-dora", peft_candidate(bench, "dora", "DoRA (PEFT)", use_dora=True)),
            *((f"{name}-not-fused", harness_candidate(bench, name, fused=False)) for name in ("lora", "dora")),
            *((name, harness_candidate(bench, name)) for name in ("adalora", "increlora", "relora", "pissa", "full-ft")),
        )
    )
    return [lora, *others, ("lora-again", f"{lora[1]}, again", lora[2])]


def _measure(bench: Bench, candidate: Candidate, circumstances: Circumstances) -> Result:
    c = circumstances
    return measure(bench, candidate, folder=c.folder, rate=c.rate, deadline=c.deadline)


def _generate(bench: Bench, rows: int, beams: int, _: Circumstances) -> Result:
    return generation_speed(bench, rows=rows, num_beams=beams)


def attempt(part: PlannedPart, *, started: float, scratch: Path, rate: float | None) -> Part:
    """Make one part; what it held is freed afterwards.

    Args:
        started: the process, on the clock of ``time.monotonic``.
    """
    begun = time.monotonic()
    left = started + BUDGET_S - begun
    result, error = None, None
    if left < part.at_most_s:
        status, error = "skipped", f"{left:.0f} s were left of {BUDGET_S:.0f}, and this part may take {part.at_most_s:.0f}"
    else:
        folder = scratch / part.name
        folder.mkdir(parents=True)
        try:
            result = part.make(Circumstances(folder=folder, deadline=begun + part.at_most_s, rate=rate))
            status = "success"
        except torch.OutOfMemoryError as failure:
            status, error = "out_of_memory", str(failure)
        except Exception:  # of any library; the other parts must not be lost with it
            status, error = "error", traceback.format_exc()[-TRACEBACK:]
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return Part(
        name=part.name,
        label=part.label,
        kind=part.kind,
        status=status,
        started_s=begun - started,
        seconds=time.monotonic() - begun,
        error=error,
        result=result,
    )


def rate_of(parts: list[Part]) -> float | None:
    """Floating-point operations a second of a large product, if that part has succeeded."""
    return next((part.result.flops_per_second for part in parts if isinstance(part.result, MatmulRate)), None)
