"""A frozen linear layer and its low-rank update as one differentiable function, in plain PyTorch.

PEFT's layers are chains of separate operations, each with an output of its own and saved inputs. Here the update is added to
the base layer's output in place, the input's gradient likewise, and the backward pass keeps the input and the ``r`` numbers of
each token. The sums are the same, only their rounding differs (``tests/beamlora/test_fused.py`` compares them).
Modules, parameters, saving, loading and merging stay PEFT's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from peft.tuners import lora
from peft.tuners.adalora import SVDLinear
from peft.tuners.lora.variants import DoraLinearVariant
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

LayerT = TypeVar("LayerT", bound=type[nn.Module])
#: Layer class -> the same in one function.
_FUSED: dict[type[nn.Module], type[nn.Module]] = {}


@dataclass(frozen=True, kw_only=True)
class Update:
    """scaling B (factors * A dropout(x)), with A (r, in), B (out, r) and factors (r,), None for 1; with DoRA's ``magnitude``
    (out,), the sum of base and update has columns of that length."""

    a: torch.Tensor
    b: torch.Tensor
    scaling: float
    dropout: nn.Module
    factors: torch.Tensor | None = None
    magnitude: torch.Tensor | None = None


def install(model: nn.Module) -> None:
    """Let every adapted linear layer of ``model`` compute in one function, where its base layer allows it (``_is_frozen``)."""
    for module in model.modules():
        fused = _FUSED.get(type(module))
        if fused is not None:
            module.__class__ = fused


def fuses(layer: type[nn.Module]) -> Callable[[LayerT], LayerT]:
    """Decorates the class that ``install`` puts in the place of ``layer``: ``Fused`` before ``layer``, with an ``update``."""

    def remember(fused: LayerT) -> LayerT:
        _FUSED[layer] = fused
        return fused

    return remember


def linear(x: torch.Tensor, base: nn.Linear, update: Update) -> torch.Tensor:
    """W0 x + bias + update, shape (..., out), in the dtype of the base layer's output. Products of the update are in
    autocast's dtype, else in the adapter's, as PEFT casts."""
    dropout = update.dropout.p if isinstance(update.dropout, nn.Dropout) and update.dropout.training else 0.0
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else update.a.dtype
    if update.magnitude is not None:
        norm = dora_norm(base.weight, update.a, update.b, update.scaling)
        scale = update.magnitude / norm
        return _DoraLinear.apply(x, base.weight, base.bias, update.a, update.b, scale, update.scaling, dropout, dtype)
    return _LoraLinear.apply(x, base.weight, base.bias, update.a, update.b, update.factors, update.scaling, dropout, dtype)


@torch.no_grad()
def dora_norm(weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scaling: float) -> torch.Tensor:
    """The length of each row of W0 + scaling B A, (out,), a constant of the gradient (DoRA, section 4.3), without making the
    (out, in) product: |w|^2 + 2 scaling b . (A w) + scaling^2 b A A^T b."""
    with torch.autocast(weight.device.type, enabled=False):
        own = torch.linalg.vector_norm(weight, dim=1, dtype=a.dtype).square_()
        # As the forward pass multiplies: MKL rounds weight @ a.T otherwise where the weights are aligned otherwise in memory.
        mixed = (F.linear(a.to(weight.dtype), weight).to(a.dtype).t() * b).sum(1)
        added = ((b @ (a @ a.t())) * b).sum(1)
        return (own + 2 * scaling * mixed + scaling**2 * added).clamp_min_(0).sqrt_()


class Fused(nn.Module):
    """Before a layer class: its forward pass in one function where that is the same, the layer's own elsewhere."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        base: Any = self.base_layer
        update = self.update() if not args and not kwargs and _is_frozen(base) else None
        return super().forward(x, *args, **kwargs) if update is None else linear(x, base, update)

    def update(self) -> Update | None:
        """What is added to the base layer; None where it is more, or less, than one low-rank product."""
        raise NotImplementedError


def _is_frozen(base: nn.Module) -> bool:
    """Whether a base layer is an ``nn.Linear`` (no subclass, such as a quantised one) that neither trains nor has hooks."""
    return (
        type(base) is nn.Linear
        and not (base._forward_hooks or base._forward_pre_hooks or base._backward_hooks)
        and all(type(parameter) is nn.Parameter and not parameter.requires_grad for parameter in base.parameters())
    )


def _only_adapter(layer: Any) -> str | None:
    """The one adapter that PEFT's layer computes with; None where it computes with none, several, or merged ones."""
    if layer.disable_adapters or layer.merged or len(layer.active_adapters) != 1:
        return None
    (adapter,) = layer.active_adapters
    return adapter if adapter in layer.lora_A and not layer.lora_bias.get(adapter) else None


class FusedAdapter(Fused):
    """Before a layer class of PEFT's kind, which holds adapters by name."""

    def update(self) -> Update | None:
        adapter = _only_adapter(self)
        return None if adapter is None else self.update_of(adapter)

    def update_of(self, adapter: str) -> Update | None:
        """``update`` of the only adapter."""
        raise NotImplementedError


def lora_update(
    layer: Any, adapter: str, *, factors: torch.Tensor | None = None, magnitude: torch.Tensor | None = None
) -> Update:
    """The update of an adapter of PEFT's LoRA layer, and what makes it more than LoRA's."""
    return Update(
        a=layer.lora_A[adapter].weight,
        b=layer.lora_B[adapter].weight,
        scaling=layer.scaling[adapter],
        dropout=layer.lora_dropout[adapter],
        factors=factors,
        magnitude=magnitude,
    )


@fuses(lora.Linear)
class FusedLora(FusedAdapter, lora.Linear):
    """PEFT's LoRA and DoRA."""

    def update_of(self, adapter: str) -> Update | None:
        layer: Any = self
        variant = layer.lora_variant.get(adapter)
        if variant is None:
            return lora_update(layer, adapter)
        if isinstance(variant, DoraLinearVariant):
            return lora_update(layer, adapter, magnitude=layer.lora_magnitude_vector[adapter].weight)
        return None


@fuses(SVDLinear)
class FusedSvd(FusedAdapter, SVDLinear):
    """PEFT's AdaLoRA: E as the factors of the ranks."""

    def update_of(self, adapter: str) -> Update:
        layer: Any = self
        return Update(
            a=layer.lora_A[adapter],
            b=layer.lora_B[adapter],
            scaling=1.0,
            dropout=layer.lora_dropout[adapter],
            factors=layer.lora_E[adapter][:, 0] * (layer.scaling[adapter] / (layer.ranknum[adapter] + 1e-5)),
        )


def _drop(rows: torch.Tensor, p: float) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Rows with dropout, by the same draws as ``torch.nn.functional.dropout``, and its mask for ``_dropped``, None without. On
    the CPU the mask is the factor of each element, which multiplies at twice the speed of a bool."""
    if not p:
        return rows, None
    if rows.device.type != "cpu":
        return torch.native_dropout(rows, p, True)
    mask = torch.empty_like(rows, dtype=torch.float32 if rows.itemsize < 4 else rows.dtype).bernoulli_(1 - p).div_(1 - p)
    return (rows * mask).to(rows.dtype), mask


def _dropped(rows: torch.Tensor, mask: torch.Tensor | None, p: float) -> torch.Tensor:
    if mask is None:
        return rows
    if mask.dtype == torch.bool:
        return torch.ops.aten.native_dropout_backward(rows, mask, 1 / (1 - p))
    return (rows * mask).to(rows.dtype)


def _weighted(hidden: torch.Tensor, factors: torch.Tensor | None) -> torch.Tensor:
    return hidden if factors is None else (hidden * factors).to(hidden.dtype)


def _update_gradients(
    ctx: Any,
    dz: torch.Tensor,
    rows: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    factors: torch.Tensor | None,
    mask: torch.Tensor | None,
    hidden: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Gradients of A, B, the factors and A's output, from ``dz`` (n, out), that of scaling B (factors * A dropout(x))."""
    d_b = (dz.t() @ _weighted(hidden, factors)).to(b.dtype).mul_(ctx.scaling)
    d_hidden = (dz @ b.to(ctx.dtype)).mul_(ctx.scaling)
    d_factors = None
    if factors is not None:
        d_factors = (d_hidden * hidden).sum(0, dtype=torch.promote_types(ctx.dtype, factors.dtype)).to(factors.dtype)
        d_hidden = _weighted(d_hidden, factors)
    d_a = (d_hidden.t() @ _dropped(rows, mask, ctx.p).to(ctx.dtype)).to(a.dtype)
    return d_a, d_b, d_factors, d_hidden


class _LoraLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        factors: torch.Tensor | None,
        scaling: float,
        p: float,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1])
        dropped, mask = _drop(rows, p)
        y = F.linear(rows, weight, bias)
        with torch.autocast(x.device.type, enabled=False):
            hidden = dropped.to(dtype) @ a.to(dtype).t()
            y = y.to(dtype).addmm_(_weighted(hidden, factors), b.to(dtype).t(), alpha=scaling).to(y.dtype)
        ctx.save_for_backward(rows, weight, a, b, factors, mask, hidden)
        ctx.scaling, ctx.p, ctx.dtype, ctx.shape = scaling, p, dtype, x.shape
        return y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, weight, a, b, factors, mask, hidden = ctx.saved_tensors
        dtype = ctx.dtype
        dy = grad.reshape(-1, grad.shape[-1])
        d_a, d_b, d_factors, d_hidden = _update_gradients(ctx, dy.to(dtype), rows, a, b, factors, mask, hidden)
        d_x = None
        if ctx.needs_input_grad[0]:
            d_x = dy.to(weight.dtype) @ weight
            if mask is None and d_x.dtype == dtype:
                d_x.addmm_(d_hidden, a.to(dtype))
            else:
                d_x += _dropped(d_hidden @ a.to(dtype), mask, ctx.p)
            d_x = d_x.to(rows.dtype).view(ctx.shape)
        return d_x, None, None, d_a, d_b, d_factors, None, None, None


class _DoraLinear(torch.autograd.Function):
    """y = bias + W0 (x - d(x)) + scale * (W0 d(x) + scaling B A d(x)): as in the official code, dropout d leaves the base
    layer's own output whole."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scale: torch.Tensor,
        scaling: float,
        p: float,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1])
        dropped, mask = _drop(rows, p)
        z = F.linear(dropped, weight)
        with torch.autocast(x.device.type, enabled=False):
            hidden = dropped.to(dtype) @ a.to(dtype).t()
            sum_of_both = z.to(dtype).addmm_(hidden, b.to(dtype).t(), alpha=scaling)
            y = sum_of_both * scale
        if mask is not None:
            y += F.linear(rows - dropped, weight)
        if bias is not None:
            y += bias
        ctx.save_for_backward(rows, weight, a, b, scale, mask, hidden, sum_of_both)
        ctx.scaling, ctx.p, ctx.dtype, ctx.shape = scaling, p, dtype, x.shape
        return y.to(z.dtype).view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, weight, a, b, scale, mask, hidden, sum_of_both = ctx.saved_tensors
        dtype = ctx.dtype
        dy = grad.reshape(-1, grad.shape[-1])
        d_scale = (dy * sum_of_both).sum(0, dtype=torch.promote_types(dtype, scale.dtype)).to(scale.dtype)
        dz = (dy * scale).to(dtype)
        d_a, d_b, _, d_hidden = _update_gradients(ctx, dz, rows, a, b, None, mask, hidden)
        d_x = None
        if ctx.needs_input_grad[0]:
            d_x = dz.to(weight.dtype) @ weight
            if d_x.dtype == dtype:
                d_x.addmm_(d_hidden, a.to(dtype))
            else:
                d_x += d_hidden @ a.to(dtype)
            if mask is not None:
                whole = dy.to(weight.dtype) @ weight
                d_x = _dropped(d_x - whole, mask, ctx.p).add_(whole)
            d_x = d_x.to(rows.dtype).view(ctx.shape)
        return d_x, None, None, d_a, d_b, d_scale, None, None, None
