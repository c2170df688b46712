"""``gpus: 2`` through the workflow itself: two processes train each run, over gloo where there is no GPU."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests import preloaded
from tests.experiments import settings_of
from tests.rounding import assert_equal_but_for_rounding
from tests.workflow.test_dag import Copy

NAMES = ("beamlora", "full-ft")
#: An epoch of 13 micro-batches: in its last step one of the processes has none.
CHANGES = {
    "gpus": 2,
    "domains.math.train.source.rows": 50,
    "training.per_device_train_batch_size": 4,
    "training.gradient_accumulation_steps": 2,
    "methods": {name: {"settings": settings_of(name)} for name in NAMES},
    "tables.table1.methods": {"llama-mini": list(NAMES)},
}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_processes_of_the_workflow_make_what_one_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = Copy(tmp_path)
    copy.configure(**CHANGES)
    monkeypatch.setenv("PYTHON_EXEC", preloaded.python())  # torchrun's own variable: the program that it starts
    records = [f"results/mini/math/llama-mini/{name}/seed0/train.json" for name in NAMES]
    done = copy.snakemake(*records)
    assert done.returncode == 0, done.stderr + done.stdout
    for name in NAMES:
        run = copy.root / f"results/mini/math/llama-mini/{name}/seed0"
        alone = tmp_path / "alone" / name
        arguments = ["--run", f"math/llama-mini/{name}/seed0", "--run-dir", str(alone), "--set", "gpus=1"]
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
        subprocess.run([preloaded.python(), "-m", "harness.train", *arguments], cwd=copy.root, env=environment, check=True)
        two, one = (json.loads((folder / "train.json").read_text()) for folder in (run, alone))
        assert (two["world_size"], one["world_size"]) == (2, 1)
        for key in ("training_hash", "tokens", "steps", "trainable_parameters", "rank_importance", "artefact"):
            assert (two[key] == one[key]) or (key, name) == ("artefact", "full-ft"), (name, key)
        losses = [[entry["loss"] for entry in record["loss_curve"]] for record in (two, one)]
        assert_equal_but_for_rounding(*losses, terms=8 * 256)
        if name == "full-ft":  # its gradients are summed in another order
            actual, expected = (load_file(folder / "adapter/model.safetensors") for folder in (run, alone))
            assert actual.keys() == expected.keys()
            for key, tensor in expected.items():
                assert_equal_but_for_rounding(actual[key], tensor, terms=8 * 256)
    copy.configure(**CHANGES, **{"methods.full-ft.gpus": 1})
    assert copy.planned(*records) == {}, "no number depends on it"
