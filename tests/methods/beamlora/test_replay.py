"""The operation is bit-equal to the recorded operations of the released code."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from beamlora.operation import MOMENTS
from beamlora.settings import BeamSettings
from methods.beamlora.replay import differences, main, read_recording, replay
from tests.paths import SHARED, needs_shared

RECORDINGS = ["p95_r8", "p60_r8_overlap", "p100_r8"]


def recording_path(name: str) -> Path:
    assert SHARED is not None
    return SHARED / "fixtures" / "beam_operation" / f"{name}.safetensors"


@needs_shared
@pytest.mark.parametrize("name", RECORDINGS)
def test_recorded_operations_are_bit_equal(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(recording_path(name))]) == 0
    assert "168 of 168 tensors bit-equal" in capsys.readouterr().out


@needs_shared
def test_replay_fails_when_one_bit_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = recording_path("p95_r8")
    tensors = load_file(source)
    with safe_open(source, framework="pt") as file:
        metadata = file.metadata()
    tensors["after.02.A"][3, 1] = torch.nextafter(tensors["after.02.A"][3, 1], torch.tensor(9.0))
    save_file(tensors, tmp_path / "changed.safetensors", metadata=metadata)
    assert main([str(tmp_path / "changed.safetensors")]) == 1
    output = capsys.readouterr().out
    assert "167 of 168" in output and "differs: 02.A" in output


@needs_shared
def test_replay_fails_when_the_recorded_plan_differs(tmp_path: Path) -> None:
    source = recording_path("p95_r8")
    with safe_open(source, framework="pt") as file:
        metadata = file.metadata()
    save_file(load_file(source), tmp_path / "changed.safetensors", metadata={**metadata, "p": "0.80"})
    assert main([str(tmp_path / "changed.safetensors")]) == 1


def test_replay_refuses_what_is_not_a_recording(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.safetensors").write_text("no")
    save_file({"x": torch.zeros(1)}, tmp_path / "empty.safetensors")
    assert main([str(tmp_path / "text.safetensors")]) == 2
    assert main([str(tmp_path / "empty.safetensors")]) == 2
    assert main([str(tmp_path / "missing.safetensors")]) == 2
    assert "permutations" in capsys.readouterr().err
    shutil.rmtree(tmp_path)


@needs_shared
@pytest.mark.parametrize(("name", "modules"), [("p95_r8", 9), ("p60_r8_overlap", 14), ("p100_r8", 0)])
def test_copying_moments_differs_from_released_in_the_four_ab_moments_only(name: str, modules: int) -> None:
    """The paper copies the moments (Eq. 12); the released code's copy has no effect."""
    recording = read_recording(recording_path(name))
    _, results = replay(recording, BeamSettings(flavor="released", moment_transfer="history"))
    wrong = differences(recording, results)
    pruned = [f"{i:02d}" for i, ranks in enumerate(recording.pruned) if ranks]
    assert len(pruned) == modules
    assert wrong == [f"{i}.{m}.{moment}" for i in pruned for m in "AB" for moment in MOMENTS]
