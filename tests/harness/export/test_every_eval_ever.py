"""Exported results fit Every Eval Ever's own schema, say what the record says, and call stand-ins what they are."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

from harness.errors import ConfigError
from harness.export import every_eval_ever
from harness.records.versioned import MissingRecord
from tests.harness import fake_runs
from tests.harness.export import choice_runs
from tests.paths import ROOT

SCHEMAS = ROOT / "tests/fixtures/every_eval_ever"
BASE = {"label": "Small", "stands_for": "llama2-7b", "source": {"kind": "hub", "model_name_or_path": "someone/small"}}


def export(run: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The results and the samples, which fit the schemas."""
    results, samples = every_eval_ever.write(run)
    content, rows = json.loads(results.read_text()), [json.loads(line) for line in samples.read_text().splitlines()]
    for schema, documents in (("eval", [content]), ("instance_level_eval", rows)):
        validator = Draft7Validator(json.loads((SCHEMAS / f"{schema}.schema.json").read_text()))
        assert [error.message for document in documents for error in validator.iter_errors(document)] == []
    return content, rows


def base_run(folder: Path, **changes: Any) -> Path:
    return choice_runs.write(folder, model=BASE, status="success", git={"commit": "abc", "dirty": True}, **changes)


def test_every_number_of_the_record_is_there_with_its_uncertainty_and_its_samples(committed: Path) -> None:
    content, rows = export(committed)
    record = json.loads((committed / "metrics.json").read_text())
    results = {result["evaluation_result_id"]: result for result in content["evaluation_results"]}
    for name, task in record["tasks"].items():
        headline = results[f"{name}/{task['grader']}"]
        uncertainty = headline["score_details"]["uncertainty"]
        assert headline["score_details"]["score"] == task["accuracy"] and uncertainty["num_samples"] == task["n"]
        assert math.isclose(uncertainty["standard_error"]["value"], task["stderr"])
        assert uncertainty["confidence_interval"]["lower"] <= task["accuracy"] <= uncertainty["confidence_interval"]["upper"]
        assert results[f"{name}/gold_nll"]["score_details"]["score"] == task["gold_nll"]
        for grader, share in task["graders"].items():
            own = [row["evaluation"]["score"] for row in rows if row["evaluation_result_id"] == f"{name}/{grader}"]
            assert len(own) == task["n"] and math.isclose(sum(own) / len(own), share)
    assert {row["evaluation_id"] for row in rows} == {content["evaluation_id"]}
    assert {row["model_id"] for row in rows} == {content["model_info"]["id"]}
    gsm8k, humaneval = results["gsm8k/sound"], results["humaneval/code_tests"]
    assert gsm8k["source_data"] | {"additional_details": {}} == {
        "dataset_name": "GSM8K", "source_type": "hf_dataset", "hf_repo": "openai/gsm8k", "hf_split": "test",
        "samples_number": 1319, "additional_details": {},
    }  # fmt: skip
    assert gsm8k["source_data"]["additional_details"]["rows"] == "the first 100 rows"
    assert gsm8k["generation_config"]["generation_args"]["max_tokens"] == 160
    assert "{question}" in gsm8k["generation_config"]["generation_args"]["prompt_template"]
    assert humaneval["metric_config"]["metric_id"] == "pass-at-1"
    assert "seccomp" in humaneval["generation_config"]["generation_args"]["sandbox"]["type"]
    assert content["model_info"]["additional_details"]["training_hash"] == "0f449e6c75d2b422"


def test_the_two_files_lie_as_the_store_has_them_and_the_same_record_gives_the_same_bytes(committed: Path) -> None:
    first = {path: path.read_bytes() for path in every_eval_ever.write(committed)}
    (committed / "every_eval_ever/data/stale.json").write_text("of an earlier record")
    assert {path: path.read_bytes() for path in every_eval_ever.write(committed)} == first
    assert {path for path in (committed / "every_eval_ever").rglob("*") if path.is_file()} == first.keys()
    results, samples = first
    link = json.loads(results.read_text())["detailed_evaluation_results"]
    assert committed / "every_eval_ever" / link["file_path"] == samples
    assert samples.name == f"{results.stem}_samples.jsonl" and results.parent.name == "small-smollm2-135m-math-lora-seed0"
    assert link["checksum"] == hashlib.sha256(first[samples]).hexdigest()
    assert link["total_rows"] == first[samples].count(b"\n")
    metrics = committed / "metrics.json"
    fake_runs.edit_json(metrics, created_at="2027-01-01T00:00:00+00:00")
    assert every_eval_ever.write(committed)[0].name != results.name


def test_a_base_model_is_asked_by_its_name_on_the_hub_and_choices_by_their_likelihood(tmp_path: Path) -> None:
    content, rows = export(base_run(tmp_path / "run"))
    assert content["model_info"]["id"] == "someone/small"
    assert content["source_metadata"]["evaluator_relationship"] == "third_party"
    by_grader = {grader: [row for row in rows if row["evaluation_result_id"] == f"boolq/{grader}"]
                 for grader in ("label", "llm_adapters", "loglikelihood")}  # fmt: skip
    chosen = by_grader["loglikelihood"]
    assert [row["output"]["raw"] for row in chosen] == [["false"], ["true"], ["true"]]
    assert [row["evaluation"]["is_correct"] for row in chosen] == [True, False, True]
    assert chosen[0]["input"]["choices"] == ["true", "false"]
    # Every grader judges the same samples; what was extracted is known of the headline's alone.
    assert len({row["sample_hash"] for row in rows}) == 3
    assert by_grader["label"][0]["answer_attribution"][0]["extracted_value"] == "false"
    assert by_grader["llm_adapters"][0]["answer_attribution"] == []
    assert by_grader["label"][2]["output"]["raw"] == ["bytes \\ud800 \x00"]


def test_choices_that_tie_share_the_answer(tmp_path: Path) -> None:
    run = base_run(tmp_path / "run")
    tied = choice_runs.row(0, {"true": -1.0, "false": -1.0}, "true", verdicts={"loglikelihood": 0.5}) | {
        "best_choices": {"loglikelihood": ["true", "false"]}
    }
    (run / "predictions/boolq.jsonl").write_text(json.dumps(tied) + "\n")
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["tasks"]["boolq"] |= {"n": 1, "grader": "loglikelihood", "graders": {"loglikelihood": 0.5}}
    fake_runs.write_json(run / "metrics.json", metrics)
    _, (row,) = export(run)
    assert row["output"]["raw"] == ["true", "false"] and row["answer_attribution"] == []
    assert row["evaluation"] == {"score": 0.5, "is_correct": False}


def test_stand_ins_and_the_graders_code_are_named(tmp_path: Path) -> None:
    run = base_run(tmp_path / "run")
    content, rows = export(run)
    assert "say nothing about LLaMA2-7B" in content["model_info"]["additional_details"]["stand_in"]
    assert "say nothing about LLaMA2-7B" in content["source_metadata"]["additional_details"]["stand_in"]
    for result in content["evaluation_results"]:
        assert result["evaluation_name"].startswith("generated.boolq.")
        assert result["source_data"]["source_type"] == "other"
        assert "questions are generated" in result["source_data"]["additional_details"]["stand_in"]
        assert result["metric_config"]["additional_details"]["graded_by"] == "not recorded"
    assert {row["metadata"]["stand_in"] for row in rows} == {"model, questions"}
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["tasks"]["boolq"]["sources"] = {"grader": "a" * 64}
    fake_runs.write_json(run / "metrics.json", metrics)
    details = export(run)[0]["evaluation_results"][0]["metric_config"]["additional_details"]
    assert details["graded_by_grader"] == "a" * 64 and "graded_by" not in details


def test_what_is_not_a_finished_run_is_refused_by_name(tmp_path: Path, committed: Path, capsys) -> None:
    with pytest.raises(MissingRecord, match=r"none/metrics\.json: found no such file"):
        every_eval_ever.write(tmp_path / "none")
    fake_runs.edit_json(committed / "train.json", status="diverged")
    with pytest.raises(ConfigError, match=r"metrics\.json: status: found 'success', train\.json says 'diverged'"):
        every_eval_ever.write(committed)
    fake_runs.edit_json(committed / "metrics.json", status="diverged", tasks={})
    assert every_eval_ever.main([str(committed)]) == 0
    assert "diverged, no files" in capsys.readouterr().out and not (committed / "every_eval_ever").exists()
    (committed / "train.json").unlink()
    with pytest.raises(MissingRecord, match=r"train\.json: found no such file"):
        every_eval_ever.write(committed)
    path = base_run(tmp_path / "short") / "predictions/boolq.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2]))
    with pytest.raises(ConfigError, match=r"boolq\.jsonl: found 2 rows, expected n = 3"):
        every_eval_ever.write(tmp_path / "short")
    path.write_text("".join([lines[0], lines[0], lines[0]]))
    with pytest.raises(ConfigError, match=r"verdicts\.loglikelihood: found a mean of 1, expected 0\.666667"):
        every_eval_ever.write(tmp_path / "short")
    fake_runs.edit_json(tmp_path / "short/metrics.json", evaluation={"tasks": {"boolq": {"format": "boolq"}}})
    with pytest.raises(ConfigError, match=r"metrics\.json: evaluation: .* \(tasks\.boolq\.source: Field required\), expected"):
        every_eval_ever.write(tmp_path / "short")


def test_the_engine_is_that_of_the_record(tmp_path: Path) -> None:
    engine = {"name": "vllm", "version": "0.32.0"}
    content, _ = export(base_run(tmp_path, engine=engine))
    assert content["model_info"]["inference_engine"] == engine
