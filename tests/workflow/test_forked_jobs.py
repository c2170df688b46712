"""A forked job against the same command in an interpreter of its own: the same bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.provenance import file_sha256
from tests import preloaded
from tests.experiments import miniature, settings_of, write
from tests.paths import ROOT


def left_by(folder: Path) -> dict[str, Any]:
    """What a run leaves and does not depend on when it was made: hashes of artefacts and answers, losses and scores."""
    files = [path for part in ("adapter", "predictions") for path in sorted((folder / part).rglob("*"))]
    files = [path for path in files if path.suffix in (".safetensors", ".npz", ".jsonl")]
    train, metrics = (json.loads((folder / name).read_text()) for name in ("train.json", "metrics.json"))
    scores = {name: {key: value for key, value in task.items() if key != "seconds"} for name, task in metrics["tasks"].items()}
    hashes = {str(path.relative_to(folder)): file_sha256(path) for path in files}
    return {"files": hashes, "losses": train["loss_curve"], "evidence": train["evidence"], "scores": scores}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "beamlora"])
def test_a_forked_job_leaves_the_same_bytes(tmp_path: Path, models_dir: Path, method: str) -> None:
    changes = {"methods": {method: {"settings": settings_of(method)}}, "tables.table1.methods.llama-mini": [method]}
    config = write(tmp_path, miniature(**changes, **{"training.importance_every": 4}))
    left = []
    for program in (preloaded.python(), sys.executable):
        run = tmp_path / Path(program).parent.name
        arguments = ["--configfile", config, "--run", f"math/llama-mini/{method}/seed0", "--run-dir", run]
        arguments += ["--models-dir", models_dir]
        for command in (["harness.train", "--scratch", run / "scratch", "--cache-dir", run / "cache"], ["harness.evaluate"]):
            environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
            subprocess.run([program, "-m", *command, *arguments], cwd=tmp_path, env=environment, check=True)
        left.append(left_by(run))
    assert left[0] == left[1] and len(left[0]["files"]) >= 2
