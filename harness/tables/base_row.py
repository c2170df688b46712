"""The base model as a row: what it scores before fine-tuning, beside what fine-tuning makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np

from harness.experiment.runs import Asked, base_answers, shows_base
from harness.records.matrices import check_same_examples
from harness.records.read import Predictions, RunRecord, StaleRecord, load_base_predictions
from harness.records.versioned import MissingRecord
from harness.schema.evaluation import Metric
from harness.schema.experiment import Experiment
from harness.schema.run import RunSpec
from harness.statistics import stats
from harness.tables.cells import METRICS, Cell, Column, Row, Scores

KEY = "base"
LABEL = "Base model (no fine-tuning)"
#: What a base model answered; None where it is to be asked and has not been.
BaseAnswers = Mapping[Asked, Predictions | None]


def load_base_answers(
    experiment: Experiment, runs: Sequence[RunSpec], *, results: Path, command: str, allow_missing: bool
) -> dict[Asked, Predictions | None]:
    """What the base models of runs answered to their tasks.

    Raises:
        RecordError: a record is missing or stale (unless allowed, or the base models are in no row), or broken.
    """
    planned = base_answers(experiment, runs)
    found: dict[str, Mapping[str, Predictions]] = {}
    for base in {base.folder: base for base in planned.values()}.values():
        folder = results / experiment.name / base.folder
        try:
            found[base.folder] = load_base_predictions(folder, base.evaluation, run_id=base.folder, command=command)
        except (MissingRecord, StaleRecord):
            if shows_base(runs) and not allow_missing:
                raise
            found[base.folder] = {}
    return {asked: found[base.folder].get(asked[2]) for asked, base in planned.items()}


def base_row(
    model: str, columns: Sequence[Column], scores: Scores, answers: BaseAnswers, records: Sequence[RunRecord]
) -> Row | None:
    """The row of a base model; None where it is asked nothing of what the columns show.

    Args:
        records: of the table's runs, which must have been asked the same examples.

    Raises:
        RecordError: it answered other examples than a run.
    """
    mine = {asked[1:]: own for asked, own in answers.items() if asked[0] == model}
    if not mine:
        return None
    for record in records:
        for task, predictions in record.predictions.items():
            own = mine.get((record.run.domain, task))
            if own is not None:
                ids = {f"the base model {model}, {task}": own.ids, f"{record.folder}/predictions/{task}.jsonl": predictions.ids}
                check_same_examples(ids)
    parts = {
        column.key: [mine.get((part.domain or "", part.task), _UNASKED) for part in scores.parts(column)] for column in columns
    }
    cells = {(metric, column.key): _cell(parts[column.key], metric) for column, metric in product(columns, METRICS)}
    return Row(method_key=KEY, label=LABEL, cells=cells)


#: In the place of a task that a base model is not to be asked.
_UNASKED = Predictions(ids=(), correct=None, gold_nll=None, sources=None, constant=1.0)


def _cell(parts: Sequence[Predictions | None], metric: Metric) -> Cell:
    """The mean over a column's tasks, where all of them were asked and measured the metric."""
    measured = [scores for part in parts if part is not None and (scores := part.scores(metric)) is not None]
    estimate = None
    if len(measured) == len(parts):
        rng = np.random.default_rng(0)
        estimate = stats.mean_score([row[None, :] for row in measured], rng=rng, binary=metric == "accuracy")
    return Cell(ours=estimate, n_missing=int(None in parts))
