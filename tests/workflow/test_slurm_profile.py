"""profiles/slurm, read as Snakemake reads it; tools/slurm_check.sh proves it on a real Slurm."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yte

from tests.paths import ROOT


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Any:
    """The profile where ``sacct`` ends with the status given."""
    sacct = tmp_path / "sacct"
    sacct.write_text(f"#!/bin/sh\nexit {getattr(request, 'param', 0)}\n")
    sacct.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr("sys.argv", ["snakemake"])
    with (ROOT / "profiles/slurm/config.yaml").open(encoding="utf-8") as stream:
        return yte.process_yaml(stream, require_use_yte=True)


@pytest.mark.parametrize(("profile", "command"), [(0, "sacct"), (1, "squeue")], indirect=["profile"])
def test_jobs_are_asked_after_where_their_states_are_kept(profile: Any, command: str) -> None:
    assert profile["slurm-status-command"] == command


def test_a_retry_gets_more_memory_and_more_time_up_to_the_longest(profile: Any) -> None:
    train = profile["set-resources"]["train"]
    names = [{"min": min, "threads": 1, "attempt": attempt} for attempt in (1, 2, 3)]
    asked = [(eval(train["mem_mb"], known), eval(train["runtime"], known)) for known in names]
    assert profile["retries"] == len(asked) - 1
    assert asked == [(64000, 720), (128000, 1440), (192000, 1440)]
    assert [eval(train["mem_mb"], names[0] | {"threads": gpus}) for gpus in (2, 4)] == [128000, 128000], "a whole checkpoint"


def test_every_rule_that_asks_for_gpus_has_resources_and_gpus_have_no_limit(profile: Any) -> None:
    rules = re.split(r"^rule ", (ROOT / "Snakefile").read_text(), flags=re.MULTILINE)[1:]
    assert set(profile["set-resources"]) == {rule.split(":")[0] for rule in rules if "\n        gpu=" in rule}
    assert "resources" not in profile
