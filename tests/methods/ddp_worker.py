"""Trains every given method on the processes that torchrun started, and leaves each replica's hash behind."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import torch

import harness.train.run as training
from harness.experiment.runs import load_run
from harness.train.run import Folders


def replica_hash(model: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for _, tensor in sorted(model.state_dict().items()):
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def main() -> None:
    root, models = Path(sys.argv[1]), Path(sys.argv[2])
    original = training._fit
    for name in sys.argv[3:]:
        experiment, spec = load_run([root / name / "experiment.yaml"], {}, f"math/llama-mini/{name}/seed0")

        def fit(trainer, *args, name=name, **kwargs):
            original(trainer, *args, **kwargs)
            (root / name / f"replica{os.environ['RANK']}").write_text(replica_hash(trainer.model))

        training._fit = fit
        training.train(
            spec,
            experiment,
            Folders(output=root / name / "two", scratch=root / name / "scratch-two", models=models, cache=root / "cache"),
        )
        torch.distributed.barrier()


if __name__ == "__main__":
    main()
