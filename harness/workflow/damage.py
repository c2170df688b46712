"""Outputs of earlier workflows that are damaged: set aside before the graph is built, for which a file that is there is done.

No torch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from harness import files
from harness.config import RunSpec
from harness.records.versioned import parse
from harness.workflow.dag import Dag
from harness.workflow.targets import TABLE_TARGETS, target_runs
from harness.figures import catalogue

#: What the rules leave in a run's folder.
_OF_RUN = ("train.json", "adapter", "metrics.json", "predictions", "pruning.json")


def fault(path: Path) -> str | None:
    """Why an output cannot be what its rule made: empty, cut off, or a record of another schema. None: nothing, or missing."""
    why = files.fault(path)
    if why is None and path.suffix == ".json" and path.exists():
        try:
            parse(path)
        except ValueError as error:
            why = str(error)
    return why


def _runs(dag: Dag, target: str) -> list[RunSpec]:
    """The runs that a target stands for: a rule's name, or a file of a run. None of another file."""
    if target == "reproduce_all" or target in TABLE_TARGETS or target in catalogue.figures():
        return target_runs(dag.experiment, target)
    return [run for run in dag.runs.values() if (dag.folder / run.run_id) in Path(target).parents]


def _outputs(dag: Dag, targets: Collection[str]) -> Iterator[Path]:
    """What targets are made from, whether it is there or not."""
    runs = {run.run_id: run for target in targets for run in _runs(dag, target)}
    for run in runs.values():
        yield from map(Path, dag.base_model(run.model_key))
        yield from (dag.folder / run.run_id / name for name in _OF_RUN)
    if "reproduce_all" in targets:
        yield from map(Path, dag.timing)
    if not {"reproduce_all", "base_evaluations"}.isdisjoint(targets):
        yield from (dag.folder / base / name for base in dag.base_evaluations for name in ("metrics.json", "predictions"))


def set_aside_damaged(dag: Dag, targets: Collection[str]) -> list[str]:
    """Set aside what is damaged of what the targets are made from, each named in one line.

    Returns:
        The paths that were renamed: Snakemake has to be told to make them, since what was made from them is still there.

    Raises:
        ConfigError: the experiment does not plan a target.
    """
    renamed = []
    for path in dict.fromkeys(_outputs(dag, targets)):
        why = fault(path)
        if why is not None:
            files.set_aside(path, why)
            renamed.append(str(path))
    return renamed
