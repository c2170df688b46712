"""What every part works with: random models, examples of random tokens, a tokenizer, and the runs of the methods."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, PreTrainedTokenizerFast

from benchmarks.gpu7b.scale import Scale, timed_runs
from harness.data.tokens import IGNORE_INDEX, TokenizedSet
from harness.schema.run import RunSpec
from harness.train import attention

#: Takes the place of the base weights' hash: names the random factors in the cache.
MODEL_HASH = "random-weights"
#: Part of an example that is prompt, without labels.
PROMPT_SHARE = 1 / 3
SHORTEST = 4


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The scale, the device, a folder for whatever the parts write, and what is made from them."""

    scale: Scale
    device: torch.device
    scratch: Path
    runs: dict[str, RunSpec]
    dataset: TokenizedSet
    tokenizer: PreTrainedTokenizerFast

    @classmethod
    def of(cls, scale: Scale, *, device: torch.device, scratch: Path) -> Bench:
        """Everything but models. Makes ``packed_sdpa`` known to transformers."""
        attention.register()
        runs = timed_runs(scale)
        rows = runs["lora"].data.source.rows
        return cls(
            scale=scale,
            device=device,
            scratch=scratch,
            runs=runs,
            dataset=synthetic_set(scale, rows=rows),
            tokenizer=byte_tokenizer(),
        )

    def model(self, *, attn_implementation: str, dtype: torch.dtype = torch.bfloat16, **changes: Any) -> PreTrainedModel:
        """A new base model on the device; ``changes`` are fields of its configuration. The weights are drawn in bfloat16
        whatever ``dtype`` is, and depend on the configuration alone."""
        model = random_llama(
            {**self.scale.model, **changes}, device=self.device, seed=self.scale.seed, attn_implementation=attn_implementation
        )
        return model if dtype == torch.bfloat16 else model.to(dtype)


def random_llama(fields: dict[str, Any], *, device: torch.device, seed: int, attn_implementation: str) -> PreTrainedModel:
    """A Llama of random bfloat16 weights, made on ``device``: 13.5 GB of LLaMA2-7B never pass through the host."""
    torch.manual_seed(seed)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(
            LlamaConfig(**fields), dtype=torch.bfloat16, attn_implementation=attn_implementation
        )


@dataclass(frozen=True)
class RepeatedSet(TokenizedSet):
    """``rows`` examples, of which the first ones differ and then repeat: as long as the paper's set, and as its schedule."""

    rows: int

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return super().__getitem__(index % (len(self.offsets) - 1))


def synthetic_set(scale: Scale, *, rows: int) -> RepeatedSet:
    """Examples of random tokens with lognormal lengths, cut at ``max_length``; labels on all but the first third."""
    generator = torch.Generator().manual_seed(scale.seed)
    mu = math.log(scale.mean_length) - scale.sigma**2 / 2
    drawn = torch.exp(mu + scale.sigma * torch.randn(scale.distinct_examples, generator=generator, dtype=torch.float64))
    lengths = drawn.round().long().clamp(SHORTEST, scale.max_length)
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    ids = torch.randint(scale.model["vocab_size"], (int(offsets[-1]),), generator=generator)
    within = torch.arange(len(ids)) - offsets[:-1].repeat_interleave(lengths)
    is_prompt = within < (PROMPT_SHARE * lengths).ceil().long().repeat_interleave(lengths)
    return RepeatedSet(
        input_ids=ids,
        labels=ids.masked_fill(is_prompt, IGNORE_INDEX),
        offsets=offsets,
        cut=int((drawn > scale.max_length).sum()),
        fingerprint=f"random-{scale.seed}",
        rows=rows,
    )


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, a padding token, and no end of sequence: nothing that a random model writes ends a row."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate([*alphabet, "<pad>"])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>")
