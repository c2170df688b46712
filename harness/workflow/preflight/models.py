"""The models of an experiment, and every method held against them."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import methods
from harness.errors import ConfigError
from harness.experiment.runs import model_keys, settings_named, timing_runs
from harness.plan.cost import disk_bytes
from harness.schema.base_models import HubModel, LocalModel
from harness.schema.experiment import Experiment
from harness.schema.run import RunSpec

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def read_configs(experiment: Experiment, *, models_dir: Path) -> dict[str, PretrainedConfig]:
    """Model key -> configuration, of every model that runs, base evaluations and measurements need.

    Raises:
        ConfigError: a model, or its tokenizer, that cannot be read, by its key.
    """
    from harness.models.load import check_folder, load_config, load_tokenizer

    configs = {}
    for key in model_keys(experiment):
        model = experiment.models[key]
        if isinstance(model.source, LocalModel):
            check_folder(key, Path(model.source.path))
        configs[key] = load_config(key, model, models_dir=models_dir)
        if isinstance(model.source, HubModel):
            load_tokenizer(key, model, models_dir=models_dir)
    return configs


def positions_of(config: PretrainedConfig) -> int | None:
    """How many positions a model has; None where it does not say."""
    return getattr(config, "max_position_embeddings", None)


def linear_sizes(config: PretrainedConfig) -> dict[str, tuple[int, int]]:
    """Name -> (inputs, outputs) of every linear layer of the model, built without memory."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return {
        name: (module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }


def check_training(spec: RunSpec, config: PretrainedConfig) -> None:
    """Hold a run's length limit against the positions of its model, and its attention against what is installed.

    Raises:
        ConfigError: what does not fit, by its key.
    """
    positions = positions_of(config)
    if positions is not None and spec.data.max_length > positions:
        raise ConfigError(
            f"found {spec.data.max_length}, expected at most {positions}, the positions of {spec.model_key}",
            keys=("domains", spec.domain, "train", "max_length"),
        )
    if spec.training.attn_implementation == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
        raise ConfigError(
            "found 'flash_attention_2', but the package flash-attn is not installed; expected packed_sdpa, which computes the "
            "same, or the package",
            keys=("training", "attn_implementation"),
        )
    if spec.training.liger_kernel and importlib.util.find_spec("liger_kernel") is None:
        raise ConfigError(
            "found true, but the package liger-kernel is not installed; expected false, or the package",
            keys=("training", "liger_kernel"),
        )


def check_adapter(method: str, settings: Any, layers: Mapping[str, tuple[int, int]]) -> int:
    """Hold a low-rank method's settings against the model's layers.

    Returns:
        The number of parameters of one rank-r adapter on all targets, or 0 for a method without ``target_modules``.

    Raises:
        ConfigError: a target that the model lacks, or a rank larger than a target module.
    """
    targets = getattr(settings, "target_modules", None)
    if targets is None:
        return 0
    parameters, at = 0, ("methods", method, "settings")
    for target in targets:
        matching = {name: size for name, size in layers.items() if name.split(".")[-1] == target}
        if not matching:
            known = sorted({name.split(".")[-1] for name in layers})
            raise ConfigError(f"found {target!r}, expected names among {', '.join(known)}", keys=(*at, "target_modules"))
        for name, (inputs, outputs) in matching.items():
            setting, rank = settings.largest_rank_setting, settings.largest_rank
            if rank > min(inputs, outputs):
                found = getattr(settings, setting)
                largest = "" if found == rank else f", whose largest rank is {rank}"
                raise ConfigError(
                    f"found {found}{largest}, expected ranks of at most {min(inputs, outputs)}: module {name} is "
                    f"{outputs} x {inputs}",
                    keys=(*at, setting),
                )
            parameters += rank * (inputs + outputs)
    return parameters


def check_models(
    experiment: Experiment, runs: Sequence[RunSpec], configs: Mapping[str, PretrainedConfig], *, at_once: int = 1
) -> int:
    """Check every method on its models.

    Args:
        configs: what ``read_configs`` gave.
        at_once: how many runs train, or answer, at a time.

    Returns:
        Bytes of disk that the runs need at most.

    Raises:
        ConfigError: what is wrong, by its key.
    """
    layers = {key: linear_sizes(configs[key]) for key in configs}
    written: list[tuple[int, int]] = []
    merged = 0  # bytes of the weights that an engine loads

    def adapter_of(spec: RunSpec) -> int:
        with settings_named(experiment, spec):
            check_training(spec, configs[spec.model_key])
            return check_adapter(spec.method.key, methods.of(spec.method).settings, layers[spec.model_key])

    for spec in timing_runs(experiment).values():  # which leave nothing
        adapter_of(spec)
    for spec in runs:
        base = sum(i * o for i, o in layers[spec.model_key].values())
        written.append(methods.of(spec.method).disk_parameters(adapter=adapter_of(spec) or base, base=base))
        if spec.evaluation.engine == "vllm":
            merged = max(merged, base * (4 if spec.evaluation.dtype == "float32" else 2))
    return disk_bytes(written, at_once=at_once) + at_once * merged
