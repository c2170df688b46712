"""``BeamLoraModel``, PEFT's tuner for BeamLoRA, and its registration under the type ``BEAMLORA``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import peft
import torch
from packaging.version import Version
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.lora import LoraLayer, LoraModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming
from transformers.pytorch_utils import Conv1D

from beamlora.config import BEAMLORA, BeamLoraConfig
from beamlora.layer import BeamLoraLinear, mixed

#: The layer and its variant rest on parts of PEFT that change between minor versions.
PEFT_VERSIONS = (Version("0.21"), Version("0.22"))
#: Forward passes that are W x + b; a subclass with one of its own may quantise, group or extend.
LINEAR_FORWARDS = (nn.Linear.forward, Conv1D.forward)
#: The same for a class of transformers whose own is W x + b in two roundings.
LINEAR_CLASSES = ("transformers.models.falcon.modeling_falcon.FalconLinear",)
#: How the score logits of a saved adapter are named once the adapter's name is inserted; in the model, ``.weight`` follows.
GATE_OF_FILES = r"(\.lora_gate\.[^.]+)$"
FLOAT_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


class BeamLoraModel(LoraModel):
    """LoraModel whose layers are ``BeamLoraLinear``. Only unquantised linear layers can be targets."""

    def _check_target_module_compatiblity(self, peft_config: BeamLoraConfig, model: nn.Module, target_name: str) -> None:
        """PEFT's check of LoRA (modules of Mamba that go round an adapter), which it makes by the type's name."""
        super()._check_target_module_compatiblity(peft_config.to_lora_config(), model, target_name)

    def _create_and_replace(
        self,
        lora_config: BeamLoraConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **kwargs: Any,
    ) -> None:
        """As PEFT's, which would make the adapter a plain LoRA one inside a layer that already has plain ones.

        Raises:
            ValueError: such a layer.
        """
        if isinstance(target, LoraLayer) and not isinstance(target, BeamLoraLinear):
            raise ValueError(mixed(adapter_name, lora_config, layer=current_key))
        super()._create_and_replace(lora_config, adapter_name, target, target_name, parent, current_key, **kwargs)

    @staticmethod
    def _create_new_module(lora_config: BeamLoraConfig, adapter_name: str, target: nn.Module, **kwargs: Any) -> BeamLoraLinear:
        refuse_target(target, name=kwargs.get("target_name", "?"))
        base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
        is_conv1d = isinstance(base, Conv1D)
        lora_config.fan_in_fan_out = is_conv1d
        return BeamLoraLinear(target, adapter_name, config=lora_config, is_target_conv_1d_layer=is_conv1d, **kwargs)

    def add_weighted_adapter(self, *args: Any, **kwargs: Any) -> None:
        """Refused: PEFT would combine A and B and drop the scores."""
        raise ValueError(
            "add_weighted_adapter: found a BeamLoRA adapter, expected plain LoRA ones; write them with export_lora "
            "and combine those"
        )

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        """As PEFT's, for saving and loading; the score logits keep the name of earlier files, ``lora_gate``."""
        name = super()._remove_adapter_name_from_key(key, adapter_name)
        return name.removesuffix(".weight") if name.endswith(".lora_gate.weight") else name

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: BeamLoraConfig, adapter_name: str, state_dict: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Refuse a file without scores: PEFT would only warn, and equal scores would silently give another model. Score
        logits of shape (r,), as earlier files have them, are read as (1, r)."""
        bare = [
            key
            for key in state_dict
            if key.endswith("lora_A.weight") and key.replace("lora_A.weight", "lora_gate") not in state_dict
        ]
        if bare:
            raise ValueError(
                f"adapter {adapter_name!r}: found {bare[0]} and {len(bare) - 1} more without a lora_gate, expected "
                "the scores of every module; is this a plain LoRA adapter?"
            )
        rows = {key: value.reshape(1, -1) for key, value in state_dict.items() if key.endswith("lora_gate")}
        return super()._remap_adapter_state_dict_for_load(model, config, adapter_name, {**state_dict, **rows})


def refuse_target(target: nn.Module, *, name: str) -> None:
    """Raise unless ``target`` is an ordinary linear layer.

    Raises:
        ValueError: an embedding, a convolution, a linear layer with a forward pass of its own, or a quantised or sharded
            weight.
    """
    base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
    weight = getattr(base, "weight", None)
    kind = f"{type(base).__module__}.{type(base).__qualname__}"
    is_linear = type(base).forward in LINEAR_FORWARDS or kind in LINEAR_CLASSES
    if is_linear and isinstance(weight, nn.Parameter) and type(weight) is nn.Parameter:
        if weight.dtype in FLOAT_DTYPES and type(weight.data) is torch.Tensor:
            return
    if isinstance(base, nn.Linear | Conv1D) and not is_linear:
        kind += " with a forward pass of its own"
    elif weight is not None:
        kind += f" with a weight of {type(weight).__name__}, {getattr(weight, 'dtype', 'no dtype')}"
    raise ValueError(
        f"target {name}: found {kind}, expected torch.nn.Linear or transformers' Conv1D with an unsharded float32, "
        "bfloat16 or float16 weight; BeamLoRA does not adapt quantised layers, embeddings or convolutions"
    )


def beam_modules(model: nn.Module, adapter: str) -> Iterator[tuple[str, BeamLoraLinear]]:
    """The layers of ``model`` that hold ``adapter``, with their names, in module order."""
    for name, module in model.named_modules():
        if isinstance(module, BeamLoraLinear) and adapter in module.lora_gate:
            yield name, module


def register() -> None:
    """Make PEFT know the type ``BEAMLORA``: training, saving, loading, AutoPeftModel. Doing it twice changes nothing.

    ``peft.register_peft_method`` cannot be used: it takes only members of the closed enum ``peft.PeftType``.

    Raises:
        ImportError: a version of PEFT on which this plug-in was not tested.
    """
    release, (lowest, below) = Version(peft.__version__), PEFT_VERSIONS
    if not lowest <= release < below:
        raise ImportError(f"beamlora: found peft {release}, expected >= {lowest} and < {below}")
    PEFT_TYPE_TO_CONFIG_MAPPING[BEAMLORA] = BeamLoraConfig
    PEFT_TYPE_TO_TUNER_MAPPING[BEAMLORA] = BeamLoraModel
    PEFT_TYPE_TO_PREFIX_MAPPING[BEAMLORA] = BeamLoraModel.prefix
    # transformers' own load_adapter does not ask the tuner for names: it inserts the adapter's, and looks for renamings here.
    renamings = get_checkpoint_conversion_mapping("legacy")
    if not any(GATE_OF_FILES in renaming.source_patterns for renaming in renamings):
        renamings.append(WeightRenaming(GATE_OF_FILES, r"\1.weight"))
        register_checkpoint_conversion_mapping("legacy", renamings, overwrite=True)


register()
