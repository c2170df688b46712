"""From records to tokens and labels: one training set per data recipe and tokenizer, cached."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.sets.prompts import TEMPLATES, continuation
from evaluation.sets.training import training_example
from harness.data.load import load_records, source_fingerprint
from harness.errors import ConfigError
from harness.files import read_or_set_aside, replacing, write_json
from harness.schema.base_models import BaseModelSpec
from harness.schema.data import TrainingData
from harness.schema.fields import content_hash

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

#: Label of a position that does not count in the loss, torch's and transformers' convention.
IGNORE_INDEX = -100


@dataclass(frozen=True)
class TokenizedSet:
    """Tokenised training examples, flat: example i is ``input_ids[offsets[i]:offsets[i + 1]]``.

    ``labels`` equals ``input_ids`` where the loss counts and IGNORE_INDEX elsewhere; the first label of an example is always
    IGNORE_INDEX, since nothing predicts it. ``cut`` is how many examples were longer than max_length.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    offsets: torch.Tensor
    cut: int
    fingerprint: str

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        span = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        return {"input_ids": self.input_ids[span], "labels": self.labels[span]}


def encode_example(
    tokenizer: PreTrainedTokenizerBase, *, prompt: str, response: str, loss_on: str, max_length: int
) -> tuple[list[int], list[int]]:
    """Token ids and labels of one example: BOS (where the tokenizer has one) + prompt + response + EOS, cut at ``max_length``.

    The prompt has the same tokens as at evaluation (see ``encode_response``).
    """
    head = encode_prompt(tokenizer, prompt)
    tail = encode_response(tokenizer, prompt=prompt, head=head, response=response) + [tokenizer.eos_token_id]
    ids = (head + tail)[:max_length]
    labels = [IGNORE_INDEX] * len(head) + tail if loss_on == "response" else [IGNORE_INDEX, *head[1:], *tail]
    return ids, labels[:max_length]


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """Token ids of a prompt, with a BOS token in front where the tokenizer's own convention has one."""
    return tokenizer(prompt, add_special_tokens=True)["input_ids"]


def encode_response(tokenizer: PreTrainedTokenizerBase, *, prompt: str, head: list[int], response: str) -> list[int]:
    """Token ids of a response after a prompt with the ids ``head``, without EOS.

    Prompt and response are tokenised apart. A response that begins with a blank is the rest of a running text, and has the
    tokens that it has there, as long as the prompt keeps its own: SentencePiece would put a second blank before it.
    """
    if response.startswith(" "):
        ids = encode_prompt(tokenizer, prompt + response)
        if ids[: len(head)] == head:
            return ids[len(head) :]
    return tokenizer(response, add_special_tokens=False)["input_ids"]


def decode_response(tokenizer: PreTrainedTokenizerBase, head: list[int], ids: list[int]) -> str:
    """The text of a response after a prompt with the ids ``head``, special tokens left out: what ``encode_response`` was given.

    Llama's tokenizer puts a blank before a text that begins with none, and takes one from the front of whatever it decodes.
    From a response that begins with several, as indented code does, it must take none.
    """
    text = tokenizer.decode(ids, skip_special_tokens=True)
    if not text.startswith(" "):
        return text
    lead, running = (tokenizer.decode(head[-1:] + more, skip_special_tokens=True) for more in ([], ids))
    return f" {text}" if running == f"{lead} {text}" else text


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of everything that decides the tokenizer's output."""
    return content_hash(
        {
            "backend": tokenizer.backend_tokenizer.to_str(),
            "special": tokenizer.special_tokens_map,
            "class": type(tokenizer).__name__,
        }
    )


def tokens_file(data: TrainingData, tokenizer: PreTrainedTokenizerBase, *, fingerprint: str, cache_dir: Path) -> Path:
    """Where the tokens of a training set are cached; ``fingerprint`` is that of its records."""
    key = content_hash(
        {
            "rows": fingerprint,
            "tokenizer": tokenizer_fingerprint(tokenizer),
            "recipe": data.model_dump(mode="json", exclude={"source", "limit"}),
        }
    )
    return cache_dir / f"tokens-{key}.safetensors"


def training_set(
    data: TrainingData, tokenizer: PreTrainedTokenizerBase, *, data_dir: str | None, cache_dir: Path
) -> TokenizedSet:
    """The tokenised training set, computed once per data recipe and tokenizer and cached as safetensors.

    Raises:
        ConfigError: the records cannot be read, lack a field, or leave nothing to learn from.
    """
    import torch
    from safetensors.torch import load_file, save_file

    records = load_records(data.source, data_dir=data_dir, limit=data.limit)
    fingerprint = source_fingerprint(records)
    path = tokens_file(data, tokenizer, fingerprint=fingerprint, cache_dir=cache_dir)

    def read(path: Path) -> dict[str, torch.Tensor]:
        tensors = load_file(path)
        return {name: tensors[name] for name in ("input_ids", "labels", "offsets", "cut")}

    tensors = read_or_set_aside(path, read)
    if tensors is None:
        tensors = _tokenize(records, data, tokenizer)
        with replacing(path) as temporary:
            save_file(tensors, temporary)
    if not bool((tensors["labels"] != IGNORE_INDEX).any()):
        raise ConfigError(f"data.max_length: found {data.max_length} tokens, which cuts every response off")
    return TokenizedSet(
        input_ids=tensors["input_ids"].to(torch.long),
        labels=tensors["labels"].to(torch.long),
        offsets=tensors["offsets"],
        cut=int(tensors["cut"]),
        fingerprint=fingerprint,
    )


def _lengths_file(data: TrainingData, model: BaseModelSpec, cache_dir: Path) -> Path:
    return cache_dir / f"lengths-{content_hash([model.source, data])}.json"


def note_lengths(tokens: TokenizedSet, data: TrainingData, model: BaseModelSpec, *, cache_dir: Path) -> None:
    """Write how long the examples are beside their tokens, for a plan that has neither the tokenizer nor the records."""
    counts = Counter(tokens.offsets.diff().tolist())
    write_json(_lengths_file(data, model, cache_dir), {"lengths": {str(length): counts[length] for length in sorted(counts)}})


def noted_lengths(data: TrainingData, model: BaseModelSpec, *, cache_dir: Path) -> dict[int, int] | None:
    """Tokens of an example -> how many examples have so many. None: the training set was not tokenised for this model."""

    def read(path: Path) -> dict[int, int]:
        return {int(length): int(count) for length, count in json.loads(path.read_text(encoding="utf-8"))["lengths"].items()}

    return read_or_set_aside(_lengths_file(data, model, cache_dir), read)


def _tokenize(
    records: Sequence[dict[str, Any]], data: TrainingData, tokenizer: PreTrainedTokenizerBase
) -> dict[str, torch.Tensor]:
    import torch

    template = TEMPLATES[data.prompt_template]
    all_ids: list[int] = []
    all_labels: list[int] = []
    offsets, cut = [0], 0
    for record in records:
        query, response = training_example(data.format, record)
        ids, labels = encode_example(
            tokenizer,
            prompt=template(query),
            response=continuation(data.prompt_template, response),
            loss_on=data.loss_on,
            max_length=data.max_length,
        )
        cut += ids[-1] != tokenizer.eos_token_id
        all_ids += ids
        all_labels += labels
        offsets.append(len(all_ids))
    return {
        "input_ids": torch.tensor(all_ids, dtype=torch.int32),
        "labels": torch.tensor(all_labels, dtype=torch.int32),
        "offsets": torch.tensor(offsets, dtype=torch.int64),
        "cut": torch.tensor(cut),
    }
