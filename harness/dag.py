"""What the Snakefile needs to know: the experiment, its runs, their files and the sources behind them. No torch."""

from __future__ import annotations

import fcntl
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import methods
from harness import plan, progress
from harness.cli import DEFAULT_CONFIGFILE, MODELS, RESULTS, WORKFLOW_PID
from harness.config import BuiltModel, ConfigError, RunSpec, canonical_json
from harness.data_files import local_file

#: Snakemake's ``--configfile FILE ...`` takes every word after it for a file, also the target in
#: ``snakemake --configfile config/paper.yaml reproduce_table1``. An empty file of the target's name makes that command mean
#: what it says.
TARGETS = ("reproduce_table1", "reproduce_all")

_HARNESS = Path("harness")
#: Source files behind each stage: an edit reruns the stage, and nothing before it.
PRETRAIN_CODE = [_HARNESS / "pretrain.py", *sorted((_HARNESS / "synthetic").glob("*.py"))]
TRAIN_CODE = [
    *(_HARNESS / f"{name}.py" for name in ("train", "trainer", "data", "models", "attention", "checkpoints", "record_blocks")),
    Path("methods/base.py"),
    Path("evaluation/prompts.py"),
    Path("evaluation/tasks.py"),
]
EVALUATE_CODE = [
    *(_HARNESS / f"{name}.py" for name in ("evaluate", "generate", "models")),
    *sorted(Path("evaluation").glob("*.py")),
]
RECORD_CODE = [_HARNESS / "records.py"]
TABLE_CODE = [
    *(_HARNESS / f"{name}.py" for name in ("records", "stats", "tables", "table_text", "table_formats", "reported")),
    Path("config/paper_reported.csv"),
]


def method_code(name: str) -> list[Path]:
    """The source files of a method: its module, or every module of its package, and the helpers beside it."""
    cls = methods.get(name).cls
    source = Path(__import__(cls.__module__, fromlist=["__file__"]).__file__ or "")
    files = sorted(source.parent.glob("*.py")) if cls.__module__.count(".") > 1 else [source]
    inside = cls.__module__.startswith("methods.")
    helpers = [Path("methods/peft_support.py"), Path("methods/svd.py")] if inside else []
    root = Path.cwd()
    return [file.relative_to(root) if file.is_relative_to(root) else file for file in files] + helpers


class Dag:
    """One experiment as files. Paths are relative to the repository, where Snakemake runs."""

    def __init__(self, configfiles: Sequence[Path], overrides: Mapping[str, Any]) -> None:
        """Read and check the experiment.

        Raises:
            ConfigError: anything wrong with it.
        """
        root = Path.cwd()
        files = [Path(file) for file in configfiles]
        files = [file.relative_to(root) if file.is_relative_to(root) else file for file in files]
        named = [file for file in files if str(file) in TARGETS]
        #: What to make when the command line names no target.
        self.target = str(named[-1]) if named else TARGETS[0]
        self.configfiles = [file for file in files if file not in named] or [DEFAULT_CONFIGFILE]
        self.overrides = dict(overrides)
        self.experiment = plan.load_experiment(self.configfiles, self.overrides)
        self.runs = {run.run_id: run for run in plan.all_runs(self.experiment)}
        self.base_models = plan.base_models(self.runs.values())
        self.folder = RESULTS / self.experiment.name

    @property
    def arguments(self) -> str:
        """``--configfile ... --set ...``, ready for a shell."""
        return f"--configfile {shlex.join(map(str, self.configfiles))} {self.override_arguments}".strip()

    @property
    def override_arguments(self) -> str:
        """``--set KEY=VALUE ...`` for the keys that Snakemake's ``--config`` sets, or nothing."""
        if not self.overrides:
            return ""
        return shlex.join(["--set", *(f"{key}={canonical_json(value)}" for key, value in sorted(self.overrides.items()))])

    def run(self, wildcards: Any) -> RunSpec:
        """The run of a rule's wildcards.

        Raises:
            ConfigError: the experiment has no such run.
        """
        run_id = f"{wildcards.domain}/{wildcards.model}/{wildcards.method}/seed{wildcards.seed}"
        if run_id not in self.runs:
            raise ConfigError(f"{self.configfiles[-1]}: found no run {run_id}")
        return self.runs[run_id]

    def base_model(self, run: RunSpec) -> list[str]:
        """The folder of the run's base model if the DAG builds it."""
        if isinstance(run.model.source, BuiltModel):
            return [str(MODELS / plan.base_model_folder(run.model_key, run.model.source))]
        return []

    def training_files(self, run: RunSpec) -> list[str]:
        """The local data file that the run trains on, if any."""
        file = local_file(run.data.source, data_dir=self.experiment.data_dir)
        return [] if file is None else [str(file)]

    def evaluation_files(self, run: RunSpec) -> list[str]:
        """The local data files that the run is evaluated on."""
        files = [local_file(task.source, data_dir=self.experiment.data_dir) for task in run.evaluation.tasks.values()]
        return [str(file) for file in files if file is not None]

    def table_files(self, table: str, name: str) -> list[str]:
        """The files called ``name`` of all runs behind a table."""
        return [str(self.folder / run.run_id / name) for run in plan.table_runs(self.experiment, table)]

    def watch(self) -> None:
        """Tell the jobs which runs this invocation is about, so that they can say how many are done, and whom to end with."""
        files = [self.folder / run.run_id / "metrics.json" for run in self.runs.values()]
        path = RESULTS / ".progress" / f"{self.experiment.name}.json"
        progress.write_plan(path, files)
        os.environ[progress.ENVIRONMENT_VARIABLE] = str(path)
        os.environ[WORKFLOW_PID] = str(os.getpid())


def hold_lock(experiment: str) -> IO[str]:
    """Refuse a second workflow on the same results. The kernel lets go of the lock however this process ends, so a killed
    workflow can simply be repeated (Snakemake's own lock files survive a kill).

    Raises:
        ConfigError: another workflow holds it.
    """
    path = RESULTS / ".progress" / f"{experiment}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    stream = path.open("w")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(f"{path}: another workflow is running on results/{experiment}; wait for it or stop it") from None
    return stream
