"""Small random models and their tokenizer, and answers put into a model's mouth."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

import harness.evaluate.generate
from harness.evaluate.generate import Completion
from tests.harness.evaluate.byte_models import SIZES


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """Every byte is a token; token 256 ends a sequence."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: index for index, character in enumerate(alphabet)} | {"</s>": 256}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>")


@pytest.fixture(scope="module", params=["llama", "mistral"])
def model(request: pytest.FixtureRequest) -> LlamaForCausalLM | MistralForCausalLM:
    torch.manual_seed(3)
    if request.param == "llama":
        return LlamaForCausalLM(LlamaConfig(**SIZES)).eval()
    return MistralForCausalLM(MistralConfig(**SIZES, sliding_window=8)).eval()


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes the model say the texts that it is called with."""

    def say(texts: list[str], **fields: object) -> None:
        said = [Completion(text=text, **({"tokens": 5, "truncated": False} | fields)) for text in texts]
        monkeypatch.setattr(harness.evaluate.generate, "generate", lambda *args, **kwargs: said)

    return say
