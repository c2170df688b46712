"""Run a command on free GPUs, one unless told otherwise: ``python -m harness.workflow.gpu_slot [--gpus N] COMMAND ...``

Snakemake counts GPUs but cannot hand them out. Each device has a lock file; the command gets the first free ones in
CUDA_VISIBLE_DEVICES, and the locks are gone when it ends, however it ends. A given CUDA_VISIBLE_DEVICES limits the choice.
Without a GPU, under torchrun, or where a scheduler gave this job its devices, the command runs as it is. Slurm calls the one
device of every job 0: the workflows of two of its jobs share no locks.
"""

from __future__ import annotations

import argparse
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
from contextlib import ExitStack, suppress
from pathlib import Path

from harness.cli import SCHEDULER_JOB, has_own_allocation


def visible_devices() -> list[str]:
    """The devices to choose from: CUDA_VISIBLE_DEVICES if set, else all that nvidia-smi lists."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [device for device in given.split(",") if device]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True)
    return listed.stdout.split()


def run_in_slot(
    command: Sequence[str], devices: Sequence[str], *, lock_dir: Path, gpus: int = 1, poll_seconds: float = 1.0
) -> int:
    """Wait for so many free devices at a time, run the command on them, and return its exit status."""
    lock_dir.mkdir(parents=True, exist_ok=True)
    while True:
        with ExitStack() as locks:
            free = []
            for device in devices:
                lock = locks.enter_context((lock_dir / f"gpu-{device}.lock").open("w"))
                with suppress(BlockingIOError):
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    free.append(device)
                if len(free) == gpus:
                    return _run(command, free)
        # All of them, or none: two commands that each hold what the other one waits for would wait for ever.
        time.sleep(poll_seconds)


def _run(command: Sequence[str], devices: Sequence[str]) -> int:
    """Run the command on the devices; a SIGTERM is the command's, whose training saves a checkpoint."""
    process = subprocess.Popen(command, env={**os.environ, "CUDA_VISIBLE_DEVICES": ",".join(devices)})
    before = signal.signal(signal.SIGTERM, lambda number, frame: process.send_signal(number))
    try:
        return process.wait()
    finally:
        signal.signal(signal.SIGTERM, before)


def main() -> int:
    """The command line: exit status of the command."""
    parser = argparse.ArgumentParser(prog="python -m harness.workflow.gpu_slot", description="Run a command on free GPUs.")
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="how many (default: %(default)s)")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    command = args.command
    devices = [] if "WORLD_SIZE" in os.environ or has_own_allocation() else visible_devices()
    if devices:
        if args.gpus > len(devices):
            print(f"error: gpus: found {args.gpus}, expected at most {len(devices)}, the visible devices", file=sys.stderr)
            return 2
        owner = "-".join([str(os.getuid()), *filter(None, [os.environ.get(SCHEDULER_JOB)])])
        lock_dir = Path(tempfile.gettempdir()) / f"beamlora-gpu-slots-{owner}"
        return run_in_slot(command, devices, lock_dir=lock_dir, gpus=args.gpus)
    if command[:2] != ["python", "-m"]:
        os.execvp(command[0], command)
    sys.argv = command[2:]  # in this interpreter, which is that python: another start would buy nothing
    runpy.run_module(command[2], run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
