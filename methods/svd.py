"""Singular value decompositions of base weights, cached on disk, and the LoRA initialisation built from them.

PiSSA takes the largest singular triplets of a weight, MiLoRA the smallest; one decomposition serves both.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.errors import ConfigError
from harness.files import read_or_set_aside, replacing
from methods.base import TrainingContext
from methods.lora import Lora
from methods.peft_support import ADAPTER, LoraFactors, adapted_layers, save_plain_lora

if TYPE_CHECKING:
    import torch
    from peft.tuners.lora import LoraLayer
    from transformers import PreTrainedModel

Part = Literal["top", "bottom"]


@dataclass(frozen=True, kw_only=True)
class Triplets:
    """``r`` singular triplets of W (out, in), float32: u (out, r), s (r,) descending, v (in, r)."""

    u: torch.Tensor
    s: torch.Tensor
    v: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Extremes:
    """The ``r`` largest and the ``r`` smallest of the min(out, in) singular triplets of one weight."""

    top: Triplets
    bottom: Triplets

    def part(self, part: Part) -> Triplets:
        return self.top if part == "top" else self.bottom


def decompose(weight: torch.Tensor, *, r: int) -> Extremes:
    """The largest and smallest ``r`` singular triplets of ``weight`` (out, in).

    The smaller Gram matrix is diagonalised in float64: faster than an SVD, and its squared condition number still leaves
    the smallest triplets of a real weight exact in float32, which a float32 Gram matrix would not.

    Raises:
        ConfigError: r exceeds min(out, in).
    """
    import torch

    w = weight.detach().double()
    if r > min(w.shape):
        raise ConfigError(
            f"r: found {r}, expected at most {min(w.shape)}, the number of singular values of a {tuple(w.shape)} weight"
        )
    tall = w.shape[0] > w.shape[1]
    _, vectors = torch.linalg.eigh(w.T @ w if tall else w @ w.T)
    vectors = vectors.flip(1)
    parts = {}
    for part, near in (("top", vectors[:, :r]), ("bottom", vectors[:, -r:])):
        far = w @ near if tall else w.T @ near
        s = torch.linalg.vector_norm(far, dim=0)
        far = far / s.clamp_min(torch.finfo(torch.float64).tiny)
        u, v = (far, near) if tall else (near, far)
        parts[part] = Triplets(u=u.float(), s=s.float(), v=v.float())
    return Extremes(**parts)


def cache_file(cache_dir: Path, *, model_hash: str, name: str, r: int) -> Path:
    """Where the decomposition of the weight of module ``name`` is kept."""
    return cache_dir / "svd" / model_hash / f"{name}-r{r}.safetensors"


def write_extremes(extremes: Extremes, path: Path) -> None:
    """Write a decomposition. The file appears in one step, so two processes may compute the same weight at once."""
    from safetensors.torch import save_file

    tensors = {
        f"{part}.{k}": getattr(extremes.part(part), k).contiguous().cpu() for part in ("top", "bottom") for k in ("u", "s", "v")
    }
    with replacing(path) as temporary:
        save_file(tensors, temporary)


def cached_decomposition(weight: torch.Tensor, *, r: int, name: str, model_hash: str, cache_dir: Path) -> Extremes:
    """``decompose``, read from or written to its ``cache_file``, on weight's device. A file that is not the decomposition of a
    weight of this shape is set aside."""
    from safetensors.torch import load_file

    path = cache_file(cache_dir, model_hash=model_hash, name=name, r=r)

    def read(path: Path) -> Extremes:
        tensors = load_file(path, device=str(weight.device))
        shapes = (tuple(tensors["top.u"].shape), tuple(tensors["top.v"].shape))
        expected = ((weight.shape[0], r), (weight.shape[1], r))
        if shapes != expected:
            raise ValueError(f"vectors of shapes {shapes}, expected {expected}")
        return Extremes(top=_triplets(tensors, "top"), bottom=_triplets(tensors, "bottom"))

    kept = read_or_set_aside(path, read)
    if kept is None:
        write_extremes(decompose(weight, r=r), path)
        kept = read(path)
    return kept


def _triplets(tensors: dict[str, torch.Tensor], part: Part) -> Triplets:
    return Triplets(u=tensors[f"{part}.u"], s=tensors[f"{part}.s"], v=tensors[f"{part}.v"])


class SvdInitialisedLora(Lora):
    """LoRA whose factors start as r singular triplets of W, which are subtracted from W: W = (W - s B0 A0) + s B A.

    B0 = U sqrt(S / s), A0 = sqrt(S / s) V^T, s = lora_alpha / r: at the start the product is the removed part for any
    lora_alpha. Decomposed in float32 or better *before* any cast; on a bfloat16 base only the residual is rounded
    (2^-9 of each entry), so that the initial model, and the artefact on reload, then equal the base to that precision.
    The dropout acts on the whole removed part, so with dropout the training-mode model differs from the base at step 0;
    in evaluation mode it does not. ``disable_adapter()`` shows the residual, not the base.

    The artefact is a plain LoRA of rank 2r for the *original* base: delta W = s (B A - B0 A0).
    """

    prunable = False

    @property
    @abstractmethod
    def part(self) -> Part:
        """The triplets that it starts from."""

    def wrap(self, model: PreTrainedModel, context: TrainingContext) -> torch.nn.Module:
        """Add the adapter, and move the chosen singular triplets from every target weight into it."""
        import torch

        wrapped = super().wrap(model, context)
        self._initial: dict[str, LoraFactors] = {}
        self._removed_energy = 0.0
        total_energy = 0.0
        for name, layer in adapted_layers(wrapped).items():
            weight = layer.get_base_layer().weight
            if weight.is_meta:  # counting parameters needs no decomposition
                continue
            with torch.no_grad():
                extremes = cached_decomposition(
                    weight, r=self.settings.r, name=name, cache_dir=context.cache_dir, model_hash=context.base_model_hash
                )
                triplets = extremes.part(self.part)
                self._removed_energy += float(triplets.s.double().square().sum())
                total_energy += float(weight.double().square().sum())
                self._initial[name] = _move_into_adapter(layer, triplets)
        self._removed_energy /= total_energy or 1.0
        return wrapped

    def state_dict(self) -> dict[str, Any]:
        """A digest of the initial factors: a resumed run must subtract the same part from the base."""
        return {"initial_factors_sha256": self._digest()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Check that the base was decomposed as in the interrupted run.

        Raises:
            ValueError: the decomposition differs from the one in the checkpoint.
        """
        digest, expected = self._digest(), state["initial_factors_sha256"]
        if digest != expected:
            raise ValueError(
                f"initial_factors_sha256: found {digest}, expected {expected} as in the checkpoint: the cached "
                f"decomposition or the base model has changed since; restart the run"
            )

    def _digest(self) -> str:
        digest = hashlib.sha256()
        for name, pair in self._initial.items():
            digest.update(name.encode())
            digest.update(pair.a.numpy().tobytes())
            digest.update(pair.b.numpy().tobytes())
        return digest.hexdigest()

    def evidence(self, model: torch.nn.Module) -> dict[str, Any]:
        """How many weights were decomposed, and the part of their squared Frobenius norm that moved to the adapter."""
        return {"decomposed_modules": len(self._initial), "removed_energy": self._removed_energy}

    def finalize(self, model: Any, output_dir: Path) -> None:
        """Write [A; A0], [s B, -s B0] as a plain LoRA of rank 2r, exact on the original base."""
        import torch

        factors = {}
        for name, layer in adapted_layers(model).items():
            a, b = layer.lora_A[ADAPTER].weight.detach().cpu(), layer.lora_B[ADAPTER].weight.detach().cpu()
            start, scaling = self._initial[name], layer.scaling[ADAPTER]
            factors[name] = LoraFactors(a=torch.cat([a, start.a]), b=scaling * torch.cat([b, -start.b], dim=1))
        config = model.peft_config[ADAPTER]
        save_plain_lora(factors, output_dir, base_name=config.base_model_name_or_path)


def _move_into_adapter(layer: LoraLayer, triplets: Triplets) -> LoraFactors:
    """Set A and B to the triplets, subtract s B A from the base weight in float32, and return A0, B0 on the CPU."""
    weight, scaling = layer.get_base_layer().weight, layer.scaling[ADAPTER]
    a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    root = (triplets.s / scaling).sqrt()
    a.copy_(root[:, None] * triplets.v.T)
    b.copy_(triplets.u * root)
    weight.copy_(weight.float() - scaling * (b.float() @ a.float()))
    return LoraFactors(a=a.detach().float().cpu().clone(), b=b.detach().float().cpu().clone())
