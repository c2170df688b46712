"""Random models and a byte-level tokenizer, made in memory."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

SIZES = {
    "vocab_size": 260,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "bos_token_id": 256,  # of byte_tokenizer
    "eos_token_id": 257,
}


def llama(seed: int = 0, **changes: object) -> PreTrainedModel:
    """A Llama of about 50 k parameters."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**{**SIZES, "num_key_value_heads": 4, **changes}))


def mistral(seed: int = 0, **changes: object) -> PreTrainedModel:
    """A Mistral with grouped queries and a window of 8 tokens."""
    torch.manual_seed(seed)
    return MistralForCausalLM(MistralConfig(**{**SIZES, "num_key_value_heads": 2, "sliding_window": 8, **changes}))


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte; BOS-free, with EOS and a padding token of its own."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*alphabet, "<s>", "</s>", "<pad>"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
