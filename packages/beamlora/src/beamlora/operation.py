"""One pruning-and-expansion operation as pure functions: scores -> plan -> new tensors. Nothing here changes its
inputs.

A module's tensors are a mapping with the keys of a recorded operation: ``A`` (r x in), ``B`` (out x r), ``g`` (1 x r, or
r; the score logits), and ``A.exp_avg``, ``A.exp_avg_sq`` and so on for their Adam moments M and V.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from beamlora.settings import BeamSettings

#: Adam's moments M and V of each parameter, and with ``amsgrad`` the largest V so far, which belongs to a rank as V does.
MOMENTS = ("exp_avg", "exp_avg_sq")
AMSGRAD_MAXIMUM = "max_exp_avg_sq"

Tensors = Mapping[str, torch.Tensor]
#: Matrix or score logits -> the suffixes of what an operation may touch.
_SUFFIXES = ("", *(f".{name}" for name in (*MOMENTS, AMSGRAD_MAXIMUM)))
#: (module name, n) -> a permutation of 0..n-1.
Permutations = Callable[[str, int], list[int]]


def snapshot_keys(tensors: Tensors) -> list[str]:
    """The keys of A, B and their moments: what a snapshot holds; a source of expansion needs no others."""
    return [key for key in tensors if key[0] in "AB" and key[1:] in _SUFFIXES]


@dataclass(frozen=True, kw_only=True)
class ModulePlan:
    """What happens to one module. Pruned rank ``pruned[i]`` (ascending) becomes a copy of rank ``sources[i]``; without
    expansion there are no sources and the pruned ranks become zero, and with ``dead_ranks`` masked have no score."""

    name: str
    pruned: tuple[int, ...]
    sources: tuple[int, ...]

    @property
    def k(self) -> int:
        """K: the number of pruned ranks."""
        return len(self.pruned)


@dataclass(frozen=True, kw_only=True)
class OperationPlan:
    """One operation: after which optimizer step, with which threshold, on which ranks of which modules."""

    step: int
    p: float
    modules: tuple[ModulePlan, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON: step, p, and per module the name, K, the pruned ranks and their sources."""
        modules = [{"name": m.name, "K": m.k, "pruned": list(m.pruned), "sources": list(m.sources)} for m in self.modules]
        return {"step": self.step, "p": self.p, "modules": modules}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> OperationPlan:
        """The inverse of ``to_json``."""
        modules = tuple(
            ModulePlan(name=m["name"], pruned=tuple(m["pruned"]), sources=tuple(m["sources"])) for m in value["modules"]
        )
        return cls(step=value["step"], p=value["p"], modules=modules)


def rank_scores(gate: torch.Tensor, *, temperature: float, times_r: bool) -> torch.Tensor:
    """Scores of the ranks of one module, shape (r,), float32: softmax(g / tau) (Eq. 5), times r as in the released
    code, so that equal scores are 1 and the adapter starts as plain LoRA."""
    logits = gate.reshape(-1).float()
    scores = torch.softmax(logits / temperature, dim=0)
    return scores * logits.numel() if times_r else scores


def private_permutations(*, seed: int, step: int) -> Permutations:
    """Permutations from a CPU generator of their own per module, seeded by (seed, step, module name): the global
    random streams are neither read nor advanced, and all processes and resumed runs draw the same."""

    def draw(name: str, n: int) -> list[int]:
        digest = hashlib.sha256(f"{seed}/{step}/{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        return torch.randperm(n, generator=generator).tolist()

    return draw


def top_p(scores: Tensors, *, p: float, settings: BeamSettings) -> dict[str, int]:
    """K of every module (Eq. 13): how many of its ranks lie where the descending cumulative score has passed p.

    In scope ``global`` the scores of all modules compete in one list (released code); in scope ``module`` each module
    has its own. K is cut to ``max_prune_fraction`` of the rank, so that the best of the pruned ranks stay. Masked
    ranks do not count.
    """
    if settings.topp_scope == "module":
        counts = {name: int(_beyond(values, p=p, settings=settings).sum()) for name, values in scores.items()}
    else:
        names = list(scores)
        beyond = _beyond(torch.cat([scores[name] for name in names]), p=p, settings=settings)
        per_module = torch.split(beyond, [scores[name].numel() for name in names])
        counts = {name: int(part.sum()) for name, part in zip(names, per_module, strict=True)}
    dead = {name: scores[name].numel() - len(_ranked(scores[name], settings=settings)) for name in scores}
    return {
        name: min(max(k - dead[name], 0), int((scores[name].numel() - dead[name]) * settings.max_prune_fraction))
        for name, k in counts.items()
    }


def _ranked(scores: torch.Tensor, *, settings: BeamSettings) -> list[int]:
    """The ranks that an operation may choose, best first: all, or those that are not masked (whose score is 0)."""
    values, order = scores.tolist(), scores.argsort(descending=True, stable=True).tolist()
    return order if settings.dead_ranks == "scored" else [rank for rank in order if values[rank] > 0]


def _beyond(scores: torch.Tensor, *, p: float, settings: BeamSettings) -> torch.Tensor:
    """Bool, by rank: from the first rank whose cumulative score passes the target on, that rank included."""
    beyond = torch.zeros_like(scores, dtype=torch.bool)
    reaches = settings.topp_comparison == "reaches"
    if p >= 1.0 and not reaches:
        return beyond  # no sum exceeds the whole, whatever rounding says
    order = scores.argsort(descending=True, stable=True)
    cumulative = scores[order].cumsum(0)
    # Each module's scores sum to r, or to 1 without the factor r; here their sum is known without rounding.
    target = p * (scores.numel() if settings.gate_times_r else round(float(scores.sum())))
    passed = cumulative >= target if reaches else cumulative > target
    if reaches:
        passed[-1] = True  # the whole reaches every p <= 1
    if passed.any():
        beyond[order[int(passed.to(torch.int8).argmax()) :]] = True
    return beyond


def make_plan(scores: Tensors, *, step: int, p: float, settings: BeamSettings, permutations: Permutations) -> OperationPlan:
    """Decide an operation.

    Args:
        scores: module name -> scores (r,), float32 on CPU, in module order (which matters only for ties in the global
        scope).
        step: finished optimizer steps, for the record.
        p: the threshold.
        permutations: gives the random pairing of each module.
    """
    counts = top_p(scores, p=p, settings=settings)
    modules = [
        _plan_module(name, values, k=counts[name], settings=settings, permutations=permutations)
        for name, values in scores.items()
    ]
    return OperationPlan(step=step, p=p, modules=tuple(modules))


def _plan_module(name: str, scores: torch.Tensor, *, k: int, settings: BeamSettings, permutations: Permutations) -> ModulePlan:
    """The K lowest ranks (Eq. 6) are pruned and become copies of the K highest (Eq. 8); without assessment, random
    ranks."""
    if k == 0:
        return ModulePlan(name=name, pruned=(), sources=())
    if settings.assessment:
        order = _ranked(scores, settings=settings)
        pruned, best = sorted(order[-k:]), order[:k]
        pairing = permutations(name, k) if settings.pairing == "random" else range(k)
        sources = [best[i] for i in pairing]
    else:
        ranked = set(_ranked(scores, settings=settings))
        shuffled = [rank for rank in permutations(name, scores.numel()) if rank in ranked]
        pruned, sources = sorted(shuffled[:k]), shuffled[-k:]  # disjoint for K <= r / 2
    return ModulePlan(name=name, pruned=tuple(pruned), sources=tuple(sources) if settings.expansion else ())


def apply_plan(
    current: Tensors, history: Tensors | None, plan: ModulePlan, *, settings: BeamSettings
) -> dict[str, torch.Tensor]:
    """The tensors of one module after the operation: only those that change, as new tensors on the device of
    ``current``.

    Args:
        current: parameters and Adam moments of A, B and g now.
        history: the snapshot of A and B and their moments (``snapshot_keys``); None where nothing is copied from it.
    """
    after: dict[str, torch.Tensor] = {}
    if plan.pruned and settings.expansion:
        source = current if settings.source == "current" else history
        if source is None:
            raise ValueError(f"module {plan.name}: expansion needs the snapshot, which is missing")
        after |= _copy_ranks(current, source, plan, settings=settings)
        after["g"] = _average_logits(current["g"], plan, settings=settings)
    elif plan.pruned:
        after |= {key: _with_ranks(current[key], key, plan.pruned, 0.0) for key in snapshot_keys(current)}
        if settings.dead_ranks == "masked":
            after["g"] = _masked(current["g"], plan)
    if settings.reset_gate_moments:
        after |= {key: torch.zeros_like(value) for key, value in current.items() if key[0] == "g" and key[1:] in _SUFFIXES[1:]}
    return after


def _copy_ranks(current: Tensors, source: Tensors, plan: ModulePlan, *, settings: BeamSettings) -> dict[str, torch.Tensor]:
    """Eq. 11 (or 9) for the parameters, Eq. 12 (or 10) for the moments."""
    after = {}
    for key in snapshot_keys(current):
        if "." not in key or settings.moment_transfer == "history":
            index = torch.tensor(plan.sources, device=source[key].device)
            after[key] = _with_ranks(current[key], key, plan.pruned, source[key].index_select(_rank_dim(key), index))
        elif settings.moment_transfer == "zero":
            after[key] = _with_ranks(current[key], key, plan.pruned, 0.0)
    return after


def _rank_dim(key: str) -> int:
    return 0 if key.startswith("A") else 1


def _with_ranks(tensor: torch.Tensor, key: str, ranks: tuple[int, ...], values: torch.Tensor | float) -> torch.Tensor:
    """A copy of ``tensor`` whose rows (of A) or columns (of B) ``ranks`` are ``values``."""
    result = tensor.clone()
    index = torch.tensor(ranks, device=tensor.device)
    if isinstance(values, float):
        return result.index_fill_(_rank_dim(key), index, values)
    return result.index_copy_(_rank_dim(key), index, values.to(tensor.device, tensor.dtype))


def _average_logits(gate: torch.Tensor, plan: ModulePlan, *, settings: BeamSettings) -> torch.Tensor:
    """Both ranks of a pair get the same logit (end of section 3.2): the mean of the two logits, or, with
    ``score_average`` scores, the logit of the mean score, which leaves the pair's share of the softmax as it was."""
    result = gate.clone()
    flat = result.view(-1)
    pruned, sources = (torch.tensor(ranks, device=gate.device) for ranks in (plan.pruned, plan.sources))
    if settings.score_average == "logits":
        flat[pruned] = (flat[pruned] + flat[sources]) / 2
    else:
        tau = settings.gate_temperature
        flat[pruned] = tau * (torch.logaddexp(flat[pruned] / tau, flat[sources] / tau) - math.log(2.0))
    flat[sources] = flat[pruned]
    return result


def _masked(gate: torch.Tensor, plan: ModulePlan) -> torch.Tensor:
    """The logits with -inf at the pruned ranks: their score is 0, and no step of Adam brings it back."""
    result = gate.clone()
    result.view(-1)[torch.tensor(plan.pruned, device=gate.device)] = -math.inf
    return result


def score_entropy(scores: torch.Tensor) -> float:
    """Entropy of the normalised scores divided by its maximum ln r: 1 for equal scores, 0 when one rank has
    everything."""
    if scores.numel() == 1:
        return 1.0
    shares = (scores / scores.sum()).double()
    return float(-(shares * shares.clamp_min(1e-300).log()).sum() / math.log(scores.numel()))
