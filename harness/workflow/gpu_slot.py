"""Run a command on one free GPU: ``python -m harness.workflow.gpu_slot COMMAND ...``

Snakemake counts GPUs but cannot hand them out. Each device has a lock file; the command gets the first free one in
CUDA_VISIBLE_DEVICES, and the lock is gone when it ends, however it ends. A given CUDA_VISIBLE_DEVICES limits the choice.
Without a GPU, under torchrun, or where a scheduler gave this job its devices, the command runs as it is: Slurm calls the one
device of every job 0.
"""

from __future__ import annotations

import fcntl
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from harness.cli import has_own_allocation


def visible_devices() -> list[str]:
    """The devices to choose from: CUDA_VISIBLE_DEVICES if set, else all that nvidia-smi lists."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [device for device in given.split(",") if device]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True)
    return listed.stdout.split()


def run_in_slot(command: Sequence[str], devices: Sequence[str], *, lock_dir: Path, poll_seconds: float = 1.0) -> int:
    """Wait for a free device, run the command on it, and return its exit status."""
    lock_dir.mkdir(parents=True, exist_ok=True)
    while True:
        for device in devices:
            with (lock_dir / f"gpu-{device}.lock").open("w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                return _run(command, device)
        time.sleep(poll_seconds)


def _run(command: Sequence[str], device: str) -> int:
    """Run the command on the device; a SIGTERM is the command's, whose training saves a checkpoint."""
    process = subprocess.Popen(command, env={**os.environ, "CUDA_VISIBLE_DEVICES": device})
    before = signal.signal(signal.SIGTERM, lambda number, frame: process.send_signal(number))
    try:
        return process.wait()
    finally:
        signal.signal(signal.SIGTERM, before)


def main() -> int:
    """The command line: exit status of the command."""
    command = sys.argv[1:]
    devices = [] if "WORLD_SIZE" in os.environ or has_own_allocation() else visible_devices()
    if devices:
        return run_in_slot(command, devices, lock_dir=Path(tempfile.gettempdir()) / f"beamlora-gpu-slots-{os.getuid()}")
    if command[:2] != ["python", "-m"]:
        os.execvp(command[0], command)
    sys.argv = command[2:]  # in this interpreter, which is that python: another start would buy nothing
    runpy.run_module(command[2], run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
