"""Training time and memory of methods side by side: ``python -m harness.measure.timing --configfile FILE --output timing.json``

Every method is measured once in each round, in an order that rotates from round to round, each time in a process of its own, by
the training loop of ``harness.train.run`` on the experiment's model, data, batch and settings (Figures 8 and 9). Methods that
start from the same weights share the process that loads them (``harness.measure.loaded``).

A step that prunes ranks or allocates them costs more than an ordinary one, and a run has few of them or many. A measurement
therefore visits steps of the *whole* run's schedule and skips most of the ordinary ones: each kind of step is taken
``timing.steps`` times, or as often as the run has it if that is less. The time of a step is the mean of the kinds' median
times, weighted with how often the run has them. The n-th step of every kind, in every method of a round, trains on the same
batch; another round has other batches.

Measurements are kept as they come: interrupted, the same command goes on with the next.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from harness import files
from harness.cli import SCRATCH, add_cache_argument, add_config_arguments, add_models_argument, parse_config, run
from harness.errors import ConfigError
from harness.experiment.runs import load_experiment, timing_runs
from harness.records.timing import Measurement, TimingRecord, summarise
from harness.schema.experiment import Experiment
from harness.schema.fields import SCHEMA_VERSION, content_hash
from harness.schema.run import RunSpec
from harness.threads import limit_threads


def measure_all(
    experiment: Experiment,
    *,
    command: list[str],
    output: Path,
    scratch_dir: Path = SCRATCH,
) -> TimingRecord:
    """Make every measurement that is not there yet, one after another, and write ``output``.

    Args:
        command: what makes measurements; ``--measure --output FILE`` is added.

    Raises:
        ConfigError: the experiment has no timing.
        RuntimeError: a measurement failed; its words are on stderr.
    """

    from harness.progress import Progress
    from harness.provenance import git_state, hardware, versions

    spec = experiment.timing
    if spec is None:
        raise ConfigError("timing: found nothing in the experiment, expected the methods to measure")
    limit_threads()  # as every measured process does: it is recorded
    runs = timing_runs(experiment)
    head: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "experiment": experiment.name,
        "timing": spec.model_dump(mode="json"),
        "settings": {key: timed.training_hash() for key, timed in runs.items()},
        "versions": versions(),
        "git": git_state(Path(__file__).parent),
        "hardware": hardware(),
    }
    # The record itself is the workflow's to delete; a part made under other conditions is never taken up.
    part = scratch_dir / f"timing-{content_hash(head)}.json"

    def read(path: Path) -> list[Measurement]:
        return [Measurement.model_validate(item) for item in json.loads(path.read_text())]

    done = files.read_or_set_aside(part, read) or []
    progress = Progress(f"time {experiment.name}", interval=0, whole_job=True)
    due = [
        (number, order, spec.methods[(number + order) % len(spec.methods)])
        for number in range(spec.rounds)
        for order in range(len(spec.methods))
    ]
    with ExitStack() as stack:
        processes: dict[tuple[str, str, bool], _Measuring] = {}
        for number, order, method in due[len(done) :]:
            progress.update(len(done), len(due), f"round {number + 1} of {spec.rounds}: {method}")
            weights = _weights(runs[method])
            if weights not in processes:
                processes[weights] = stack.enter_context(_Measuring(command))
            done.append(processes[weights].measure(method, number=number, order=order))
            files.write_json(part, [measurement.model_dump(mode="json") for measurement in done])
    record = TimingRecord.model_validate({**head, "measurements": done})
    files.write_json(output, record.model_dump(mode="json"))
    part.unlink(missing_ok=True)
    return record


def _weights(run: RunSpec) -> tuple[str, str, bool]:
    """What decides the model that a timed run loads, or that liger-kernel changes: all have one base and one set of data."""
    return run.training.dtype, run.training.attn_implementation, run.training.liger_kernel


class _Measuring:
    """A process that loads a base model and makes measurements (``harness.measure.loaded``)."""

    def __init__(self, command: list[str]) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._output = Path(self._folder.name) / "measurement.json"
        self._process = subprocess.Popen(
            [*command, "--measure", "--output", str(self._output)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # torch asks NVML whether there is a GPU, and leaves CUDA to the processes that are forked.
            env={**os.environ, "PYTORCH_NVML_BASED_CUDA_CHECK": "1"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()
        self._folder.cleanup()

    def measure(self, method: str, *, number: int, order: int) -> Measurement:
        """Make one measurement."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{method} {number}\n")
        self._process.stdin.flush()
        status = self._process.stdout.readline().strip() or str(self._process.wait())
        if status != "0":
            raise RuntimeError(f"timing: measuring {method} in round {number} ended with exit status {status}")
        return Measurement.model_validate({**json.loads(self._output.read_text()), "order": order})


def main(arguments: list[str] | None = None) -> int:
    """The command line. Exit status 0 means the output is written."""
    parser = argparse.ArgumentParser(prog="python -m harness.measure.timing", description=__doc__.split("\n")[0])
    add_config_arguments(parser)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the JSON record to write")
    parser.add_argument(
        "--measure", action="store_true", help="make the measurements that standard input asks for, METHOD ROUND a line"
    )
    parser.add_argument(
        "--scratch",
        type=Path,
        default=SCRATCH,
        metavar="DIR",
        help="where measurements are kept meanwhile (default: %(default)s)",
    )
    add_models_argument(parser)
    add_cache_argument(parser)
    args = parser.parse_args(arguments)
    config = parse_config(args)
    experiment = load_experiment(config.files, config.overrides)
    if args.measure:
        from harness.measure.loaded import serve

        answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what is printed must not stand among the answers
        folders = {"models_dir": args.models_dir, "cache_dir": args.cache_dir}
        for status in serve(experiment, sys.stdin, output=args.output, **folders):
            print(status, file=answers, flush=True)
        return 0
    files.require_writable(args.output)
    command = [sys.executable, "-m", "harness.measure.timing", *config.arguments]
    command += ["--models-dir", str(args.models_dir), "--cache-dir", str(args.cache_dir)]
    record = measure_all(experiment, command=command, output=args.output, scratch_dir=args.scratch)
    for method, ratios in summarise(record).items():
        print(
            f"{method}: {ratios.time.median:.2f} times the step of {record.timing.baseline} "
            f"[{ratios.time.low:.2f}, {ratios.time.high:.2f}], {ratios.peak.median:.2f} times its memory "
            f"[{ratios.peak.low:.2f}, {ratios.peak.high:.2f}], {ratios.rounds} rounds"
        )
    return 0


if __name__ == "__main__":
    run(main)
