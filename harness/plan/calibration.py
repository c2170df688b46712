"""The speed of the machine at hand, measured on request by a few steps of one run and kept below the cache.

The steps are those of ``harness.measure.time_lapse``: the run's own loop, each kind of step counted as often as the run has it.
Reading needs no torch.
"""

from __future__ import annotations

from pathlib import Path

from harness.errors import ConfigError
from harness.experiment.runs import bare
from harness.files import write_json
from harness.plan.cost import Gpu
from harness.records.timing import Measurement
from harness.records.versioned import MissingRecord, Recipe, read_json, validated
from harness.schema.experiment import Experiment
from harness.schema.fields import SCHEMA_VERSION, Frozen, content_hash
from harness.schema.run import RunSpec

#: Timed steps of each kind, and those before the clock starts.
STEPS = 20
WARMUP_STEPS = 3
MADE = Recipe.command("python -m harness.plan --calibrate")


class Calibration(Frozen):
    """One measured run."""

    schema_version: int = SCHEMA_VERSION
    run_id: str
    #: The accelerator, or the CPU where there is none, by its vendor's name.
    device: str
    #: Mean over the training set.
    tokens_per_example: float
    examples_per_step: int
    measurement: Measurement

    @property
    def tokens_per_second(self) -> float:
        return self.tokens_per_example * self.examples_per_step / self.measurement.seconds_per_step

    def is_of(self, gpu: Gpu | None) -> bool:
        """Whether it says something about this kind of GPU; None: the machine at hand, whatever it is."""
        return gpu is None or gpu.name in self.device


def calibrate(run: RunSpec, experiment: Experiment, *, gpu: Gpu, models_dir: Path, cache_dir: Path) -> None:
    """Measure a run and keep the result, in the place of an earlier one.

    Args:
        gpu: what an experiment on GPUs is measured on.

    Raises:
        ConfigError: this machine has another GPU or none, or lacks the model or the data.
    """
    from harness.measure.time_lapse import measure
    from harness.provenance import hardware
    from harness.train.run import Folders, load_inputs

    machine = hardware()
    device = (machine["accelerators"] or [machine["cpu"]])[0]
    if experiment.gpu and gpu.name not in device:
        raise ConfigError(f"--calibrate: found {device}, expected the {gpu.name} whose hours are asked for (--gpu)")
    folders = Folders(output=cache_dir, scratch=cache_dir, models=models_dir, cache=cache_dir)
    base = load_inputs(run, experiment, folders)
    measurement = measure(bare(run), base, steps=STEPS, warmup_steps=WARMUP_STEPS, number=0, cache_dir=cache_dir)
    calibration = Calibration(
        run_id=run.run_id,
        device=device,
        tokens_per_example=len(base.dataset.input_ids) / len(base.dataset),
        examples_per_step=run.training.global_batch,
        measurement=Measurement.model_validate({**measurement, "order": 0}),
    )
    write_json(_path(run, cache_dir), calibration.model_dump(mode="json"))


def read(run: RunSpec, *, cache_dir: Path) -> Calibration | None:
    """What was measured with this run's model, data and settings, if anything.

    Raises:
        harness.records.versioned.RecordError: the record is broken.
    """
    path = _path(run, cache_dir)
    try:
        return validated(path, read_json(path, MADE), Calibration, MADE)
    except MissingRecord:
        return None


def _path(run: RunSpec, cache_dir: Path) -> Path:
    what = [run.model.source, run.data, run.training, run.method.name, run.method.settings]
    return cache_dir / "calibration" / f"{content_hash(what)}.json"
