"""What is damaged of a finished experiment is set aside before the graph is built, and is due until it is made again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from harness import cli
from harness.config import SCHEMA_VERSION
from harness.files import write_json, write_jsonl
from harness.workflow.dag import Dag
from harness.workflow.damage import set_aside_damaged
from tests.experiments import miniature, write

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
    for run in dag.runs:
        for name in ("train.json", "metrics.json"):
            write_json(dag.folder / run / name, {"schema_version": SCHEMA_VERSION})
        write_jsonl(dag.folder / run / "predictions/gsm8k.jsonl", [{"id": "gsm8k/0"}, {"id": "gsm8k/1"}])
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


def test_a_damaged_base_model_is_due(finished: Dag) -> None:
    (base,) = map(Path, finished.base_model("llama-mini"))
    (base / "model.safetensors").write_bytes(b"")
    assert set_aside_damaged(finished, dry_run=False) == {str(base)}


def test_a_record_of_another_schema_is_due(finished: Dag, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(Path(LORA, "metrics.json"), {"schema_version": 0})
    assert set_aside_damaged(finished, dry_run=False) == {f"{LORA}/metrics.json"}
    assert f"schema_version: found 0, expected {SCHEMA_VERSION}; set aside" in capsys.readouterr().out
