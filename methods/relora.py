"""ReLoRA (Lialin et al. 2024, arXiv 2307.05695): LoRA that is merged and restarted, so that the update gains rank."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from harness.errors import ConfigError
from methods.base import AdapterSettings, MechanismError, OperationSteps, TrainingContext
from methods.lora import Lora
from methods.peft_support import (
    ADAPTER,
    OperationLog,
    Steps,
    adapted_layers,
    private_generator,
    resolve_steps,
    save_full_model,
)

if TYPE_CHECKING:
    import torch
    from peft.tuners.lora import LoraLayer
    from transformers import TrainerCallback


class ReloraSettings(AdapterSettings):
    """LoRA's settings, and when and how to restart. The BeamLoRA paper gives none of the latter: they are ours."""

    merge_every: Steps = Field(0.1, gt=0, description="steps of one cycle; no merge in the last cycle's length of the run")
    restart_warmup: Steps = Field(
        0.005, description="steps in which the learning rate climbs back after a merge (ReLoRA: 50-100 steps)"
    )
    reset_fraction: float = Field(
        1.0,
        gt=0,
        le=1,
        description="part of each Adam moment that is set to zero at a merge; 1 clears the state and its step count "
        "(BeamLoRA's released code). ReLoRA's text prunes 0.99 by magnitude, its code 0.9 by magnitude or 0.999 at random",
    )
    reset_choice: Literal["magnitude", "random"] = Field(
        "magnitude", description="which part: the smallest magnitudes, or each entry with this probability (ReLoRA's code)"
    )


class Relora(Lora):
    """Every ``merge_every`` steps W += s B A, A is drawn again, B = 0, the optimizer state reset, the learning rate re-warmed.

    The BeamLoRA paper (A.2) trains ReLoRA with the settings of Full-FT (learning rate 2e-5 or 5e-6, batch 128), and states
    neither the cycle nor the warm-up. Unlike ReLoRA's pre-training recipe, embeddings and norms stay frozen and there is
    no full-rank start. Within a cycle the scheduler's rate is multiplied by (k + 1) / (restart_warmup + 1) at the k-th step
    after a merge. The scheduler itself is not touched, so the logged rate is the one without this factor.

    On a base that is not float32 merging would round most of the update away: a float32 copy of the target weights is then
    kept in host memory (4 bytes per parameter) and the base is its rounded image.
    A checkpoint holds A and B of each merge, at 7B 0.6 GB each, and a resumed run merges them again.
    The artefact is the full merged model: the sum of the cycles' updates is not a rank-r adapter.
    """

    name = "relora"
    label = "ReLoRA"
    settings: ReloraSettings
    Settings = ReloraSettings
    prunable = False

    def _lengths(self, total: int) -> tuple[int, int]:
        """Steps of a cycle, and of the warm-up after a merge."""
        cycle = max(1, resolve_steps(self.settings.merge_every, total_steps=total))
        warmup = resolve_steps(self.settings.restart_warmup, total_steps=total)
        if 2 * cycle > total:
            raise ConfigError(
                f"merge_every: found {cycle} steps, expected at most half of the run's {total} steps: no merge would happen"
            )
        if warmup >= cycle:
            raise ConfigError(f"restart_warmup: found {warmup} steps, expected fewer than merge_every ({cycle})")
        return cycle, warmup

    def schedule(self, *, total_steps: int, steps_per_epoch: int) -> OperationSteps:
        """None are operated on; the run is held against the settings."""
        self._lengths(total_steps)
        return OperationSteps()

    def wrap(self, model: Any, context: TrainingContext) -> torch.nn.Module:
        """LoRA, and the schedule of merges.

        Raises:
            ConfigError: the run is too short for a single merge, or the warm-up is as long as a cycle.
        """
        import torch

        self._context = context
        self._log = OperationLog(context.log_dir)
        self.cycle, self.warmup = self._lengths(context.total_steps)
        self.merge_steps: list[int] = []
        self._model = super().wrap(model, context)
        #: Module -> (A, B) of each merge so far, from which a resumed run makes the weights again; without the modules whose
        #: weights are smaller by now.
        self._factors: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {name: [] for name in adapted_layers(self._model)}
        self._masters = {
            name: layer.get_base_layer().weight.detach().float().cpu()
            for name, layer in adapted_layers(self._model).items()
            if layer.get_base_layer().weight.dtype != torch.float32 and not layer.get_base_layer().weight.is_meta
        }
        return self._model

    def merge_due(self, step: int) -> bool:
        """Whether to merge after ``step`` optimizer steps: at each cycle's end, while a whole cycle still follows."""
        return step > 0 and step % self.cycle == 0 and self._context.total_steps - step >= self.cycle

    def extra_work(self) -> dict[str, Collection[int]]:
        """Merging and restarting."""
        return {"merge": [step for step in range(1, self._context.total_steps + 1) if self.merge_due(step)]}

    def learning_rate_factor(self, step: int) -> float:
        """The multiplier of the scheduler's rate at the 0-based ``step``."""
        if not self.merge_steps:
            return 1.0
        return min(1.0, (step - self.merge_steps[-1] + 1) / (self.warmup + 1))

    def callbacks(self) -> list[TrainerCallback]:
        from transformers import TrainerCallback

        method = self

        class ReloraCallback(TrainerCallback):
            """Re-warms the rate around each optimizer step and restarts at the end of each cycle."""

            def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, *, optimizer: Any, **kwargs: Any) -> None:
                self._rates = [group["lr"] for group in optimizer.param_groups]
                factor = method.learning_rate_factor(state.global_step)
                for group in optimizer.param_groups:
                    group["lr"] *= factor

            def on_optimizer_step(self, args: Any, state: Any, control: Any, *, optimizer: Any, **kwargs: Any) -> None:
                for group, rate in zip(optimizer.param_groups, self._rates, strict=True):
                    group["lr"] = rate

            def on_step_end(self, args: Any, state: Any, control: Any, *, optimizer: Any, **kwargs: Any) -> None:
                if method.merge_due(state.global_step):
                    method.restart(optimizer, step=state.global_step)

        return [ReloraCallback()]

    def restart(self, optimizer: torch.optim.Optimizer, *, step: int) -> None:
        """Merge, draw A anew, and reset the moments of A and B inside the existing optimizer. Same on every process."""
        self._keep_factors()
        norm = self._merge()
        self.merge_steps.append(step)
        for name, layer in adapted_layers(self._model).items():
            a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
            _draw_kaiming(a, private_generator("relora", self._context.seed, len(self.merge_steps), name))
            b.data.zero_()
            for factor, parameter in (("A", a), ("B", b)):
                identity = ("relora-reset", self._context.seed, len(self.merge_steps), name, factor)
                _reset_moments(optimizer, parameter, settings=self.settings, generator=private_generator(*identity))
        self._log.write({"operation": "merge", "step": step, "update_norm": norm})

    def _keep_factors(self) -> None:
        for name, layer in adapted_layers(self._model).items():
            if name not in self._factors:
                continue
            a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
            merges = len(self._factors[name]) + 1
            if merges * (a.numel() + b.numel()) < layer.get_base_layer().weight.numel():
                self._factors[name].append((a.detach().cpu().clone(), b.detach().cpu().clone()))
            else:
                del self._factors[name]

    def _merge(self) -> float:
        """W += s B A in float32 for every target; returns the Frobenius norm of the whole update."""
        return math.sqrt(
            sum(
                self._add(name, layer, layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight)
                for name, layer in adapted_layers(self._model).items()
            )
        )

    def _add(self, name: str, layer: LoraLayer, a: torch.Tensor, b: torch.Tensor) -> float:
        """W += s B A in float32 for one target; returns the square of the update's norm."""
        import torch

        weight = layer.get_base_layer().weight
        with torch.no_grad():
            update = layer.scaling[ADAPTER] * (b.float() @ a.float())
            if name in self._masters:
                self._masters[name] += update.cpu()
                weight.copy_(self._masters[name])
            else:
                weight += update
        return float(update.square().sum())

    def disk_parameters(self, *, adapter: int, base: int) -> tuple[int, int]:
        """A full model; in a checkpoint the factors of each merge, or the weights where these are smaller."""
        cycle = self.settings.merge_every
        merged = int(1 / cycle) * adapter if isinstance(cycle, float) else base
        return base, 3 * adapter + min(merged, base)

    def state_dict(self) -> dict[str, Any]:
        """What was merged; the base itself is the model's own, and its image in another dtype follows from it."""
        weights = {
            name: self._masters.get(name, layer.get_base_layer().weight.detach().cpu())
            for name, layer in adapted_layers(self._model).items()
            if name not in self._factors
        }
        return {"merge_steps": list(self.merge_steps), "factors": self._factors, "weights": weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.merge_steps = list(state["merge_steps"])
        self._factors = state["factors"]
        for name, layer in adapted_layers(self._model).items():
            weight = layer.get_base_layer().weight
            for a, b in self._factors.get(name, []):
                self._add(name, layer, a.to(weight.device), b.to(weight.device))
            if name in state["weights"]:
                if name in self._masters:
                    self._masters[name].copy_(state["weights"][name])
                weight.data.copy_(state["weights"][name])

    def evidence(self, model: torch.nn.Module) -> dict[str, Any]:
        """When the adapter was merged."""
        if not self.merge_steps:
            raise MechanismError(f"ReLoRA never merged in {self._context.total_steps} steps (merge_every {self.cycle})")
        return {"merges": len(self.merge_steps), "merge_steps": self.merge_steps}

    def finalize(self, model: Any, output_dir: Path) -> None:
        """Merge the last cycle and write the full model. The adapter is gone afterwards."""
        self._merge()
        save_full_model(model.unload(), output_dir)


def _draw_kaiming(a: torch.nn.Parameter, generator: torch.Generator) -> None:
    """Kaiming-uniform with a = sqrt(5), as PEFT draws A, from a private CPU stream."""
    import torch

    fresh = torch.empty(a.shape)
    torch.nn.init.kaiming_uniform_(fresh, a=math.sqrt(5), generator=generator)
    a.data.copy_(fresh)


def _reset_moments(
    optimizer: torch.optim.Optimizer, parameter: torch.nn.Parameter, *, settings: ReloraSettings, generator: torch.Generator
) -> None:
    """Drop the parameter's optimizer state, or set ``reset_fraction`` of each moment to zero, chosen by ``reset_choice``."""
    import torch

    fraction = settings.reset_fraction
    if fraction == 1:
        optimizer.state.pop(parameter, None)
        return
    for moment in optimizer.state[parameter].values():
        if moment.shape != parameter.shape:  # the step count
            continue
        if settings.reset_choice == "random":
            moment.masked_fill_((torch.rand(moment.shape, generator=generator) < fraction).to(moment.device), 0)
        else:
            smallest = moment.abs().flatten().argsort(stable=True)[: round(fraction * moment.numel())]
            moment.view(-1)[smallest] = 0
