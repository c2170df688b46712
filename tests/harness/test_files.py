"""Files that are damaged: named, set aside, made again."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from harness import files
from harness.errors import ConfigError


def _archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("steps.npy", bytes(100))


#: How a whole file of each kind is written.
WRITERS: dict[str, Callable[[Path], Any]] = {
    "record.json": lambda path: files.write_json(path, {"n": [1, 2]}),
    "part.json": lambda path: files.write_json(path, [{"n": 1}, {"n": 2}]),
    "rows.jsonl": lambda path: files.write_jsonl(path, [{"id": "a"}, {"id": "longer"}]),
    "weights.safetensors": lambda path: save_file({"a": torch.ones(30), "b": torch.zeros(2, 2)}, path),
    "state.pt": lambda path: torch.save({"a": torch.ones(30)}, path),
    "history.npz": _archive,
    "page.html": lambda path: path.write_text("<html></html>\n"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_whole_file_has_no_fault_and_a_damaged_one_has(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    assert files.fault(path) is None, "not there: that is another matter"
    WRITERS[name](path)
    assert files.fault(path) is None and files.fault(tmp_path) is None
    content = path.read_bytes()
    for damaged in (b"", content[: len(content) // 2], content[:-5], bytes(len(content))):
        path.write_bytes(damaged)
        said = files.fault(path)
        assert said is not None and said in (files.fault(tmp_path) or "")
        assert (files.fault(tmp_path) or "").startswith(f"{name}: ")


def test_a_safetensors_file_without_tensors_or_with_more_bytes(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({}, path)
    assert files.fault(path) is None
    path.write_bytes(path.read_bytes() + b"more")
    assert files.fault(path) is not None


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("folder", "folder: found a folder, expected a file to write"),
        ("file/out.json", "file: found a file, expected a folder to write out.json in"),
        ("file/new/out.json", "file: found a file, expected a folder to write out.json in"),
        ("/proc/new/out.json", "/proc: cannot be written ("),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_work(
    path: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("file").touch()
    with pytest.raises(ConfigError) as error:
        files.require_writable(Path("folder/new/out.json"), Path(path))
    assert str(error.value).removeprefix(f"{tmp_path}/").startswith(said)
    files.require_writable(Path("file"), Path("folder/new/out.json"), tmp_path / "folder/out.json")
    assert [one.name for one in sorted(tmp_path.rglob("*"))] == ["file", "folder"], "nothing is left behind"


def test_what_is_set_aside_keeps_its_content_and_replaces_an_earlier_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for attempt in (1, 2):
        folder = tmp_path / "predictions"
        folder.mkdir()
        (folder / "rows.jsonl").write_text(str(attempt))
        files.set_aside(folder, "found an empty file")
        file = tmp_path / "metrics.json"
        file.write_text(str(attempt))
        files.set_aside(file, "found an empty file")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged-metrics.json", "damaged-predictions"]
    assert (tmp_path / "damaged-metrics.json").read_text() == (tmp_path / "damaged-predictions/rows.jsonl").read_text() == "2"
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{tmp_path}/predictions: found an empty file; set aside as damaged-predictions, made again"
    assert len(lines) == 4


def test_reading_sets_aside_what_cannot_be_used_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: Path) -> Any:
        return json.loads(path.read_text())["n"]

    path = tmp_path / "part.json"
    assert files.read_or_set_aside(path, read) is None and capsys.readouterr().out == ""
    files.write_json(path, {"n": 3})
    assert files.read_or_set_aside(path, read) == 3
    for content in ("", '{"n": 3', '{"m": 3}', '[{"n": 3}]'):
        path.write_text(content)
        assert files.read_or_set_aside(path, read) is None
        assert not path.exists() and (tmp_path / "damaged-part.json").read_text() == content
        assert capsys.readouterr().out.startswith(f"{path}: found ")
    files.write_json(path, {"n": 3})

    def denied(path: Path) -> Any:
        raise PermissionError(path)

    with pytest.raises(PermissionError):
        files.read_or_set_aside(path, denied)
    assert path.exists()


def test_of_two_processes_the_slower_one_finds_it_gone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files.set_aside(tmp_path / "tokens.safetensors", "found an empty file")
    assert "set aside" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("folder", "folder: found a folder, expected a file to write"),
        ("README.md/table1.md", "README.md: found no folder (File exists), expected one to write table1.md in"),
        (
            "README.md/tables/table1.md",
            "README.md/tables: found no folder (Not a directory), expected one to write table1.md in",
        ),
        ("/proc/x/table1.md", "/proc/x: found no folder (No such file or directory), expected one to write table1.md in"),
    ],
)
def test_where_no_file_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("README.md").touch()
    with pytest.raises(ConfigError, match=re.escape(said)):
        files.write_text(Path(path), "text")
    assert sorted(one.name for one in tmp_path.rglob("*")) == ["README.md", "folder"]
