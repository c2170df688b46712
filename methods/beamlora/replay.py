"""Replay a recorded operation of the released code and compare every tensor bit for bit.

    python -m methods.beamlora.replay FILE.safetensors

A recording holds the tensors ``before.MM.X``, ``snapshot.MM.X`` and ``after.MM.X`` (MM: the module's index; X: A, B,
g, or one of these with ``.exp_avg``, ``.exp_avg_sq``, ``.step``) and the metadata ``p``, ``temperature``, ``modules``,
``pruned`` and ``permutations``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from beamlora.operation import OperationPlan, apply_plan, make_plan, rank_scores
from beamlora.settings import BeamSettings

METADATA = ("p", "temperature", "modules", "pruned", "permutations")


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One recorded operation. The tensors are by module index, then by key."""

    p: float
    temperature: float
    modules: list[str]
    pruned: list[list[int]]
    permutations: list[list[int]]
    before: list[dict[str, torch.Tensor]]
    snapshot: list[dict[str, torch.Tensor]]
    after: list[dict[str, torch.Tensor]]


def read_recording(path: Path) -> Recording:
    """Read a recording.

    Raises:
        ValueError: not a safetensors file, or a part of it is missing.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: expected a safetensors file, found: {error}") from None
    missing = [key for key in METADATA if key not in metadata]
    if missing:
        raise ValueError(f"{path}: metadata: found {sorted(metadata)}, expected also {missing}")
    modules = json.loads(metadata["modules"])
    parts = {}
    for part in ("before", "snapshot", "after"):
        prefixes = [f"{part}.{index:02d}." for index in range(len(modules))]
        parts[part] = [{k[len(p) :]: v for k, v in tensors.items() if k.startswith(p)} for p in prefixes]
        if not all(parts[part]):
            raise ValueError(f"{path}: found no tensors {part}.{parts[part].index({}):02d}.*, expected {len(modules)} modules")
    return Recording(
        p=float(metadata["p"]),
        temperature=float(metadata["temperature"]),
        modules=modules,
        pruned=json.loads(metadata["pruned"]),
        permutations=json.loads(metadata["permutations"]),
        **parts,
    )


def replay(recording: Recording, settings: BeamSettings) -> tuple[OperationPlan, list[dict[str, torch.Tensor]]]:
    """Our operation on the recorded inputs, with the recorded pairing: the plan, and every tensor of every module
    afterwards."""
    drawn = dict(zip(recording.modules, recording.permutations, strict=True))

    def permutations(name: str, n: int) -> list[int]:
        if len(drawn[name]) != n:
            raise ValueError(f"{name}: found a recorded permutation of {len(drawn[name])}, expected one of K = {n}")
        return drawn[name]

    scores = {
        name: rank_scores(tensors["g"], temperature=settings.gate_temperature, times_r=settings.gate_times_r)
        for name, tensors in zip(recording.modules, recording.before, strict=True)
    }
    plan = make_plan(scores, step=0, p=recording.p, settings=settings, permutations=permutations)
    results = [
        {**before, **apply_plan(before, snapshot, module, settings=settings)}
        for before, snapshot, module in zip(recording.before, recording.snapshot, plan.modules, strict=True)
    ]
    return plan, results


def differences(recording: Recording, results: list[dict[str, torch.Tensor]]) -> list[str]:
    """The names ``MM.X`` of the tensors that are not bit-equal to the recorded ones."""
    return [
        f"{index:02d}.{key}"
        for index, after in enumerate(recording.after)
        for key, value in sorted(after.items())
        if key not in results[index] or not _bit_equal(value, results[index][key])
    ]


def _bit_equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    same_form = a.dtype == b.dtype and a.shape == b.shape
    return same_form and a.contiguous().numpy().tobytes() == b.contiguous().numpy().tobytes()


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 all tensors are bit-equal, 1 some are not, 2 the file cannot be read as a recording."""
    parser = argparse.ArgumentParser(prog="python -m methods.beamlora.replay", description="Replay a recorded operation.")
    parser.add_argument("file", type=Path, help="a recording (.safetensors)")
    path = parser.parse_args(arguments).file
    try:
        recording = read_recording(path)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    settings = BeamSettings(flavor="released", gate_temperature=recording.temperature)
    try:
        plan, results = replay(recording, settings)
    except ValueError as error:
        print(f"{path.name}: {error}")
        return 1
    wrong = differences(recording, results)
    wrong_plans = [m.name for m, pruned in zip(plan.modules, recording.pruned, strict=True) if list(m.pruned) != pruned]
    total = sum(len(tensors) for tensors in recording.after)
    print(
        f"{path.name}: {total - len(wrong)} of {total} tensors bit-equal, p = {recording.p}, K = {[m.k for m in plan.modules]}"
    )
    for name in wrong:
        print(f"differs: {name}")
    for name in wrong_plans:
        print(f"pruned ranks differ: {name}")
    return 1 if wrong or wrong_plans else 0


if __name__ == "__main__":
    sys.exit(main())
