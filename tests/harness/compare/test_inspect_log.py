"""Logs of Inspect AI: the committed ones are inspect_ai 0.3.285's own, of its mock model on four sums."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.compare import inspect_log
from harness.compare.paired import compare
from harness.compare.sources import sides
from harness.errors import ConfigError
from tests.harness.compare.conftest import DATA

LOGS = [DATA / "inspect/a.eval", DATA / "inspect/b.eval"]
Write = Callable[..., Path]


def test_two_logs_are_compared_sample_by_sample() -> None:
    result = compare(*sides(LOGS[:1], LOGS[1:]))
    (task,) = result.tasks
    assert (task.name, task.metric, task.other_metrics) == ("sums", "match", ("includes",))
    assert (dict(task.higher), dict(task.lower)) == ({"sum-2": 1, "sum-3": 1}, {"sum-1": 1})
    assert result.comparison.word == "not decided (1 seed)"


def test_all_three_forms_of_a_log_are_read_alike(log: dict[str, Any], write_log: Write, tmp_path: Path) -> None:
    deflated = tmp_path / "deflated.eval"
    with zipfile.ZipFile(deflated, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.json", json.dumps({key: value for key, value in log.items() if key != "samples"}))
        for one in log["samples"]:
            archive.writestr(f"samples/{one['id']}_epoch_1.json", json.dumps(one))
    first, *others = (inspect_log.read(path) for path in (LOGS[0], deflated, write_log(log)))
    for other in others:
        assert (other.task, other.items) == (first.task, first.items)
        np.testing.assert_equal(dict(other.scores), dict(first.scores))


def test_letters_numbers_epochs_and_several_values_of_a_scorer(log: dict[str, Any], write_log: Write) -> None:
    for one, values in zip(log["samples"], (("C", "P"), ("I", "N"), ("C", "C"), (0.25, "0.75")), strict=True):
        one["scores"] = {"judge": {"value": values[0]}, "both": {"value": {"x": 1, "y": True}}}
        again = {**one, "epoch": 2, "scores": {"judge": {"value": values[1]}, "both": {"value": {"x": 0, "y": False}}}}
        log["samples"] = [*log["samples"], again]
    scores = inspect_log.read(write_log(log)).scores
    assert {name: values.tolist() for name, values in scores.items()} == {
        "judge": [0.75, 0.0, 1.0, 0.5], "both/x": [0.5] * 4, "both/y": [0.5] * 4,
    }  # fmt: skip


@pytest.mark.parametrize("part", ["input", "prompt", "target", "choices"])
def test_a_sample_that_is_another_is_named_with_what_differs(log: dict[str, Any], write_log: Write, part: str) -> None:
    changed = log["samples"][2]
    if part == "prompt":
        changed["messages"][0]["content"] = "Answer with a word."
    else:
        changed[part] = "another"
    with pytest.raises(ConfigError, match=rf"log.json: sums: item sum-2: found another {part} than in .*b.eval.*; 1 of 4"):
        compare(*sides([LOGS[1]], [write_log(log)]))


def test_what_is_no_finished_log_is_refused_by_name(log: dict[str, Any], write_log: Write, tmp_path: Path) -> None:
    without_score = {**log["samples"][1], "scores": None, "error": {"message": "the model is gone"}}
    not_a_number = {**log["samples"][1], "scores": {"match": {"value": "maybe"}}}
    for changes, message in (
        ({"status": "error"}, "status: found 'error', expected 'success'"),
        ({"samples": None}, "found no samples, expected a log with them"),
        ({"eval": None}, "found no keys eval and status"),
        ({"samples": [log["samples"][0], without_score]}, r"sample sum-1: found no scores \(the model is gone\)"),
        (
            {"samples": [log["samples"][0], not_a_number]},
            r"sample sum-1: score match: found \['maybe'\], expected numbers",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            inspect_log.read(write_log(log | changes))
    with zipfile.ZipFile(tmp_path / "open.eval", "w") as archive:
        archive.writestr("_journal/start.json", "{}")
    with pytest.raises(ConfigError, match="found no header.json, expected the log of a finished evaluation"):
        inspect_log.read(tmp_path / "open.eval")
    with zipfile.ZipFile(tmp_path / "chunks.eval", "w") as archive:
        archive.writestr("header.json", "{}")
        archive.writestr("samples/1_epoch_1/sample.json", "{}")
    with pytest.raises(ConfigError, match="found samples in chunks, expected samples/ID_epoch_N.json"):
        inspect_log.read(tmp_path / "chunks.eval")
    (tmp_path / "torn.eval").write_bytes(LOGS[0].read_bytes()[:5000])
    with pytest.raises(ConfigError, match="torn.eval: cannot be read .*, expected a log of Inspect AI"):
        inspect_log.read(tmp_path / "torn.eval")
