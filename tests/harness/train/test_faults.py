"""What one of two real processes meets ends both, and the run is the one that it would have been."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from harness.experiment.runs import load_run
from harness.train.checkpoints import what_is_missing
from harness.train.run import Folders, train
from tests import preloaded
from tests.experiments import miniature, settings_of, write
from tests.harness.train.faulty import FAULT
from tests.paths import ROOT
from tests.rounding import assert_equal_but_for_rounding

STEPS = 7
#: Of the longest sum: a gradient's, over the tokens of a batch of four rows.
TERMS = 4 * 256
#: The command with two processes, which begin with everything imported, and whose module is the one with faults.
COMMAND = """
from harness.cli import run
from harness.train import __main__ as command, launch
from tests import preloaded

original = launch.torchrun_arguments

def torchrun_arguments(module, arguments, *, processes):
    *own, _, dashes, module = original(module, [], processes=processes)
    return [*own, "--no-python", dashes, preloaded.python(), "-m", "tests.harness.train.faulty", *arguments]

launch.torchrun_arguments = torchrun_arguments
run(command.main)
"""


class Run:
    """A miniature run of a method; two processes compute a micro-batch of two rows each in a step."""

    def __init__(self, folder: Path, name: str, models_dir: Path, *, dropout: float) -> None:
        content = miniature(
            **{
                "domains.math.train.source.rows": 24,
                "adapter.lora_dropout": dropout,
                "training": {
                    "learning_rate": 1e-3,
                    "per_device_train_batch_size": 2,
                    "gradient_accumulation_steps": 2,
                    "max_steps": STEPS,
                    "logging_steps": 1,
                    "save_steps": 2,
                },
                "methods": {name: {"settings": settings_of(name)}},
                "tables.table1.methods": {"llama-mini": [name]},
            }
        )
        self.folder, self.models_dir, self.path = folder, models_dir, write(folder, content)
        self.experiment, self.spec = load_run([self.path], {}, f"math/llama-mini/{name}/seed0")
        self.checkpoints = folder / "scratch" / self.spec.training_hash()

    def two_processes(self, fault: str) -> subprocess.CompletedProcess[str]:
        arguments = ["--configfile", str(self.path), "--set", "gpus=2", "--run", self.spec.run_id]
        folders = {"run-dir": "run", "scratch": "scratch", "cache-dir": "cache"}
        arguments += [word for option, name in folders.items() for word in (f"--{option}", str(self.folder / name))]
        arguments += ["--models-dir", str(self.models_dir)]
        environment = {**os.environ, FAULT: fault, "CUDA_VISIBLE_DEVICES": ""}
        command = [preloaded.python(), "-c", COMMAND, *arguments]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    def one_process(self, name: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """The record and the tensors of one process that goes on from what is there."""
        folder = self.folder / name
        scratch = self.checkpoints if name == "run" else self.folder / f"scratch-{name}"
        where = Folders(output=folder, scratch=scratch, models=self.models_dir, cache=self.folder / "cache")
        train(self.spec, self.experiment, where)
        return self.made(name)

    def made(self, name: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        (file,) = (self.folder / name / "adapter").glob("*.safetensors")
        return json.loads((self.folder / name / "train.json").read_text()), load_file(file)


def losses(record: dict[str, Any]) -> list[float]:
    assert [entry["step"] for entry in record["loss_curve"]] == list(range(1, STEPS + 1))
    return [entry["loss"] for entry in record["loss_curve"]]


def test_sigterm_to_one_of_two_processes_saves_a_checkpoint_of_both(tmp_path: Path, models_dir: Path) -> None:
    """Which one process goes on from, to the bits that it makes alone: those of two."""
    run = Run(tmp_path, "lora", models_dir, dropout=0.1)
    ended = run.two_processes("sigterm")
    assert ended.returncode == 143, ended.stderr
    # Of both, where torchrun does not end one of them before it has said so.
    assert "ended by SIGTERM after step 5: a checkpoint is saved; repeat the command to go on\n" in ended.stderr
    assert not (tmp_path / "run" / "train.json").exists()
    assert what_is_missing(run.checkpoints / "checkpoint-5") is None
    assert not (run.checkpoints / "checkpoint-6").exists()
    (resumed, tensors), (alone, expected) = run.one_process("run"), run.one_process("alone")
    assert losses(resumed) == losses(alone) and resumed["tokens"] == alone["tokens"]
    assert tensors.keys() == expected.keys() and all(torch.equal(tensors[key], expected[key]) for key in expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lora", "full-ft"])
def test_out_of_memory_in_one_of_two_processes_both_go_on_from_the_checkpoint_in_smaller_parts(
    name: str, tmp_path: Path, models_dir: Path
) -> None:
    run = Run(tmp_path, name, models_dir, dropout=0.0)  # masks are drawn for each part
    ended = run.two_processes("out of memory")
    assert ended.returncode == 0, ended.stderr
    halved, tensors = run.made("run")
    (entry,) = halved["out_of_memory"]
    assert entry["step"] == 5 and entry["micro_batch_tokens"] == entry["tokens"] // 2
    assert ended.stderr.count(f"out of memory with {entry['tokens']} tokens at step 5: going on with") == 1
    assert ended.stdout.count("starting all processes again\n") == 1
    assert ended.stdout.count(f"going on from {run.checkpoints / 'checkpoint-4'}\n") == 1
    alone, expected = run.one_process("alone")
    assert (halved["world_size"], alone["world_size"], alone["out_of_memory"]) == (2, 1, [])
    for key in ("training_hash", "steps", "tokens", "data"):
        assert halved[key] == alone[key], key
    assert losses(halved)[:4] == losses(alone)[:4], "up to the checkpoint nothing is in parts"
    assert_equal_but_for_rounding(losses(halved), losses(alone), terms=TERMS, layers=STEPS)
    assert tensors.keys() == expected.keys()
    for key, tensor in expected.items():
        assert_equal_but_for_rounding(tensors[key], tensor, terms=TERMS, layers=STEPS)
    assert not run.checkpoints.exists()
