"""Predicted peaks of memory, each worked out once and kept below the cache. No torch until one has to be worked out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import methods
from harness.errors import ConfigError
from harness.files import write_json
from harness.models.architecture import Architecture, architecture
from harness.plan.cost import RESERVED, as_gib, fits
from harness.schema.fields import content_hash
from harness.schema.run import RunSpec
from harness.source_files import source_hash

#: Settings of training on which no tensor's size depends.
_WITHOUT_SIZE = {
    "learning_rate",
    "num_train_epochs",
    "max_steps",
    "lr_scheduler_type",
    "warmup_ratio",
    "warmup_steps",
    "divergence_factor",
    "logging_steps",
    "save_steps",
    "importance_every",
}


class Peaks:
    """The peaks of runs on a GPU, or on the CPU."""

    def __init__(self, cache_dir: Path, *, gpu: bool) -> None:
        self.folder, self.gpu = cache_dir / "memory", gpu

    def of(
        self, run: RunSpec, base: Architecture, *, lengths: Sequence[int], gpus: int = 1, predict: bool = True
    ) -> int | None:
        """``rehearsal.peak_bytes`` on each of ``gpus``; None for batches with padding, whose shapes depend on their content,
        and, unless it may be predicted now, for what was not asked before."""
        peak = self._of_one(run, base, lengths=lengths, predict=predict)
        return None if peak is None else peak - spared(run, base, gpus=gpus)

    def _of_one(self, run: RunSpec, base: Architecture, *, lengths: Sequence[int], predict: bool) -> int | None:
        if not run.training.packing:
            return None
        path = self._path(run, base, lengths)
        if path.is_file():
            return int(json.loads(path.read_text(encoding="utf-8"))["peak_bytes"])
        if not predict:
            return None
        from harness.measure.rehearsal import peak_bytes

        peak = peak_bytes(run, base, lengths=lengths, gpu=self.gpu)
        if peak is not None:
            write_json(path, {"peak_bytes": peak, "run": run.run_id, "lengths": lengths})
        return peak

    def _path(self, run: RunSpec, base: Architecture, lengths: Sequence[int]) -> Path:
        training = run.training.model_dump(mode="json", exclude=_WITHOUT_SIZE)
        training["gradient_accumulation_steps"] = training["gradient_accumulation_steps"] > 1
        content = [dict(base.fields), run.method.name, run.method.settings, training, list(lengths), self.gpu, _code()]
        return self.folder / f"{content_hash(content)}.json"


@cache
def _code() -> list[str]:
    """What else a prediction depends on: its source, that of the methods, and the libraries'."""
    modules = sorted({named.cls.__module__ for named in methods.registry().values()})
    return [
        source_hash("harness.measure.rehearsal", *modules),
        *(metadata.version(name) for name in ("torch", "transformers", "peft")),
    ]


def largest_batch(run: RunSpec, longest: Sequence[int] = ()) -> list[int]:
    """Lengths of the examples in the largest part of a micro-batch that a run can meet: of the longest ones of its set, by
    falling length, where they are known, else of max_length each; cut where micro_batch_tokens is reached."""
    size, left = run.training.per_device_train_batch_size, run.training.micro_batch_tokens
    lengths: list[int] = []
    for length in list(longest[:size]) or [run.data.max_length] * size:
        if left is not None:
            if left <= 0:
                break
            length = length if not lengths else min(length, left)
            left -= length
        lengths.append(length)
    return lengths


#: Bytes of a sharded parameter: itself, its gradient and two moments, in float32.
_SHARDED_BYTES = 16


def spared(run: RunSpec, base: Architecture, *, gpus: int) -> int:
    """How many bytes of the predicted peak lie on the other GPUs; none, where each has a copy. Worked out, not rehearsed."""
    if not methods.of(run.method).sharded:
        return 0
    return _SHARDED_BYTES * base.parameters * (gpus - 1) // gpus


def smallest_gpu() -> Any | None:
    """Name (``name``) and memory (``total_memory``) of the smallest GPU that torch finds; None without one."""
    import torch

    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return min(found, key=lambda device: device.total_memory, default=None)


def check_memory(run: RunSpec, peaks: Peaks, device: Any | None, *, models_dir: Path, gpus: int, predict: bool = True) -> None:
    """Hold the predicted peak of a run against the memory of a GPU (``smallest_gpu``). Without one the prediction is only made
    and kept, for those who hold it against theirs.

    Args:
        gpus: how many devices like this one train it.
        predict: work out now what was not asked before, which takes seconds; else let it pass.

    Raises:
        ConfigError: it does not fit; names the setting with which it does.
    """
    base = architecture(run, models_dir=models_dir)
    peak = None if base is None else peaks.of(run, base, lengths=largest_batch(run), gpus=gpus, predict=predict)
    if device is None or base is None or peak is None or fits(peak, device.total_memory):
        return

    def would_fit(changed: RunSpec, gpus: int) -> bool:
        predicted = peaks.of(changed, base, lengths=largest_batch(changed), gpus=gpus)
        return predicted is not None and fits(predicted, device.total_memory)

    most, whole = as_gib(device.total_memory - RESERVED), as_gib(device.total_memory)
    raise ConfigError(
        f"{run.run_id}: found a predicted peak of {as_gib(peak):.1f} GiB in its largest micro-batch, expected at most "
        f"{most:.1f} of the {whole:.1f} GiB of {device.name}; it fits with {remedy(run, would_fit, gpus=gpus)}"
    )


def remedy(run: RunSpec, fits: Callable[[RunSpec, int], bool], *, gpus: int = 1) -> str:
    """The first setting with which a run fits; all keep its numbers: checkpointing, micro-batches in parts, both; for sharded
    parameters several GPUs, in float32.

    Args:
        fits: whether it would, on each of so many GPUs.
        gpus: how many it is meant for.
    """
    training, longest = run.training, run.data.max_length
    parts: list[dict[str, Any]] = [{"micro_batch_tokens": sum(largest_batch(run)) // 2**n} for n in range(1, 16)]
    parts = [change for change in parts if change["micro_batch_tokens"] >= longest]
    checkpointing: dict[str, Any] = {"gradient_checkpointing": True}
    for change in (checkpointing, *parts, *(checkpointing | change for change in parts)):
        if fits(_changed(run, change), gpus):
            return _as_yaml(change)
    neither = "neither gradient_checkpointing nor one example at a time makes it fit"
    if not methods.of(run.method).sharded:
        return f"a larger GPU: {neither}, and several GPUs have a whole copy each"
    float32: dict[str, Any] = {"bf16_update": "float32"} if training.dtype == "bfloat16" else {}
    for more in (count for count in (2, 4, 8) if count > gpus and training.gradient_accumulation_steps % count == 0):
        for change in (float32, checkpointing | float32):
            if fits(_changed(run, change), more):
                return f"gpus: {more}" + (f" and {_as_yaml(change)}" if change else "")
    return f"larger GPUs: {neither}, nor do several GPUs"


def _changed(run: RunSpec, training: dict[str, Any]) -> RunSpec:
    return run.model_copy(update={"training": run.training.model_copy(update=training)})


def _as_yaml(training: dict[str, Any]) -> str:
    return "training: {" + ", ".join(f"{name}: {_word(value)}" for name, value in training.items()) + "}"


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
