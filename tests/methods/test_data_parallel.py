"""Two processes with the same global batch make what one makes, and their replicas stay equal to the bit."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import methods
from harness.experiment.runs import load_run
from harness.train.run import Folders, train
from tests import preloaded
from tests.experiments import miniature, settings_of, write
from tests.paths import ROOT

#: Between processes they differ from LoRA in nothing: each process has the averaged gradients, and draws nothing.
LIKE_LORA = ("dora", "full-ft", "milora", "pissa", "relora")
NAMES = [
    pytest.param(name, marks=pytest.mark.slow if name in LIKE_LORA else ())
    for name in sorted({named.cls.name for named in methods.registry().values()})
]
STEPS = 12


def experiment_file(folder: Path, name: str) -> Path:
    folder.mkdir()
    return write(
        folder,
        miniature(
            **{
                # No dropout: two processes cannot draw the masks of one.
                "adapter.lora_dropout": 0.0,
                "training": {
                    "learning_rate": 1e-3,
                    "per_device_train_batch_size": 2,
                    "gradient_accumulation_steps": 2,
                    "max_steps": STEPS,
                    "logging_steps": 1,
                    "save_steps": 100,
                },
                "methods": {name: {"settings": settings_of(name)}},
                "tables.table1.methods": {"llama-mini": [name]},
            }
        ),
    )


@pytest.fixture(scope="module")
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, models_dir: Path) -> Path:
    """Every method that is asked for, trained by two gloo processes, all in one launch of torchrun."""
    root = tmp_path_factory.mktemp("ddp")
    own = [item for item in request.session.items if isinstance(item, pytest.Function) and item.module is request.module]
    names = sorted({item.callspec.params["name"] for item in own})
    for name in names:
        experiment_file(root / name, name)
    command = [
        preloaded.python(),
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "--no-python",
        preloaded.python(),
        "-m",
        "tests.methods.ddp_worker",
        str(root),
        str(models_dir),
        *names,
    ]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return root


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_make_what_one_makes(name: str, trained: Path, models_dir: Path) -> None:
    """To the bit: the same two micro-batches, the sum of two gradients has no order, and a world size of 2 rounds nothing."""
    folder = trained / name
    experiment, spec = load_run([folder / "experiment.yaml"], {}, f"math/llama-mini/{name}/seed0")
    train(
        spec,
        experiment,
        Folders(output=folder / "one", scratch=folder / "scratch-one", models=models_dir, cache=trained / "cache"),
    )
    one, two = folder / "one/adapter", folder / "two/adapter"
    files = sorted(p.relative_to(one) for p in one.rglob("*.safetensors"))
    assert files and files == sorted(p.relative_to(two) for p in two.rglob("*.safetensors"))
    for file in files:
        expected, actual = load_file(one / file), load_file(two / file)
        assert expected.keys() == actual.keys()
        assert [key for key in expected if not torch.equal(expected[key], actual[key])] == [], file


@pytest.mark.parametrize("name", NAMES)
def test_replicas_are_equal_to_the_bit(name: str, trained: Path) -> None:
    assert (trained / name / "replica0").read_text() == (trained / name / "replica1").read_text()
