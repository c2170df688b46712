"""Trains every given method on the processes that torchrun started, and leaves each replica's hash behind. ``NAME:STEP``: from
where another process was stopped until it is stopped itself."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor

import harness.train.run as training
import methods
from tests.methods.test_data_parallel import folders, load, train_until


def replica_hash(model: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for _, tensor in sorted(model.state_dict().items()):
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        digest.update(whole.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def main() -> None:
    root, models = Path(sys.argv[1]), Path(sys.argv[2])
    original = training._fit
    for name, _, step in (word.partition(":") for word in sys.argv[3:]):
        experiment, spec = load(root, name)

        def fit(trainer, *args, name=name, **kwargs):
            original(trainer, *args, **kwargs)
            sharded = {isinstance(parameter, DTensor) for parameter in trainer.model.parameters()}
            assert sharded == {methods.get(name).cls.sharded}
            (root / name / f"replica{os.environ['RANK']}").write_text(replica_hash(trainer.model))

        training._fit = fit
        if step:
            train_until(int(step), spec, experiment, folders(root, name, "crossing", models))
        else:
            training.train(spec, experiment, folders(root, name, "two", models))
        os.environ.pop("ACCELERATE_USE_FSDP", None)  # which accelerate sets for good; a run has a process to itself
        torch.distributed.barrier()


if __name__ == "__main__":
    main()
