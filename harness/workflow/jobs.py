"""How the commands of a workflow's rules start: forked from a process that has their imports, where that is safe."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from harness.workflow.gpu_slot import visible_devices
from harness.workflow.preloaded import PACKAGES, Parent

#: A folder that each container of Apptainer has, and nothing else.
CONTAINER = "/.singularity.d"


class Jobs:
    """The interpreter of the rules' commands: this one, or the program of a ``preloaded.Parent`` once there is one."""

    def __init__(self) -> None:
        self._parent: Parent | None = None

    def preload(self, log: Path, *, gpu: bool) -> None:
        """Let jobs on this machine be forked, but not where they may meet a GPU: an experiment for one, or a visible device.

        Args:
            log: gets what the parent has to complain of.
            gpu: whether the experiment asks for one.
        """
        if gpu or sys.platform != "linux" or visible_devices():
            return
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # as Snakemake gives to jobs; one of more threads starts by itself
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as stream:
            try:
                self._parent = Parent(PACKAGES, environment=environment, executable=sys.executable, log=stream)
            except OSError as error:
                print(f"{error}: each job starts, and imports, by itself; see {log}", flush=True)

    def prefix(self) -> str:
        """What every shell command begins with: end at the first error; on SIGTERM, which Slurm sends to each process of a job,
        let the command end first, since with the shell goes the job, and with the job whatever still saves a checkpoint; which
        ``python`` is meant, but in a container of Apptainer, which has its own."""
        programs = [sys.executable] if self._parent is None else [self._parent.program, sys.executable]
        folders = ":".join(shlex.quote(os.path.dirname(program)) for program in programs)
        return f"set -euo pipefail; trap : TERM; [ -d {shlex.quote(CONTAINER)} ] || export PATH={folders}:$PATH; "

    def stop(self) -> float:
        """End the parent, if there is one, and return the CPU time that it took by itself, in seconds."""
        return 0.0 if self._parent is None else self._parent.close()
