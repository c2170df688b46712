"""From tokenised examples to batches: packed end to end, or padded."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from harness.data.tokens import IGNORE_INDEX

if TYPE_CHECKING:
    import torch
    from torch.utils.data import BatchSampler


def within(lengths: Sequence[int], *, most_tokens: int, padded: bool) -> list[slice]:
    """Examples that follow one another, in groups of at most ``most_tokens`` tokens; a longer example is a group by itself.

    Args:
        lengths: tokens of each example.
        padded: whether every example counts as long as the longest of its group.
    """
    groups: list[slice] = []
    start = 0
    for end in range(1, len(lengths) + 1):
        group = lengths[start : end + 1]
        tokens = max(group) * len(group) if padded else sum(group)
        if end == len(lengths) or tokens > most_tokens:
            groups.append(slice(start, end))
            start = end
    return groups


class ShareOfBatches:
    """The micro-batches of one of several processes: of each round of ``processes`` of them its own one. In the last round of
    an epoch some get one without rows, so that all take part in every step, and no row counts twice."""

    def __init__(self, batches: BatchSampler, *, processes: int, index: int) -> None:
        self.batches, self.processes, self.index = batches, processes, index
        #: Where accelerate looks for whom to tell of a new epoch.
        self.sampler = batches.sampler

    def __len__(self) -> int:
        return math.ceil(len(self.batches) / self.processes)

    def __iter__(self) -> Iterator[list[int]]:
        for each in zip_longest(*[iter(self.batches)] * self.processes, fillvalue=[]):
            yield each[self.index]


def is_empty(batch: Mapping[str, Any]) -> bool:
    """Whether a collator made the batch of no example."""
    return bool(batch["input_ids"].numel() == 1)


def _examples(examples: Sequence[Mapping[str, torch.Tensor]]) -> Sequence[Mapping[str, torch.Tensor]]:
    """The examples; instead of none one of a single token without label, which changes no loss and no gradient."""
    import torch

    return examples or [{"input_ids": torch.tensor([0]), "labels": torch.tensor([IGNORE_INDEX])}]


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

        examples = _examples(examples)
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

    def split(self, batch: Mapping[str, Any], *, most_tokens: int) -> list[dict[str, Any]]:
        """The batch in parts of at most ``most_tokens`` tokens, or of one longer example."""
        import torch

        if batch["input_ids"].numel() <= most_tokens:
            return [dict(batch)]
        lengths = batch["cu_seq_lens_q"].diff().tolist() if self.flash else batch["segment_lengths"]
        ids = batch["input_ids"][0]
        labels = torch.full_like(ids, IGNORE_INDEX)
        labels[batch["logits_to_keep"] + 1] = batch["labels"]
        examples = [
            {"input_ids": own, "labels": answer} for own, answer in zip(ids.split(lengths), labels.split(lengths), strict=True)
        ]
        return [self(examples[group]) for group in within(lengths, most_tokens=most_tokens, padded=False)]


class PaddedCollator:
    """Pads the examples of a batch on the right: shape (batch, longest), with the true attention mask."""

    def __init__(self, *, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, examples: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, Any]:
        import torch
        from torch.nn.utils.rnn import pad_sequence

        examples = _examples(examples)
        ids = [example["input_ids"] for example in examples]
        return {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self.pad_token_id),
            "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
            "labels": pad_sequence([example["labels"] for example in examples], batch_first=True, padding_value=IGNORE_INDEX),
        }

    def split(self, batch: Mapping[str, Any], *, most_tokens: int) -> list[dict[str, Any]]:
        """The batch in parts of at most ``most_tokens`` tokens with their padding, or of one longer example."""
        if batch["input_ids"].numel() <= most_tokens:
            return [dict(batch)]
        lengths = batch["attention_mask"].sum(1).tolist()
        return [
            {name: tensor[group, : max(lengths[group])] for name, tensor in batch.items()}
            for group in within(lengths, most_tokens=most_tokens, padded=True)
        ]
