"""From experiment files to runs: checking, overriding and expanding. No torch."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.arguments.overrides import apply, merge
from harness.did_you_mean import hint, suggestion
from harness.errors import ConfigError, KeyPath
from harness.experiment.gpus import check_gpus
from harness.experiment.lock import read_lock, with_commits
from harness.experiment.resolve import check_names, check_overrides, resolve_run, where_of
from harness.experiment.yaml_file import placed, read_yaml, validate, with_named_keys
from harness.schema.base_models import BuiltModel
from harness.schema.evaluation import BaseEvaluationSpec, EvaluationSpec, Metric, Protocol, Split, TaskSpec, judged_by
from harness.schema.experiment import Experiment, TableSpec
from harness.schema.fields import BASELINE, SUBJECT
from harness.schema.run import RunSpec


def load_experiment(paths: Sequence[Path], overrides: Mapping[str, Any] | None = None, *, locked: bool = True) -> Experiment:
    """Read and check an experiment.

    Args:
        paths: YAML files; the keys of later files win, mappings are merged.
        overrides: dotted key -> value, applied last.
        locked: whether the commits of the locks beside the files take the place of the revisions that they name.

    Raises:
        ConfigError: anything that is wrong with the files or their locks, before any work.
    """
    content: dict[str, Any] = {}
    for path in paths:
        merge(content, read_yaml(path))
    for key, value in (overrides or {}).items():
        apply(content, key, value)
    if locked:
        content = with_commits(content, read_lock(paths), data_dir=content.get("data_dir"))
    with placed(paths, overrides or {}):
        return _checked(content)


def _checked(content: Mapping[str, Any]) -> Experiment:
    experiment = validate(Experiment, content)
    check_names(experiment)
    runs = all_runs(experiment)
    for run in runs:
        check_gpus(experiment, run)
    runs += timing_runs(experiment).values()
    check_overrides(experiment, runs)
    # What nothing is planned of, beside the first of what is planned.
    first, planned = where_of(runs[0]), [where_of(run) for run in runs]
    others: list[dict[str, str]] = [{"domain": domain} for domain in experiment.domains]
    others += [{"method": method} for method in experiment.methods]
    for other in others:
        if not any(other.items() <= where.items() for where in planned):
            _runs(experiment, None, **{**first, **other})
    for evaluation in base_evaluations(experiment):
        if not evaluation.tasks:
            found = f"found {evaluation.protocol!r}, which no set of base_evaluation.tasks has, expected protocols of theirs"
            raise ConfigError(found, keys=("base_evaluation", "protocols"))
        validate(EvaluationSpec, {"protocol": evaluation.protocol, "tasks": evaluation.tasks}, at=["base_evaluation"])
    return experiment


# ------------------------------------------------------------------------------------------------------------- expanding


def table_runs(experiment: Experiment, table: str) -> list[RunSpec]:
    """The runs behind one table, in row order: domain, model, method, seed.

    Raises:
        ConfigError: the experiment has no such table, or a method's settings are wrong.
    """
    if table not in experiment.tables:
        raise ConfigError(f"found no table {table!r}; {hint(table, experiment.tables)}", keys=("tables",))
    spec: TableSpec = experiment.tables[table]
    return [
        run
        for domain in spec.domains
        for model, keys in spec.methods.items()
        for method in keys
        for run in _runs(experiment, spec.seeds, domain=domain, model=model, method=method)
    ]


def _runs(experiment: Experiment, seeds: Sequence[int] | None, **where: Any) -> list[RunSpec]:
    """One run for each of these seeds, or of the experiment's: resolved once, which takes a hundred times as long as a copy."""
    first, *others = seeds or experiment.seeds
    run = resolve_run(experiment, seed=first, **where).run
    return [run, *(run.model_copy(update={"seed": seed}) for seed in others)]


@dataclass(frozen=True, kw_only=True)
class SweepRun:
    """A run of a sweep, and where on the axis it stands."""

    #: The value of the setting that varies.
    value: Any
    #: The method's key in the experiment; the run's own key names the value too, unless it is the default.
    method: str
    run: RunSpec


def sweep_runs(experiment: Experiment, sweep: str) -> list[SweepRun]:
    """The runs of one sweep: domain, model, method, point, seed. A point that says what the method's own settings say is
    the method's ordinary run, and is not made twice.

    Raises:
        ConfigError: the experiment has no such sweep, or a point's settings are wrong for a method.
    """
    if sweep not in experiment.sweeps:
        raise ConfigError(f"found no sweep {sweep!r}; {hint(sweep, experiment.sweeps)}", keys=("sweeps",))
    spec = experiment.sweeps[sweep]
    return [
        SweepRun(
            value=point[spec.setting],
            method=method,
            run=run,
        )
        for domain in spec.domains
        for model in spec.models
        for method in spec.methods
        for plain in [_runs(experiment, spec.seeds, domain=domain, model=model, method=method)]
        for number, point in enumerate(spec.points)
        for run in _sweep_point(experiment, plain, (sweep, number), domain=domain, model=model, method=method)
    ]


def _sweep_point(
    experiment: Experiment, plain: list[RunSpec], point: tuple[str, int], *, method: str, **where: Any
) -> list[RunSpec]:
    """The runs of a point, one for each seed; ``plain``: the method's ordinary ones."""
    sweep = experiment.sweeps[point[0]]
    runs = _runs(experiment, sweep.seeds, method=method, point=point, **where)
    if runs == plain:
        return plain
    setting, value = sweep.setting, sweep.point_name(point[1])
    of_point = runs[0].method
    named = {"key": f"{method}.{setting}={value}", "label": f"{of_point.label} ({setting} = {value})"}
    return [run.model_copy(update={"method": of_point.model_copy(update=named)}) for run in runs]


def origins(experiment: Experiment, run: RunSpec) -> Mapping[str, KeyPath | None]:
    """Which key of the experiment gave each setting of one of its runs, named as in ``Resolved``; None: no key, the value is a
    default."""
    method, _, named_after = run.method.key.partition(".")
    points = [
        (name, number)
        for name, sweep in experiment.sweeps.items()
        if run.domain in sweep.domains and run.model_key in sweep.models and method in sweep.methods
        for number in range(len(sweep.points))
        if f"{sweep.setting}={sweep.point_name(number)}" == named_after
    ]
    resolved = resolve_run(
        experiment,
        domain=run.domain,
        model=run.model_key,
        method=method,
        seed=run.seed,
        point=next(iter(points), None),
    )
    return resolved.origins


@contextmanager
def settings_named(experiment: Experiment, run: RunSpec) -> Iterator[None]:
    """Say of a setting of a run that goes wrong meanwhile, with the keys ``training``, NAME or ``methods``, the run's method,
    ``settings``, NAME, which key of the experiment gave it.

    Raises:
        ConfigError: with that key.
    """

    def given(keys: KeyPath) -> KeyPath:
        match keys:
            case ("training", name, *_):
                return origins(experiment, run).get(f"training.{name}") or keys
            case ("methods", _, "settings", name, *_):
                default = ("methods", where_of(run)["method"], *keys[2:])
                return origins(experiment, run).get(f"method.{name}") or default
        return keys

    try:
        yield
    except ConfigError as error:
        keys, message = with_named_keys(list(error.keys), error.message)
        raise ConfigError(message, keys=given(tuple(keys)), beside=tuple(map(given, error.beside))) from error


def pruning_runs(experiment: Experiment) -> list[RunSpec]:
    """The runs whose ranks are pruned, or none."""
    spec = experiment.pruning
    if spec is None:
        return []
    return [
        run
        for method in spec.methods
        for run in _runs(experiment, spec.seeds, domain=spec.domain, model=spec.model, method=method)
    ]


def metric_of(runs: Iterable[RunSpec], split: Split = "test") -> Metric:
    """By what runs are judged on their tasks of a split, all of them by the same."""
    return judged_by(task for run in runs for task in run.evaluation.on(split).values())


def pruning_metric(experiment: Experiment) -> Metric:
    """By what pruned runs are judged."""
    spec, runs = experiment.pruning, pruning_runs(experiment)
    return judged_by(task for run in runs if spec is not None for task in spec.tasks_of(run.evaluation).values())


def timing_runs(experiment: Experiment) -> dict[str, RunSpec]:
    """Method -> the run that is timed, or none."""
    spec = experiment.timing
    if spec is None:
        return {}
    return {
        method: bare(_runs(experiment, experiment.seeds[:1], domain=spec.domain, model=spec.model, method=method)[0])
        for method in spec.methods
    }


def bare(run: RunSpec) -> RunSpec:
    """A run as it is timed: without checkpoints and importance snapshots, which are not the method's."""
    off = {"importance_every": None, "save_steps": sys.maxsize}
    return run.model_copy(update={"training": run.training.model_copy(update=off)})


def settings_runs(experiment: Experiment) -> list[RunSpec]:
    """The runs whose settings Table 4 shows: one of ``subject_runs`` of each domain and model."""
    first: dict[tuple[str, str], RunSpec] = {}
    for run in subject_runs(experiment):
        first.setdefault((run.domain, run.model_key), run)
    return list(first.values())


def subject_runs(experiment: Experiment) -> list[RunSpec]:
    """The runs of the tables with the method that the paper proposes, under its own name."""
    runs = (run for table in experiment.tables for run in table_runs(experiment, table))
    return unique(run for run in runs if is_subject(run))


def is_subject(run: RunSpec) -> bool:
    """Whether a run is of the method that the paper proposes, neither renamed nor a point of a sweep."""
    return run.method.key == run.method.name == SUBJECT


def sweep_baselines(experiment: Experiment, sweep: str) -> list[RunSpec]:
    """The baseline under the experiment's settings, where the sweep itself does not run it: its reference line."""
    spec = experiment.sweeps[sweep]
    if BASELINE in spec.methods or BASELINE not in experiment.methods:
        return []
    return [
        run
        for domain in spec.domains
        for model in spec.models
        for run in _runs(experiment, spec.seeds, domain=domain, model=model, method=BASELINE)
    ]


def unique(runs: Iterable[RunSpec]) -> list[RunSpec]:
    """Each run once, in the order of its first appearance.

    Raises:
        ConfigError: runs with different settings share a name: their sweeps call their points alike.
    """
    by_id: dict[str, RunSpec] = {}
    for run in runs:
        if by_id.setdefault(run.run_id, run) != run:
            raise ConfigError(f"found runs with different settings that are all called {run.run_id}", keys=("sweeps",))
    return list(by_id.values())


def all_runs(experiment: Experiment) -> list[RunSpec]:
    """The runs of every table, figure and pruning evaluation, each once."""
    tables = [run for table in experiment.tables for run in table_runs(experiment, table)]
    sweeps = [run for sweep in experiment.sweeps for run in sweep_and_baseline_runs(experiment, sweep)]
    return unique([*tables, *sweeps, *pruning_runs(experiment)])


def sweep_and_baseline_runs(experiment: Experiment, sweep: str) -> list[RunSpec]:
    """The runs of a sweep and of its reference line."""
    return unique([*(point.run for point in sweep_runs(experiment, sweep)), *sweep_baselines(experiment, sweep)])


@dataclass(frozen=True, kw_only=True)
class BaseEvaluation:
    """A base model, evaluated without fine-tuning under one protocol."""

    model_key: str
    protocol: Protocol
    spec: BaseEvaluationSpec

    @property
    def tasks(self) -> Mapping[str, Mapping[str, Any]]:
        """As the file has them."""
        return self.spec.asked(self.protocol)

    @property
    def evaluation(self) -> EvaluationSpec:
        """The tasks with what the protocol adds."""
        return self.spec.evaluation(self.protocol)

    @property
    def folder(self) -> str:
        """Where its records lie, below the experiment's results."""
        return f"base/{self.model_key}/{self.protocol}"


def base_evaluations(experiment: Experiment) -> list[BaseEvaluation]:
    """Every base evaluation that the experiment asks for, or none."""
    spec = experiment.base_evaluation
    if spec is None:
        return []
    return [
        BaseEvaluation(model_key=model, protocol=protocol, spec=spec) for model in spec.models for protocol in spec.protocols
    ]


@dataclass(frozen=True, kw_only=True)
class AskedTask:
    """A task that a model is asked, after fine-tuning or as it is, and the keys under which it stands."""

    keys: KeyPath
    model_key: str
    task: TaskSpec


def all_asked(experiment: Experiment, runs: Iterable[RunSpec]) -> list[AskedTask]:
    """The tasks of ``runs``, each once for a model, and those of base models."""
    of_runs = {(run.domain, run.model_key): run.evaluation for run in runs}
    evaluations: list[tuple[KeyPath, str, EvaluationSpec]] = [
        *((("domains", domain, "evaluation"), model, spec) for (domain, model), spec in of_runs.items()),
        *((("base_evaluation",), base.model_key, base.evaluation) for base in base_evaluations(experiment)),
    ]
    return [
        AskedTask(keys=(*keys, "tasks", name), model_key=model, task=task)
        for keys, model, evaluation in evaluations
        for name, task in evaluation.tasks.items()
    ]


#: (model, domain, task)
Asked = tuple[str, str, str]


def shows_base(runs: Iterable[RunSpec]) -> bool:
    """Whether the table of these runs has a row of the base model: beside secondary tasks, such as those that measure
    forgetting."""
    return any(run.evaluation.on("secondary") for run in runs)


def base_answers(experiment: Experiment, runs: Sequence[RunSpec]) -> dict[Asked, BaseEvaluation]:
    """Where the base models are asked, before fine-tuning, just what runs are asked after it."""
    found: dict[Asked, BaseEvaluation] = {}
    for base in base_evaluations(experiment):
        evaluation = base.evaluation
        for run in runs:
            how = (run.evaluation.dtype, run.evaluation.engine)
            if run.model_key != base.model_key or how != (evaluation.dtype, evaluation.engine):
                continue
            for name, task in run.evaluation.tasks.items():
                other = evaluation.tasks.get(name)
                # What a task is for changes no answer.
                if other is not None and other.model_copy(update={"split": task.split}) == task:
                    found.setdefault((run.model_key, run.domain, name), base)
    return found


def load_run(paths: Sequence[Path], overrides: Mapping[str, Any], run_id: str) -> tuple[Experiment, RunSpec]:
    """One run of an experiment by its id, domain/model/method/seedN.

    Raises:
        ConfigError: the experiment has no such run.
    """
    experiment = load_experiment(paths, overrides)
    runs = {run.run_id: run for run in all_runs(experiment)}
    if run_id not in runs:
        near = suggestion(run_id, runs) or f"the experiment has {len(runs)} runs"
        raise ConfigError(f"{paths[-1]}: found no run {run_id!r}; {near}")
    return experiment, runs[run_id]


def model_keys(experiment: Experiment) -> list[str]:
    """The keys of the models that runs, base evaluations and measurements need, in the order of the file."""
    keys = {run.model_key for run in all_runs(experiment)} | {one.model_key for one in base_evaluations(experiment)}
    if experiment.timing is not None:
        keys.add(experiment.timing.model)
    return [key for key in experiment.models if key in keys]


def base_models(experiment: Experiment) -> dict[str, tuple[str, BuiltModel]]:
    """The stand-ins that must be built for an experiment: folder name -> (model key, recipe)."""
    sources = {key: experiment.models[key].source for key in model_keys(experiment)}
    return {source.folder_name(key): (key, source) for key, source in sources.items() if isinstance(source, BuiltModel)}
