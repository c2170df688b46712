"""The targets of the workflow, and the runs behind each. No torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.did_you_mean import hint
from harness.errors import ConfigError
from harness.experiment.runs import all_runs, settings_runs, table_runs
from harness.figures import catalogue
from harness.schema.experiment import Experiment
from harness.schema.run import RunSpec

#: Targets that make one table -> what it shows.
TABLE_TARGETS = {
    "reproduce_table1": "Table 1: math and code, every method.",
    "reproduce_table2": "Table 2: eight commonsense sets.",
    "reproduce_table3": "Table 3: ablations.",
    "reproduce_table4": "Table 4: the settings of the runs beside the paper's.",
    "reproduce_learning_rate": "Every method over one grid of learning rates, chosen on validation sets.",
}


#: Options of Snakemake that name rules, or files, beside its targets.
_JOBS = ("until", "omit_from", "forcerun", "prioritize", "allowed_rules")


def check_targets(
    arguments: Sequence[str], rules: Iterable[Any], experiment: Experiment, check: Callable[[str, Mapping[str, str]], object]
) -> None:
    """Hold the targets of Snakemake's command line, its ``arguments``, against its rules, and its profile against the folders.

    Args:
        rules: Snakemake's.
        check: refuses a rule, and its wildcards, name -> value, of which the experiment plans nothing.

    Raises:
        ConfigError: a target is neither a rule of one job nor a file that one makes, or there is no such profile, without
            which Snakemake would go on; the message names the nearest.
    """
    from snakemake.cli import get_argument_parser
    from snakemake.io import strip_wildcard_constraints

    parsed = get_argument_parser().parse_known_args(arguments)[0]
    profile, folder = parsed.workflow_profile, Path("profiles")
    if profile not in (None, "none") and not any(path.exists() for path in (Path(profile), folder / profile)):
        near = hint(profile, sorted(path.name for path in folder.glob("*")))
        raise ConfigError(f"--workflow-profile: found no folder {profile}; {near}")
    named = {rule.name: rule for rule in rules}
    for target in parsed.targets:
        if target in named and named[target].has_wildcards():
            found = f"target: found {target!r}, which makes a file for each of many, expected one of these files: "
            raise ConfigError(f"{found}{strip_wildcard_constraints(named[target].output[0])}")
    for option in ("targets", *_JOBS):
        for target in getattr(parsed, option) or ():
            if target in named:
                continue
            if "/" in target or Path(target).suffix:
                _check_file(os.path.normpath(target), named.values(), check)
                continue
            if option != "targets":
                raise ConfigError(f"--{option.replace('_', '-')}: found unknown {target!r}; {hint(target, named)}")
            target_runs(experiment, target)  # which has better words for most
            near = f"did you mean {f'reproduce_{target}'!r}?" if f"reproduce_{target}" in named else hint(target, named)
            raise ConfigError(f"target: found unknown {target!r}; {near}")


def _check_file(target: str, rules: Iterable[Any], check: Callable[[str, Mapping[str, str]], object]) -> None:
    """Hold a target that is a file, relative to the repository, against what the rules make."""
    made = [(rule.name, match) for rule in rules for product in rule.products() if (match := product.match(target))]
    if made:
        rule, match = made[0]
        check(rule, match.groupdict())
    else:
        raise ConfigError(f"target: found {target}, which no rule makes; 'snakemake --list' names the targets")


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
        sweep = figures[name].sweep if name in figures else None
        lacks = f"sweeps.{sweep}" if sweep else "the key that names them" if name in figures else f"tables.{name}"
        raise ConfigError(f"target: the experiment {experiment.name!r} plans no runs for {target!r}; it lacks {lacks}")
    planned = [figure.name for figure in catalogue.planned(experiment)]
    known = [*(f"reproduce_{table}" for table in experiment.tables), "reproduce_table4", "reproduce_all", *planned]
    raise ConfigError(f"target: found unknown {target!r} in experiment {experiment.name!r}; {hint(target, known)}")
