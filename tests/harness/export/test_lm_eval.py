"""Exported results are what lm-eval's own readers read, say what the record says, and are the same every time."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

import pytest

from harness.errors import ConfigError
from harness.export import lm_eval as lm_eval_export
from tests.harness.export import choice_runs

DATE = "2026-11-28T18-20-34.000000"


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_choices_as_running_text_have_lm_evals_arguments_and_metrics(tmp_path: Path) -> None:
    names = ("loglikelihood_per_character", "loglikelihood", "loglikelihood_per_token")
    verdicts = dict(zip(names, (True, 0.5, 0.5), strict=True))
    texts = {"true": ["Q?\nA:", " yes", 1], "false": ["Q?\nA:", " no", 1]}
    rows = [
        choice_runs.row(
            0,
            {"true": -1.0, "false": -1.0},
            "true",
            verdicts=verdicts,
            choice_texts=texts,
        )
    ]
    folder = choice_runs.write(tmp_path / "run")
    (folder / "predictions/boolq.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["tasks"]["boolq"] |= {"n": 1, "grader": names[0], "graders": rows[0]["verdicts"]}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    results, *samples = lm_eval_export.write(folder)
    content = json.loads(results.read_text())
    scores = {"acc_norm,none": 1.0, "acc,none": 0.5, "acc_per_token,none": 0.5}
    assert {key: content["results"]["boolq"][key] for key in scores} == scores
    (row,) = (row for path in samples for row in _lines(path))
    assert [list(pair.values()) for pair in row["arguments"].values()] == [["Q?\nA:", " yes"], ["Q?\nA:", " no"]]
    assert row["metrics"] == ["acc_norm", "acc", "acc_per_token"] and (row["acc_norm"], row["acc"]) == (1.0, 0.5)


def test_accuracies_are_those_of_the_record_under_every_grader(committed: Path) -> None:
    results, *samples = lm_eval_export.write(committed)
    metrics = json.loads((committed / "metrics.json").read_text())["tasks"]
    content = json.loads(results.read_text())
    for grader, accuracy in metrics["gsm8k"]["graders"].items():
        assert content["results"]["gsm8k"][f"exact_match,{grader}"] == accuracy
    rows = [row for row in _lines(samples[0]) if row["filter"] == "sound"]
    assert [row["exact_match"] for row in rows] == [
        float(row["correct"]) for row in _lines(committed / "predictions/gsm8k.jsonl")
    ]
    values = [row["exact_match"] for row in rows]
    mean = sum(values) / len(values)
    stderr = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))
    assert content["results"]["gsm8k"]["exact_match_stderr,sound"] == pytest.approx(stderr)
    assert content["n-samples"]["gsm8k"] == {"original": 1319, "effective": 100}
    assert content["results"]["humaneval"]["pass@1,code_tests"] == metrics["humaneval"]["accuracy"]


def test_the_same_record_gives_the_same_bytes_whenever_it_is_exported(committed: Path, monkeypatch) -> None:
    first = {path: path.read_bytes() for path in lm_eval_export.write(committed)}
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        os.utime(committed / "metrics.json", (0, 0))
        assert {path: path.read_bytes() for path in lm_eval_export.write(committed)} == first
    finally:
        monkeypatch.undo()
        time.tzset()
    assert {path.name for path in first} == {
        f"results_{DATE}.json", f"samples_gsm8k_{DATE}.jsonl", f"samples_humaneval_{DATE}.jsonl",
    }  # fmt: skip


def test_a_newer_record_takes_the_place_of_an_older_one(committed: Path) -> None:
    old = lm_eval_export.write(committed)
    metrics = json.loads((committed / "metrics.json").read_text())
    (committed / "metrics.json").write_text(json.dumps(metrics | {"created_at": "2027-01-01T00:00:00+00:00"}))
    new = lm_eval_export.write(committed)
    assert sorted(new[0].parent.iterdir()) == sorted(new) and not set(old) & set(new)


def test_lm_evals_own_readers_read_it(committed: Path) -> None:
    utils = pytest.importorskip("lm_eval.utils", reason="lm-eval is not installed")
    written = lm_eval_export.write(committed)
    names = [str(path) for path in written]
    assert utils.get_results_filenames(names) == names[:1]
    assert utils.get_sample_results_filenames(names) == names[1:]
    assert [utils.get_file_task_name(path.name) for path in written[1:]] == ["gsm8k", "humaneval"]
    assert {utils.get_file_datetime(path.name).removesuffix(".json") for path in written} == {DATE}
    table = utils.make_table(json.loads(written[0].read_text()))
    assert "|gsm8k" in table.replace(" ", "") and "0.0400|±|0.0197" in table.replace(" ", "")


def test_the_files_hold_what_lm_evals_schema_names(committed: Path, tmp_path: Path) -> None:
    schema = pytest.importorskip("lm_eval.result_schema", reason="lm-eval is not installed")
    utils = pytest.importorskip("lm_eval.utils")
    results, *samples = lm_eval_export.write(committed)
    content = json.loads(results.read_text())
    assert set(content) <= set(schema.EvalResults.__annotations__)
    assert content["model_name_sanitized"] == utils.sanitize_model_name(content["model_name"]) == results.parent.name
    choice_run = lm_eval_export.write(choice_runs.write(tmp_path / "choices"))
    for path in [*samples, *choice_run[1:]]:
        for row in _lines(path):
            assert set(row) == set(schema.SampleResult.__annotations__) | set(row["metrics"])
    row = _lines(samples[0])[0]
    assert row["prompt_hash"] == utils.hash_string(row["arguments"]["gen_args_0"]["arg_0"])
    assert row["target_hash"] == utils.hash_string(row["target"])
    assert row["doc_hash"] == utils.hash_string(json.dumps(row["doc"], indent=2, ensure_ascii=False))


def test_samples_load_as_a_dataset(committed: Path, tmp_path: Path) -> None:
    from datasets import load_dataset

    for path in lm_eval_export.write(committed)[1:]:
        loaded = load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
        assert len(loaded) == len(_lines(path))


def test_scored_choices_are_a_task_of_their_own_whose_argmax_is_the_verdict(tmp_path: Path) -> None:
    results, text, choices = lm_eval_export.write(choice_runs.write(tmp_path / "run"))
    content = json.loads(results.read_text())
    assert content["results"]["boolq_choices"]["acc,none"] == 2 / 3
    assert content["results"]["boolq"]["exact_match,label"] == 1
    assert "exact_match,loglikelihood" not in content["results"]["boolq"]
    assert content["configs"]["boolq"]["generation_kwargs"] == {
        "until": ["\n"], "max_gen_toks": 32, "do_sample": False, "num_beams": 4,
    }  # fmt: skip
    assert content["configs"]["boolq_choices"]["output_type"] == "multiple_choice"
    for row in _lines(choices):
        scores = [float(score) for score, _ in row["filtered_resps"]]
        best = row["arguments"][f"gen_args_{scores.index(max(scores))}"]["arg_1"]
        assert row["acc"] == float(best == f" the correct answer is {row['target']}")
    assert {row["filter"] for row in _lines(text)} == {"label", "llm_adapters"}
    assert _lines(text)[0]["filter"] == "label"  # the headline comes first
    assert results.name == "results_2026-01-02T02-04-05.000000.json"


def test_what_lm_eval_evaluated_goes_along(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed")
    from lm_eval.utils import make_table

    task = {
        "metrics": {"acc,none": 0.25, "acc_stderr,none": None}, "version": 1.0, "n": 4, "n_original": 9, "num_fewshot": 2,
        "higher_is_better": {"acc": True},
    }  # fmt: skip
    group = task | {"subtasks": ["wic"], "n_original": None}
    run = choice_runs.write(tmp_path / "run", lm_eval={"wic": task, "glue": group})
    sample = {"doc_id": 0, "doc_hash": "d", "prompt_hash": "p", "target_hash": "t"}
    (run / "predictions/lm_eval").mkdir()
    (run / "predictions/lm_eval/wic.jsonl").write_text(json.dumps(sample) + "\n")
    results, *samples = lm_eval_export.write(run)
    content = json.loads(results.read_text())
    assert content["results"]["wic"]["acc_stderr,none"] == "N/A"
    assert content["n-samples"]["wic"] == {"original": 9, "effective": 4} and content["group_subtasks"] == {"glue": ["wic"]}
    assert _lines(samples[-1]) == [sample] and samples[-1].name.startswith("samples_wic_")
    assert "wic" in make_table(content)


def test_stand_ins_and_the_graders_code_are_named(committed: Path, tmp_path: Path) -> None:
    content = json.loads(lm_eval_export.write(committed)[0].read_text())
    assert "none of the paper's models" in content["config"]["model_args"]["stand_in"]
    metadata = content["configs"]["gsm8k"]["metadata"]
    assert set(metadata["graded_by"]) == {"grader", "packages", "metric"} and "stand_in" not in metadata
    run = choice_runs.write(tmp_path / "generated")
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["tasks"]["boolq"]["sources"] = {"grader": "a" * 64}
    (run / "metrics.json").write_text(json.dumps(metrics))
    metadata = json.loads(lm_eval_export.write(run)[0].read_text())["configs"]["boolq"]["metadata"]
    assert "questions are generated" in metadata["stand_in"] and metadata["graded_by"] == {"grader": "a" * 64}


def test_a_diverged_run_gives_no_files_and_a_record_without_date_or_rows_is_named(tmp_path: Path, capsys) -> None:
    diverged = choice_runs.write(tmp_path / "diverged", tasks={})
    assert lm_eval_export.main([str(diverged)]) == 0
    assert "diverged" in capsys.readouterr().out and not (diverged / "lm_eval").exists()
    with pytest.raises(ConfigError, match="created_at: found None, expected an ISO 8601 date"):
        lm_eval_export.write(choice_runs.write(tmp_path / "undated", created_at=None))
    short = choice_runs.write(tmp_path / "short")
    path = short / "predictions/boolq.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    with pytest.raises(ConfigError, match="found 2 rows, expected n = 3"):
        lm_eval_export.write(short)
