"""GPU hours: from measured speeds where a record has some, else from floating-point operations. No torch."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import ConfigError
from harness.experiment.runs import table_runs
from harness.models.architecture import Architecture
from harness.records import gpu7b
from harness.schema.data import used_rows
from harness.schema.evaluation import TaskSpec
from harness.schema.experiment import Experiment

#: Share of a length limit that rows are assumed to use where nothing is measured [ours]: MetaMathQA's examples have about 250
#: tokens under a limit of 512.
LENGTH_SHARE = 0.5
#: Share of a GPU's peak that training is assumed to reach where nothing is measured: plain LoRA in transformers on LLaMA2-7B
#: [LLaMA-Factory's published comparison on an A100: 2,392 tokens/s].
UTILISATION = 0.21
#: Seconds in which one batch of an evaluation grows by one token, where nothing is measured: the loop is bound by launches
#: [estimate: 20 to 30 ms for LLaMA2-7B].
DECODING_S = 0.025

#: Checkpoints of a run on disk while it trains: two are kept while the next one is written.
_CHECKPOINTS = 3
#: Bytes of a GPU that no tensor gets: the CUDA context, the libraries' work space, gaps between tensors [estimate: 83 of the
#: 85.5 GB of an H100 are usable].
RESERVED = int(2.5e9)


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU by its vendor's data sheet: dense bfloat16 operations a second, and memory in bytes."""

    name: str
    flops: float
    memory: int


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu(name="A100", flops=312e12, memory=80 << 30),
        Gpu(name="H100", flops=989e12, memory=80 << 30),
        Gpu(name="H200", flops=989e12, memory=141 << 30),
    )
}
DEFAULT_GPU = GPUS["H100"]


def flops_per_token(*, products: int, adapter: int, hidden: int, layers: int, length: float) -> float:
    """Floating-point operations of the forward and backward pass for each token of the examples.

    A product costs 2 for each parameter and token forwards, 2 for the gradient of its input and 2 for that of its weight: 4 for
    the frozen weights (embeddings, a look-up, not counted), 6 for trained ones; and 3 x 2 hidden x length for the causal
    attention of each layer. LLaMA2-7B with LoRA of rank 64: 27.6 G. Neither recomputation (``recomputed_flops``) nor padding
    counts.

    Args:
        products: parameters of the base model without its embeddings.
        adapter: of the adapter; 0: the base itself is trained.
        length: mean tokens of an example.
    """
    attention = 6 * hidden * length * layers
    return math.fsum([4 * products, 6 * adapter, attention]) if adapter else math.fsum([6 * products, attention])


def recomputed_flops(*, products: int, adapter: int, hidden: int, layers: int, length: float) -> float:
    """Operations for each token of the second forward pass that gradient checkpointing makes: of the layers alone, and of the
    adapter on them.

    Args:
        products: parameters of the base model without its embeddings and its output layer.
        adapter, hidden, layers, length: as for ``flops_per_token``.
    """
    return math.fsum([2 * products, 2 * adapter, 2 * hidden * length * layers])


def training_flops(base: Architecture, *, trainable: int, length: float, recomputed: bool = False) -> float:
    """``flops_per_token`` of a run; without the norms of the base model.

    Args:
        recomputed: count what gradient checkpointing computes again too, for the time that it takes.
    """
    adapter = 0 if trainable == base.parameters else trainable
    hidden, layers = int(base.fields["hidden_size"]), base.layers
    shape = {"adapter": adapter, "hidden": hidden, "layers": layers}
    again = recomputed_flops(products=base.block_products, **shape, length=length) if recomputed else 0.0
    return flops_per_token(products=base.block_products + base.head_products, **shape, length=length) + again


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Operations a second that training reaches on one GPU, and the seconds of a decoding step; by records or assumed."""

    gpu: Gpu
    #: Method, by its registered name -> measured operations a second, by a record of the GPU and on the machine at hand.
    measured: Mapping[str, float] = field(default_factory=dict)
    calibrated: Mapping[str, float] = field(default_factory=dict)
    decoding_s: float = DECODING_S

    def of(self, method: str) -> tuple[float, str]:
        """Operations a second, and how they are known. For a method that is not measured: the median of those that are, else
        the stated utilisation."""
        sources = (("calibrated", self.calibrated), ("measured", self.measured))
        for how, known in sources:
            if method in known:
                return known[method], how
        for how, known in sources:
            if known:
                return sorted(known.values())[len(known) // 2], how
        return UTILISATION * self.gpu.flops, "estimated"


def speed(gpu: Gpu, *, results: Path) -> Speed:
    """What the newest record of ``benchmarks.gpu7b`` on this kind of GPU, below ``results``, measured.

    Raises:
        harness.records.versioned.RecordError: a record is broken.
    """
    found = [record for record in _records(results) if gpu.name in record.device.name]
    if not found:
        return Speed(gpu=gpu)
    results_of = [part.result for part in max(found, key=lambda record: record.started_at).parts]
    training = [r for r in results_of if isinstance(r, gpu7b.Training) and r.implementation == "project"]
    decoding = [r.seconds / r.new_tokens for r in results_of if isinstance(r, gpu7b.Generation) and r.num_beams == 1]
    # Of two records of a method the faster is as the experiments run it; the other one is not fused.
    measured: dict[str, float] = {}
    for one in training:
        operations = (one.flops_per_token + one.recomputed_per_token) * one.tokens_per_second
        measured[one.method] = max(measured.get(one.method, 0.0), operations)
    return Speed(gpu=gpu, measured=measured, decoding_s=decoding[0] if decoding else DECODING_S)


def _records(results: Path) -> Iterable[gpu7b.Gpu7bRecord]:
    records = map(gpu7b.read, sorted((results / "gpu7b").glob("*.json")))
    return (record for record in records if not record.smoke)


def evaluation_seconds(tasks: Iterable[TaskSpec], *, decoding_s: float) -> float | None:
    """Seconds of generation for these sets, rows answering with the assumed share of their limit; None where the rows of a set
    are not stated."""
    seconds = 0.0
    for task in tasks:
        rows = used_rows(task.source, limit=task.limit)
        if rows is None:
            return None
        seconds += math.ceil(rows / task.batch_size) * LENGTH_SHARE * task.max_new_tokens * decoding_s
    return seconds


# ------------------------------------------------------------------------------------------------------------------- budget


def hours(text: str) -> float:
    """``200h`` or ``200`` as hours, for a command line.

    Raises:
        ConfigError: it is neither.
    """
    return _positive("--budget", text, unit="h", expected="hours of one GPU, such as 200h")


def memory_bytes(text: str) -> int:
    """``80`` GiB in bytes, for a command line.

    Raises:
        ConfigError: it is no number of GiB.
    """
    return round(_positive("--gpu-memory", text, unit="GiB", expected="GiB of one GPU, such as 80") * 2**30)


def _positive(option: str, text: str, *, unit: str, expected: str) -> float:
    try:
        value = float(text.removesuffix(unit))
    except ValueError:
        value = 0.0
    if not 0 < value <= 1e9:
        raise ConfigError(f"{option}: found {text!r}, expected {expected}")
    return value


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Runs that differ in their seed only."""

    domain: str
    model: str
    method: str
    runs: int
    #: Of all its runs together.
    hours: float
    #: 0 for what the experiment's first family of comparisons needs, 1 for the other rows of tables, 2 for the rest.
    priority: int

    @property
    def name(self) -> str:
        return f"{self.domain}/{self.model}/{self.method}"


def priorities(experiment: Experiment) -> Mapping[tuple[str, str, str], int]:
    """(domain, model, method) -> the priority of every row of the tables."""
    first = next(iter(experiment.comparisons.families.values()), None)
    ranks: dict[tuple[str, str, str], int] = {}
    for table in experiment.tables:
        for run in table_runs(experiment, table):
            needed = (
                first is not None
                and table in first.tables
                and (first.methods is None or run.method.key in (*first.methods, first.against))
            )
            key = (run.domain, run.model_key, run.method.key)
            ranks[key] = min(ranks.get(key, 1), 0 if needed else 1)
    return ranks


def left_out(kinds: Iterable[Kind], *, budget: float) -> list[Kind]:
    """What to leave out so that the rest fits into ``budget`` hours: of the least priority first, and there the dearest.
    Whatever has a lower priority than something that is left out is left out too.

    What the first family of comparisons needs, priority 0, is kept or left out by whole domains and models: a method without
    the one that it is compared with decides nothing.
    """
    groups: dict[tuple[str, ...], list[Kind]] = {}
    for kind in kinds:
        groups.setdefault((kind.domain, kind.model, *([kind.method] if kind.priority else [])), []).append(kind)

    def rank(group: Sequence[Kind]) -> tuple[int, float]:
        return group[0].priority, sum(kind.hours for kind in group)

    out: list[Kind] = []
    spent = 0.0
    for group in sorted(groups.values(), key=rank):
        priority, hours = rank(group)
        if spent + hours > budget or (out and out[0].priority < priority):
            out += group
        else:
            spent += hours
    return out


def disk_bytes(written: Iterable[tuple[int, int]], *, at_once: int = 1) -> int:
    """What runs need at most: the artefacts of all, and the checkpoints of those that train at a time.

    Args:
        written: of each run the float32 numbers in its artefact and in one checkpoint (``Method.disk_parameters``).
        at_once: how many train at a time; they may be those that need most.
    """
    pairs = list(written)
    artefacts = sum(artefact for artefact, _ in pairs)
    return 4 * (artefacts + _CHECKPOINTS * sum(heapq.nlargest(at_once, (checkpoint for _, checkpoint in pairs))))


def as_gib(value: float) -> float:
    """Bytes in GiB."""
    return value / 2**30


def fits(peak: int, memory: int) -> bool:
    """Whether a run of this predicted peak fits a GPU of this memory, in bytes."""
    return peak + RESERVED <= memory
