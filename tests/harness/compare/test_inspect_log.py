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
from tests.harness.compare.conftest import DATA, is_read_or_refused, malformed

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


def test_which_way_is_better_is_known_of_right_and_wrong(log: dict[str, Any], write_log: Write) -> None:
    assert inspect_log.read(LOGS[0]).higher_is_better == {"match": True, "includes": True}
    for one in log["samples"]:
        one["scores"] = {"match": {"value": 0.5}, "judge": {"value": "I"}, "distance": {"value": {"words": 3.5}}}
    # By Inspect's accuracy of it, and by a letter; of a number alone nothing is known.
    assert inspect_log.read(write_log(log)).higher_is_better == {"match": True, "judge": True}
    assert inspect_log.read(write_log(log | {"results": None})).higher_is_better == {"judge": True}


def test_a_log_is_no_other_seed_of_its_own_copy(log: dict[str, Any], write_log: Write) -> None:
    first = log["samples"][0]
    log["samples"] = [{**first, "id": n, "output": {"completion": f"It is {n}"}} for n in range(60)]
    for sample in log["samples"]:
        sample["scores"] = {"match": {"value": "I"}}
    first_seeds = [write_log(log, name) for name in ("a", "b")]
    log["samples"][5]["output"] = {"completion": "It is five"}
    others = [write_log(log, name) for name in ("c", "d")]
    with pytest.raises(
        ConfigError, match=r"/b.json: found the same answers to all 60 items as in .*/a.json, expected those of"
    ):
        compare(*sides(first_seeds, others))
    assert len(compare(*sides(first_seeds[:1] + others[:1], first_seeds[1:] + others[1:])).pairs) == 2


def test_what_is_no_finished_log_is_refused_by_name(log: dict[str, Any], write_log: Write, tmp_path: Path) -> None:
    without_score = {**log["samples"][1], "scores": None, "error": {"message": "the model is gone"}}
    not_a_number = {**log["samples"][1], "scores": {"match": {"value": "maybe"}}}
    for changes, message in (
        ({"status": "error"}, "status: found 'error', expected 'success'"),
        ({"samples": None}, "found no samples, expected a log with them"),
        ({"eval": None}, "log.json: eval: found None, expected a valid dictionary"),
        ({"status": None}, "log.json: status: found None, expected a valid string"),
        ({"samples": {"a": 1}}, r"samples: found \{'a': 1\}, expected a valid list"),
        ({"samples": ["x"]}, r"samples.0: found 'x', expected a valid dictionary"),
        *(
            ({"samples": [{**log["samples"][0], key: value}]}, rf"log.json: samples.0.{message}")
            for key, value, message in (
                ("scores", [], r"scores: found \[\], expected a valid dictionary"),
                ("scores", {"match": 1}, "scores.match: found 1, expected a valid dictionary"),
                ("messages", "hi", "messages: found 'hi', expected a valid list"),
                ("messages", ["hi"], "messages.0: found 'hi', expected a valid dictionary"),
                ("input", ["hi"], "input.0: found 'hi', expected a valid dictionary"),
                ("error", "boom", "error: found 'boom', expected a valid dictionary"),
                ("id", None, "id: found None, expected a valid string"),
            )
        ),
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


def test_a_log_with_any_part_of_another_type_is_read_or_refused(log: dict[str, Any], write_log: Write) -> None:
    output = {"completion": "It is 0"}
    samples = [{key: log["samples"][0][key] for key in ("id", "input", "target", "messages", "scores")} | {"output": output}]
    results = {"scores": log["results"]["scores"][:1]}
    small = {"eval": {"task": "sums"}, "status": "success", "samples": samples, "results": results}
    assert is_read_or_refused(inspect_log.read, write_log(small))
    read = [is_read_or_refused(inspect_log.read, write_log(other)) for other in malformed(small)]
    assert 0 < sum(read) < len(read)
