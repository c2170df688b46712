"""The whole check: every part in turn, the record written after each."""

from __future__ import annotations

import gc
import os
import subprocess
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks.gpu7b.bench import Bench
from benchmarks.gpu7b.parts import attempt, planned_parts, rate_of
from benchmarks.gpu7b.scale import Scale
from harness import files
from harness.provenance import git_state, hardware, versions
from harness.records.gpu7b import Device, Gpu7bRecord, Part, Setting, Training
from harness.threads import limit_threads

#: Environment variables that change speed or memory.
ENVIRONMENT = (
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_NUM_THREADS",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
)


def run(scale: Scale, *, output: Path, arguments: Sequence[str], started: float) -> Gpu7bRecord:
    """Make every part that there is time for.

    Args:
        output: the record; whole after every part, so that a kill loses one part.
        arguments: of the command, for the record.
        started: the process, on the clock of ``time.monotonic``.
    """
    limit_threads()  # as harness.train does
    device = torch.device("cpu" if scale.smoke else "cuda")
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench.of(scale, device=device, scratch=Path(scratch))
        record = Gpu7bRecord(
            smoke=scale.smoke,
            arguments=tuple(arguments),
            started_at=datetime.now(UTC).isoformat(timespec="seconds"),
            versions=versions(),
            git=git_state(Path(__file__).parent),
            device=describe(device),
            setting=setting_of(bench),
            parts=(),
        )
        gc.collect()
        gc.freeze()  # what is imported stays: the collections between parts need not look at it, half a second each
        for planned in planned_parts(bench):
            done = [*record.parts, attempt(planned, started=started, scratch=bench.scratch, rate=rate_of(list(record.parts)))]
            record = record.model_copy(update={"parts": tuple(done)})
            files.write_json(output, record.model_dump(mode="json"))
            print(line(done[-1]), flush=True)
        gc.unfreeze()
    return record


def setting_of(bench: Bench) -> Setting:
    """What all methods have in common."""
    scale, spec = bench.scale, bench.runs["lora"]
    return Setting(
        model=dict(scale.model),
        dtype=spec.training.dtype,
        r=spec.method.settings["r"],
        lora_alpha=spec.method.settings["lora_alpha"],
        lora_dropout=spec.method.settings["lora_dropout"],
        micro_batches=spec.training.gradient_accumulation_steps,
        examples=spec.training.per_device_train_batch_size,
        mean_length=scale.mean_length,
        sigma=scale.sigma,
        max_length=scale.max_length,
        distinct_examples=scale.distinct_examples,
        rows=len(bench.dataset),
        seed=scale.seed,
        warmup_steps=scale.warmup_steps,
        timed_steps=scale.timed_steps,
    )


def describe(device: torch.device) -> Device:
    """The device and the machine around it."""
    machine = hardware()
    on_gpu = device.type == "cuda"
    return Device(
        name=torch.cuda.get_device_name(device) if on_gpu else machine["cpu"],
        memory_bytes=torch.cuda.get_device_properties(device).total_memory if on_gpu else None,
        driver=_driver() if on_gpu else None,
        cuda=torch.version.cuda if on_gpu else None,
        cpu=machine["cpu"],
        cores=machine["cores"],
        threads=machine["threads"],
        environment={name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
    )


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.split("\n")[0].strip() or None if done.returncode == 0 else None


def line(part: Part) -> str:
    """One line for the person who waits."""
    text = f"{part.started_s:5.0f} s  {part.name}: {part.status} in {part.seconds:.1f} s"
    if isinstance(part.result, Training):
        training = part.result
        utilisation = "" if training.mfu is None else f", {100 * training.mfu:.1f} % MFU"
        text += (
            f": {training.seconds_per_step:.3g} s a step, {training.tokens_per_second:,.0f} tokens/s{utilisation}, "
            f"{training.peak_bytes / 1e9:.1f} GB of {training.memory_of}"
        )
    return text if part.error is None else f"{text}: {part.error.strip().splitlines()[-1][:300]}"
