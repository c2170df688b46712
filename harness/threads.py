"""How many threads a process computes with."""

from __future__ import annotations

import os


def limit_threads() -> None:
    """Let torch compute with ``OMP_NUM_THREADS`` threads, with one unless that is set.

    One by default, for runs go on side by side: with a second busy process, two threads each are many times slower than one.
    The number is recorded with every run (``provenance.hardware``): the order of sums, and so the last digits, depend on it.
    """
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
