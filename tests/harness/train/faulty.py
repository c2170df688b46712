"""The command ``harness.train`` on the second of several processes where something goes wrong in its fifth step: as the
environment's ``FAULT`` says, it gets SIGTERM, or has no memory for two examples at once."""

from __future__ import annotations

import os
import signal
from typing import Any

import torch

from harness.cli import run
from harness.train import __main__ as command
from harness.train.trainer import MethodTrainer

FAULT = "FAULT"
_original = MethodTrainer.compute_loss


def compute_loss(self: MethodTrainer, model: Any, inputs: dict[str, Any], *more: Any, **keys: Any) -> torch.Tensor:
    if os.environ["RANK"] == "1" and self.state.global_step >= 4:
        if os.environ[FAULT] == "sigterm":
            os.kill(os.getpid(), signal.SIGTERM)
        elif len(inputs["segment_lengths"]) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    return _original(self, model, inputs, *more, **keys)


if __name__ == "__main__":
    MethodTrainer.compute_loss = compute_loss  # type: ignore[method-assign]
    run(command.main)
