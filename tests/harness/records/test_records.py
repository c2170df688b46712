"""Records are read only if they are whole, of this schema and of these settings; errors name the file and the command."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from harness.cli import Config
from harness.records import read as records
from harness.records import versioned
from harness.records.__main__ import main
from harness.records.frame import to_frame, write_parquet
from harness.records.matrices import score_matrix
from harness.schema.experiment import Experiment
from harness.schema.fields import SCHEMA_VERSION
from harness.schema.run import RunSpec
from tests.harness import fake_runs

EXPERIMENT = fake_runs.experiment(seeds=(0, 1), methods={"llama-tiny": ("lora", "beamlora")}, domains={"math": {"gsm8k": 6}})


@pytest.fixture
def runs(tmp_path: Path) -> list[RunSpec]:
    specs = fake_runs.runs(EXPERIMENT)
    fake_runs.populate(specs, tmp_path)
    return specs


def changed(run: RunSpec, **changes: object) -> RunSpec:
    return RunSpec.model_validate(run.model_dump(mode="json") | changes)


def test_whole_records_are_read(runs: list[RunSpec], tmp_path: Path) -> None:
    loaded = records.load_records(runs, results=tmp_path)
    assert [r.run.run_id for r in loaded.records] == [run.run_id for run in runs]
    first = loaded.records[0]
    assert first.train.trainable_parameters == fake_runs.PARAMETERS
    predictions = first.predictions["gsm8k"]
    assert predictions.ids == tuple(f"gsm8k/{i}" for i in range(6))
    assert predictions.correct.mean() == first.metrics.tasks["gsm8k"].accuracy
    assert predictions.gold_nll is not None and predictions.gold_nll.shape == (6,)


def test_missing_gold_nll_is_missing_not_zero(runs: list[RunSpec], tmp_path: Path) -> None:
    fake_runs.write_run(runs[0], tmp_path, correct={"gsm8k": [True] * 6})
    assert records.load_record(runs[0], results=tmp_path).predictions["gsm8k"].gold_nll is None


@pytest.mark.parametrize("name", ["train.json", "metrics.json"])
def test_missing_file_is_named_with_its_command(runs: list[RunSpec], tmp_path: Path, name: str) -> None:
    path = fake_runs.run_folder(runs[0], tmp_path) / name
    path.unlink()
    with pytest.raises(versioned.MissingRecord) as caught:
        records.load_record(runs[0], results=tmp_path)
    assert str(path) in str(caught.value) and f"snakemake --cores all -- {path}" in str(caught.value)


def test_many_missing_records_are_one_line_with_the_first_few(runs: list[RunSpec], tmp_path: Path) -> None:
    for run in runs:
        (fake_runs.run_folder(run, tmp_path) / "metrics.json").unlink()
    with pytest.raises(versioned.MissingRecord) as caught:
        records.load_records(runs, results=tmp_path)
    message = str(caught.value)
    assert "4 of 4 runs" in message and "\n" not in message
    assert runs[0].run_id in message and runs[3].run_id not in message
    assert f"snakemake --cores all -- {fake_runs.run_folder(runs[0], tmp_path)}/metrics.json" in message


def test_allowed_missing_records_are_listed(runs: list[RunSpec], tmp_path: Path) -> None:
    (fake_runs.run_folder(runs[2], tmp_path) / "train.json").unlink()
    loaded = records.load_records(runs, results=tmp_path, allow_missing=True)
    assert [run.run_id for run in loaded.missing] == [runs[2].run_id] and len(loaded.records) == 3


@pytest.mark.parametrize("name", ["train.json", "metrics.json", "predictions/gsm8k.jsonl"])
@pytest.mark.parametrize("allow_missing", [False, True])
def test_half_written_file_is_an_error_even_where_missing_is_allowed(
    runs: list[RunSpec], tmp_path: Path, name: str, allow_missing: bool
) -> None:
    path = fake_runs.run_folder(runs[1], tmp_path) / name
    path.write_text(path.read_text()[:-20])
    with pytest.raises(versioned.RecordError, match="incomplete") as caught:
        records.load_records(runs, results=tmp_path, allow_missing=allow_missing)
    made = path if name.endswith(".json") else path.parent.parent / "metrics.json"
    assert str(path) in str(caught.value) and f"--force -- {made}" in str(caught.value)


@pytest.mark.parametrize("name", ["train.json", "metrics.json"])
def test_other_schema_version_is_refused(runs: list[RunSpec], tmp_path: Path, name: str) -> None:
    path = fake_runs.run_folder(runs[0], tmp_path) / name
    fake_runs.edit_json(path, schema_version=SCHEMA_VERSION + 1)
    with pytest.raises(versioned.RecordError, match=f"schema_version: found {SCHEMA_VERSION + 1}, expected {SCHEMA_VERSION}"):
        records.load_records(runs, results=tmp_path, allow_missing=True)


def test_changed_training_setting_makes_a_record_stale(runs: list[RunSpec], tmp_path: Path) -> None:
    other = changed(runs[0], training=runs[0].training.model_dump() | {"learning_rate": 0.5})
    with pytest.raises(records.StaleRecord, match=r"training.learning_rate = 0.003, expected 0.5.*rerun: snakemake"):
        records.load_record(other, results=tmp_path)
    assert len(records.load_records([other, runs[1]], results=tmp_path, allow_missing=True).stale) == 1


def test_a_setting_that_came_into_the_schema_later_has_its_default(runs: list[RunSpec], tmp_path: Path) -> None:
    run = next(run for run in runs if run.method.key == "beamlora")
    path = fake_runs.run_folder(run, tmp_path) / "train.json"
    spec = json.loads(path.read_text())["spec"]
    del spec["method"]["settings"]["dead_ranks"], spec["training"]["packing"]
    fake_runs.edit_json(path, spec=spec)
    assert records.load_record(run, results=tmp_path).run == run
    del spec["training"]["fused"]
    fake_runs.edit_json(path, spec=spec)
    with pytest.raises(records.StaleRecord, match="found training.fused = False, expected True"):
        records.load_record(run, results=tmp_path)
    spec["training"]["fused"] = True
    fake_runs.edit_json(path, spec=spec)
    settings = run.method.settings | {"pairing": "ranked"}
    other = changed(run, method=run.method.model_dump() | {"settings": settings})
    with pytest.raises(records.StaleRecord, match="found method.settings.pairing = 'random', expected 'ranked'"):
        records.load_record(other, results=tmp_path)


def test_the_record_of_a_method_that_is_gone_is_stale(runs: list[RunSpec], tmp_path: Path) -> None:
    path = fake_runs.run_folder(runs[0], tmp_path) / "train.json"
    spec = json.loads(path.read_text())["spec"]
    spec["method"]["name"] = "withdrawn"
    fake_runs.edit_json(path, spec=spec)
    with pytest.raises(records.StaleRecord, match="spec: a spec of another form"):
        records.load_record(runs[0], results=tmp_path)


def test_changed_label_does_not(runs: list[RunSpec], tmp_path: Path) -> None:
    other = changed(runs[0], method=runs[0].method.model_dump() | {"label": "Low-rank"})
    assert records.load_record(other, results=tmp_path).run.method.label == "Low-rank"


def test_new_task_makes_only_the_metrics_stale(runs: list[RunSpec], tmp_path: Path) -> None:
    evaluation = runs[0].evaluation.model_dump(mode="json")
    evaluation["tasks"]["math"] = evaluation["tasks"]["gsm8k"]
    with pytest.raises(records.StaleRecord, match=r"metrics.json: tasks: found \['gsm8k'\]"):
        records.load_record(changed(runs[0], evaluation=evaluation), results=tmp_path)


def test_changed_evaluation_makes_the_metrics_stale_if_they_say_theirs(runs: list[RunSpec], tmp_path: Path) -> None:
    path = fake_runs.run_folder(runs[0], tmp_path) / "metrics.json"
    used = runs[0].evaluation.model_dump(mode="json")
    fake_runs.edit_json(path, evaluation=used)
    assert records.load_record(runs[0], results=tmp_path)
    used["tasks"]["gsm8k"]["max_new_tokens"] += 1
    fake_runs.edit_json(path, evaluation=used)
    with pytest.raises(records.StaleRecord, match="evaluation.*max_new_tokens"):
        records.load_record(runs[0], results=tmp_path)


def test_record_of_another_run_is_refused(runs: list[RunSpec], tmp_path: Path) -> None:
    fake_runs.edit_json(fake_runs.run_folder(runs[0], tmp_path) / "train.json", run_id=runs[1].run_id)
    with pytest.raises(versioned.RecordError, match=f"run_id: found '{runs[1].run_id}'"):
        records.load_record(runs[0], results=tmp_path)


@pytest.mark.parametrize(("key", "then", "now"), [("scoring", "rows", "tree"), ("prefix_caching", False, True)])
def test_a_record_from_before_a_setting_has_what_was_done_then(
    runs: list[RunSpec], tmp_path: Path, key: str, then: object, now: object
) -> None:
    run = runs[0]
    path = fake_runs.run_folder(run, tmp_path) / "metrics.json"
    evaluation = run.evaluation.model_dump(mode="json")
    del evaluation[key]
    fake_runs.edit_json(path, evaluation=evaluation)
    with pytest.raises(records.StaleRecord, match=f"found {key} = {then!r}, expected {now!r}"):
        records.load_record(run, results=tmp_path)
    as_then = changed(run, evaluation=run.evaluation.model_dump() | {key: then})
    assert records.load_record(as_then, results=tmp_path).run == as_then


def test_predictions_that_contradict_the_metrics_are_refused(runs: list[RunSpec], tmp_path: Path) -> None:
    path = fake_runs.run_folder(runs[0], tmp_path) / "predictions" / "gsm8k.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0]["correct"] = not rows[0]["correct"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(versioned.RecordError, match="found accuracy .* metrics.json says"):
        records.load_record(runs[0], results=tmp_path)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:-1]))
    with pytest.raises(versioned.RecordError, match="found 5 rows"):
        records.load_record(runs[0], results=tmp_path)


def test_an_answer_that_ties_is_worth_its_share_in_the_record_and_in_the_matrix(runs: list[RunSpec], tmp_path: Path) -> None:
    folder = fake_runs.run_folder(runs[0], tmp_path)
    path = folder / "predictions/gsm8k.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    worth = [0.5, 1 / 3, True, False, False, 0.25]
    path.write_text("".join(json.dumps(row | {"correct": value}) + "\n" for row, value in zip(rows, worth, strict=True)))
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["tasks"]["gsm8k"]["accuracy"] = sum(worth) / 6
    (folder / "metrics.json").write_text(json.dumps(metrics))
    record = records.load_record(runs[0], results=tmp_path)
    assert score_matrix([record], "gsm8k", "accuracy").tolist() == [[float(value) for value in worth]]


def test_diverged_run_is_a_record_without_numbers(runs: list[RunSpec], tmp_path: Path) -> None:
    fake_runs.write_run(runs[0], tmp_path)
    loaded = records.load_records(runs, results=tmp_path)
    assert loaded.records[0].diverged and loaded.records[0].predictions == {}
    frame = to_frame(loaded.records)
    assert list(frame["status"]) == ["diverged", "success", "success", "success"]
    assert frame["accuracy"].isna().tolist() == [True, False, False, False]


def test_parquet_holds_the_frame_and_is_byte_stable(runs: list[RunSpec], tmp_path: Path) -> None:
    loaded = records.load_records(runs, results=tmp_path)
    write_parquet(loaded.records, tmp_path / "a.parquet")
    write_parquet(records.load_records(runs, results=tmp_path).records, tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    frame = pd.read_parquet(tmp_path / "a.parquet")
    assert frame["seed"].tolist() == [0, 1, 0, 1] and frame["method"].tolist() == ["LoRA"] * 2 + ["BeamLoRA"] * 2
    assert frame["accuracy"].tolist() == [r.metrics.tasks["gsm8k"].accuracy for r in loaded.records]


@pytest.mark.parametrize(
    ("files", "overrides", "expected"),
    [
        (["config/tiny.yaml"], {}, "snakemake --cores all"),
        (["config/small.yaml"], {}, "snakemake --cores all --config experiment=small"),
        (["a b.yaml", "c.yaml"], {}, "snakemake --cores all --configfile 'a b.yaml' c.yaml"),
        (["config/tiny.yaml"], {"seeds": [0, 3]}, "snakemake --cores all --config 'seeds=[0,3]'"),
    ],
)
def test_command_repeats_files_and_overrides(files: list[str], overrides: dict[str, object], expected: str) -> None:
    assert Config(files=tuple(map(Path, files)), overrides=overrides).snakemake == expected


def test_command_line_writes_the_parquet_file(
    runs: list[RunSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(_files: object, _overrides: object) -> Experiment:
        return EXPERIMENT

    monkeypatch.setattr("harness.records.__main__.load_experiment", load)
    monkeypatch.setattr("harness.records.__main__.table_runs", lambda experiment, table: fake_runs.runs(experiment, table))
    output = tmp_path / "tables" / "runs.parquet"
    assert main(["--table", "table1", "--results-dir", str(tmp_path), "--output", str(output)]) == 0
    assert len(pd.read_parquet(output)) == 4
    assert f"{output}: 4 runs" in capsys.readouterr().out
