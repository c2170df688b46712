"""Export to ordinary LoRA: A' = s * A, B' = B (section 3.4). Stock PEFT and LoRA servers load the result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from safetensors.torch import save_file

from beamlora.config import BeamLoraConfig

if TYPE_CHECKING:
    from torch import nn

from beamlora.model import beam_modules


@torch.no_grad()
def export_lora(
    model: nn.Module,
    folder: str | Path,
    *,
    adapter_name: str = "default",
    save_embedding_layers: bool | Literal["auto"] = "auto",
) -> Path:
    """Write ``adapter_config.json`` (type LORA) and ``adapter_model.safetensors`` (float32) to ``folder``.

    Args:
        model: a ``PeftModel`` with a BeamLoRA adapter; it is not changed.
        folder: made if it is missing.
        adapter_name: which adapter.
        save_embedding_layers: whether the embeddings are written too, as in ``PeftModel.save_pretrained``; "auto": if they
            are trained, and by PEFT's rule (targeted, or the vocabulary was resized).

    Returns:
        The folder.

    Raises:
        TypeError: not a PeftModel, or the adapter is not a BeamLoRA one.
    """
    config = model.peft_config.get(adapter_name) if isinstance(model, PeftModel) else None
    if not isinstance(config, BeamLoraConfig):
        given = type(model).__name__ if config is None else f"a {type(config).__name__}"
        raise TypeError(f"export_lora: found {given} for adapter {adapter_name!r}, expected a PeftModel with BeamLoRA")
    if save_embedding_layers == "auto" and _embeddings_are_trained(model):
        save_embedding_layers = True
    tensors = get_peft_model_state_dict(model, adapter_name=adapter_name, save_embedding_layers=save_embedding_layers)
    for name, module in beam_modules(model, adapter_name):
        del tensors[f"{name}.lora_gate"]
        tensors[f"{name}.lora_A.weight"] = module.scored_A(adapter_name)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    plain = {key: value.to("cpu", torch.float32, copy=True).contiguous() for key, value in tensors.items()}
    save_file(plain, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    _write_config(config.to_lora_config(), folder)
    return folder


def _embeddings_are_trained(model: PeftModel) -> bool:
    """Whether they are trained in place; those among ``modules_to_save`` belong to the adapter anyway."""
    try:
        layers = (model.get_input_embeddings(), model.get_output_embeddings())
    except (AttributeError, NotImplementedError):  # not a model of transformers, or one without tokens
        return False
    return any(
        parameter.requires_grad
        for layer in layers
        if layer is not None and not isinstance(layer, AuxiliaryTrainingWrapper | BaseTunerLayer)
        for parameter in layer.parameters()
    )


def _write_config(config: LoraConfig, folder: Path) -> None:
    """As ``LoraConfig.save_pretrained``, with sets in a fixed order."""
    config.inference_mode = True
    values = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    (folder / "adapter_config.json").write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
