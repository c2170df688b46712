"""What many sequences begin with, such as a template's words or worked examples, computed once and read from the cache."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from os.path import commonprefix
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel


def sees_all(model: PreTrainedModel, length: int) -> bool:
    """Whether each of so many tokens attends to all before it: none is outside the model's sliding window."""
    window = getattr(model.config, "sliding_window", None)
    return window is None or length <= window


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """The first ``length`` tokens of every sequence, and the model's cache of one row after them; None where there are none."""

    length: int
    _cache: Cache | None

    @classmethod
    @torch.inference_mode()
    def read(cls, model: PreTrainedModel, sequences: Sequence[list[int]]) -> Prefix:
        """What the sequences have in common at their beginning; of one sequence nothing, since nobody would share it."""
        tokens = list(commonprefix(sequences)) if len(sequences) > 1 else []
        if not tokens:
            return cls(length=0, _cache=None)
        ids = torch.tensor([tokens], device=model.device)
        return cls(length=len(tokens), _cache=model.get_decoder()(input_ids=ids, use_cache=True).past_key_values)

    def cache(self, rows: int) -> Cache | None:
        """The cache for a batch, a copy."""
        if self._cache is None:
            return None
        repeated = copy.deepcopy(self._cache)
        repeated.batch_repeat_interleave(rows)
        return repeated
