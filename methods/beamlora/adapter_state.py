"""The live tensors of a BeamLoRA adapter: its parameters and their Adam moments inside the optimizer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from methods.beamlora.config import BeamLoraConfig
from methods.beamlora.layer import BeamLoraLinear
from methods.beamlora.model import beam_modules
from methods.beamlora.operation import MOMENTS


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel and torch.compile."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = model.module
        if inner is None:
            return model
        model = inner


def trainable_adapter(model: nn.Module) -> tuple[str, BeamLoraConfig]:
    """Name and configuration of the one BeamLoRA adapter that is trained.

    Raises:
        TypeError: there is none, or more than one.
    """
    wrapped: Any = unwrap(model)  # a PeftModel, if it has such an adapter
    names = {
        name
        for module in wrapped.modules()
        if isinstance(module, BeamLoraLinear)
        for name in module.active_adapters
        if name in module.lora_gate and module.lora_gate[name].requires_grad
    }
    if len(names) != 1:
        raise TypeError(
            f"BeamLoraCallback: found trainable BeamLoRA adapters {sorted(names)} in a {type(wrapped).__name__}, "
            "expected exactly one; make it with get_peft_model(model, BeamLoraConfig(...))"
        )
    name = names.pop()
    return name, wrapped.peft_config[name]


@dataclass(frozen=True, kw_only=True)
class AdapterTensors(Mapping[str, dict[str, torch.Tensor]]):
    """By module name, the tensors ``A``, ``B``, ``g``, ``A.exp_avg`` ... themselves, not copies: writing into them
    changes the run."""

    modules: dict[str, BeamLoraLinear]
    adapter: str
    optimizer: torch.optim.Optimizer

    @classmethod
    def of(cls, model: nn.Module, optimizer: torch.optim.Optimizer, *, adapter: str) -> AdapterTensors:
        """Collect the modules of ``adapter``. Wrappers of the optimizer (accelerate's) are taken off."""
        while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
            optimizer = inner
        return cls(modules=dict(beam_modules(unwrap(model), adapter)), adapter=adapter, optimizer=optimizer)

    def __iter__(self) -> Iterator[str]:
        return iter(self.modules)

    def __len__(self) -> int:
        return len(self.modules)

    def __getitem__(self, name: str) -> dict[str, torch.Tensor]:
        tensors: dict[str, torch.Tensor] = {}
        for key, parameter in self._parameters(name).items():
            tensors[key] = parameter.data
            tensors |= {f"{key}.{moment}": self.optimizer.state[parameter][moment] for moment in MOMENTS}
        return tensors

    def scores(self) -> dict[str, torch.Tensor]:
        """The scores of every module, (r,), float32, on the CPU: the same decisions on every device."""
        return {name: module.rank_scores(self.adapter).detach().cpu() for name, module in self.modules.items()}

    def gate_digest(self) -> str:
        """SHA-256 of all score logits: tells whether a saved state belongs to the present weights."""
        digest = hashlib.sha256()
        for module in self.modules.values():
            digest.update(module.lora_gate[self.adapter].detach().float().cpu().numpy().tobytes())
        return digest.hexdigest()

    def check_optimizer(self) -> None:
        """Refuse an optimizer whose moments cannot be edited rank by rank.

        Raises:
            TypeError: not torch's Adam or AdamW.
            ValueError: a parameter or its state is sharded or flattened (FSDP, ZeRO).
        """
        if not isinstance(self.optimizer, torch.optim.Adam | torch.optim.AdamW):
            raise TypeError(
                f"BeamLoRA edits Adam's moments: found the optimizer {type(self.optimizer).__name__}, "
                "expected torch.optim.AdamW or Adam (optim='adamw_torch'), without FSDP or DeepSpeed"
            )
        optimized = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        for name in self:
            for key, parameter in self._parameters(name).items():
                whole = type(parameter.data) is torch.Tensor and parameter.numel() > 0
                if not whole or id(parameter) not in optimized:
                    raise ValueError(
                        f"BeamLoRA edits whole ranks and their Adam moments: found {name}.{key} sharded, flattened or "
                        "not in the optimizer (FSDP, ZeRO), expected plain data parallelism or a single process"
                    )

    def _parameters(self, name: str) -> dict[str, nn.Parameter]:
        module = self.modules[name]
        return {
            "A": module.lora_A[self.adapter].weight,
            "B": module.lora_B[self.adapter].weight,
            "g": module.lora_gate[self.adapter],
        }


def check_replicas(adapter: AdapterTensors, *, step: int) -> None:
    """In data parallelism, check after an operation that all processes hold the same adapter: DDP never compares
    parameters.

    Raises:
        RuntimeError: they differ.
    """
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return
    sums = torch.stack([tensors[key].double().sum() for tensors in adapter.values() for key in ("A", "B", "g")])
    lowest, highest = sums.clone(), sums.clone()
    distributed.all_reduce(lowest, op=distributed.ReduceOp.MIN)
    distributed.all_reduce(highest, op=distributed.ReduceOp.MAX)
    if not torch.equal(lowest, highest):
        raise RuntimeError(f"operation after step {step}: the adapter differs between processes, expected identical replicas")
