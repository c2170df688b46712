"""Killed at any step and started again, every method ends with the same bits as without the kill."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import random
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import methods
from harness.experiment.runs import load_run
from harness.provenance import file_sha256
from harness.records import importance
from harness.schema.experiment import Experiment
from harness.schema.run import RunSpec
from harness.train import run as run_module
from harness.train import trainer as trainer_module
from harness.train.checkpoints import what_is_missing
from harness.train.run import Folders, train
from harness.train.trainer import PrintProgress, StopWhenDiverged
from tests import preloaded
from tests.experiments import miniature, settings_of, write
from tests.paths import ROOT

STEPS = 16


def experiment_file(folder: Path, name: str, **training: Any) -> Path:
    content = miniature(
        **{
            # Small batches, and an epoch of 12 steps, so that some pieces go on in the second one.
            "domains.math.train.source.rows": 24,
            "training.per_device_train_batch_size": 2,
            "training.max_steps": STEPS,
            "training.save_steps": 3,
            "training.logging_steps": 1,
            "training.importance_every": 5,
            "methods": {name: {"settings": settings_of(name)}},
            "tables.table1.methods": {"llama-mini": [name]},
            "overrides": [{"method": [name], "training": training}] if training else [],
        }
    )
    return write(folder, content)


def folders(root: Path, models_dir: Path, name: str) -> Folders:
    return Folders(output=root / name, scratch=root / f"{name}-scratch", models=models_dir, cache=root / "cache")


def hashes(folder: Path) -> dict[str, str]:
    by_file = {str(p.relative_to(folder)): file_sha256(p) for p in sorted(folder.rglob("*.safetensors"))}
    assert by_file
    return by_file


def snapshots(where: Folders) -> bytes | None:
    """The file of the ranks' importances; None from a method without such ranks."""
    path = where.output / "adapter" / importance.FILE
    return path.read_bytes() if path.exists() else None


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the run's code catches it, and all objects are lost."""


def kill_after(monkeypatch: pytest.MonkeyPatch, step: int | None) -> None:
    original = PrintProgress.on_step_end

    def on_step_end(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == step:
            raise Killed
        original(self, args, state, control, **kwargs)

    monkeypatch.setattr(PrintProgress, "on_step_end", on_step_end)


#: The default tests interrupt each kind of state once: variants have their method's, and these LoRA's.
LIKE_LORA = ("dora", "lora-fa", "milora", "pissa")
NAMES = [
    name if name == named.cls.name and name not in LIKE_LORA else pytest.param(name, marks=pytest.mark.slow)
    for name, named in sorted(methods.registry().items())
]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, models_dir: Path) -> Callable[[str], Folders]:
    """The folders of a method's run that nothing stopped, trained once."""

    @cache
    def whole(name: str) -> Folders:
        folder = tmp_path_factory.mktemp(name)
        experiment, spec = load_run([experiment_file(folder, name)], {}, f"math/llama-mini/{name}/seed0")
        where = folders(folder, models_dir, "whole")
        train(spec, experiment, where)
        return where

    return whole


@pytest.mark.parametrize("name", NAMES)
def test_interrupted_runs_end_with_the_same_bits(
    name: str,
    tmp_path: Path,
    models_dir: Path,
    uninterrupted: Callable[[str], Folders],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = experiment_file(tmp_path, name)
    experiment, spec = load_run([path], {}, f"math/llama-mini/{name}/seed0")
    whole = uninterrupted(name)
    pieces = folders(tmp_path, models_dir, "pieces")
    for step in (2, 7, 11):
        with monkeypatch.context() as patch:
            kill_after(patch, step)
            with pytest.raises(Killed):
                train(spec, experiment, pieces)
    record = train(spec, experiment, pieces)
    assert hashes(pieces.output / "adapter") == hashes(whole.output / "adapter")
    assert record["steps"] == STEPS
    assert [entry["step"] for entry in record["loss_curve"]] == list(range(1, STEPS + 1))
    assert snapshots(pieces) == snapshots(whole)
    assert (snapshots(whole) is None) == (record["rank_importance"]["snapshots"] == 0)
    assert not pieces.scratch.exists()


def killed_after_training(monkeypatch: pytest.MonkeyPatch, spec: RunSpec, experiment: Experiment, where: Folders) -> None:
    """Train to the last step, and be killed before the artefact is written."""

    def write_results(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "_write_results", write_results)
        with pytest.raises(Killed):
            train(spec, experiment, where)


def test_killed_between_the_last_step_and_the_artefact_no_step_more_is_trained(
    tmp_path: Path, models_dir: Path, uninterrupted: Callable[[str], Folders], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The 16th step is in the middle of the second epoch."""
    experiment, spec = load_run([experiment_file(tmp_path, "beamlora")], {}, "math/llama-mini/beamlora/seed0")
    where = folders(tmp_path, models_dir, "run")
    killed_after_training(monkeypatch, spec, experiment, where)
    assert what_is_missing(where.scratch / f"checkpoint-{STEPS}") is None
    record = train(spec, experiment, where)
    assert record["steps"] == STEPS and [entry["step"] for entry in record["loss_curve"]] == list(range(1, STEPS + 1))
    assert contents(where) == contents(uninterrupted("beamlora"))


def test_killed_after_it_diverged_a_run_diverges_again_at_the_same_step(
    tmp_path: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a step that saves: from a checkpoint of that step it would train on, and might recover."""
    experiment, spec = load_run([experiment_file(tmp_path, "lora")], {}, "math/llama-mini/lora/seed0")
    original = StopWhenDiverged.on_log

    def on_log(self: Any, args: Any, state: Any, control: Any, **event: Any) -> None:
        logs = {**event["logs"], "loss": math.inf} if state.global_step == 6 else event["logs"]
        original(self, args, state, control, **{**event, "logs": logs})

    monkeypatch.setattr(StopWhenDiverged, "on_log", on_log)
    where = folders(tmp_path, models_dir, "run")
    killed_after_training(monkeypatch, spec, experiment, where)
    record = train(spec, experiment, where)
    assert record["status"] == "diverged" and record["steps"] == 6 and "at step 6" in record["reason"]


def test_what_did_not_fit_into_memory_is_known_to_the_next_start_and_in_the_record(
    tmp_path: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also before there is a checkpoint."""
    path = experiment_file(tmp_path, "lora", max_steps=4)
    experiment, spec = load_run([path], {}, "math/llama-mini/lora/seed0")
    where = folders(tmp_path, models_dir, "run")
    original = trainer_module.label_loss

    def label_loss(hidden: torch.Tensor, head: Any, labels: torch.Tensor) -> torch.Tensor:
        patch.setattr(trainer_module, "label_loss", original)
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with monkeypatch.context() as patch:
        patch.setattr(trainer_module, "label_loss", label_loss)
        kill_after(patch, 2)
        with pytest.raises(Killed):
            train(spec, experiment, where)
    train(spec, experiment, where)
    (entry,) = json.loads((where.output / "train.json").read_text())["out_of_memory"]
    assert entry["step"] == 1 and entry["micro_batch_tokens"] == entry["tokens"] // 2


#: A package that the Trainer takes for TensorBoard's where that is not installed.
WRITER = """
import pathlib

class SummaryWriter:
    def __init__(self, log_dir):
        self.file = pathlib.Path(log_dir, "scalars")
        self.file.parent.mkdir(parents=True)

    def add_scalar(self, name, value, step):
        with self.file.open("a") as file:
            print(name, value, step, file=file)

    def add_text(self, *_): pass
    def flush(self): pass
    def close(self): pass
"""


def test_a_dashboard_sees_the_loss_and_changes_neither_hash_nor_bits(
    tmp_path: Path, models_dir: Path, uninterrupted: Callable[[str], Folders], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorboardX.py").write_text(WRITER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "elsewhere")
    path = experiment_file(tmp_path, "lora")
    _, plain = load_run([path], {}, "math/llama-mini/lora/seed0")
    experiment, spec = load_run([path], {"report_to": ["tensorboard"]}, "math/llama-mini/lora/seed0")
    assert spec.training_hash() == plain.training_hash()
    where = folders(tmp_path, models_dir, "reported")
    record = train(spec, experiment, where)
    assert hashes(where.output / "adapter") == hashes(uninterrupted("lora").output / "adapter")
    seen = [line.split() for line in (where.output / "tensorboard" / "scalars").read_text().splitlines()]
    losses = [(float(value), int(step)) for name, value, step in seen if name == "train/loss"]
    assert losses == [(entry["loss"], entry["step"]) for entry in record["loss_curve"]]


def test_gradient_checkpointing_of_a_run_changes_no_bit_of_fused_layers(
    tmp_path: Path, models_dir: Path, uninterrupted: Callable[[str], Folders]
) -> None:
    path = experiment_file(tmp_path, "beamlora", gradient_checkpointing=True)
    experiment, spec = load_run([path], {}, "math/llama-mini/beamlora/seed0")
    assert spec.training.gradient_checkpointing and spec.training.fused and spec.method.settings["lora_dropout"] > 0
    where = folders(tmp_path, models_dir, "checkpointing")
    train(spec, experiment, where)
    assert hashes(where.output / "adapter") == hashes(uninterrupted("beamlora").output / "adapter")


#: The command, which gets a real SIGTERM in its 8th step.
PREEMPTED = """
import os, signal
from harness.cli import run
from harness.train.__main__ import main
from harness.train.trainer import MethodTrainer

original = MethodTrainer.compute_loss

def compute_loss(self, *arguments, **keys):
    if self.state.global_step == 7:
        os.kill(os.getpid(), signal.SIGTERM)
    return original(self, *arguments, **keys)

MethodTrainer.compute_loss = compute_loss
run(main)
"""


def test_sigterm_saves_a_checkpoint_and_the_next_start_ends_with_the_same_bits(
    tmp_path: Path, models_dir: Path, uninterrupted: Callable[[str], Folders]
) -> None:
    path = experiment_file(tmp_path, "lora")
    experiment, spec = load_run([path], {}, "math/llama-mini/lora/seed0")
    where = folders(tmp_path, models_dir, "run")
    arguments = [
        *("--configfile", str(path), "--run", spec.run_id, "--run-dir", str(where.output), "--scratch", str(where.scratch)),
        *("--models-dir", str(where.models), "--cache-dir", str(where.cache)),
    ]
    ended = subprocess.run([preloaded.python(), "-c", PREEMPTED, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 143, ended.stderr
    assert ended.stderr.endswith("ended by SIGTERM after step 8: a checkpoint is saved; repeat the command to go on\n")
    scratch = where.scratch / spec.training_hash()
    assert not (where.output / "train.json").exists() and what_is_missing(scratch / "checkpoint-8") is None
    record = train(spec, experiment, dataclasses.replace(where, scratch=scratch))
    assert hashes(where.output / "adapter") == hashes(uninterrupted("lora").output / "adapter")
    expected = json.loads((uninterrupted("lora").output / "train.json").read_text())
    assert [entry["loss"] for entry in record["loss_curve"]] == [entry["loss"] for entry in expected["loss_curve"]]


# ------------------------------------------------------------------------------------------------------- SIGKILL, anywhere


def start(spec: RunSpec, experiment: Experiment, where: Folders) -> int:
    """Train in a process of its own, forked from this one; returns its id. Its exit status is 0 if it came to the end."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        train(spec, experiment, where)
        status = 0
    finally:
        os._exit(status)


def cpu_seconds(pid: int) -> float:
    """CPU time of another process, by its clock (clock_getcpuclockid); on a busy machine it says how far a training is."""
    return time.clock_gettime((~pid << 3) | 2)


def kill_at(pid: int, seconds: float) -> bool:
    """SIGKILL a process when it has taken so much CPU time; whether it was still running then."""
    while cpu_seconds(pid) < seconds:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return False
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def contents(where: Folders) -> dict[str, str]:
    """SHA-256 of every file of the artefact: weights, configuration, tokenizer, the log of operations, the snapshots."""
    adapter = where.output / "adapter"
    return {str(path.relative_to(adapter)): file_sha256(path) for path in sorted(adapter.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def survived(request: pytest.FixtureRequest) -> Iterator[dict[str, list[bool]]]:
    """Method -> for every point at which it was killed, whether it survived. Shown as a table at the end."""
    points: dict[str, list[bool]] = {}
    yield points
    rows = [("method", "points tried", "survived")]
    rows += [(name, str(len(ended)), str(sum(ended))) for name, ended in sorted(points.items())]
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("\n" + "\n".join(f"{name:<12}{tried:>13}{ended:>10}" for name, tried, ended in rows))


OWN_NAMES = sorted(name for name, named in methods.registry().items() if name == named.cls.name)


@pytest.mark.parametrize(
    ("name", "points"),
    [("beamlora", 1), *(pytest.param(name, 20, marks=pytest.mark.slow) for name in OWN_NAMES)],
)
def test_killed_at_random_points_the_same_command_ends_with_the_same_artefact(
    name: str, points: int, tmp_path: Path, models_dir: Path, survived: dict[str, list[bool]]
) -> None:
    """SIGKILL anywhere between the start and the last file; then the same training once more, to its end."""
    path = experiment_file(tmp_path, name)
    experiment, spec = load_run([path], {}, f"math/llama-mini/{name}/seed0")
    whole = folders(tmp_path, models_dir, "whole")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert os.waitpid(start(spec, experiment, whole), 0)[1] == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    takes = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    chance = random.Random(name)
    ended = survived.setdefault(name, [])
    while len(ended) < points:
        where = folders(tmp_path, models_dir, "killed")
        if kill_at(start(spec, experiment, where), chance.uniform(0, takes)):
            again = os.waitpid(start(spec, experiment, where), 0)[1]
            ended.append(again == 0 and contents(where) == contents(whole) and not where.scratch.exists())
        for folder in (where.output, where.scratch):
            shutil.rmtree(folder, ignore_errors=True)
    assert all(ended)


# ------------------------------------------------------------------------------------------------------------- a full disk

#: A shell that has room for one checkpoint and not for two, and gets more when the training has failed for it.
ROOM = {
    "a full disk": ("mount -t tmpfs -o size=$ROOM none $FOLDER", "mount -o remount,size=64m $FOLDER"),
    "a limit on the size of files": ("ulimit -S -f 60", "ulimit -S -f unlimited"),
}
SCRIPT = "{less}; $TRAIN; echo status $?; find $FOLDER -name complete.json; {more}; $TRAIN && cp -r $FOLDER/run $OUTPUT"


@pytest.mark.slow
@pytest.mark.parametrize("how", ROOM)
def test_training_that_found_no_room_goes_on_with_the_same_bits_when_there_is_some(
    how: str, tmp_path: Path, models_dir: Path, uninterrupted: Callable[[str], Folders], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file system of a namespace of its own; BeamLoRA, which has a state beside the optimizer's."""
    alone = ["unshare", "--map-root-user", "--mount"]
    if how == "a full disk" and subprocess.run([*alone, "mount", "-t", "tmpfs", "none", tmp_path]).returncode != 0:
        pytest.skip("this machine lets nobody mount a file system of his own")
    path = experiment_file(tmp_path, "beamlora")
    experiment, spec = load_run([path], {}, "math/llama-mini/beamlora/seed0")
    once = folders(tmp_path, models_dir, "once")
    with monkeypatch.context() as patch:
        kill_after(patch, 4)
        with pytest.raises(Killed):
            train(spec, experiment, once)
    files = [file for folder in (once.scratch, once.cache) for file in folder.rglob("*") if file.is_file()]
    room = sum(file.stat().st_size for file in files) + 100_000
    folder, output = tmp_path / "small", tmp_path / "whole"
    folder.mkdir()
    words = [
        *(sys.executable, "-m", "harness.train", "--configfile", path, "--run", spec.run_id, "--run-dir", folder / "run"),
        *("--scratch", folder / "scratch", "--models-dir", models_dir, "--cache-dir", folder / "cache"),
    ]
    less, more = ROOM[how]
    variables = {"ROOM": room, "FOLDER": folder, "OUTPUT": output, "TRAIN": shlex.join(map(str, words))}
    script = SCRIPT.format(less=less, more=more)
    done = subprocess.run(
        [*(alone if how == "a full disk" else []), "bash", "-c", script], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, **{name: str(value) for name, value in variables.items()}},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (refused,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    found = {"a full disk": "a full disk", "a limit on the size of files": "a file that could not be written"}[how]
    assert f": found {found}, with " in refused and "repeat the command" in refused and "Traceback" not in done.stderr
    _, again = done.stdout.split("status 2\n")
    kept = {"a full disk": 1, "a limit on the size of files": 0}[how]
    assert again.count("complete.json\n") == kept and ("going on from" in again) == bool(kept), "in the middle of training"
    if how == "a full disk":
        assert refused.startswith(f"error: {folder}"), "the disk that is full, and not that of the results"
    assert contents(dataclasses.replace(once, output=output)) == contents(uninterrupted("beamlora"))


def test_a_checkpoint_without_its_optimizer_is_refused_by_name_and_the_one_before_is_used(
    tmp_path: Path,
    models_dir: Path,
    uninterrupted: Callable[[str], Folders],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = experiment_file(tmp_path, "lora")
    experiment, spec = load_run([path], {}, "math/llama-mini/lora/seed0")
    where = folders(tmp_path, models_dir, "run")
    with monkeypatch.context() as patch:
        kill_after(patch, 8)
        with pytest.raises(Killed):
            train(spec, experiment, where)
    (where.scratch / "checkpoint-6" / "optimizer.pt").unlink()
    train(spec, experiment, where)
    output = capsys.readouterr().out
    assert "checkpoint-6: optimizer.pt (optimizer) is missing" in output
    assert f"going on from {where.scratch / 'checkpoint-3'}" in output
    assert hashes(where.output / "adapter") == hashes(uninterrupted("lora").output / "adapter")


def test_a_kill_during_a_save_does_not_block_the_restart(
    tmp_path: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = experiment_file(tmp_path, "lora")
    experiment, spec = load_run([path], {}, "math/llama-mini/lora/seed0")
    where = folders(tmp_path, models_dir, "run")
    with monkeypatch.context() as patch:
        kill_after(patch, 5)
        with pytest.raises(Killed):
            train(spec, experiment, where)
    half = where.scratch / "checkpoint-6"
    shutil.copytree(where.scratch / "checkpoint-3", half)
    (half / "complete.json").unlink()
    (half / "trainer_state.json").unlink()
    assert train(spec, experiment, where)["status"] == "success"


def test_the_same_spec_twice_gives_the_same_adapter_and_another_seed_another(
    tmp_path: Path, models_dir: Path, uninterrupted: Callable[[str], Folders]
) -> None:
    path = experiment_file(tmp_path, "lora")
    made = {"a": hashes(uninterrupted("lora").output / "adapter")}
    for label, overrides in (("b", {}), ("c", {"seeds": [1]})):
        seed = overrides.get("seeds", [0])[0]
        experiment, spec = load_run([path], overrides, f"math/llama-mini/lora/seed{seed}")
        where = folders(tmp_path, models_dir, label)
        train(spec, experiment, where)
        made[label] = hashes(where.output / "adapter")
    assert made["a"] == made["b"] != made["c"]
