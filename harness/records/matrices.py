"""The (seeds, examples) matrices that every mean and interval is made of. No torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from harness.records.read import RunRecord
from harness.records.versioned import RecordError
from harness.schema.evaluation import Metric


def check_same_examples(ids: Mapping[str, Sequence[str]]) -> None:
    """What is compared example by example has answered the same ones.

    Args:
        ids: where they stand, for the message -> ids of the examples in the order of the answers.

    Raises:
        RecordError: one has other examples than the first, or the same in another order.
    """
    places = list(ids)
    for place in places[1:]:
        if list(ids[place]) != list(ids[places[0]]):
            raise RecordError(f"{place}: found other examples than {places[0]}, expected the same in the same order")


def check_same_answers(records: Sequence[RunRecord], task: str) -> None:
    """``check_same_examples`` of finished runs on one task."""
    check_same_examples({f"{r.folder}/predictions/{task}.jsonl": r.predictions[task].ids for r in records})


def score_matrix(records: Sequence[RunRecord], task: str, metric: Metric) -> NDArray[np.float64] | None:
    """The examples' scores, a row for each run, in their order, shape (runs, examples). Of accuracy 1 where a run answered an
    example correctly, 0 where not, 1/k where the right choice ties with k - 1 others; of the NLL nats per token of the gold
    answer. None where a run did not measure the metric.

    Args:
        records: finished runs that differ in their seed, at least one.

    Raises:
        RecordError: two runs answered different examples.
    """
    check_same_answers(records, task)
    rows = [scores for record in records if (scores := record.predictions[task].scores(metric)) is not None]
    return np.stack(rows) if len(rows) == len(records) else None


def paired_matrices(
    first: Mapping[int, RunRecord], second: Mapping[int, RunRecord], tasks: Collection[str], metric: Metric
) -> tuple[list[NDArray[np.float64]], list[NDArray[np.float64]], tuple[int, ...]]:
    """The ``measured_matrix`` of two methods on the seeds that both finished, task by task, and these seeds; all empty where
    they share none.

    Args:
        first, second: seed -> finished run.

    Raises:
        RecordError: two runs answered different examples, or one did not measure the metric.
    """
    shared = tuple(seed for seed in first if seed in second)
    if not shared:
        return [], [], ()
    for task in tasks:
        check_same_answers([*first.values(), *second.values()], task)
    ours, theirs = (
        [measured_matrix([own[seed] for seed in shared], task, metric) for task in tasks] for own in (first, second)
    )
    return ours, theirs, shared


def measured_matrix(records: Sequence[RunRecord], task: str, metric: Metric) -> NDArray[np.float64]:
    """``score_matrix`` of what is made of this metric alone.

    Raises:
        RecordError: a run did not measure it, or two runs answered different examples.
    """
    matrix = score_matrix(records, task, metric)
    if matrix is None:
        folder = next(record.folder for record in records if record.predictions[task].scores(metric) is None)
        raise RecordError(f"{folder}/predictions/{task}.jsonl: found no {metric} of every example, expected it")
    return matrix
