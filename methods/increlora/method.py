"""The method: settings, importance, growth between steps, artefact."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from harness.config import ConfigError
from methods.base import AdapterSettings, MechanismError, Method, TrainingContext
from methods.increlora.growth import plan_growth, plan_schedule
from methods.peft_support import OperationLog, Steps, orthogonality, resolve_steps, save_plain_lora

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, TrainerCallback

    from methods.increlora.layer import IncreLoraLinear


class IncreLoraSettings(AdapterSettings):
    """``r`` is the final mean rank. Names are the released code's where it has one; the BeamLoRA paper gives no schedule."""

    init_r: int | None = Field(None, ge=1, description="rank of every module at the start; null: r / 2")
    r_max: int | None = Field(None, ge=1, description="largest rank of a module, allocated from the start; null: 2 r")
    incre_rank_num: int | None = Field(
        None, ge=1, description="ranks a module gains at once, and ranks held in reserve; null: r / 8, at least 1"
    )
    top_h: Steps = Field(0.25, gt=0, description="modules that grow at once, or their fraction (released code: 3-25 %)")
    growth_start: Steps = Field(0.1, description="steps before the first growth")
    growth_end: Steps = Field(0.5, description="step by which the budget is spent")
    restart_warmup: Steps = Field(0.01, description="steps in which the learning rate of new ranks climbs to the others'")
    beta1: float = Field(0.85, gt=0, lt=1, description="smoothing of the importance")
    beta2: float = Field(0.85, gt=0, lt=1, description="smoothing of its deviation")
    orth_reg_weight: float = Field(0.1, ge=0, description="weight of the orthogonality term")

    @property
    def initial_rank(self) -> int:
        return self.init_r if self.init_r is not None else self.r // 2

    @property
    def largest_rank(self) -> int:
        return self.r_max if self.r_max is not None else 2 * self.r

    @property
    def ranks_per_module(self) -> int:
        return self.incre_rank_num if self.incre_rank_num is not None else max(1, self.r // 8)

    @model_validator(mode="after")
    def _room_to_grow(self) -> IncreLoraSettings:
        if not 1 <= self.initial_rank < self.r <= self.largest_rank:
            raise ValueError(
                f"found init_r {self.initial_rank}, r {self.r}, r_max {self.largest_rank}, expected 1 <= init_r < r <= r_max"
            )
        return self


@dataclass(frozen=True, kw_only=True)
class Growth:
    """``count`` slots of the module with index ``module``, from slot ``first``, became active before step ``step``."""

    step: int
    module: int
    first: int
    count: int

    @property
    def slots(self) -> slice:
        return slice(self.first, self.first + self.count)


class IncreLora(Method[IncreLoraSettings]):
    """delta W = (lora_alpha / r) B diag(E) A, each module with a rank of its own that grows where the loss asks for it.

    After the gradients of each step, before the optimizer's, module importance = smoothed score times its smoothed
    deviation; at growth steps the ``top_h`` most important modules gain ``incre_rank_num`` ranks each, until the mean rank
    is ``r``. New ranks come from a reserve whose directions already train while their weight is fixed at 1e-5 (advance
    learning), and start with zero moments and a learning-rate warm-up of their own. When the budget is spent, the reserves
    are dropped. Growth does not change what the model computes.

    Differences from IncreLoRA's released code:
    - The score of a module is sum_i |e_i dL/de_i|, e_i the weight of component i: the first-order change of the loss if that
      component were removed. The code sums |delta W * dL/d delta W| over entries, which needs a d x k gradient of every
      module at every step and cannot be added up over micro-batches and processes; ours is the same for any split of a batch.
    - The scaling is lora_alpha / r throughout, as in BeamLoRA's port, where the code divides by the module's current
      rank and so shrinks what a module has learned whenever it grows.
    - The interval follows from ``growth_start``, ``growth_end``, ``top_h`` and ``incre_rank_num`` instead of being a setting,
      so that a run of any length reaches the budget, and exactly.
    - All slots up to ``r_max`` are allocated from the start and masked.

    From the BeamLoRA paper: the settings shared with LoRA. From IncreLoRA's code: betas and orthogonality weight.
    The rest is ours: the paper's runs start at rank 1 and grow with an interval of 1000 steps.
    The artefact is a plain LoRA with E folded in.
    """

    name = "increlora"
    label = "IncreLoRA"
    Settings = IncreLoraSettings
    supports_sharded_optimizer = False

    def wrap(self, model: PreTrainedModel, context: TrainingContext) -> torch.nn.Module:
        """Replace every target module by an IncreLoRA layer and freeze the rest.

        Raises:
            ConfigError: no target module, a target that is not linear, or too few steps to grow in.
        """
        import torch

        s, total = self.settings, context.total_steps
        self._seed = context.seed
        self._total_steps = total
        self._log = OperationLog(context.log_dir)
        model.requires_grad_(False)
        self._layers = _replace_targets(model, s)
        count = len(self._layers)
        self.budget = s.r * count
        self.ranks_per_round = max(1, resolve_steps(s.top_h, total_steps=count)) * s.ranks_per_module
        # Before the first update all weights E, and so all importances, are 0: the first growth is at step 1 or later.
        self.growth_steps = plan_schedule(
            ranks_to_add=self.budget - s.initial_rank * count,
            ranks_per_round=self.ranks_per_round,
            first=max(1, resolve_steps(s.growth_start, total_steps=total)),
            end=min(total, resolve_steps(s.growth_end, total_steps=total)),
        )
        self.warmup = resolve_steps(s.restart_warmup, total_steps=total)
        for name, layer in self._layers.items():
            layer.add_reserve(s.initial_rank, identity=self._identity(name))
            layer.activate(s.initial_rank, weight=0.0)
            self._refill(name)
        self.importance = torch.zeros(count, dtype=torch.float64)
        self.deviation = torch.zeros(count, dtype=torch.float64)
        self.growths: list[Growth] = []
        return model

    def _identity(self, name: str) -> tuple[str, int, str]:
        return (self.name, self._seed, name)

    def _refill(self, name: str) -> None:
        layer = self._layers[name]
        missing = min(self.settings.ranks_per_module, layer.r_max - layer.rank) - layer.reserve
        layer.add_reserve(max(0, missing), identity=self._identity(name))

    @property
    def total_rank(self) -> int:
        """Active ranks over all modules."""
        return sum(layer.rank for layer in self._layers.values())

    def callbacks(self) -> list[TrainerCallback]:
        from transformers import TrainerCallback

        method = self

        class IncreLoraCallback(TrainerCallback):
            """Grows between backward pass and optimizer step, and holds back the step of new ranks."""

            def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, *, optimizer: Any, **kwargs: Any) -> None:
                if method.total_rank < method.budget:
                    method.update_importance()
                    if method.growth_steps.due(state.global_step):
                        method.grow(optimizer, step=state.global_step)
                self._held = method.warming_slots(state.global_step)

            def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                for slots, before, factor in self._held:
                    slots.copy_(before.lerp(slots, factor))

        return [IncreLoraCallback()]

    def extra_work(self) -> dict[str, Collection[int]]:
        """Importances until the budget is spent, growth, and the held-back steps of new ranks. Rank limits can delay the last
        growths; that is not foreseen here."""
        planned = self.growth_steps
        growths = [s for s in range(planned.first, planned.first + planned.span) if planned.due(s)]
        warming = {s + k for s in growths for k in range(self.warmup) if s + k < self._total_steps}
        return {
            "importance": range(1, growths[-1] + 2),
            "growth": [s + 1 for s in growths],
            "warm-up": sorted(s + 1 for s in warming),
        }

    def update_importance(self) -> None:
        """Add this step's gradients to the smoothed scores (Eq. 8-9 of AdaLoRA, per module)."""
        import torch

        layers = self._layers.values()
        score = torch.stack([(layer.lora_E * _gradient(layer.lora_E)).abs().sum() for layer in layers]).detach().double().cpu()
        s = self.settings
        self.importance = s.beta1 * self.importance + (1 - s.beta1) * score
        self.deviation = s.beta2 * self.deviation + (1 - s.beta2) * (score - self.importance).abs()

    def grow(self, optimizer: torch.optim.Optimizer, *, step: int) -> None:
        """Activate reserves of the most important modules and draw new ones. Same on every process."""
        layers = list(self._layers.items())
        plan = plan_growth(
            [layer.rank for _, layer in layers],
            (self.importance * self.deviation).tolist(),
            r_max=self.settings.largest_rank,
            budget=self.budget,
            ranks_per_round=self.ranks_per_round,
            ranks_per_module=self.settings.ranks_per_module,
        )
        for module, count in plan.items():
            name, layer = layers[module]
            growth = Growth(step=step, module=module, first=layer.rank, count=count)
            layer.activate(count)
            self._refill(name)
            _zero_moments(optimizer, layer, growth.slots)
            self.growths.append(growth)
        if self.total_rank == self.budget:
            for _, layer in layers:
                _zero_moments(optimizer, layer, slice(layer.rank, layer.used))
                layer.drop_reserve()
        self._log.write(
            {
                "operation": "grow",
                "step": step,
                "total_rank": self.total_rank,
                "added": {layers[module][0]: count for module, count in plan.items()},
            }
        )

    def warming_slots(self, step: int) -> list[tuple[torch.Tensor, torch.Tensor, float]]:
        """Views of the slots whose learning rate still climbs, their values, and the factor on their step.

        AdamW's step is proportional to the learning rate, so scaling the step is a learning rate per slot.
        """
        layers = list(self._layers.values())
        held = []
        for growth in self.growths:
            if step - growth.step < self.warmup:
                factor = (step - growth.step + 1) / (self.warmup + 1)
                for parameter, index in _slot_views(layers[growth.module], growth.slots):
                    held.append((parameter.data[index], parameter.data[index].clone(), factor))
        return held

    def regularizer(self, model: torch.nn.Module) -> torch.Tensor | None:
        """weight * mean over all A and B, reserves included, of |P^T P - I|_F."""
        if self.settings.orth_reg_weight == 0:
            return None
        return self.settings.orth_reg_weight * orthogonality(layer.directions() for layer in self._layers.values())

    def state_dict(self) -> dict[str, Any]:
        """Ranks and reserves per module, the smoothed scores, and all growths so far."""
        return {
            "ranks": [layer.rank for layer in self._layers.values()],
            "reserves": [layer.reserve for layer in self._layers.values()],
            "importance": self.importance,
            "deviation": self.deviation,
            "growths": [asdict(growth) for growth in self.growths],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for layer, rank, reserve in zip(self._layers.values(), state["ranks"], state["reserves"], strict=True):
            layer.rank, layer.reserve = rank, reserve
        self.importance, self.deviation = state["importance"].clone(), state["deviation"].clone()
        self.growths = [Growth(**growth) for growth in state["growths"]]

    def evidence(self, model: torch.nn.Module) -> dict[str, Any]:
        """The ranks of all modules at the end.

        Raises:
            MechanismError: the ranks did not grow to the budget.
        """
        if self.total_rank != self.budget:
            raise MechanismError(
                f"IncreLoRA ended with {self.total_rank} ranks after {len(self.growths)} growths, expected {self.budget}"
            )
        ranks = {name: layer.rank for name, layer in self._layers.items()}
        return {
            "growths": len(self.growths),
            "initial_rank": self.settings.initial_rank,
            "ranks": ranks,
            "mean_rank": self.total_rank / len(ranks),
            "parameters_at_end": sum(
                layer.rank * (layer.in_features + layer.out_features + 1) for layer in self._layers.values()
            ),
        }

    def finalize(self, model: Any, output_dir: Path) -> None:
        """Write the plain LoRA."""
        factors = {name: layer.factors() for name, layer in self._layers.items()}
        save_plain_lora(factors, output_dir, base_name=model.config.name_or_path or None)


def _gradient(parameter: torch.nn.Parameter) -> torch.Tensor:
    assert parameter.grad is not None, "found no gradient, expected a call between the backward pass and zero_grad"
    return parameter.grad


def _replace_targets(model: PreTrainedModel, settings: IncreLoraSettings) -> dict[str, IncreLoraLinear]:
    import torch

    from methods.increlora.layer import IncreLoraLinear

    targets = [name for name, _ in model.named_modules() if name.rsplit(".", 1)[-1] in settings.target_modules]
    layers = {}
    for name in targets:
        module = model.get_submodule(name)
        if not isinstance(module, torch.nn.Linear):
            raise ConfigError(f"target_modules: found {name} of type {type(module).__name__}, expected torch.nn.Linear")
        layers[name] = IncreLoraLinear(
            module, r_max=settings.largest_rank, scaling=settings.lora_alpha / settings.r, dropout=settings.lora_dropout
        )
        model.set_submodule(name, layers[name])
    if not layers:
        raise ConfigError(f"target_modules: found no module named {', '.join(settings.target_modules)} in the model")
    return layers


def _slot_views(layer: IncreLoraLinear, slots: slice) -> list[tuple[torch.nn.Parameter, Any]]:
    """The layer's parameters, each with the index of ``slots`` in it."""
    return [(layer.lora_A, slots), (layer.lora_E, slots), (layer.lora_B, (slice(None), slots))]


def _zero_moments(optimizer: torch.optim.Optimizer, layer: IncreLoraLinear, slots: slice) -> None:
    for parameter, index in _slot_views(layer, slots):
        for moment in optimizer.state.get(parameter, {}).values():
            if moment.shape == parameter.shape:
                moment[index] = 0
