"""Data: records from a folder, the hub or a generator; tokens and labels from records; batches from tokens."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.sets.examples import training_example
from evaluation.sets.prompts import TEMPLATES, continuation
from harness.config import ConfigError, DataSource, FileData, GeneratedData, TrainingData, content_hash, local_file
from harness.files import replacing
from harness.provenance import file_sha256

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

_COMMIT = re.compile(r"[0-9a-f]{40}")

#: Label of a position that does not count in the loss, torch's and transformers' convention.
IGNORE_INDEX = -100

# --------------------------------------------------------------------------------------------------------------- records


def load_records(source: DataSource, *, data_dir: str | None, limit: int | None = None) -> list[dict[str, Any]]:
    """The records of a set, the first ``limit`` of them if given.

    Raises:
        ConfigError: the file is missing, has another hash or number of rows than pinned, or is not records;
            or the hub cannot be reached.
    """
    if isinstance(source, GeneratedData):
        from harness.synthetic import GENERATORS

        if source.generator not in GENERATORS:
            raise ConfigError(f"generator: found {source.generator!r}, expected one of {', '.join(sorted(GENERATORS))}")
        records = GENERATORS[source.generator](source.rows, source.seed)
    else:
        path = local_file(source, data_dir=data_dir)
        records = _from_hub(source) if path is None else _from_file(path, source)
        if source.rows is not None and len(records) != source.rows:
            raise ConfigError(f"{path or source.hub_id}: found {len(records)} rows, expected {source.rows}")
    return records[:limit]


def _from_file(path: Path, source: FileData) -> list[dict[str, Any]]:
    if not path.is_file():
        raise ConfigError(
            f"data_dir: found no file {path}, expected a local copy of {source.hub_id} ({source.split}); "
            "set data_dir to null to read it from the hub"
        )
    if source.sha256 is not None and file_sha256(path) != source.sha256:
        raise ConfigError(f"{path}: found sha256 {file_sha256(path)[:16]}..., expected {source.sha256[:16]}...")
    try:
        opened = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")
        with opened as stream:
            if path.name.removesuffix(".gz").endswith(".jsonl"):
                records = [json.loads(line) for line in stream if line.strip()]
            else:
                records = json.load(stream)
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise ConfigError(f"{path}: cannot be read as JSON records: {error}") from error
    if not isinstance(records, list):
        raise ConfigError(f"{path}: found {type(records).__name__}, expected a list of JSON objects")
    if not records:
        raise ConfigError(f"{path}: found no rows, expected at least one")
    for row, record in enumerate(records):
        if not isinstance(record, dict):
            raise ConfigError(f"{path}: row {row}: found {type(record).__name__}, expected a JSON object")
    return records


def _from_hub(source: FileData) -> list[dict[str, Any]]:
    from datasets import load_dataset

    configs = source.hub_config if isinstance(source.hub_config, tuple) else (source.hub_config,)
    try:
        parts = [load_dataset(source.hub_id, config, split=source.split, revision=source.revision) for config in configs]
        rows = [dict(row) for part in parts for row in part]
    except Exception as error:  # the hub client raises a dozen unrelated classes; all mean "not to be had"
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"{source.hub_id}: cannot be read from the hub: {reason}; expected network and access, or "
            f"data_dir with {source.local or 'a local copy'}"
        ) from error
    for part in parts:
        _check_revision(part, source)
    return rows


def _check_revision(part: Dataset, source: FileData) -> None:
    """Where the hub cannot be reached, ``datasets`` takes whatever revision lies in its cache, also where one is pinned. The
    cache's folders are named after the commit."""
    if not _COMMIT.fullmatch(source.revision):
        return
    commits = {name for file in part.cache_files for name in Path(file["filename"]).parts if _COMMIT.fullmatch(name)}
    if commits - {source.revision}:
        raise ConfigError(
            f"{source.hub_id}: found revision {', '.join(sorted(commits))} in the cache of datasets, expected the pinned "
            f"{source.revision}; connect to the hub once, or remove the cached copy"
        )


def source_fingerprint(records: Sequence[Mapping[str, Any]]) -> str:
    """SHA-256 over the records in order: which rows were really used, whatever file or hub they came from."""
    digest = hashlib.sha256()
    for record in records:
        # As canonical_json, but rows of public sets may hold infinities: inputs of MBPP+'s tests do.
        text = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        digest.update(text.encode("utf-8", errors="surrogatepass"))
        digest.update(b"\n")
    return digest.hexdigest()


# ---------------------------------------------------------------------------------------------------------------- tokens


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
    tokens that it has there, as long as the prompt keeps its own: Llama's tokenizer would put a second blank before it.
    """
    if response.startswith(" "):
        ids = encode_prompt(tokenizer, prompt + response)
        if ids[: len(head)] == head:
            return ids[len(head) :]
    return tokenizer(response, add_special_tokens=False)["input_ids"]


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
    if path.is_file():
        tensors = load_file(path)
    else:
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


# --------------------------------------------------------------------------------------------------------------- batches


class PackedCollator:
    """Joins the examples of a batch end to end: shape (1, total tokens), no padding.

    Positions restart at every example and attention stays inside it (``segment_lengths`` for packed_sdpa, ``cu_seq_lens_*``
    for flash attention), so that batches and loss are those of the padded form. ``logits_to_keep`` (n,) holds the positions
    whose logits are needed: those that predict a label.
    """

    def __init__(self, *, attn_implementation: str) -> None:
        self.flash = attn_implementation == "flash_attention_2"

    def __call__(self, examples: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, Any]:
        import torch

        lengths = [len(example["input_ids"]) for example in examples]
        labels = torch.cat([example["labels"] for example in examples])
        batch: dict[str, Any] = {
            "input_ids": torch.cat([example["input_ids"] for example in examples])[None],
            "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
            "labels": labels[labels != IGNORE_INDEX],
            "logits_to_keep": (labels != IGNORE_INDEX).nonzero()[:, 0] - 1,
        }
        if self.flash:
            boundaries = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
            batch |= {
                "cu_seq_lens_q": boundaries,
                "cu_seq_lens_k": boundaries,
                "max_length_q": max(lengths),
                "max_length_k": max(lengths),
            }
        else:
            batch["segment_lengths"] = lengths
        return batch


class PaddedCollator:
    """Pads the examples of a batch on the right: shape (batch, longest), with the true attention mask."""

    def __init__(self, *, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, examples: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, Any]:
        import torch
        from torch.nn.utils.rnn import pad_sequence

        ids = [example["input_ids"] for example in examples]
        return {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self.pad_token_id),
            "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
            "labels": pad_sequence([example["labels"] for example in examples], batch_first=True, padding_value=IGNORE_INDEX),
        }


if __name__ == "__main__":
    from harness import cli, data_check

    cli.run(data_check.main)
