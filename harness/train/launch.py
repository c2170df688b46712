"""Several processes for one command: torchrun on this machine."""

from __future__ import annotations

import os
from collections.abc import Sequence

#: Seconds that processes get to save a checkpoint and end, after SIGTERM or the failure of one of them.
GRACE = 300


def torchrun_arguments(module: str, arguments: Sequence[str], *, processes: int) -> list[str]:
    """What ``python -m torch.distributed.run`` takes to run a module in this many processes. The two dashes keep it from taking
    options of the module for its own."""
    own = ["--standalone", "--nproc-per-node", str(processes), "--shutdown-timeout", str(GRACE)]
    return [*own, "-m", "--", module, *arguments]


def launch(module: str, arguments: Sequence[str], *, processes: int) -> int:
    """Run a module in several processes, which share the threads of this one out between them.

    Returns:
        Its exit status: that of the process that failed first, if any.
    """
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    os.environ["OMP_NUM_THREADS"] = str(max(1, int(os.environ.get("OMP_NUM_THREADS", "1")) // processes))
    try:
        run.run(run.parse_args(torchrun_arguments(module, arguments, processes=processes)))
    except ChildFailedError as failed:
        # Each has said itself what went wrong.
        status = failed.get_first_failure()[1].exitcode
        return status if status > 0 else 128 - status
    except SignalException as ended:
        return 128 + ended.sigval
    return 0
