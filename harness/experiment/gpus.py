"""How many processes train a run, each on a GPU of its own where there are GPUs. Outside the run's spec: it changes no number
beyond the rounding of sums. No torch."""

from __future__ import annotations

import methods
from harness.errors import ConfigError, KeyPath
from harness.experiment.resolve import overrides_for, where_of
from harness.schema.experiment import Experiment
from harness.schema.run import RunSpec


def gpus_of(experiment: Experiment, run: RunSpec) -> int:
    """How many processes train a run of an experiment."""
    return _resolved(experiment, run)[0]


def key_of_gpus(experiment: Experiment, run: RunSpec) -> KeyPath:
    """The key that says so."""
    return _resolved(experiment, run)[1]


def check_gpus(experiment: Experiment, run: RunSpec) -> None:
    """Whether the run can be trained by as many processes as the experiment says.

    Raises:
        ConfigError: it cannot; names the key that says so.
    """
    gpus, key = _resolved(experiment, run)
    reason = why_not(run, gpus)
    if reason is not None:
        raise ConfigError(f"found {gpus} for {run.run_id}, but {reason}", keys=key)
    if run.training.liger_kernel and not experiment.gpu:
        raise ConfigError("found true with gpu false, but its kernels run on GPUs alone", keys=("training", "liger_kernel"))


def check_world(run: RunSpec, processes: int) -> None:
    """Whether the run can be trained by the processes that torchrun has started.

    Raises:
        ConfigError: it cannot.
    """
    reason = why_not(run, processes)
    if reason is not None:
        raise ConfigError(f"torchrun: found {processes} processes for {run.run_id}, but {reason}")


def why_not(run: RunSpec, processes: int) -> str | None:
    """Why several processes cannot train a run as one does; None if they can."""
    training = run.training
    try:
        training.per_process(processes)
    except ValueError as error:
        return str(error)
    if processes > 1 and methods.of(run.method).sharded and training.dtype == "bfloat16" and training.bf16_update != "float32":
        return (
            f"training.bf16_update: found {training.bf16_update!r}, expected float32: the weights of {run.method.label} are "
            "sharded over the processes (FSDP2), which keeps them in float32"
        )
    return None


def _resolved(experiment: Experiment, run: RunSpec) -> tuple[int, KeyPath]:
    """The number, and the key that gives it: of the last override for the run, its method, its domain or the experiment."""
    where = where_of(run)
    layers: list[tuple[int | None, KeyPath]] = [
        (experiment.gpus, ("gpus",)),
        (experiment.domains[run.domain].gpus, ("domains", run.domain, "gpus")),
        (experiment.methods[where["method"]].gpus, ("methods", where["method"], "gpus")),
    ]
    layers += [(override.gpus, ("overrides", i, "gpus")) for i, override in overrides_for(experiment, **where).items()]
    return [(gpus, key) for gpus, key in layers if gpus is not None][-1]
