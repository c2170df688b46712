"""The IncreLoRA layer: a frozen linear layer and rank-one components, of which a growing number is in use."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional as F

from beamlora.fused import Fused, Update, fuses
from methods.peft_support import LoraFactors, private_generator

#: Fixed weight of a reserve component (released code, increlora.py): small, so that only its directions are learned.
RESERVE_WEIGHT = 1e-5
#: Standard deviation of new directions, as in AdaLoRA.
INIT_STD = 0.02


class IncreLoraLinear(nn.Module):
    """y = W0 x + scaling B diag(e) A dropout(x), over the slots in use.

    A (r_max, in), E (r_max,) and B (out, r_max) are allocated once, so that the optimizer, the scheduler and DDP see
    constant parameters. Slots [0, rank) are active; slots [rank, rank + reserve) are in reserve: their A and B train, their
    weight is ``RESERVE_WEIGHT``; the others are zero, unused, and cost memory but no computation.
    """

    def __init__(self, base_layer: nn.Linear, *, r_max: int, scaling: float, dropout: float) -> None:
        super().__init__()
        weight = base_layer.weight
        self.base_layer = base_layer
        self.in_features, self.out_features = base_layer.in_features, base_layer.out_features
        self.lora_dropout = nn.Dropout(dropout)
        self.lora_A = nn.Parameter(torch.zeros(r_max, self.in_features, device=weight.device))
        self.lora_E = nn.Parameter(torch.zeros(r_max, device=weight.device))
        self.lora_B = nn.Parameter(torch.zeros(self.out_features, r_max, device=weight.device))
        self.scaling = scaling
        self.rank = 0
        self.reserve = 0
        #: How many slots were drawn each time.
        self.drawn: list[int] = []

    @property
    def used(self) -> int:
        """Active and reserve slots."""
        return self.rank + self.reserve

    @property
    def r_max(self) -> int:
        return self.lora_A.shape[0]

    def directions(self) -> tuple[torch.Tensor, torch.Tensor]:
        """A (used, in) and B (out, used) of the slots in use."""
        return self.lora_A[: self.used], self.lora_B[:, : self.used]

    def weights(self) -> torch.Tensor:
        """e (used,) of the slots in use."""
        return torch.cat([self.lora_E[: self.rank], self.lora_E.new_full((self.reserve,), RESERVE_WEIGHT)])

    def pieces(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """A (count, in) and B (out, count) of the slots in use that were drawn at once, for the orthogonality term."""
        first = 0
        for count in self.drawn:
            slots = slice(first, min(first + count, self.used))
            if slots.stop > slots.start:
                yield self.lora_A[slots], self.lora_B[:, slots]
            first += count

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result = self.base_layer(x)
        a, b = self.directions()
        hidden = F.linear(self.lora_dropout(x).to(a.dtype), a) * (self.weights() * self.scaling)
        return (result + F.linear(hidden, b)).to(result.dtype)

    @torch.no_grad()
    def add_reserve(self, count: int, *, identity: tuple[int | str, ...]) -> None:
        """Draw directions for the next ``count`` slots. A slot's draw depends on ``identity`` and its index alone."""
        for slot in range(self.used, self.used + count):
            if self.lora_A.is_meta:  # counting parameters needs no values
                break
            generator = private_generator(*identity, slot)
            self.lora_A[slot] = torch.randn(self.in_features, generator=generator) * INIT_STD
            self.lora_B[:, slot] = torch.randn(self.out_features, generator=generator) * INIT_STD
        self.reserve += count
        if count:
            self.drawn.append(count)

    @torch.no_grad()
    def activate(self, count: int, *, weight: float = RESERVE_WEIGHT) -> None:
        """Turn the first ``count`` reserve slots active. With the default weight the layer computes what it did before."""
        self.lora_E[self.rank : self.rank + count] = weight
        self.rank += count
        self.reserve -= count

    @torch.no_grad()
    def drop_reserve(self) -> None:
        """Give up the reserve slots: their weight becomes 0."""
        self.lora_A[self.rank : self.used] = 0
        self.lora_B[:, self.rank : self.used] = 0
        self.reserve = 0

    def factors(self) -> LoraFactors:
        """The active components as a plain LoRA of rank ``rank``."""
        scale = self.lora_E[: self.rank, None] * self.scaling
        return LoraFactors(a=self.lora_A[: self.rank] * scale, b=self.lora_B[:, : self.rank])


@fuses(IncreLoraLinear)
class FusedIncreLora(Fused, IncreLoraLinear):
    """The layer as one function: the weights of the slots as the factors of the ranks."""

    def update(self) -> Update | None:
        a, b = self.directions()
        return Update(a=a, b=b, scaling=self.scaling, dropout=self.lora_dropout, factors=self.weights())
