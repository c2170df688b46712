"""A process that loads a base model once and forks one of its own for each measurement of methods that start from it.

A measurement needs a process that has measured nothing before: what a trainer leaves behind, in the allocators of the process
and of the GPU, would count as the memory of the next. A forked process is such a one, and has the weights at once: its pages
are the parent's until it writes to them, and count as resident in both. The parent computes nothing and leaves the GPU alone,
since neither threads nor CUDA survive a fork: the weights lie in the host's memory, and a measurement moves them to its GPU.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from harness import cli, files
from harness.errors import ConfigError
from harness.experiment.runs import timing_runs
from harness.measure.time_lapse import measure
from harness.schema.experiment import Experiment
from harness.train.run import Base, Folders, load_inputs


def serve(experiment: Experiment, requests: Iterable[str], *, output: Path, models_dir: Path, cache_dir: Path) -> Iterator[int]:
    """Make measurements, one after another.

    Args:
        requests: ``METHOD ROUND`` each. All start from the base of the first, which is loaded for it.
        output: where each measurement is written, over the one before.

    Yields:
        The exit status of each measurement.

    Raises:
        ConfigError: the experiment does not time a method, or its inputs cannot be read.
    """
    torch.set_num_threads(1)  # OpenMP's threads would be missing in every forked process
    runs, timing = timing_runs(experiment), experiment.timing
    base: Base | None = None
    for request in requests:
        method, number = request.split()
        if timing is None or method not in runs:
            raise ConfigError(f"--measure: found {method!r}, expected one of timing.methods: {', '.join(runs)}")
        if base is None:
            nowhere = Path()
            folders = Folders(output=nowhere, scratch=nowhere, models=models_dir, cache=cache_dir)
            base = load_inputs(runs[method], experiment, folders, on_host=True)
        steps = {"steps": timing.steps, "warmup_steps": timing.warmup_steps}
        measured = partial(measure, runs[method], base, **steps, number=int(number), cache_dir=cache_dir)
        process = multiprocessing.get_context("fork").Process(target=cli.run, args=[partial(_write, measured, output)])
        process.start()
        process.join()
        yield process.exitcode or 0


def _write(measured: Callable[[], dict[str, Any]], output: Path, _: list[str] | None) -> None:
    files.write_json(output, measured())
