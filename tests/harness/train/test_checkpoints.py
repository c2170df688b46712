"""A checkpoint is used only when it is whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.train.checkpoints import REQUIRED, mark_complete, take_latest


def checkpoint(folder: Path, step: int) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir()
    for name in [*REQUIRED, "rng_state.pth"]:
        (path / name).write_text(f"{name} of step {step}")
    mark_complete(path)
    return path


def test_the_newest_is_used_by_number_not_by_name(tmp_path: Path) -> None:
    checkpoint(tmp_path, 90)
    newest = checkpoint(tmp_path, 100)
    assert take_latest(tmp_path) == newest
    assert len(list(tmp_path.iterdir())) == 2


def test_without_any_training_starts_anew(tmp_path: Path) -> None:
    assert take_latest(tmp_path) is None


@pytest.mark.parametrize("part", [*REQUIRED, "rng_state.pth", "complete.json"])
@pytest.mark.parametrize("how", ["missing", "empty", "cut in half", "other content"])
def test_a_damaged_part_is_named_and_the_one_before_is_used(
    tmp_path: Path, part: str, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    older = checkpoint(tmp_path, 10)
    file = checkpoint(tmp_path, 20) / part
    content = file.read_bytes()
    damaged = {"empty": b"", "cut in half": content[: len(content) // 2], "other content": content.swapcase()}
    file.unlink() if how == "missing" else file.write_bytes(damaged[how])
    assert take_latest(tmp_path) == older
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{file.parent}: {part} ") and line.endswith("set aside as damaged-checkpoint-20, made again")
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-10", "damaged-checkpoint-20"}


def test_a_marker_of_another_schema_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    marker = checkpoint(tmp_path, 10) / "complete.json"
    marker.write_text(json.dumps({name: entry["bytes"] for name, entry in json.loads(marker.read_text()).items()}))
    assert take_latest(tmp_path) is None
    assert "complete.json cannot be read" in capsys.readouterr().out
