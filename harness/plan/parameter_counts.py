"""How many parameters a run trains, counted on the method's own modules without memory and without weights."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import methods
from harness.config import ConfigError, HubModel, RunSpec
from methods.base import AdapterSettings, MethodSettings, TrainingContext

if TYPE_CHECKING:
    from transformers import PretrainedConfig

#: What config.json of models on the hub says, so that they can be counted without access: gated repositories show it to
#: approved accounts only. Everything else about them is transformers' default (4,096 wide, 32 layers, 32,000 tokens).
ARCHITECTURES: Mapping[str, tuple[str, Mapping[str, int]]] = {
    "meta-llama/Llama-2-7b-hf": ("llama", {}),
    "meta-llama/Llama-2-13b-hf": (
        "llama",
        {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40},
    ),
    "mistralai/Mistral-7B-v0.1": ("mistral", {"num_key_value_heads": 8}),
}
#: Model types whose layers are all alike: two small models give the counts of one of any depth.
UNIFORM = ("llama", "mistral")


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Counts of one run.

    ``trainable``: what the optimizer is given, as in train.json. ``total``: the base model's parameters and those that the
    method adds. ``final``: for a method that starts with other ranks than it ends with (AdaLoRA, IncreLoRA), what is in use
    when the mean rank is r, if the ranks are spread equally, as the paper's tables count; else None.
    """

    trainable: int
    total: int
    final: int | None


def architecture(run: RunSpec, *, models_dir: Path) -> PretrainedConfig | None:
    """The configuration of a run's base model; None for a model on the hub that is neither known here nor in the local cache.

    Raises:
        ConfigError: a local model or package that is missing or unreadable.
    """
    from transformers import AutoConfig

    from harness.models.load import load_config

    source = run.model.source
    if not isinstance(source, HubModel):
        return load_config(run.model_key, run.model, models_dir=models_dir)
    if source.model_name_or_path in ARCHITECTURES:
        kind, sizes = ARCHITECTURES[source.model_name_or_path]
        return AutoConfig.for_model(kind, **sizes)
    try:
        return AutoConfig.from_pretrained(source.model_name_or_path, revision=source.model_revision, local_files_only=True)
    except (OSError, ValueError):
        return None


def count(run: RunSpec, config: PretrainedConfig, *, total_steps: int, steps_per_epoch: int) -> Parameters:
    """The parameters of a run.

    Raises:
        ConfigError: the method's settings do not fit the model or the length of the run.
    """
    layers = config.num_hidden_layers
    if config.model_type in UNIFORM and layers > 2:
        one, two = (
            _built(run, _of_depth(config, depth), total_steps=total_steps, steps_per_epoch=steps_per_epoch) for depth in (1, 2)
        )
        trainable, total = (at_one + (layers - 1) * (at_two - at_one) for at_one, at_two in zip(one, two, strict=True))
    else:
        trainable, total = _built(run, config, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
    return Parameters(trainable=trainable, total=total, final=_final(methods.of(run.method).settings, trainable))


def _of_depth(config: PretrainedConfig, layers: int) -> PretrainedConfig:
    content = config.to_dict()
    content.pop("layer_types", None)  # one entry a layer, made anew
    return type(config).from_dict({**content, "num_hidden_layers": layers})


def _built(run: RunSpec, config: PretrainedConfig, *, total_steps: int, steps_per_epoch: int) -> tuple[int, int]:
    """(trainable, total) of the model of ``config``."""
    import torch
    from transformers import AutoModelForCausalLM

    method = methods.of(run.method)
    context = TrainingContext(
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
        seed=run.seed,
        learning_rate=run.training.learning_rate,
        weight_decay=run.training.weight_decay,
        gradient_accumulation_steps=run.training.gradient_accumulation_steps,
        world_size=1,
        cache_dir=Path(),
        base_model_hash="",
        log_dir=None,
    )
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of libraries among themselves
        model = AutoModelForCausalLM.from_config(config)
        base = {id(parameter): parameter.numel() for parameter in model.parameters()}
        try:
            wrapped = method.wrap(model, context)
        except ValueError as error:
            raise ConfigError(f"methods.{run.method.key}: {error}") from error
    trained = {id(parameter): parameter.numel() for parameter in wrapped.parameters() if parameter.requires_grad}
    added = sum(size for key, size in trained.items() if key not in base)
    return sum(trained.values()), sum(base.values()) + added


def _final(settings: MethodSettings, trainable: int) -> int | None:
    """Everything that such a method trains is proportional to the ranks."""
    if not isinstance(settings, AdapterSettings) or settings.largest_rank == settings.r:
        return None
    return trainable * settings.r // settings.largest_rank
