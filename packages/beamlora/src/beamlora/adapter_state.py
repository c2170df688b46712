"""The live tensors of a BeamLoRA adapter: its parameters and their Adam moments inside the optimizer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from beamlora.config import BeamLoraConfig
from beamlora.layer import BeamLoraLinear
from beamlora.model import beam_modules
from beamlora.operation import AMSGRAD_MAXIMUM, MOMENTS


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
    """Name and configuration of the one BeamLoRA adapter that is trained, in a PeftModel or in a module that contains one.

    Raises:
        TypeError: there is none, or more than one.
    """
    wrapped = unwrap(model)
    names = {
        name
        for module in wrapped.modules()
        if isinstance(module, BeamLoraLinear)
        for name in module.active_adapters
        if name in module.lora_gate and module.lora_gate[name].weight.requires_grad
    }
    holders = (getattr(module, "peft_config", None) or {} for module in wrapped.modules())
    given = [config for by_name in holders for name, config in by_name.items() if name in names]
    configs = [config for i, config in enumerate(given) if isinstance(config, BeamLoraConfig) and config not in given[:i]]
    if len(names) != 1 or len(configs) != 1:
        raise TypeError(
            f"BeamLoRA: found trainable BeamLoRA adapters {sorted(names)} in a {type(wrapped).__name__}, "
            "expected exactly one; make it with get_peft_model(model, BeamLoraConfig(...))"
        )
    return names.pop(), configs[0]


@dataclass(frozen=True, kw_only=True)
class AdapterTensors(Mapping[str, dict[str, torch.Tensor]]):
    """By module name, the tensors ``A``, ``B``, ``g``, ``A.exp_avg`` ... of the modules that are trained.

    A parameter that no gradient has reached yet has no state in the optimizer; its moments are zero, which is where Adam
    starts. Read-only: ``write`` changes the run.
    """

    modules: dict[str, BeamLoraLinear]
    adapter: str
    optimizer: torch.optim.Optimizer

    @classmethod
    def of(cls, model: nn.Module, optimizer: torch.optim.Optimizer, *, adapter: str) -> AdapterTensors:
        """Collect the modules of ``adapter``, frozen ones left out. Wrappers of the optimizer (accelerate's) are taken off."""
        while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
            optimizer = inner
        modules = {name: module for name, module in beam_modules(unwrap(model), adapter) if _is_trained(module, adapter)}
        return cls(modules=modules, adapter=adapter, optimizer=optimizer)

    def __iter__(self) -> Iterator[str]:
        return iter(self.modules)

    def __len__(self) -> int:
        return len(self.modules)

    def __getitem__(self, name: str) -> dict[str, torch.Tensor]:
        tensors: dict[str, torch.Tensor] = {}
        for key, parameter in _parameters(self.modules[name], self.adapter).items():
            tensors[key] = parameter.data
            state = self.optimizer.state.get(parameter, {})
            for moment in (*MOMENTS, AMSGRAD_MAXIMUM) if id(parameter) in self._with_maximum else MOMENTS:
                tensors[f"{key}.{moment}"] = state[moment] if moment in state else torch.zeros_like(parameter.data)
        return tensors

    def write(self, name: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Overwrite some tensors of a module. Moments of a parameter without state are left to Adam, which will start
        them at zero."""
        parameters = _parameters(self.modules[name], self.adapter)
        for key, value in tensors.items():
            matrix, _, moment = key.partition(".")
            if not moment:
                parameters[matrix].data.copy_(value)
            elif state := self.optimizer.state.get(parameters[matrix]):
                state[moment].copy_(value)

    @cached_property
    def _with_maximum(self) -> set[int]:
        """The identities of the parameters for which Adam keeps the largest V (``amsgrad``)."""
        return {id(p) for group in self.optimizer.param_groups if group.get("amsgrad") for p in group["params"]}

    def scores(self) -> dict[str, torch.Tensor]:
        """The scores of every module, (r,), float32, on the CPU: the same decisions on every device."""
        return {name: module.rank_scores(self.adapter).detach().cpu() for name, module in self.modules.items()}

    def gate_digest(self) -> str:
        """SHA-256 of all score logits: tells whether a saved state belongs to the present weights."""
        digest = hashlib.sha256()
        for module in self.modules.values():
            digest.update(_parameters(module, self.adapter)["g"].detach().float().cpu().numpy().tobytes())
        return digest.hexdigest()

    def check_optimizer(self, *, masked: bool) -> None:
        """Refuse an optimizer whose moments cannot be edited rank by rank.

        Args:
            masked: whether operations set logits to -inf (``dead_ranks``).

        Raises:
            TypeError: not torch's Adam or AdamW.
            ValueError: a parameter or its state is sharded or flattened (FSDP, ZeRO), or -inf would enter the moments.
        """
        if not isinstance(self.optimizer, torch.optim.Adam | torch.optim.AdamW):
            kind = type(self.optimizer)
            raise TypeError(
                f"BeamLoRA edits Adam's moments: found the optimizer {kind.__module__}.{kind.__qualname__}, "
                "expected torch.optim.AdamW or Adam (optim='adamw_torch'), without FSDP or DeepSpeed"
            )
        optimized = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        for name in self:
            for key, parameter in _parameters(self.modules[name], self.adapter).items():
                whole = type(parameter.data) is torch.Tensor and parameter.numel() > 0
                if not whole or id(parameter) not in optimized:
                    raise ValueError(
                        f"BeamLoRA edits whole ranks and their Adam moments: found {name}.{key} frozen, sharded, "
                        "flattened (FSDP, ZeRO) or not in the optimizer, expected A, B and g in one optimizer, in plain data "
                        "parallelism or a single process"
                    )
        gates = {id(module.lora_gate[self.adapter].weight) for module in self.modules.values()}
        for group in self.optimizer.param_groups if masked else ():
            if group["weight_decay"] and not group["decoupled_weight_decay"] and any(id(p) in gates for p in group["params"]):
                raise ValueError(
                    f"dead_ranks: found 'masked' with weight_decay {group['weight_decay']} of torch.optim.Adam, which adds it "
                    "times a masked logit, -inf, to the gradient; expected torch.optim.AdamW, or the scores in a group without"
                )


def _parameters(module: BeamLoraLinear, adapter: str) -> dict[str, nn.Parameter]:
    return {
        "A": module.lora_A[adapter].weight,
        "B": module.lora_B[adapter].weight,
        "g": module.lora_gate[adapter].weight,
    }


def _is_trained(module: BeamLoraLinear, adapter: str) -> bool:
    return any(parameter.requires_grad for parameter in _parameters(module, adapter).values())


def check_replicas(adapter: AdapterTensors, *, step: int) -> None:
    """In data parallelism, check after an operation that all processes hold the same adapter: DDP never compares
    parameters.

    Raises:
        RuntimeError: they differ, or one of them holds NaN, which is equal to nothing.
    """
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return
    sums = {f"{name}.{key}": tensors[key].double().sum() for name, tensors in adapter.items() for key in ("A", "B", "g")}
    values = torch.stack(list(sums.values()))
    lowest = torch.stack([values.nan_to_num(nan=0.0), values.isnan().double()])  # reductions treat NaN as they like
    highest = lowest.clone()
    distributed.all_reduce(lowest, op=distributed.ReduceOp.MIN)
    distributed.all_reduce(highest, op=distributed.ReduceOp.MAX)
    if names := [name for name, found in zip(sums, highest[1].tolist(), strict=True) if found]:
        raise RuntimeError(
            f"operation after step {step}: found NaN in {names[0]} and {len(names) - 1} more tensors of the adapter, expected "
            "finite numbers; training has diverged"
        )
    if not torch.equal(lowest, highest):
        raise RuntimeError(f"operation after step {step}: the adapter differs between processes, expected identical replicas")
