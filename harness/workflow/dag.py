"""What the Snakefile needs to know: the experiment, its runs, their files and the sources behind them. No torch."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shlex
import shutil
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import methods
from evaluation import sets
from harness import overhead, progress
from harness.arguments import overrides
from harness.cli import (
    DEFAULT_CONFIGFILE,
    EXPERIMENT_KEY,
    FIGURES,
    MODELS,
    RESULTS,
    Config,
    experiment_file,
    lead_jobs,
)
from harness.did_you_mean import hint, suggestion
from harness.errors import ConfigError
from harness.experiment.gpus import gpus_of, key_of_gpus
from harness.experiment.runs import (
    all_runs,
    base_answers,
    base_evaluations,
    base_models,
    load_experiment,
    pruning_runs,
    settings_runs,
    shows_base,
    table_runs,
    timing_runs,
)
from harness.experiment.yaml_file import placed
from harness.figures import catalogue
from harness.records import bench
from harness.schema.base_models import BuiltModel
from harness.schema.data import DataSource, local_file
from harness.schema.evaluation import EvaluationSpec
from harness.schema.run import RunSpec
from harness.source_files import is_ours, own_files, source_files
from harness.workflow.gpu_slot import visible_devices
from harness.workflow.targets import target_runs

#: Rule -> the module that makes its numbers. (Commands beside it read arguments and experiments, and write exports.)
MODULES = {
    "base_model": "harness.models.pretraining",
    "train": "harness.train.run",
    "evaluate": "harness.evaluate.run",
    "prune": "harness.measure.prune",
    "timing": "harness.measure.timing",
    "evaluate_base": "harness.evaluate.run",
    "records": "harness.records.__main__",
    "table": "harness.tables.__main__",
    "figure": "harness.figures.__main__",
    "claims": "harness.claims.__main__",
    "report": "harness.report.__main__",
}
#: Rule -> the folders of other files that it reads.
_READ = {"report": (Path("harness/report/assets"), Path("harness/report/templates"))}
#: The module of a function in a YAML file of lm-eval.
_FUNCTION = re.compile(r"!function\s+([\w.]+)\.\w+")
_REPORTED = [Path("config/paper_reported.csv"), Path("config/paper_samples.csv")]


def code_of(rule: str, *more: str) -> list[Path]:
    """The files whose edit reruns a rule: what its module, and ``more``, import, directly or not, and what that reads beside
    code."""
    files = source_files(MODULES[rule], *more)
    if Path("harness/reported.py") in files:
        # Tables ask any set for its label and for whether the paper reports it.
        modules = dict.fromkeys(map(sets.module_of, sets.registry()))
        files += [*_REPORTED, *(file for module in modules for file in own_files(module))]
    return files + [path for folder in _READ.get(rule, ()) for path in sorted(folder.rglob("*")) if path.is_file()]


def method_code(name: str) -> list[Path]:
    """The source files of a method, in this project or in another package."""
    return source_files(methods.get(name).cls.__module__)


def figure_code(name: str) -> list[Path]:
    """The source files of a figure: those of its own module, and those that all figures share.

    Raises:
        ConfigError: there is no such figure, or its module is not installed.
    """
    return code_of("figure", catalogue.get(name).module)


def set_code(evaluation: EvaluationSpec) -> list[Path]:
    """The source files of the sets that are evaluated on, in this project or in other packages; and of tasks for lm-eval from a
    folder of one's own, with the modules that they name in ``!function``."""
    modules = {sets.module_of(task.format) for task in evaluation.tasks.values()}
    folder = None if evaluation.lm_eval is None else evaluation.lm_eval.include_path
    tasks = [] if folder is None else sorted(path for path in Path(folder).rglob("*") if path.is_file())
    named = {name for path in tasks for name in _FUNCTION.findall(path.read_text(encoding="utf-8", errors="replace"))}
    return source_files(*modules, *filter(is_ours, named)) + tasks


def read_config(configfiles: Sequence[Path], words: Sequence[str]) -> Config:
    """The experiment that a command line of Snakemake names.

    Args:
        configfiles: after ``--configfile``. Those in the current folder are named relative to it.
        words: KEY=VALUE, as they stand after ``--config``: Snakemake would read numbers inside a mapping as text.

    Raises:
        ConfigError: no such experiment in config/, or one beside files; a word that is not KEY=VALUE.
    """
    changed = overrides.parse(words, option="--config")
    root = Path.cwd()
    files = tuple(file.relative_to(root) if file.is_relative_to(root) else file for file in configfiles)
    if EXPERIMENT_KEY not in changed:
        return Config(files=files or (DEFAULT_CONFIGFILE,), overrides=changed)
    name = str(changed.pop(EXPERIMENT_KEY))
    if files:
        raise ConfigError(
            f"--config {EXPERIMENT_KEY}: found {name!r} beside --configfile {' '.join(map(str, files))}, expected one of them"
        )
    return Config(files=(experiment_file(name),), overrides=changed)


class Dag:
    """One experiment as files. Paths are relative to the repository, where Snakemake runs."""

    def __init__(self, config: Config) -> None:
        """Read and check the experiment.

        Raises:
            ConfigError: anything wrong with it.
        """
        self.config = config
        self.experiment = load_experiment(config.files, config.overrides)
        catalogue.check_sweeps(self.experiment, config)
        self.runs = {run.run_id: run for run in all_runs(self.experiment)}
        self.base_models = base_models(self.experiment)
        self.base_evaluations = {one.folder: one for one in base_evaluations(self.experiment)}
        self.folder = RESULTS / self.experiment.name
        self.figures = FIGURES / self.experiment.name

    @property
    def configfiles(self) -> list[Path]:
        """The experiment's files, as an input of every rule."""
        return list(self.config.files)

    @property
    def arguments(self) -> str:
        """``--configfile ... --set ...``, ready for a shell."""
        return shlex.join(self.config.arguments)

    @property
    def override_arguments(self) -> str:
        """``--set KEY=VALUE ...`` for the keys that Snakemake's ``--config`` sets, or nothing, ready for a shell."""
        return shlex.join(self.config.override_arguments)

    def run(self, wildcards: Any) -> RunSpec:
        """The run of a rule's wildcards.

        Raises:
            ConfigError: the experiment has no such run.
        """
        run_id = f"{wildcards.domain}/{wildcards.model}/{wildcards.method}/seed{wildcards.seed}"
        if run_id not in self.runs:
            near = suggestion(run_id, self.runs) or f"the experiment has {len(self.runs)} runs"
            raise ConfigError(f"target: the experiment {self.experiment.name!r} plans no run {run_id}; {near}")
        return self.runs[run_id]

    def check(self, rule: str, wildcards: Mapping[str, str]) -> None:
        """Hold a rule, and its wildcards, name -> value, against what the experiment plans.

        Raises:
            ConfigError: it plans nothing of these.
        """
        planned = {"prune": self.experiment.pruning, "timing": self.experiment.timing}
        if planned.get(rule, self) is None:
            key = "pruning" if rule == "prune" else rule
            raise ConfigError(f"target: the experiment {self.experiment.name!r} plans no {key}; it lacks the key {key}")
        match wildcards:
            case {"seed": _}:
                self.run(SimpleNamespace(**wildcards))
            case {"protocol": _}:
                self.base_evaluation(SimpleNamespace(**wildcards))
            case {"table": table}:
                self.table_of(f"reproduce_{table}")
            case {"figure": figure}:
                self.figure_of(figure)
            case {"name": name} if name not in self.base_models:
                raise ConfigError(f"target: found no base model {name!r}; {hint(name, self.base_models)}")

    def gpus(self, wildcards: Any) -> int:
        """How many processes train the run of a rule's wildcards, each on its own GPU where there are GPUs."""
        return gpus_of(self.experiment, self.run(wildcards))

    def check_devices(self) -> None:
        """Hold the GPUs that runs are meant for against those of this machine. Without any, or without need, do nothing.

        Raises:
            ConfigError: names the first run that is meant for more.
        """
        here = len(visible_devices()) if self.experiment.gpu else 0
        for run in self.runs.values():
            if here and (gpus := gpus_of(self.experiment, run)) > here:
                found = f"found {gpus} for {run.run_id}, expected at most {here}, the visible GPUs"
                with placed(self.config.files, self.config.overrides):
                    raise ConfigError(found, keys=key_of_gpus(self.experiment, run))

    def base_model(self, model_key: str) -> list[str]:
        """The folder of a base model if the DAG builds it."""
        return self._base_folders[model_key]

    @cached_property
    def _base_folders(self) -> dict[str, list[str]]:
        """Asked three times a run, and a name is the hash of a recipe: 1 ms."""
        sources = {key: model.source for key, model in self.experiment.models.items()}
        return {
            key: [str(MODELS / source.folder_name(key))] if isinstance(source, BuiltModel) else []
            for key, source in sources.items()
        }

    def training_files(self, run: RunSpec) -> list[str]:
        """The local data file that the run trains on, if any."""
        return self._local_files([run.data.source])

    def evaluation_files(self, evaluation: EvaluationSpec) -> list[str]:
        """The local data files that are evaluated on."""
        return self._local_files([task.source for task in evaluation.tasks.values()])

    def _local_files(self, sources: Iterable[DataSource]) -> list[str]:
        files = [local_file(source, data_dir=self.experiment.data_dir) for source in sources]
        return [str(file) for file in files if file is not None]

    def records(self, runs: Iterable[RunSpec], *names: str) -> list[str]:
        """The files called ``names`` of some runs."""
        return [str(self.folder / run.run_id / name) for run in runs for name in names]

    def base_evaluation(self, wildcards: Any) -> EvaluationSpec:
        """The tasks of a base evaluation's wildcards.

        Raises:
            ConfigError: the experiment asks for no such evaluation.
        """
        folder = f"base/{wildcards.model}/{wildcards.protocol}"
        if folder not in self.base_evaluations:
            near = hint(folder, self.base_evaluations) if self.base_evaluations else "it lacks the key base_evaluation"
            raise ConfigError(f"target: the experiment {self.experiment.name!r} plans no {folder}; {near}")
        return self.base_evaluations[folder].evaluation

    def table_base_records(self, table: str) -> list[str]:
        """The records of base models that a table shows beside its runs, or that tell what runs have lost of open answers."""
        if table not in self.experiment.tables:
            return []
        runs = table_runs(self.experiment, table)
        asked, shown = base_answers(self.experiment, runs), shows_base(runs)
        is_open = {name: sets.get(task.format).statement is None for run in runs for name, task in run.evaluation.tasks.items()}
        folders = dict.fromkeys(base.folder for (_, _, task), base in asked.items() if shown or is_open[task])
        return [str(self.folder / folder / "metrics.json") for folder in folders]

    def target_records(self, target: str, *names: str) -> list[str]:
        """The files called ``names`` of a target's runs."""
        return self.records(target_runs(self.experiment, target), *names)

    def figure_files(self, figure: str) -> list[str]:
        """What a figure is drawn from."""
        entry = catalogue.get(figure)
        files = [str(self.folder / file) for file in entry.files(self.experiment)]
        return self.records(entry.runs(self.experiment), *entry.records) + files

    def timing_files(self) -> list[str]:
        """The local data file that the timed runs train on, if any."""
        return [file for run in timing_runs(self.experiment).values() for file in self.training_files(run)]

    @property
    def method_names(self) -> set[str]:
        """The methods of all runs, the timed ones included: the names of ``methods.get``."""
        return {run.method.name for run in self.runs.values()} | set(self.timed_methods)

    @cached_property
    def timed_methods(self) -> list[str]:
        """The timed ones, sorted."""
        return sorted({run.method.name for run in timing_runs(self.experiment).values()})

    @property
    def evaluations(self) -> dict[str, EvaluationSpec]:
        """What is asked of runs, by domain, and of base models, by ``BaseEvaluation.folder``."""
        domains = {name: domain.evaluation for name, domain in self.experiment.domains.items()}
        return domains | {folder: base.evaluation for folder, base in self.base_evaluations.items()}

    @property
    def timing(self) -> list[str]:
        """The measurement of time and memory, if the experiment asks for it."""
        return [] if self.experiment.timing is None else [str(self.folder / "timing.json")]

    @property
    def pruned(self) -> list[str]:
        """The pruning evaluations that the experiment asks for."""
        return self.records(pruning_runs(self.experiment), "pruning.json")

    @property
    def base_metrics(self) -> list[str]:
        """The records of the base models without fine-tuning, if the experiment asks for them."""
        return [str(self.folder / folder / "metrics.json") for folder in self.base_evaluations]

    def planned_base_metrics(self) -> list[str]:
        """The same.

        Raises:
            ConfigError: the experiment asks for none.
        """
        if not self.base_evaluations:
            raise ConfigError(
                f"target: the experiment {self.experiment.name!r} plans no runs for 'base_evaluations'; it lacks the key "
                "base_evaluation"
            )
        return self.base_metrics

    def table_of(self, target: str) -> str:
        """The file that a target of TABLE_TARGETS stands for.

        Raises:
            ConfigError: the experiment does not plan it.
        """
        target_runs(self.experiment, target)
        return str(self.folder / "tables" / f"{target.removeprefix('reproduce_')}.md")

    def figure_of(self, figure: str) -> str:
        """The picture that a figure's target stands for.

        Raises:
            ConfigError: the experiment does not plan it.
        """
        target_runs(self.experiment, figure)
        return str(self.figures / f"{figure}.png")

    def seeds_of(self, table: str) -> tuple[int, ...]:
        """The seeds of a table's runs: another number of them renders it again."""
        return tuple(sorted({run.seed for run in target_runs(self.experiment, f"reproduce_{table}")}))

    @cached_property
    def tables(self) -> list[str]:
        """Every table: the experiment's own, its settings beside the paper's, and its learning rates."""
        names = [*self.experiment.tables, *(["table4"] if settings_runs(self.experiment) else [])]
        names += ["learning_rate"] if "learning_rate" in self.experiment.sweeps else []
        return [str(self.folder / "tables" / f"{name}.md") for name in names]

    @property
    def bench(self) -> list[str]:
        """The benchmarks' record, where it is: they are no job of the workflow, and the report shows them."""
        record = RESULTS / bench.FILE
        return [str(record)] if record.is_file() else []

    @cached_property
    def drawn(self) -> list[str]:
        """Every figure that the experiment plans."""
        return [self.figure_of(figure.name) for figure in catalogue.planned(self.experiment)]

    @property
    def progress_file(self) -> Path:
        """What ``harness.workflow.watch`` writes and the jobs read."""
        return RESULTS / ".progress" / f"{self.experiment.name}.json"

    def lead(self) -> overhead.WorkflowClock:
        """Tell the jobs where to read what this invocation is about, and whom to end with.

        Returns:
            The clock of this invocation, running.
        """
        self.progress_file.unlink(missing_ok=True)
        shutil.rmtree(self.progress_file.with_suffix(""), ignore_errors=True)
        os.environ[progress.ENVIRONMENT_VARIABLE] = str(self.progress_file)
        lead_jobs()
        return overhead.WorkflowClock(self.progress_file.with_suffix(".cpu.jsonl"))


def hold_lock(experiment: str) -> IO[str]:
    """Refuse a second workflow on the same results. The kernel lets go of the lock however this process ends, so a killed
    workflow can simply be repeated (Snakemake's own lock files survive a kill).

    Raises:
        ConfigError: another workflow holds it, or nothing can be written there.
    """
    path = RESULTS / ".progress" / f"{experiment}.lock"
    try:
        for folder in (path.parent, RESULTS / experiment):
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        stream = path.open("w")
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}, expected a folder that results can be written to") from error
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(f"{path}: another workflow is running on results/{experiment}; wait for it or stop it") from None
    return stream
