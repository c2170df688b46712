"""A run to export."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.paths import ROOT

COMMITTED = ROOT / "results/small/math/smollm2-135m/lora/seed0"


@pytest.fixture
def committed(tmp_path: Path) -> Path:
    """A copy of a committed run, without its adapter."""
    run = tmp_path / "run"
    shutil.copytree(COMMITTED, run, ignore=shutil.ignore_patterns("adapter"))
    return run
