"""Matrices of scores: rows are runs, and columns the same examples in every row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.records.matrices import check_same_examples, measured_matrix, score_matrix
from harness.records.read import RunRecord, load_records
from harness.records.versioned import RecordError
from harness.schema.run import RunSpec
from tests.harness import fake_runs

EXPERIMENT = fake_runs.experiment(seeds=(0, 1), methods={"llama-tiny": ("lora",)}, domains={"math": {"gsm8k": 3}})
ANSWERS = ([True, False, False], [False, True, True])


def written(results: Path) -> tuple[list[RunSpec], list[RunRecord]]:
    """Two seeds with ``ANSWERS``, and what is read of them."""
    runs = fake_runs.runs(EXPERIMENT)
    for run, correct in zip(runs, ANSWERS, strict=True):
        fake_runs.write_run(run, results, correct={"gsm8k": correct})
    return runs, load_records(runs, results=results).records


def test_a_row_is_a_run_and_a_column_an_example(tmp_path: Path) -> None:
    _, records = written(tmp_path)
    assert score_matrix(records, "gsm8k", "accuracy").tolist() == [[1, 0, 0], [0, 1, 1]]
    assert score_matrix(records[::-1], "gsm8k", "accuracy").tolist() == [[0, 1, 1], [1, 0, 0]]


def test_losses_that_one_run_lacks_make_no_matrix(tmp_path: Path) -> None:
    _, records = written(tmp_path / "without")
    assert score_matrix(records, "gsm8k", "gold_nll") is None
    with pytest.raises(RecordError, match="seed0/predictions/gsm8k.jsonl: found no gold_nll of every example"):
        measured_matrix(records, "gsm8k", "gold_nll")
    runs = fake_runs.runs(EXPERIMENT)
    fake_runs.populate(runs, tmp_path / "with")
    both = load_records(runs, results=tmp_path / "with").records
    losses = score_matrix(both, "gsm8k", "gold_nll")
    assert losses is not None and losses.shape == (2, 3)
    assert np.array_equal(losses[1], both[1].predictions["gsm8k"].gold_nll)
    assert score_matrix([both[0], records[1]], "gsm8k", "gold_nll") is None


def test_runs_with_other_examples_are_refused(tmp_path: Path) -> None:
    runs, _ = written(tmp_path)
    path = fake_runs.run_folder(runs[1], tmp_path) / "predictions" / "gsm8k.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[1], lines[0], lines[2]]))  # the same examples in another order
    records = load_records(runs, results=tmp_path).records
    with pytest.raises(RecordError, match="seed1/predictions/gsm8k.jsonl: found other examples than .*seed0"):
        score_matrix(records, "gsm8k", "accuracy")


def test_the_place_that_differs_is_named_with_the_first() -> None:
    check_same_examples({"a": ["1", "2"], "b": ("1", "2")})
    with pytest.raises(RecordError, match="^c: found other examples than a, expected the same in the same order$"):
        check_same_examples({"a": ["1"], "b": ["1"], "c": ["2"]})
