"""What the PEFT-based methods share: seeded initialisation, step counts, adapters in PEFT's own file format, an event log."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator

from harness.files import write_text

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig, PeftModel
    from peft.tuners.lora import LoraLayer
    from transformers import PreTrainedModel

#: The one adapter of a run; PEFT's own default name, which leaves it out of file names and keys.
ADAPTER = "default"
#: Prefix that PEFT puts before a module's name in the base model.
PEFT_PREFIX = "base_model.model."


# ------------------------------------------------------------------------------------------------------------ step counts


def _steps_or_fraction(value: int | float) -> int | float:
    if value < 0 or (isinstance(value, float) and value >= 1):
        raise ValueError(f"found {value}, expected a whole number of optimizer steps or a fraction of the total in [0, 1)")
    return value


#: A count of optimizer steps (int), or a fraction of the run's total (float in [0, 1)), so that schedules scale with runs.
Steps = Annotated[int | float, AfterValidator(_steps_or_fraction)]


def resolve_steps(value: int | float, *, total_steps: int) -> int:
    """``value`` in optimizer steps; a fraction is rounded to the nearest step."""
    return round(value * total_steps) if isinstance(value, float) else value


# --------------------------------------------------------------------------------------------------------------- randomness


@contextmanager
def seeded_initialisation(seed: int) -> Iterator[None]:
    """Draw new CPU tensors from a stream that depends on ``seed`` only, and leave the global stream where it was.

    PEFT initialises adapters on the CPU, so every LoRA-like method starts from the same A for the same seed, whatever ran
    before, and a resumed run rebuilds the same adapters.
    """
    import torch

    state = torch.random.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.random.set_rng_state(state)


def private_generator(*identity: int | str) -> torch.Generator:
    """A CPU generator whose stream depends on ``identity`` (such as seed, cycle and module name) and on nothing else."""
    import torch

    return torch.Generator().manual_seed(private_seed(*identity))


def private_seed(*identity: int | str) -> int:
    """A seed that depends on ``identity`` and on nothing else."""
    digest = hashlib.sha256(json.dumps(identity).encode()).digest()
    return int.from_bytes(digest[:7], "big")


# ------------------------------------------------------------------------------------------------------------------- models


def add_adapter(model: PreTrainedModel, config: PeftConfig, *, seed: int) -> PeftModel:
    """``get_peft_model`` with a seeded initialisation. Adapters are float32, whatever the base's dtype (PEFT's default)."""
    from peft import get_peft_model

    with seeded_initialisation(seed):
        return get_peft_model(model, config, adapter_name=ADAPTER)


def adapted_layers(model: torch.nn.Module) -> dict[str, LoraLayer]:
    """The LoRA or AdaLoRA layers by their module's name in the base model, in the model's order."""
    from peft.tuners.lora import LoraLayer

    return {name.removeprefix(PEFT_PREFIX): m for name, m in model.named_modules() if isinstance(m, LoraLayer)}


def orthogonality(pairs: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """The mean over all matrices of |A A^T - I|_F and |B^T B - I|_F, for pairs A (rank, in), B (out, rank).

    AdaLoRA Eq. 4 with the norms not squared and averaged over matrices, as in its code, IncreLoRA's and PEFT's.
    """
    import torch

    norms = []
    for a, b in pairs:
        identity = torch.eye(a.shape[0], dtype=a.dtype, device=a.device)
        norms += [torch.linalg.matrix_norm(a @ a.T - identity), torch.linalg.matrix_norm(b.T @ b - identity)]
    return torch.stack(norms).mean()


# ----------------------------------------------------------------------------------------------------------------- artefacts


@dataclass(frozen=True, kw_only=True)
class LoraFactors:
    """One module's update in plain form: delta W = b @ a, with ``a`` (rank, in) and ``b`` (out, rank)."""

    a: torch.Tensor
    b: torch.Tensor


def save_adapter(model: PeftModel, output_dir: Path) -> None:
    """Write the native adapter (``adapter_config.json`` with sorted lists, ``adapter_model.safetensors``)."""
    output_dir.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(str(output_dir), save_embedding_layers=False)
    _sort_config(output_dir)


def save_plain_lora(factors: dict[str, LoraFactors], output_dir: Path, *, base_name: str | None) -> None:
    """Write an ordinary LoRA adapter, float32, that stock PEFT loads exactly.

    Each module keeps its own rank (``rank_pattern``) and has scaling 1 (``alpha_pattern``): the scale is already in ``b``.
    LoRA has no rank 0, so an empty module becomes one row of zeros.
    """
    from peft import LoraConfig
    from safetensors.torch import save_file

    tensors: dict[str, torch.Tensor] = {}
    ranks: dict[str, int] = {}
    for name, pair in factors.items():
        a, b = pair.a.detach().float().cpu(), pair.b.detach().float().cpu()
        if a.shape[0] == 0:
            a, b = a.new_zeros(1, a.shape[1]), b.new_zeros(b.shape[0], 1)
        ranks[name] = a.shape[0]
        tensors[f"{PEFT_PREFIX}{name}.lora_A.weight"] = a.contiguous()
        tensors[f"{PEFT_PREFIX}{name}.lora_B.weight"] = b.contiguous()
    largest = max(ranks.values())
    pattern = {name: rank for name, rank in ranks.items() if rank != largest}
    config = LoraConfig(
        r=largest,
        lora_alpha=largest,
        rank_pattern=pattern,
        alpha_pattern=dict(pattern),
        lora_dropout=0.0,
        target_modules=_last_parts(ranks),
        task_type="CAUSAL_LM",
        inference_mode=True,
        base_model_name_or_path=base_name,
    )
    output_dir.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(output_dir))
    save_file(tensors, output_dir / "adapter_model.safetensors", metadata={"format": "pt"})
    _sort_config(output_dir)


def save_full_model(model: PreTrainedModel, output_dir: Path) -> None:
    """Write the whole model in Hugging Face form, with the key/value cache on (gradient checkpointing turns it off)."""
    output_dir.mkdir(parents=True, exist_ok=True)
    model.config.use_cache = True
    if model.generation_config is not None:
        model.generation_config.use_cache = True
    model.save_pretrained(str(output_dir), safe_serialization=True)


def _last_parts(names: Iterable[str]) -> list[str]:
    return sorted({name.rsplit(".", 1)[-1] for name in names})


def _sort_config(folder: Path) -> None:
    """PEFT keeps target modules in a set, whose order differs between processes; sorted, equal runs give equal files."""
    path = folder / "adapter_config.json"
    config: dict[str, Any] = json.loads(path.read_text())
    for key, value in config.items():
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            config[key] = sorted(value)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


# ------------------------------------------------------------------------------------------------------------- event log


class OperationLog:
    """``operations.jsonl``: one JSON line per event, each with its ``step``. Silent outside the main process (no folder)."""

    def __init__(self, log_dir: Path | None) -> None:
        self._path = None if log_dir is None else log_dir / "operations.jsonl"
        self._started = False

    def write(self, record: dict[str, Any]) -> None:
        """Append ``record``. The first one of a process also drops the lines from its step on, and a last one that was cut
        off: after a resume these are the events between the checkpoint and the kill, which now happen again."""
        if self._path is None:
            return
        if not self._started:
            lines = self._path.read_text().splitlines(keepends=True) if self._path.exists() else []
            whole = [line for line in lines if line.endswith("\n")]
            write_text(self._path, "".join(line for line in whole if json.loads(line)["step"] < record["step"]))
            self._started = True
        with self._path.open("a") as stream:
            stream.write(json.dumps(record, sort_keys=True) + "\n")
