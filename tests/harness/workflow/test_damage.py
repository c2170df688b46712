"""What is damaged of a finished experiment is set aside before the graph is built, and is due until it is made again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from safetensors.torch import save_file

from harness import cli, files
from harness.figures import style
from harness.files import write_json, write_jsonl
from harness.schema.fields import SCHEMA_VERSION
from harness.workflow.dag import Dag
from harness.workflow.damage import set_aside_damaged
from tests.experiments import miniature, write
from tests.harness.fake_runs import edit_json, write_run
from tests.paths import ROOT

LORA = "results/mini/math/llama-mini/lora/seed0"


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dag:
    """The outputs of the miniature's two runs, whole."""
    monkeypatch.chdir(tmp_path)
    dag = Dag(cli.Config(files=(write(tmp_path, miniature()),)))
    (base,) = map(Path, dag.base_model("llama-mini"))
    for folder in (base, *(dag.folder / run / "adapter" for run in dag.runs)):
        folder.mkdir(parents=True)
        save_file({"weight": torch.ones(8, 8)}, folder / "model.safetensors")
        write_json(folder / "config.json", {"r": 8})
    for run in dag.runs.values():
        folder = write_run(run, dag.folder.parent, correct={"gsm8k": [True, False, True, True]})
        edit_json(folder / "train.json", artefact={"model.safetensors": "0" * 64})
        for made in ("adapter", "predictions"):
            (folder / made / ".snakemake_timestamp").touch()
    return dag


def test_nothing_is_due_of_what_is_whole_or_was_never_made(finished: Dag, capsys: pytest.CaptureFixture[str]) -> None:
    Path(LORA, "train.json").unlink()
    assert set_aside_damaged(finished, dry_run=False) == set() and capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("damaged", "output"),
    [
        ("train.json", "train.json"),
        ("metrics.json", "metrics.json"),
        ("predictions/gsm8k.jsonl", "predictions"),
        ("adapter/model.safetensors", "adapter"),
        ("adapter/config.json", "adapter"),
    ],
)
@pytest.mark.parametrize("how", ["empty", "cut in half"])
def test_a_damaged_output_is_named_set_aside_and_due(
    finished: Dag, damaged: str, output: str, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file, path = Path(LORA, damaged), Path(LORA, output)
    content = file.read_bytes()
    file.write_bytes(b"" if how == "empty" else content[: len(content) // 2 - 3])
    assert set_aside_damaged(finished, dry_run=True) == {str(path)}
    assert path.exists() and capsys.readouterr().out == ""
    assert set_aside_damaged(finished, dry_run=False) == {str(path)}
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{path}: ") and line.endswith(f"; set aside as damaged-{output}, made again")
    assert not path.exists() and path.with_name(f"damaged-{output}").exists()
    # A workflow that ends before the output is made again leaves it due.
    assert set_aside_damaged(finished, dry_run=False) == {str(path)} and capsys.readouterr().out == ""
    path.with_name(f"damaged-{output}").rename(path)
    file.write_bytes(content)
    assert set_aside_damaged(finished, dry_run=False) == set()


#: What is done to LoRA's outputs -> the output that cannot be used, and what is said of it.
WRONG: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "answers missing at the end": (
        "predictions", lambda run: _lines(run, 0, 2), "gsm8k.jsonl: found 2 lines, metrics.json says 4",
    ),
    "answers of another size than was written": (
        "predictions", lambda run: _rows(run, size=1000, correct=True), "gsm8k.jsonl: found 140 bytes, metrics.json says 1000",
    ),
    "answers of other keys": (
        "predictions", lambda run: _rows(run, verdict=1), "gsm8k.jsonl: found an incomplete or foreign line (KeyError(",
    ),
    "a verdict that is none": (
        "predictions", lambda run: _rows(run, correct="yes"), "gsm8k.jsonl: found an incomplete or foreign line (ValueError(",
    ),
    "a task's answers missing": (
        "predictions", lambda run: (run / "predictions/gsm8k.jsonl").unlink(), "gsm8k.jsonl: found no such file, metrics.json ",
    ),
    "another run's scores": (
        "metrics.json", lambda run: edit_json(run / "metrics.json", run_id="x"), "run_id: found 'x', expected 'math/",
    ),
    "no scores": ("metrics.json", lambda run: _bare(run / "metrics.json"), "run_id: Field required"),
    "scores of no task": (
        "metrics.json", lambda run: edit_json(run / "metrics.json", tasks={}), "tasks: found [] of a run with status success",
    ),
    "no training": ("train.json", lambda run: _bare(run / "train.json"), "run_id: Field required"),
    "an empty artefact": (
        "adapter", lambda run: _empty(run / "adapter"), "found an empty folder, expected model.safetensors as in train.json",
    ),
    "no weights for the evaluation": (
        "adapter", lambda run: _not_evaluated(run), "model.safetensors: found no such file, expected it as in train.json",
    ),
}  # fmt: skip


def _lines(run: Path, first: int, last: int) -> None:
    path = run / "predictions/gsm8k.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[first:last]))


def _rows(run: Path, size: int | None = None, **answer: object) -> None:
    write_jsonl(run / "predictions/gsm8k.jsonl", [{"id": f"gsm8k/{i}", **answer} for i in range(4)])
    if size is not None:
        tasks = json.loads((run / "metrics.json").read_text())["tasks"]
        edit_json(run / "metrics.json", tasks={"gsm8k": tasks["gsm8k"] | {"predictions_bytes": size}})


def _bare(record: Path) -> None:
    write_json(record, {"schema_version": SCHEMA_VERSION})


def _empty(folder: Path) -> None:
    for file in folder.glob("[!.]*"):
        file.unlink()


def _not_evaluated(run: Path) -> None:
    (run / "adapter/model.safetensors").unlink()
    (run / "metrics.json").unlink()


@pytest.mark.parametrize("wrong", WRONG)
def test_a_whole_output_that_is_wrong_is_named_set_aside_and_due(
    finished: Dag, wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output, spoil, said = WRONG[wrong]
    path = Path(LORA, output)
    spoil(Path(LORA))
    assert set_aside_damaged(finished, dry_run=True) == {str(path)} and path.exists()
    assert set_aside_damaged(finished, dry_run=False) == {str(path)}
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{path}: {said}") and line.endswith(f"; set aside as damaged-{output}, made again")
    assert not path.exists() and path.with_name(f"damaged-{output}").exists()


def test_answers_whose_folder_is_gone_are_due(finished: Dag, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(Path(LORA, "predictions"))
    assert set_aside_damaged(finished, dry_run=False) == {f"{LORA}/predictions"}
    said = f"{LORA}/predictions: gsm8k.jsonl: found no such file, metrics.json has 4 answers; made again\n"
    assert capsys.readouterr().out == said


def test_of_a_run_that_diverged_nothing_is_due(finished: Dag) -> None:
    """It leaves an empty artefact and no answers."""
    write_run(finished.runs[LORA.removeprefix("results/mini/")], finished.folder.parent)
    _empty(Path(LORA, "adapter"))
    Path(LORA, "predictions/gsm8k.jsonl").unlink()
    assert set_aside_damaged(finished, dry_run=False) == set()


def test_what_was_evaluated_stands_without_its_weights(finished: Dag) -> None:
    """Whoever copies results elsewhere leaves them behind, and git has none."""
    Path(LORA, "adapter/model.safetensors").unlink()
    assert set_aside_damaged(finished, dry_run=False) == set()
    _empty(Path(LORA, "adapter"))
    for made in ("adapter", "predictions"):
        Path(LORA, made, ".snakemake_timestamp").unlink()
    assert set_aside_damaged(finished, dry_run=False) == set()


@pytest.mark.parametrize("experiment", ["small", "evidence"])
def test_of_the_committed_records_nothing_is_due(experiment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    dag = Dag(cli.Config(files=(Path("config", f"{experiment}.yaml"),)))
    assert any((dag.folder / run / "metrics.json").exists() for run in dag.runs)
    assert set_aside_damaged(dag, dry_run=True) == set()


@pytest.mark.parametrize("how", ["one row fewer", "other means"])
def test_a_pruning_that_contradicts_itself_is_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.chdir(tmp_path)
    pruning = {"fractions": [0.0, 0.5], "model": "llama-mini", "domain": "math", "methods": ["lora"]}
    dag = Dag(cli.Config(files=(write(tmp_path, miniature(pruning=pruning)),)))
    (path,) = map(Path, dag.pruned)
    task = {"ids": ["gsm8k/0", "gsm8k/1"], "correct": ["11", "10"], "accuracy": [1.0, 0.5]}
    record = {"schema_version": SCHEMA_VERSION, "fractions": [0.0, 0.5], "tasks": {"gsm8k": task}}
    path.parent.mkdir(parents=True)
    write_json(path, record)
    assert set_aside_damaged(dag, dry_run=False) == set()
    wrong = {"one row fewer": {"correct": ["11"]}, "other means": {"accuracy": [1.0, 0.25]}}[how]
    write_json(path, record | {"tasks": {"gsm8k": task | wrong}})
    assert set_aside_damaged(dag, dry_run=False) == {str(path)}


def test_damaged_tables_figures_and_claims_are_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also data that are whole lines of a table, and others than those of the picture."""
    monkeypatch.chdir(tmp_path)
    timing = {"model": "llama-mini", "domain": "math", "methods": ["lora", "dora"], "baseline": "lora"}
    dag = Dag(cli.Config(files=(write(tmp_path, miniature(timing=timing)),)))
    picture, table = Path(dag.figure_of("time_memory")), Path(dag.tables[0])
    with style.theme():
        style.save(style.Plot(figure=Figure(), data=pd.DataFrame({"a": [1, 2], "b": [3, 4]})), picture.parent, picture.stem)
    files.write_text(table.with_suffix(".csv"), "a,b\n")
    assert set_aside_damaged(dag, dry_run=False) == set()
    data = picture.with_suffix(".csv")
    data.write_text("a,b\n1,3\n")
    for path in (table.with_suffix(".csv"), dag.folder / "claims.json"):
        path.write_bytes(b"")
    due = {str(path) for path in (data, table.with_suffix(".csv"), dag.folder / "claims.json")}
    assert set_aside_damaged(dag, dry_run=True) == due
    picture.write_bytes(picture.read_bytes()[:-20])
    assert set_aside_damaged(dag, dry_run=False) == due - {str(data)} | {str(picture)}, "redrawn, the picture has its data"


def test_a_damaged_base_model_is_due(finished: Dag) -> None:
    (base,) = map(Path, finished.base_model("llama-mini"))
    (base / "model.safetensors").write_bytes(b"")
    assert set_aside_damaged(finished, dry_run=False) == {str(base)}


def test_a_record_of_another_schema_is_due(finished: Dag, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(Path(LORA, "metrics.json"), {"schema_version": 0})
    assert set_aside_damaged(finished, dry_run=False) == {f"{LORA}/metrics.json"}
    assert f"schema_version: found 0, expected {SCHEMA_VERSION}; set aside" in capsys.readouterr().out
