"""The committed records of the small experiment are whole, and the committed tables are what records say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evaluation.sets.llm_adapters import COMMONSENSE
from harness.tables.__main__ import main
from harness.train.record import meta_info, run_info, train_info
from tests.paths import ROOT

SMALL = ROOT / "results/small"


TABLES = sorted(path for name in ("small", "evidence") for path in ROOT.glob(f"results/{name}/tables/*.md"))


@pytest.mark.parametrize("table", TABLES, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_the_committed_tables_are_rendered_from_the_committed_records(table: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    main([table.stem, "--experiment", table.parts[-3], "--allow-missing", "--output-dir", str(tmp_path)])
    for suffix in (".md", ".tex", ".csv"):
        assert (tmp_path / table.name).with_suffix(suffix).read_bytes() == table.with_suffix(suffix).read_bytes()


def test_the_committed_runs_come_from_a_clean_commit_and_did_what_they_say() -> None:
    runs = {method: SMALL / "math/smollm2-135m" / method / "seed0" for method in ("lora", "beamlora")}
    for run in runs.values():
        record = json.loads((run / "train.json").read_text())
        assert record["status"] == "success" and record["git"]["dirty"] is False
        first, last = record["loss_curve"][0]["loss"], record["loss_curve"][-1]["loss"]
        assert last < first
        for task, rows in (("gsm8k", 100), ("humaneval", 164)):
            predictions = [json.loads(line) for line in (run / f"predictions/{task}.jsonl").read_text().splitlines()]
            metrics = json.loads((run / "metrics.json").read_text())["tasks"][task]
            assert len(predictions) == rows == metrics["n"]
            assert metrics["accuracy"] == sum(row["correct"] for row in predictions) / rows
    operations = [json.loads(line) for line in (runs["beamlora"] / "adapter/operations.jsonl").read_text().splitlines()]
    assert [operation["step"] for operation in operations] == [10, 20, 30]


@pytest.mark.parametrize(("method", "file_size"), [("lora", 39_131_224), ("beamlora", 39_184_472)])
def test_the_committed_blocks_for_pefts_comparison_are_what_the_code_makes_of_the_record(method: str, file_size: int) -> None:
    """``file_size`` is that of the adapter in its own form, in bytes; BeamLoRA's has 6,720 gates and their names more."""
    record = json.loads((SMALL / "math/smollm2-135m" / method / "seed0/train.json").read_text())
    assert run_info(record, record["run_info"]["peft_config"]) == record["run_info"]
    total = record["base_parameters"] + record["trainable_parameters"]
    made = train_info(record, total_parameters=total, reserved_bytes=None)
    assert {**made, "file_size": file_size} == record["train_info"]
    made = meta_info(record)
    assert {key: made[key] for key in ("model_info", "dataset_info", "package_info")}.items() <= record["meta_info"].items()
    assert made["system_info"].keys() == record["meta_info"]["system_info"].keys()


@pytest.mark.parametrize(("protocol", "tasks"), [("sound", 12), ("paper", 12), ("continuation", 8)])
def test_the_committed_base_records_are_whole(protocol: str, tasks: int) -> None:
    folder = SMALL / "base/smollm2-135m" / protocol
    record = json.loads((folder / "metrics.json").read_text())
    assert record["status"] == "success" and record["git"]["dirty"] is False
    assert record["evaluation"]["protocol"] == protocol and len(record["tasks"]) == tasks
    for task, metrics in record["tasks"].items():
        rows = [json.loads(line) for line in (folder / f"predictions/{task}.jsonl").read_text().splitlines()]
        assert len(rows) == metrics["n"] == (164 if task == "humaneval" else 200)
        assert metrics["accuracy"] == pytest.approx(sum(row["correct"] for row in rows) / len(rows))
        for grader, share in metrics["graders"].items():
            assert share == pytest.approx(sum(row["verdicts"][grader] for row in rows) / len(rows))


@pytest.mark.parametrize("task", sorted(COMMONSENSE))
def test_the_committed_cross_check_with_lm_eval_agrees(task: str) -> None:
    """Written by ``python -m harness.evaluate.lm_eval_check --experiment small --limit 200 --tasks beamlora_{task}``."""
    record = json.loads((SMALL / f"base/smollm2-135m/lm_eval_check/{task}.json").read_text())
    agreement = record["tasks"][f"beamlora_{task}"]
    assert (record["model"], agreement["kind"], agreement["n"]) == ("smollm2-135m", "loglikelihood", 200)
    assert abs(agreement["ours"] - agreement["lm_eval"]) <= 1e-3 and agreement["agrees"] and agreement["disagreements"] == []
    assert 0 < agreement["score_difference"] < 1e-3  # nats: computed apart, not copied
