"""Several processes for one command: torchrun on this machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from harness.errors import Preempted
from harness.train.checkpoints import out_of_memory

#: Seconds that processes get to save a checkpoint and end, after SIGTERM or the failure of one of them.
GRACE = 300


def torchrun_arguments(module: str, arguments: Sequence[str], *, processes: int) -> list[str]:
    """What ``python -m torch.distributed.run`` takes to run a module in this many processes. The two dashes keep it from taking
    options of the module for its own."""
    own = ["--standalone", "--nproc-per-node", str(processes), "--shutdown-timeout", str(GRACE)]
    return [*own, "-m", "--", module, *arguments]


def launch(module: str, arguments: Sequence[str], *, processes: int, scratch: Path) -> int:
    """Run a module in several processes, which share the threads of this one out between them; once more, as often as one of
    them notes below ``scratch`` that it was out of memory (``checkpoints.note_out_of_memory``). Each time the tokens of what
    did not fit are halved, and with one example nothing is noted: it ends.

    Returns:
        Its exit status: that of the process that failed first, if any.
    """
    from torch.distributed.elastic.multiprocessing import SignalException

    os.environ["OMP_NUM_THREADS"] = str(max(1, int(os.environ.get("OMP_NUM_THREADS", "1")) // processes))
    try:
        while True:
            noted = len(out_of_memory(scratch))
            status = _launch_once(module, arguments, processes=processes)
            if status in (0, Preempted.status) or len(out_of_memory(scratch)) == noted:
                return status
            print("starting all processes again", flush=True)
    except SignalException as ended:
        return 128 + ended.sigval


def _launch_once(module: str, arguments: Sequence[str], *, processes: int) -> int:
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        run.run(run.parse_args(torchrun_arguments(module, arguments, processes=processes)))
    except ChildFailedError as failed:
        # Each has said itself what went wrong.
        status = failed.get_first_failure()[1].exitcode
        return status if status > 0 else 128 - status
    return 0
