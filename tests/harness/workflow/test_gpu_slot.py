"""GPU slots: one command a device, and only the devices that are visible."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness import cli
from harness.workflow.gpu_slot import run_in_slot, visible_devices
from tests.paths import ROOT

PRINT_DEVICE = "import os; open(r'{file}', 'a').write(os.environ['CUDA_VISIBLE_DEVICES'])"


def test_given_devices_limit_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert visible_devices() == ["3", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_devices() == []


def test_the_command_sees_one_device_and_its_status_is_passed_on(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    command = [sys.executable, "-c", PRINT_DEVICE.format(file=seen) + "; raise SystemExit(3)"]
    assert run_in_slot(command, ["1", "2"], lock_dir=tmp_path) == 3
    assert seen.read_text() == "1"


def test_a_busy_device_is_passed_over_and_waited_for(tmp_path: Path) -> None:
    hold = (
        "import sys; from pathlib import Path; from harness.workflow.gpu_slot import run_in_slot; "
        "run_in_slot([sys.executable, '-c', 'import time; print(1, flush=True); time.sleep(1.5)'], ['0'], "
        f"lock_dir=Path(r'{tmp_path}'))"
    )
    holder = subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "1\n"
    seen = tmp_path / "seen"
    command = [sys.executable, "-c", PRINT_DEVICE.format(file=seen)]
    assert run_in_slot(command, ["0", "1"], lock_dir=tmp_path) == 0
    assert seen.read_text() == "1"
    started = time.monotonic()
    run_in_slot(command, ["0"], lock_dir=tmp_path, poll_seconds=0.05)
    assert time.monotonic() - started > 0.2
    holder.wait()


def test_a_command_for_two_devices_waits_until_two_are_free(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        ["flock", str(tmp_path / "gpu-1.lock"), "sh", "-c", "echo held; sleep 1"], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    seen = tmp_path / "seen"
    command = [sys.executable, "-c", PRINT_DEVICE.format(file=seen)]
    assert run_in_slot(command, ["0", "1", "2"], lock_dir=tmp_path, gpus=2) == 0
    started = time.monotonic()
    assert run_in_slot(command, ["0", "1"], lock_dir=tmp_path, gpus=2, poll_seconds=0.05) == 0
    assert time.monotonic() - started > 0.2
    assert seen.read_text() == "0,2" + "0,1"
    holder.wait()


def test_more_devices_than_are_visible_are_refused() -> None:
    command = [sys.executable, "-m", "harness.workflow.gpu_slot", "--gpus", "3", "python", "-m", "nothing", "--gpus", "1"]
    done = subprocess.run(command, env={"CUDA_VISIBLE_DEVICES": "0,1"}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "error: gpus: found 3, expected at most 2, the visible devices\n")


def test_a_sigterm_is_handed_to_the_command(tmp_path: Path) -> None:
    command = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(9)); print(1, flush=True); time.sleep(60)"
    slot = (
        "import sys; from pathlib import Path; from harness.workflow.gpu_slot import run_in_slot; "
        f"sys.exit(run_in_slot([sys.executable, '-c', {command!r}], ['0'], lock_dir=Path({str(tmp_path)!r})))"
    )
    process = subprocess.Popen([sys.executable, "-c", slot], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "1\n"
    process.terminate()
    assert process.wait() == 9


def test_without_a_gpu_the_command_runs_as_it_is() -> None:
    command = [sys.executable, "-m", "harness.workflow.gpu_slot", sys.executable, "-c", "raise SystemExit(7)"]
    assert subprocess.run(command, env={"CUDA_VISIBLE_DEVICES": "", "PATH": ""}).returncode == 7


def test_without_a_gpu_a_module_runs_in_the_same_process(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text("import os, sys; print(__name__, os.getpid(), *sys.argv[1:]); sys.exit(7)")
    command = [sys.executable, "-m", "harness.workflow.gpu_slot", "python", "-m", "module", "--here", "7"]
    environment = {"CUDA_VISIBLE_DEVICES": "", "PATH": "", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.communicate()[0] == f"__main__ {process.pid} --here 7\n"
    assert process.returncode == 7


@pytest.mark.parametrize("workflow", ["of each rule", "as a whole"])
def test_two_jobs_that_a_scheduler_gave_a_device_each_run_side_by_side(tmp_path: Path, workflow: str) -> None:
    """Under Slurm both devices are called 0, whether it runs the rules of one workflow or two workflows. Each job waits here
    for the other one's file."""
    wait = (
        "import sys, time; from pathlib import Path; own, other = map(Path, sys.argv[1:]); own.touch()\n"
        "while not other.exists(): time.sleep(0.02)"
    )
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "0", "TMPDIR": str(tmp_path)}
    files = [str(tmp_path / name) for name in "ab"]
    jobs = [
        subprocess.Popen(
            [sys.executable, "-m", "harness.workflow.gpu_slot", sys.executable, "-c", wait, *order],
            env={
                **environment,
                cli.SCHEDULER_JOB: number,
                cli.WORKFLOW: f"1 head/boot/pid:[1] {number if workflow == 'as a whole' else '-'}",
            },
        )
        for number, order in (("11", files), ("12", files[::-1]))
    ]
    assert [job.wait(timeout=20) for job in jobs] == [0, 0]
