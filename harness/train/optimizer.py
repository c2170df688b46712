"""How trained weights of dtype bfloat16 move without losing their updates (``TrainingSpec.bf16_update``)."""

from __future__ import annotations

from typing import Any

import torch


def train_in_float32(model: torch.nn.Module) -> None:
    """Give the trained weights of a model dtype float32; frozen ones keep theirs."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


class KahanAdamW(torch.optim.AdamW):
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) in float32 on weights, moments and gradients of dtype bfloat16.

    A weight of bfloat16 has 8 significant bits: an update below 1/512 of it is rounded away, step after step. Compensated
    (Kahan) summation, as Zamirai et al. 2020 (arXiv 2010.06192) use it for this, keeps what rounding cut off beside the weight
    and adds it to the next update: 16 significant bits together. The second moment, whose change by 1 - beta2 = 0.001 is below
    1/512 too, is rounded up or down at random instead, with the exact one as its mean; the random numbers are those of the
    step, the same on every process and in a resumed run. With its gradient a weight takes 10 bytes; fp32 masters take 16.
    """

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Without AdamW's, which turns the number of steps into a tensor."""
        torch.optim.Optimizer.__setstate__(self, state)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One optimizer step.

        Raises:
            ValueError: a closure, which nothing here needs.
        """
        if closure is not None:
            raise ValueError("closure: found one, expected none")
        generators: dict[torch.device, torch.Generator] = {}
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                if not self.state[weight]:
                    self.state[weight] = {"step": 0} | {
                        name: torch.zeros_like(weight) for name in ("exp_avg", "exp_avg_sq", "compensation")
                    }
                state = self.state[weight]
                state["step"] += 1
                if weight.device not in generators:
                    generators[weight.device] = torch.Generator(weight.device).manual_seed(state["step"])
                _update(weight, state, group, generators[weight.device])


def _update(weight: torch.Tensor, state: dict[str, Any], group: dict[str, Any], generator: torch.Generator) -> None:
    """AdamW's update of one tensor, in float32; only one tensor at a time exists in it."""
    beta1, beta2 = group["betas"]
    step, gradient = state["step"], weight.grad.float()  # type: ignore[union-attr]
    first = state["exp_avg"].float().lerp_(gradient, 1 - beta1)
    second = state["exp_avg_sq"].float().mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    state["exp_avg"].copy_(first)
    state["exp_avg_sq"].copy_(_rounded_at_random(second, generator))
    exact = weight.float().add_(state["compensation"])
    exact.mul_(1 - group["lr"] * group["weight_decay"])
    denominator = second.div_(1 - beta2**step).sqrt_().add_(group["eps"])
    exact.addcdiv_(first, denominator, value=-group["lr"] / (1 - beta1**step))
    weight.copy_(exact)
    state["compensation"].copy_(exact.sub_(weight))


def _rounded_at_random(values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Positive float32 values that bfloat16 holds: each one of its two neighbours there, its mean the value."""
    bits = values.view(torch.int32)
    noise = torch.randint(1 << 16, bits.shape, dtype=torch.int32, device=bits.device, generator=generator)
    return bits.add(noise).bitwise_and_(-1 << 16).view(torch.float32)
