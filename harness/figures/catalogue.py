"""Every figure by name: what it shows, what it is drawn from, and the function that draws it. No matplotlib, no pandas.

Planning, drawing and the report all ask here: a figure is one module with a function ``build(inputs) -> Plot``, and one entry.
Besides the entries of this file, those of the entry-point group ``beamlora_harness.figures`` are read (each a ``Figure``), so
that a figure can live in someone else's package.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from harness.cli import Config
from harness.did_you_mean import hint
from harness.errors import ConfigError
from harness.experiment.runs import pruning_runs, subject_runs, sweep_and_baseline_runs, table_runs, unique
from harness.experiment.yaml_file import placed
from harness.schema.evaluation import Split
from harness.schema.experiment import Experiment
from harness.schema.run import RunSpec

if TYPE_CHECKING:
    import pandas as pd

    from harness.figures.inputs import Inputs
    from harness.figures.style import Plot

ENTRY_POINT_GROUP = "beamlora_harness.figures"


def _none(experiment: Experiment) -> Sequence[RunSpec]:
    return []


def _no_files(experiment: Experiment) -> Sequence[str]:
    return []


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure. The experiment plans it where it gives ``runs`` or ``files``."""

    name: str
    #: The paper's number, or ours.
    paper: str
    #: One line of words.
    shows: str
    #: module:function, imported only to draw.
    builder: str
    #: module:function that makes ``interactive.plots`` of its data for the report; None: the report has the picture only.
    plots: str | None = None
    #: The experiment's own runs whose records it shows; none where the experiment does not plan it.
    runs: Callable[[Experiment], Sequence[RunSpec]] = _none
    #: The sweep whose runs it shows, if it shows one: an experiment has no other sweeps.
    sweep: str | None = None
    #: The setting that this sweep varies; None: any.
    setting: str | None = None
    #: The split of which each domain of this sweep needs tasks; None: any.
    split: Split | None = None
    #: What it reads of each of these runs, in the run's folder.
    records: tuple[str, ...] = ("train.json", "metrics.json")
    #: What else it reads, in the experiment's folder of results.
    files: Callable[[Experiment], Sequence[str]] = _no_files

    @property
    def module(self) -> str:
        """The module that draws it."""
        return self.builder.partition(":")[0]

    def planned(self, experiment: Experiment) -> bool:
        """Whether the experiment has the runs or the measurements for it."""
        return bool(self.runs(experiment) or self.files(experiment))


def _importance_runs(experiment: Experiment) -> Sequence[RunSpec]:
    runs = pruning_runs(experiment)
    return [] if any(run.training.importance_every is None for run in runs) else runs


def _sweep_runs(experiment: Experiment, *, sweep: str) -> Sequence[RunSpec]:
    return sweep_and_baseline_runs(experiment, sweep) if sweep in experiment.sweeps else []


def _tested_sweep_runs(experiment: Experiment, *, sweep: str) -> Sequence[RunSpec]:
    return _tested(_sweep_runs(experiment, sweep=sweep))


def _table1_runs(experiment: Experiment) -> Sequence[RunSpec]:
    return _tested(table_runs(experiment, "table1")) if "table1" in experiment.tables else []


def _tested(runs: Sequence[RunSpec]) -> Sequence[RunSpec]:
    """The runs, if all of them have a test set: these figures show scores on it."""
    return runs if all(run.evaluation.on("test") for run in runs) else []


def compared_tables(experiment: Experiment) -> Mapping[str, Sequence[RunSpec]]:
    """The tables with several methods, all of them with a test set, and their runs."""
    tables = {name: table_runs(experiment, name) for name in experiment.tables}
    return {name: runs for name, runs in tables.items() if len({run.method.key for run in runs}) > 1 and _tested(runs)}


def _compared_runs(experiment: Experiment) -> Sequence[RunSpec]:
    return unique(run for runs in compared_tables(experiment).values() for run in runs)


def _timing_file(experiment: Experiment) -> Sequence[str]:
    return [] if experiment.timing is None else ["timing.json"]


_PRUNED = ("train.json", "metrics.json", "pruning.json")

#: The paper's figures in its order, then ours.
_OWN = (
    Figure(
        name="rank_importance",
        paper="Fig. 1, 2",
        shows="importance of ranks: deciles within a module with the pruning curve, each rank over steps, all modules",
        builder="harness.figures.rank_importance:build",
        plots="harness.figures.rank_importance:plots",
        runs=_importance_runs,
        records=_PRUNED,
    ),
    Figure(
        name="pruning_curve",
        paper="Fig. 4",
        shows="accuracy, or NLL, as ranks are pruned from least to most important, BeamLoRA against LoRA, with trend",
        builder="harness.figures.pruning_curve:build",
        plots="harness.figures.pruning_curve:plots",
        runs=pruning_runs,
        records=_PRUNED,
    ),
    Figure(
        name="rank_sweep",
        paper="Fig. 5",
        shows="LoRA and BeamLoRA over the rank r",
        builder="harness.figures.sweeps:build_rank_sweep",
        plots="harness.figures.sweeps:rank_sweep_plots",
        sweep="rank_sweep",
        setting="r",
        split="test",
        runs=partial(_tested_sweep_runs, sweep="rank_sweep"),
    ),
    Figure(
        name="delta_t",
        paper="Fig. 6",
        shows="number of operations and accuracy, or NLL, over the interval between them",
        builder="harness.figures.sweeps:build_delta_t",
        plots="harness.figures.sweeps:operated_plots",
        sweep="delta_t",
        setting="delta_t",
        split="test",
        runs=partial(_tested_sweep_runs, sweep="delta_t"),
    ),
    Figure(
        name="p_init",
        paper="Fig. 7",
        shows="operated ranks and accuracy, or NLL, over the initial threshold",
        builder="harness.figures.sweeps:build_p_init",
        plots="harness.figures.sweeps:operated_plots",
        sweep="p_init",
        setting="p_init",
        split="test",
        runs=partial(_tested_sweep_runs, sweep="p_init"),
    ),
    Figure(
        name="time_memory",
        paper="Fig. 8, 9",
        shows="training time and peak memory of each method relative to LoRA",
        builder="harness.figures.costs.time_memory:build",
        plots="harness.figures.costs.time_memory:plots",
        files=_timing_file,
    ),
    Figure(
        name="differences",
        paper="ours",
        shows="each table's rows against the one that they are compared with: seeds, mean, interval, margin and word",
        builder="harness.figures.differences:build",
        plots="harness.figures.differences:plots",
        runs=_compared_runs,
    ),
    Figure(
        name="operations",
        paper="ours",
        shows="threshold and operated ranks of each operation, per module and layer, and the loss around it",
        builder="harness.figures.operations:build",
        plots="harness.figures.operations:plots",
        runs=subject_runs,
    ),
    Figure(
        name="pareto",
        paper="ours",
        shows="accuracy, or NLL, against training time, peak memory and trainable parameters",
        builder="harness.figures.costs.pareto:build",
        plots="harness.figures.costs.pareto:plots",
        runs=_table1_runs,
    ),
    Figure(
        name="learning_rate",
        paper="ours",
        shows="accuracy, or NLL, of each method over learning rates; ranking at a shared rate and at each one's best",
        builder="harness.figures.rates:build",
        plots="harness.figures.rates:plots",
        sweep="learning_rate",
        setting="learning_rate",
        split="validation",
        runs=partial(_sweep_runs, sweep="learning_rate"),
    ),
)


@cache
def figures() -> Mapping[str, Figure]:
    """All figures by name: those of this file, then those of other packages.

    Raises:
        ConfigError: an entry point is no figure, or two figures have one name.
    """
    by_name: dict[str, Figure] = {}
    for figure in (*_OWN, *map(_load, entry_points(group=ENTRY_POINT_GROUP))):
        if figure.name in by_name:
            raise ConfigError(f"figure name {figure.name!r} is claimed by {by_name[figure.name].builder} and {figure.builder}")
        by_name[figure.name] = figure
    return by_name


def _load(point: EntryPoint) -> Figure:
    """The figure behind an entry point. Its name becomes a rule of the workflow."""
    figure = point.load()
    if not isinstance(figure, Figure) or not figure.name.isidentifier():
        raise ConfigError(
            f"{point.value}: found {figure!r}, expected a harness.figures.catalogue.Figure with an identifier as name"
        )
    return figure


def get(name: str) -> Figure:
    """The figure of a name.

    Raises:
        ConfigError: there is no such figure; the message names the nearest.
    """
    if name not in figures():
        raise ConfigError(f"figure: found unknown {name!r}; {hint(name, figures())}")
    return figures()[name]


def check_sweeps(experiment: Experiment, config: Config) -> None:
    """Refuse runs that nothing would show.

    Raises:
        ConfigError: a sweep that no figure is drawn from, that varies another setting than its figure shows, or in a domain
            without the tasks that it shows.
    """
    known = {figure.sweep: figure for figure in figures().values() if figure.sweep is not None}
    with placed(config.files, config.overrides):
        for name, sweep in experiment.sweeps.items():
            if name not in known:
                raise ConfigError(f"found a sweep that no figure shows; {hint(name, known)}", keys=("sweeps", name))
            setting, split = known[name].setting, known[name].split
            if setting not in (None, sweep.setting):
                found = f"found {sweep.setting!r}, expected {setting!r}, which the figure {known[name].name} shows"
                raise ConfigError(found, keys=("sweeps", name, "setting"))
            for domain in sweep.domains:
                if split and not experiment.domains[domain].evaluation.on(split):
                    found = f"found {domain!r}, which has no task with split: {split}, expected domains with one: the figure "
                    raise ConfigError(f"{found}{known[name].name} shows such", keys=("sweeps", name, "domains"))


def planned(experiment: Experiment) -> list[Figure]:
    """The figures that the experiment has the runs or the measurements for."""
    return [figure for figure in figures().values() if figure.planned(experiment)]


def build(name: str, inputs: Inputs) -> Plot:
    """Draw one figure. Call it, and save its result, inside ``style.theme()``.

    Raises:
        ConfigError: there is no such figure, the experiment does not plan it, or a record behind it is missing or broken.
    """
    make: Callable[[Inputs], Plot] = _function(get(name).builder)
    return make(inputs)


def plots(name: str, data: pd.DataFrame) -> dict[str, Any] | None:
    """A figure as plots for the report.

    Args:
        data: as it stands in the figure's CSV (``interactive.read``).
    """
    where = get(name).plots
    return _function(where)(data) if where else None


def _function(where: str) -> Any:
    module, _, name = where.partition(":")
    return getattr(import_module(module), name)


def listing() -> str:
    """A line per figure."""
    width = max(map(len, figures()))
    return "\n".join(f"{one.name:<{width}}  {one.paper:<9}  {one.shows}" for one in figures().values())
