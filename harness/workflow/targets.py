"""The targets of the workflow, and the runs behind each. No torch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from harness.config import ConfigError, Experiment, RunSpec
from harness.did_you_mean import hint
from harness.experiment.runs import all_runs, settings_runs, table_runs
from harness.figures import catalogue

#: Targets that make one table -> what it shows.
TABLE_TARGETS = {
    "reproduce_table1": "Table 1: math and code, every method.",
    "reproduce_table2": "Table 2: eight commonsense sets.",
    "reproduce_table3": "Table 3: ablations.",
    "reproduce_table4": "Table 4: the settings of the runs beside the paper's.",
    "reproduce_learning_rate": "Every method over one grid of learning rates, chosen on validation sets.",
}


def check_targets(arguments: Sequence[str], rules: Collection[str], experiment: Experiment) -> None:
    """Hold the targets of Snakemake's command line, its ``arguments``, against its rules.

    Raises:
        ConfigError: one is neither a rule nor a file; the message names the nearest.
    """
    from snakemake.cli import get_argument_parser

    for target in get_argument_parser().parse_known_args(arguments)[0].targets:
        if target in rules or "/" in target or Path(target).suffix:
            continue
        target_runs(experiment, target)  # which has better words for most
        near = f"did you mean {f'reproduce_{target}'!r}?" if f"reproduce_{target}" in rules else hint(target, rules)
        raise ConfigError(f"target: found unknown {target!r}; {near}")


def target_runs(experiment: Experiment, target: str) -> list[RunSpec]:
    """The runs that a target of the workflow needs: ``reproduce_table1``, ``reproduce_learning_rate``, ``reproduce_all``,
    or a figure's name.

    Raises:
        ConfigError: there is no such target, or the experiment does not plan it.
    """
    if target == "reproduce_all":
        return all_runs(experiment)
    name = target.removeprefix("reproduce_")
    if name == "table4":
        return settings_runs(experiment)
    if name in experiment.tables:
        return table_runs(experiment, name)
    figures = catalogue.figures()
    if name in figures and figures[name].planned(experiment):
        return list(figures[name].runs(experiment))
    if name in figures or f"reproduce_{name}" in TABLE_TARGETS:
        raise ConfigError(
            f"target: the experiment {experiment.name!r} plans no runs for {target!r}; it lacks the key that names them"
        )
    planned = [figure.name for figure in catalogue.planned(experiment)]
    known = [*(f"reproduce_{table}" for table in experiment.tables), "reproduce_table4", "reproduce_all", *planned]
    raise ConfigError(f"target: found unknown {target!r} in experiment {experiment.name!r}; {hint(target, known)}")
