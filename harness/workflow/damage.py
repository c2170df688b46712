"""Outputs of earlier workflows that are damaged: set aside before the graph is built, for which a file that is there is done.

No torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from harness import files
from harness.records.versioned import parse
from harness.workflow.dag import Dag

#: What the rules leave in a run's folder, and what they leave of a base model's evaluation.
_OF_RUN = ("train.json", "adapter", "metrics.json", "predictions", "pruning.json")
_OF_BASE = ("metrics.json", "predictions")


def fault(path: Path) -> str | None:
    """Why an output cannot be what its rule made: empty, cut off, or a record of another schema. None: nothing, or missing."""
    why = files.fault(path)
    if why is None and path.suffix == ".json" and path.exists():
        try:
            parse(path)
        except ValueError as error:
            why = str(error)
    return why


def _outputs(dag: Dag) -> Iterator[Path]:
    """What tables, figures and the report are made from, whether it is there or not."""
    for key in dag.experiment.models:
        yield from map(Path, dag.base_model(key))
    for run in dag.runs:
        folder = dag.folder / run
        if folder.exists():  # thousands that nothing has been made for need one look each
            yield from (folder / name for name in _OF_RUN)
    for base in dag.base_evaluations:
        yield from (dag.folder / base / name for name in _OF_BASE)
    yield from map(Path, dag.timing)


def set_aside_damaged(dag: Dag, *, dry_run: bool) -> set[str]:
    """Set aside what is damaged, each named in one line; in a dry run, nothing.

    Returns:
        The damaged outputs, and those that a workflow set aside which did not come to make them again. Snakemake has to be
        told: for one that is missing it makes nothing as long as what was made from it is there.
    """
    due = set()
    for path in _outputs(dag):
        why = fault(path)
        if why is not None and not dry_run:
            files.set_aside(path, why)
        if why is not None or (not path.exists() and path.with_name(files.DAMAGED + path.name).exists()):
            due.add(str(path))
    return due
