"""What an experiment needs of this machine and of the hub: GPUs and their memory, disk, packages, a sandbox, cached files."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterable
from pathlib import Path

from evaluation.grading import runs_programs
from evaluation.sandbox import isolation
from harness.cli import Config
from harness.engine import process
from harness.errors import ConfigError, KeyPath, within
from harness.experiment.gpus import gpus_of
from harness.experiment.hub_sources import hub_sources
from harness.experiment.lock import lock_file, read_lock
from harness.experiment.runs import all_asked, base_evaluations, settings_named
from harness.plan.peaks import Peaks, check_memory, smallest_gpu
from harness.schema.experiment import Experiment
from harness.schema.run import RunSpec


def check_gpu() -> None:
    """Refuse to train on the CPU what is meant for a GPU.

    Raises:
        ConfigError: torch sees none.
    """
    import torch

    if not torch.cuda.is_available():
        raise ConfigError(
            "found true, but torch sees no GPU, expected one: 'beamlora doctor' says what is missing; gpu=false after --config "
            "or --set trains on the CPU",
            keys=("gpu",),
        )


def check_engines(experiment: Experiment, runs: Iterable[RunSpec]) -> None:
    """Hold the engines of the evaluations, and where programs of models run, against what there is.

    Raises:
        ConfigError: one generates with vLLM, and there is none that this version can use; or a task runs programs, and nothing
            isolates them.
    """
    keys: list[KeyPath] = [("domains", run.domain, "evaluation") for run in runs if run.evaluation.engine == "vllm"]
    keys += [("base_evaluation",) for base in base_evaluations(experiment) if base.spec.engine == "vllm"]
    if keys:
        with within(*keys[0], "engine"):
            process.version()
    programs = [
        asked.keys
        for asked in all_asked(experiment, runs)
        if asked.task.max_new_tokens and runs_programs(asked.task.format) and not asked.task.allow_unsafe
    ]
    if programs:
        try:
            isolation.choose()
        except isolation.SandboxUnavailable as error:
            raise ConfigError(error, keys=(*programs[0], "allow_unsafe")) from error


def check_lm_eval(experiment: Experiment, runs: Iterable[RunSpec]) -> None:
    """Hold the tasks of lm-evaluation-harness against its index.

    Raises:
        ConfigError: the package, a folder or a task is not there, or a task runs what the model writes.
    """
    from harness.evaluate.lm_eval import task_manager

    for domain in dict.fromkeys(run.domain for run in runs):
        spec = experiment.domains[domain].evaluation.lm_eval
        if spec is not None:
            with within("domains", domain, "evaluation", "lm_eval"):
                task_manager(spec)


def check_hub(experiment: Experiment, config: Config, *, jobs_elsewhere: bool) -> None:
    """Hold what comes from the hub against the locks, and against the local cache where that may be all there is: offline, and
    on the compute nodes of a cluster.

    Raises:
        ConfigError: names the key of a revision that may move, of a file that is not the locked one, or of missing weights;
            or the hub is needed and does not answer.
    """
    from harness.hub import repositories as hub
    from harness.hub.network import offline, require_answer

    sources, lock = hub_sources(experiment), read_lock(config.files)
    fetch = f"beamlora fetch {shlex.join(config.short_arguments)}".rstrip()
    without_network = "HF_HUB_OFFLINE is set" if offline() else "jobs run on other nodes" if jobs_elsewhere else None
    for source in sources:
        with within(*source.at):
            if not hub.is_commit(source.revision):
                raise ConfigError(
                    f"found {source.revision!r}, which may move, expected a commit of {source.name}: '{fetch}' finds and keeps "
                    f"it in {lock_file(config.files)}"
                )
            locked = lock.find(source.kind, source.name, source.revision)
            for name, expected in (locked.files if locked else {}).items():
                there = hub.cached(source.kind, source.name, source.revision, name)
                if there is not None and there.stat().st_size != expected.size:
                    raise ConfigError(
                        f"found {there.stat().st_size} bytes in {there}, expected the {expected.size} of the lock; '{fetch}' "
                        "mends it"
                    )
            if source.kind == "model" and without_network and (missing := hub.missing_weights(source.name, source.revision)):
                raise ConfigError(
                    f"found no {', '.join(missing)} of {source.name} in the local cache, and {without_network}; '{fetch}' "
                    "downloads them where there is network"
                )
    if sources:
        require_answer()


def check_disk(folder: Path, needed: int) -> None:
    """Refuse to begin what the disk cannot hold.

    Raises:
        ConfigError: less free space than ``needed`` bytes.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ConfigError(
            f"{folder.resolve()}: found {_size(free)} of free disk space, expected at least {_size(needed)} for the adapters "
            "and checkpoints of these runs"
        )


def _size(count: int) -> str:
    """Bytes for a person, in the unit that gives them a digit before the point."""
    unit = 2 if count >= 2**30 else 1 if count >= 2**20 else 0
    return f"{count / 2 ** (10 * (unit + 1)):.1f} {('KiB', 'MiB', 'GiB')[unit]}"


def check_memories(
    experiment: Experiment, runs: Iterable[RunSpec], *, models_dir: Path, cache_dir: Path, jobs_elsewhere: bool
) -> None:
    """Hold the predicted peak of every run against the smallest GPU that torch finds. Where jobs run elsewhere only predict it:
    each run is held against its own GPU when it starts.

    Raises:
        ConfigError: names the first run that does not fit, and the setting with which it does.
    """
    device = None if jobs_elsewhere else smallest_gpu()
    on = "" if device is None else f" on {device.name}"
    print(f"preflight · memory{on}: seconds for each kind of run, kept in {cache_dir}", flush=True)
    peaks = Peaks(cache_dir, gpu=True)
    for spec in runs:
        with settings_named(experiment, spec):
            check_memory(spec, peaks, device, models_dir=models_dir, gpus=gpus_of(experiment, spec))
