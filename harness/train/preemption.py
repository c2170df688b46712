"""SIGTERM while a run trains: the step in hand is finished, a checkpoint saved, and the process ends with status 143."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class SaveOnSigterm(TrainerCallback):
    """Ends training with a checkpoint at the end of the step in which SIGTERM came, to any of the processes. The losses since
    the last logged one are logged, so that the resumed run's next entry is of its own steps."""

    def __init__(self) -> None:
        self._received = False
        self._ending = False
        #: The step after which training ended for it; None: it did not.
        self.saved_at: int | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """SIGTERM is for this callback; before and after it ends the process at once, as nothing would be lost."""
        before = signal.signal(signal.SIGTERM, self._receive)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _receive(self, *_: Any) -> None:
        self._received = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._received_anywhere(args) and state.global_step < state.max_steps:
            control.should_log = control.should_save = control.should_training_stop = True
            self._ending = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._ending:
            self.saved_at = state.global_step

    def _received_anywhere(self, args: TrainingArguments) -> bool:
        if args.world_size == 1:
            return self._received
        received = torch.tensor(int(self._received), device=args.device)
        torch.distributed.all_reduce(received, torch.distributed.ReduceOp.MAX)
        return bool(received)
