"""Two processes with the same global batch make what one makes, their replicas stay equal to the bit, and either goes on from
what the other has saved."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import methods
from harness.experiment.runs import load_run
from harness.schema.experiment import Experiment
from harness.schema.run import RunSpec
from harness.train.run import Folders, train
from tests import preloaded
from tests.experiments import miniature, settings_of, write
from tests.methods.test_resume import Killed, kill_after
from tests.paths import ROOT
from tests.rounding import assert_equal_but_for_rounding

#: Between processes they differ from LoRA in nothing: each process has the averaged gradients, and draws nothing.
LIKE_LORA = ("dora", "milora", "pissa", "relora")
NAMES = [
    pytest.param(name, marks=pytest.mark.slow if name in LIKE_LORA else ())
    for name in sorted({named.cls.name for named in methods.registry().values()})
]
STEPS = 12
#: The epoch's last step has one micro-batch, of one row: one of two processes computes nothing there.
ROWS = 25
#: Of the longest sum: a gradient's, over the tokens of a batch of four rows.
TERMS = 4 * 256
#: Sharded, weights are asked for as often by all processes, in however many parts they compute.
SETTINGS = {"full-ft": {"micro_batch_tokens": 200}, "lora": {"loss_normalization": "microbatch"}}
#: Stopped by one process between the second and the third of these checkpoints, by two before the last one.
SAVED = 4
CROSSING = [pytest.param(name, marks=pytest.mark.slow if name == "lora" else ()) for name in ("beamlora", "full-ft", "lora")]


def experiment_file(folder: Path, name: str) -> Path:
    folder.mkdir()
    return write(
        folder,
        miniature(
            **{
                "domains.math.train.source.rows": ROWS,
                "adapter.lora_dropout": 0.1,
                "training": {
                    "learning_rate": 1e-3,
                    "per_device_train_batch_size": 2,
                    "gradient_accumulation_steps": 2,
                    "max_steps": STEPS,
                    "logging_steps": 1,
                    "save_steps": SAVED,
                    **SETTINGS.get(name, {}),
                },
                "methods": {name: {"settings": settings_of(name)}},
                "tables.table1.methods": {"llama-mini": [name]},
            }
        ),
    )


def load(root: Path, name: str) -> tuple[Experiment, RunSpec]:
    return load_run([root / name / "experiment.yaml"], {}, f"math/llama-mini/{name}/seed0")


def folders(root: Path, name: str, which: str, models_dir: Path) -> Folders:
    own = root / name
    return Folders(output=own / which, scratch=own / f"scratch-{which}", models=models_dir, cache=root / "cache")


def train_until(step: int, spec: RunSpec, experiment: Experiment, where: Folders) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_after(patch, step)
        train(spec, experiment, where)


@pytest.fixture(scope="module")
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, models_dir: Path) -> Path:
    """Every method that is asked for, trained by two gloo processes, all in one launch of torchrun; for those of the last test
    also from where one process was stopped to where they are."""
    root = tmp_path_factory.mktemp("ddp")
    own = [item for item in request.session.items if isinstance(item, pytest.Function) and item.module is request.module]
    names = sorted({item.callspec.params["name"] for item in own})
    crossing = sorted({item.callspec.params["name"] for item in own if item.function is test_runs_go_on_with_more_or_fewer})
    for name in names:
        experiment_file(root / name, name)
    for name in crossing:
        experiment, spec = load(root, name)
        train_until(SAVED + 1, spec, experiment, folders(root, name, "crossing", models_dir))
    worker = ["tests.methods.ddp_worker", str(root), str(models_dir), *names, *(f"{name}:{2 * SAVED + 1}" for name in crossing)]
    command = [preloaded.python(), "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["--no-python", preloaded.python(), "-m", *worker]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return root


@pytest.fixture(scope="module")
def alone(trained: Path, models_dir: Path) -> Callable[[str], Path]:
    """The artefact of one process, trained once."""

    @cache
    def made(name: str) -> Path:
        experiment, spec = load(trained, name)
        train(spec, experiment, folders(trained, name, "one", models_dir))
        return trained / name / "one"

    return made


def assert_same(one: Path, other: Path, *, exactly: bool) -> None:
    """The artefacts and the losses of two runs."""
    files = sorted(p.relative_to(one) for p in one.rglob("*.safetensors"))
    assert files and files == sorted(p.relative_to(other) for p in other.rglob("*.safetensors"))
    records = [json.loads((folder / "train.json").read_text()) for folder in (one, other)]
    assert records[0]["tokens"] == records[1]["tokens"] and records[0]["training_hash"] == records[1]["training_hash"]
    losses = [[entry["loss"] for entry in record["loss_curve"]] for record in records]
    for file in files:
        expected, actual = load_file(one / file), load_file(other / file)
        assert expected.keys() == actual.keys()
        for key in expected:
            if exactly:
                assert torch.equal(expected[key], actual[key]), (file, key)
            else:
                assert_equal_but_for_rounding(actual[key], expected[key], terms=TERMS, layers=STEPS)
    assert_equal_but_for_rounding(losses[1], losses[0], terms=TERMS, layers=STEPS)


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_make_what_one_makes(name: str, trained: Path, alone: Callable[[str], Path]) -> None:
    """To the bit: the same two micro-batches, the sum of two gradients has no order, and a world size of 2 rounds nothing.
    Parts of micro-batches are more than two."""
    assert_same(alone(name), trained / name / "two", exactly="micro_batch_tokens" not in SETTINGS.get(name, {}))


@pytest.mark.parametrize("name", CROSSING)
def test_runs_go_on_with_more_or_fewer(name: str, trained: Path, alone: Callable[[str], Path], models_dir: Path) -> None:
    """One process up to the first checkpoint, two up to the second, one to the end."""
    experiment, spec = load(trained, name)
    where = folders(trained, name, "crossing", models_dir)
    assert {path.name for path in where.scratch.glob("checkpoint-*")} == {f"checkpoint-{n * SAVED}" for n in (1, 2)}
    train(spec, experiment, where)
    assert_same(alone(name), where.output, exactly="micro_batch_tokens" not in SETTINGS.get(name, {}))


@pytest.mark.parametrize("name", NAMES)
def test_replicas_are_equal_to_the_bit(name: str, trained: Path) -> None:
    assert (trained / name / "replica0").read_text() == (trained / name / "replica1").read_text()
