"""A checkpoint is used only when it is whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.train.checkpoints import REQUIRED, latest_complete, mark_complete


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
    assert latest_complete(tmp_path, report=pytest.fail) == newest


def test_without_any_training_starts_anew(tmp_path: Path) -> None:
    assert latest_complete(tmp_path, report=pytest.fail) is None


@pytest.mark.parametrize("part", [*REQUIRED, "rng_state.pth", "complete.json"])
def test_a_missing_part_is_named_and_the_one_before_is_used(tmp_path: Path, part: str) -> None:
    older = checkpoint(tmp_path, 10)
    newer = checkpoint(tmp_path, 20)
    (newer / part).unlink()
    reports: list[str] = []
    assert latest_complete(tmp_path, report=reports.append) == older
    assert len(reports) == 1 and str(newer) in reports[0] and part in reports[0]


def test_a_cut_off_file_is_refused(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, 10)
    (path / "optimizer.pt").write_text("cut")
    reports: list[str] = []
    assert latest_complete(tmp_path, report=reports.append) is None
    assert "optimizer.pt has 3 bytes" in reports[0]
