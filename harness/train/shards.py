"""Parameters and moments that several processes share out between them (FSDP2), as whole tensors and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import AutoModelForCausalLM


def whole_tensors(tensors: Mapping[str, torch.Tensor], *, keep: bool) -> dict[str, torch.Tensor]:
    """Copies on the CPU. Every process must call it with the same tensors; those that do not ``keep`` them get none."""
    copies = ((name, _whole(tensor.detach(), keep=keep)) for name, tensor in tensors.items())
    return {name: copy for name, copy in copies if copy is not None}


def _whole(tensor: torch.Tensor, *, keep: bool) -> torch.Tensor | None:
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole.cpu().contiguous().clone() if keep else None


def as_sharded(whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A tensor that every process has whole, shared out as ``like`` is, on its device."""
    whole = whole.to(like.device)
    if not isinstance(like, DTensor):
        return whole
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)


def whole_optimizer_state(state: Mapping[str, Any], *, keep: bool) -> dict[str, Any]:
    """What ``Optimizer.state_dict`` of one process alone returns. Every process must call it."""
    moments = {
        index: {name: _whole(value, keep=keep) for name, value in of_parameter.items()}
        for index, of_parameter in state["state"].items()
    }
    return {**state, "state": moments}


def sharded_optimizer_state(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The opposite of ``whole_optimizer_state``: moments shared out as the optimizer's parameters are."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments = {
        index: {
            name: as_sharded(value, parameters[index]) if value.shape == parameters[index].shape else value
            for name, value in of_parameter.items()
        }
        for index, of_parameter in state["state"].items()
    }
    return {**state, "state": moments}


def whole_model(model: torch.nn.Module) -> torch.nn.Module:
    """The model itself, or, if its parameters are sharded, one with whole ones on the CPU. Every process must call it; the main
    one alone gets them."""
    if not any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        return model
    state = whole_tensors(model.state_dict(), keep=torch.distributed.get_rank() == 0)
    with torch.device("meta"):
        whole = AutoModelForCausalLM.from_config(model.config)
    whole.generation_config = model.generation_config
    if state:
        whole.load_state_dict(state, assign=True)
        whole.tie_weights()
    return whole
