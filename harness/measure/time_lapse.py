"""One measurement of training time and memory: the real training loop, run at chosen steps of a run's schedule.

What a method does between steps depends on the number of the step. The loop is told, before each step, which step of the run it
is; data, model, loss, optimizer and the method's callbacks are those of ``harness.train.run``.
"""

from __future__ import annotations

import ctypes
import gc
import math
import tempfile
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch.utils.data import Dataset, Subset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from harness.schema.run import RunSpec
from harness.threads import limit_threads
from harness.train.run import Base, Folders, make_trainer
from harness.train.trainer import PrintProgress


@dataclass(frozen=True, kw_only=True)
class PlannedStep:
    """One step of a measurement: which step of the run it is, counted from 1, its kinds of work, and its batch's number."""

    step: int
    kinds: tuple[str, ...]
    batch: int


def kinds_of_steps(total_steps: int, extra_work: dict[str, Collection[int]]) -> dict[tuple[str, ...], list[int]]:
    """The steps 1..``total_steps`` by their kinds of work: sorted kinds -> steps, increasing."""
    kinds: dict[int, list[str]] = {}
    for kind in sorted(extra_work):
        for step in extra_work[kind]:
            kinds.setdefault(step, []).append(kind)
    steps: dict[tuple[str, ...], list[int]] = {}
    for step in range(1, total_steps + 1):
        steps.setdefault(tuple(kinds.get(step, ())), []).append(step)
    return steps


def plan_steps(by_kind: dict[tuple[str, ...], list[int]], *, steps: int) -> list[PlannedStep]:
    """Which steps of the run to time, in their order: ``steps`` of each kind, or all that there are.

    Ordinary steps are spread over the run. Of the others the first are taken, so that what one needs from another (BeamLoRA's
    operation its snapshot) has happened.
    """
    planned = []
    for kinds, members in by_kind.items():
        count = min(steps, len(members))
        spread = 1 if kinds else len(members) / count
        chosen = [members[int(index * spread)] for index in range(count)]
        planned += [PlannedStep(step=step, kinds=kinds, batch=batch) for batch, step in enumerate(chosen)]
    return sorted(planned, key=lambda entry: entry.step)


def measure(spec: RunSpec, base: Base, *, steps: int, warmup_steps: int, number: int, cache_dir: Path) -> dict[str, Any]:
    """Measure one method in this process, which must have done nothing but load, or be forked from one that has.

    Args:
        spec: without bookkeeping (``harness.experiment.runs.bare``).
        base: its model on any device; it is trained.
        steps: timed steps of each kind.
        warmup_steps: those before the clock starts.
        number: of the round; another round trains on other batches.

    Returns:
        The fields of ``harness.records.timing.Measurement`` but for ``order``.

    Raises:
        RuntimeError: training ended early, because its loss was not finite.
    """
    limit_threads()
    with tempfile.TemporaryDirectory() as scratch:
        folders = Folders(output=Path(scratch), scratch=Path(scratch), models=Path(scratch), cache=cache_dir)
        if torch.cuda.is_available():
            base.model.to(f"cuda:{torch.cuda.current_device()}")
        else:  # weights that are mapped from their file are resident once they have been read
            for tensor in base.model.state_dict().values():
                tensor.sum()
        reset_peak_memory()
        loaded = peak_memory()["bytes"]
        trainer, stop = make_trainer(spec, base, folders)
        trainer.remove_callback(PrintProgress)  # of a run that ends long before its last step
        stop.factor = math.inf  # what is logged is a sum over steps by a number that counts those left out, or repeated
        by_kind = kinds_of_steps(trainer.args.max_steps, trainer.method.extra_work())
        planned = plan_steps(by_kind, steps=steps)
        first = PlannedStep(step=1, kinds=(), batch=0)
        lapse = TimeLapse([first] * warmup_steps + planned, warmup=warmup_steps)
        trainer.add_callback(lapse)
        # torch asks for its own class, but calls only __getitem__.
        trainer.train_dataset = Subset(
            cast(Dataset[Any], base.dataset), _rows(spec, lapse.plan, rows=len(base.dataset), number=number)
        )
        trainer.args.train_sampling_strategy = "sequential"
        reset_peak_memory()
        trainer.train()
    if len(lapse.seconds) != len(lapse.plan):
        done = f"{len(lapse.seconds)} of {len(lapse.plan)} steps"
        raise RuntimeError(f"timing: {spec.method.key} ended after {done}: {stop.reason}")
    timed = list(zip(planned, lapse.seconds[warmup_steps:], strict=True))
    work = [
        {
            "kinds": kinds,
            "steps_in_run": len(members),
            "steps": [entry.step for entry, _ in timed if entry.kinds == kinds],
            "seconds": [seconds for entry, seconds in timed if entry.kinds == kinds],
        }
        for kinds, members in by_kind.items()
    ]
    return {
        "method": spec.method.key,
        "round": number,
        "work": work,
        "wall_time_s": sum(seconds for _, seconds in timed),
        "cpu_time_s": lapse.cpu_time_s,
        "memory_of": lapse.peak["of"],
        "loaded_bytes": loaded,
        "peak_bytes": lapse.peak["bytes"],
        "reserved_bytes": lapse.peak["reserved"],
    }


def _rows(spec: RunSpec, plan: list[PlannedStep], *, rows: int, number: int) -> list[int]:
    """Which rows the planned steps train on, in their order. Batch b of round ``number`` is the same for every method."""
    size = spec.training.global_batch
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(spec.seed + number)).tolist()
    return [order[(entry.batch * size + offset) % rows] for entry in plan for offset in range(size)]


class TimeLapse(TrainerCallback):
    """Tells the loop which step comes next, and times it. Must be the last callback."""

    def __init__(self, plan: list[PlannedStep], *, warmup: int) -> None:
        self.plan = plan
        self.warmup = warmup
        #: Wall-clock seconds of each step so far, from the end of the one before to its own end.
        self.seconds: list[float] = []
        #: CPU seconds of the steps after the warm-up.
        self.cpu_time_s = 0.0
        #: ``peak_memory`` after the last step.
        self.peak: dict[str, Any] = {}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._mark, self._cpu_start = _now(), time.process_time()

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        state.global_step = self.plan[len(self.seconds)].step - 1

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        now = _now()
        self.seconds.append(now - self._mark)
        if len(self.seconds) == self.warmup:
            self._cpu_start = time.process_time()
        if len(self.seconds) == len(self.plan):
            self.cpu_time_s = time.process_time() - self._cpu_start
            self.peak = peak_memory()
            control.should_training_stop = True
        self._mark = now


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


# ------------------------------------------------------------------------------------------------------------------ memory


def reset_peak_memory() -> None:
    """Give unused memory back to the system, and count the peak from here on.

    Raises:
        RuntimeError: the system does not let a process reset its peak (only Linux does).
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError) as error:
        raise RuntimeError(
            f"timing: cannot reset the peak memory of this process ({error}), expected Linux with glibc"
        ) from None


def peak_memory() -> dict[str, Any]:
    """The largest number of bytes since the last reset, of what, and the accelerator's reserved bytes."""
    if torch.cuda.is_available():
        return {
            "bytes": torch.cuda.max_memory_allocated(),
            "of": "accelerator, allocated",
            "reserved": torch.cuda.max_memory_reserved(),
        }
    lines = Path("/proc/self/status").read_text().splitlines()
    kibibytes = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    return {"bytes": kibibytes * 1024, "of": "process, resident", "reserved": None}
