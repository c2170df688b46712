"""Outputs of earlier workflows that are damaged: set aside before the graph is built, for which a file that is there is done.

No torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeAlias

from harness import files
from harness.experiment.runs import pruning_metric
from harness.figures import check_drawn
from harness.records.training import check_artefact
from harness.records.versioned import BrokenRecord, MissingRecord, Recipe
from harness.workflow.checkout import came_by_git
from harness.workflow.dag import Dag

#: Reads an output whose form is right, and what it is held against; raises BrokenRecord where one is not what its rule made.
Check: TypeAlias = Callable[[], object]


def fault(path: Path, check: Check | None = None) -> str | None:
    """Why an output cannot be what its rule made: empty, cut off, of another schema, or in contradiction to what lies beside
    it. None: nothing, or it was never made."""
    why = files.fault(path)
    if why is None and check is not None:
        try:
            check()
        except MissingRecord:
            return None
        except BrokenRecord as error:
            if error.path == path:
                return error.fault
            if error.path.is_relative_to(path):
                return f"{error.path.relative_to(path)}: {error.fault}"
    return why


def _outputs(dag: Dag) -> Iterator[tuple[Path, Check | None]]:
    """What the rules leave, whether it is there or not, and how it is checked."""
    from harness.records import pruning, timing  # NumPy, 0.1 s

    for key in dag.experiment.models:
        yield from ((Path(path), None) for path in dag.base_model(key))
    for run_id in dag.runs:
        folder = dag.folder / run_id
        if folder.exists():  # thousands that nothing has been made for need one look each
            yield from _of_training(folder, run_id)
            yield from _of_evaluation(folder, run_id)
    for base in dag.base_evaluations:
        yield from _of_evaluation(dag.folder / base, base)
    if dag.pruned:
        metric = pruning_metric(dag.experiment)
        yield from ((path, partial(pruning.read, path, metric)) for path in map(Path, dag.pruned))
    yield from ((path, partial(timing.read, path)) for path in map(Path, dag.timing))
    for picture in map(Path, dag.drawn):
        drawn = partial(check_drawn, picture, Recipe.workflow(dag.config.snakemake, picture))
        yield from ((picture, drawn), (picture.with_suffix(".csv"), drawn), (picture.with_suffix(".pdf"), None))
    for table in map(Path, dag.tables):
        yield from ((table.with_suffix(suffix), None) for suffix in (".md", ".tex", ".csv"))
    yield from ((dag.folder / name, None) for name in ("claims.md", "claims.json", "report.html", "runs.parquet"))


def _of_training(folder: Path, run_id: str) -> Iterator[tuple[Path, Check | None]]:
    from harness.records.read import TrainRecord, read_record

    record = folder / "train.json"
    yield record, lambda: read_record(record, TrainRecord, run_id)
    yield folder / "adapter", None if came_by_git(folder) else partial(check_artefact, folder)


def _of_evaluation(folder: Path, run_id: str) -> Iterator[tuple[Path, Check]]:
    from harness.records.read import MetricsRecord, check_predictions, read_record

    record, predictions = folder / "metrics.json", folder / "predictions"
    yield record, lambda: read_record(record, MetricsRecord, run_id)
    yield predictions, lambda: check_predictions(predictions, read_record(record, MetricsRecord, run_id))


def set_aside_damaged(dag: Dag, *, dry_run: bool) -> set[str]:
    """Set aside what is damaged, each named in one line; in a dry run, nothing.

    Returns:
        The damaged outputs, and those that a workflow set aside which did not come to make them again. Snakemake has to be
        told: for one that is missing it makes nothing as long as what was made from it is there.
    """
    due = set()
    for path, check in _outputs(dag):
        if not path.exists() and path.with_name(files.DAMAGED + path.name).exists():
            due.add(str(path))
        elif (why := fault(path, check)) is not None:
            due.add(str(path))
            if not dry_run and path.exists():
                files.set_aside(path, why)
            elif not dry_run:
                print(f"{path}: {why}; made again", flush=True)
    return due
