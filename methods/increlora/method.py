"""The method: settings, importance, growth between steps, artefact."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from harness.errors import ConfigError
from methods.base import AdapterSettings, MechanismError, Method, OperationSteps, TrainingContext
from methods.increlora.growth import GrowthSchedule, plan_growth, plan_schedule
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
    def largest_rank_setting(self) -> str:
        return "r" if self.r_max is None else "r_max"

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
    """What began to train in the module with index ``module`` at the 0-based step ``step``: the weights E of ``count`` slots
    from ``first``, which left the reserve, and the directions A and B of the ``drawn`` slots that took their place in it."""

    step: int
    module: int
    first: int
    count: int
    drawn_first: int
    drawn: int

    def parts(self, layer: IncreLoraLinear) -> list[tuple[torch.nn.Parameter, Any]]:
        """The layer's parameters, each with the index of these slots in it; those that were given up since are left out."""
        active = slice(self.first, self.first + self.count)
        drawn = slice(self.drawn_first, min(self.drawn_first + self.drawn, layer.used))
        return [(layer.lora_E, active), (layer.lora_A, drawn), (layer.lora_B, (slice(None), drawn))]


@dataclass(frozen=True, kw_only=True)
class Young:
    """Part of a parameter that began to train after the others, as it is before a step of the optimizer."""

    parameter: torch.nn.Parameter
    index: Any
    before: torch.Tensor
    #: This step's number since the part began to train, from 1.
    age: int
    #: Factor on the learning rate.
    warmth: float


class IncreLora(Method[IncreLoraSettings]):
    """delta W = (lora_alpha / r) B diag(E) A, each module with a rank of its own that grows where the loss asks for it.

    After the gradients of each step, before the optimizer's, module importance = smoothed score times its smoothed
    deviation; at growth steps the ``top_h`` most important modules gain ``incre_rank_num`` ranks each, until the mean rank
    is ``r``. New ranks come from a reserve whose directions already train while their weight is fixed at 1e-5 (advance
    learning), and go on with the moments that they have. What begins to train at a growth, the weights of these ranks and the
    directions of the reserve that replaces them, takes AdamW's first steps, counted from there, and a learning-rate warm-up of
    its own. When the budget is spent, the reserves are dropped. Growth does not change what the model computes.

    Differences from IncreLoRA's released code:
    - The score of a module is sum_i |e_i dL/de_i|, e_i the weight of component i: the first-order change of the loss if that
      component were removed. The code sums |delta W * dL/d delta W| over entries, which needs a d x k gradient of every
      module at every step and cannot be added up over micro-batches and processes; ours is the same for any split of a batch.
    - The scaling is lora_alpha / r throughout, as in BeamLoRA's port, where the code divides by the module's current
      rank and so shrinks what a module has learned whenever it grows.
    - The interval follows from ``growth_start``, ``growth_end``, ``top_h`` and ``incre_rank_num`` instead of being a setting,
      so that a run of any length reaches the budget, and exactly.
    - All slots up to ``r_max`` are allocated from the start and masked; the code adds parameters, in groups of their own.

    From the BeamLoRA paper: the settings shared with LoRA. From IncreLoRA's code: betas and orthogonality weight.
    The rest is ours: the paper's runs start at rank 1 and grow with an interval of 1000 steps.
    The artefact is a plain LoRA with E folded in.
    """

    name = "increlora"
    label = "IncreLoRA"
    Settings = IncreLoraSettings

    def trained_parameters(self, base: int, layers: Iterable[tuple[int, int]]) -> int:
        """A, E and B of the largest rank, which is allocated from the start."""
        return sum(self.settings.largest_rank * (inputs + outputs + 1) for inputs, outputs in layers)

    def _plan(self, total: int, *, ranks_to_add: int, a_round: int) -> GrowthSchedule:
        """When modules grow in a run of ``total`` steps. Before the first update all weights E, and so all importances, are 0:
        not before step 1."""
        first, end = (resolve_steps(v, total_steps=total) for v in (self.settings.growth_start, self.settings.growth_end))
        return plan_schedule(ranks_to_add=ranks_to_add, ranks_per_round=a_round, first=max(1, first), end=min(total, end))

    def schedule(self, *, total_steps: int, steps_per_epoch: int) -> OperationSteps:
        """None are operated on; the run is held against the settings, as if one round were enough."""
        self._plan(total_steps, ranks_to_add=1, a_round=1)
        return OperationSteps()

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
        self.growth_steps = self._plan(total, ranks_to_add=self.budget - s.initial_rank * count, a_round=self.ranks_per_round)
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
            """Grows between backward pass and optimizer step, and makes the steps of what has begun to train since."""

            def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, *, optimizer: Any, **kwargs: Any) -> None:
                if method.total_rank < method.budget:
                    method.update_importance()
                    if method.growth_steps.due(state.global_step):
                        method.grow(optimizer, step=state.global_step)
                self._young = method.young(state.global_step)

            def on_optimizer_step(self, args: Any, state: Any, control: Any, *, optimizer: Any, **kwargs: Any) -> None:
                step_young(self._young, optimizer)

        return [IncreLoraCallback()]

    def extra_work(self) -> dict[str, Collection[int]]:
        """Importances until the budget is spent, growth, and the steps of new ranks. Rank limits can delay the last growths;
        that is not foreseen here."""
        planned = self.growth_steps
        growths = [s for s in range(planned.first, planned.first + planned.span) if planned.due(s)]
        return {
            "importance": range(1, growths[-1] + 2),
            "growth": [s + 1 for s in growths],
            "new ranks": range(growths[0] + 2, self._total_steps + 1),
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
            first, used = layer.rank, layer.used
            layer.activate(count)
            self._refill(name)
            drawn = layer.used - used
            self.growths.append(Growth(step=step, module=module, first=first, count=count, drawn_first=used, drawn=drawn))
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

    def young(self, step: int) -> list[Young]:
        """What has begun to train since the first step, before the 0-based ``step``."""
        layers = list(self._layers.values())
        young = []
        for growth in self.growths:
            age = step - growth.step  # the gradients of the growth's own step are older than it
            if age == 0:
                continue
            warmth = min(1.0, age / (self.warmup + 1))
            for parameter, index in growth.parts(layers[growth.module]):
                before = parameter.detach()[index].clone()
                young.append(Young(parameter=parameter, index=index, before=before, age=age, warmth=warmth))
        return young

    def regularizer(self, model: torch.nn.Module) -> torch.Tensor | None:
        """weight * mean over the pieces of all A and B, reserves included, of |P^T P - I|_F. A piece is what was drawn at once:
        the code keeps it as a parameter of its own, and takes the term over parameters."""
        if self.settings.orth_reg_weight == 0:
            return None
        pieces = (piece for layer in self._layers.values() for piece in layer.pieces())
        return self.settings.orth_reg_weight * orthogonality(pieces)

    def state_dict(self) -> dict[str, Any]:
        """Ranks and reserves per module, the smoothed scores, and all growths so far."""
        return {
            "ranks": [layer.rank for layer in self._layers.values()],
            "reserves": [layer.reserve for layer in self._layers.values()],
            "drawn": [list(layer.drawn) for layer in self._layers.values()],
            "importance": self.importance,
            "deviation": self.deviation,
            "growths": [asdict(growth) for growth in self.growths],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        columns = (state["ranks"], state["reserves"], state["drawn"])
        for layer, rank, reserve, drawn in zip(self._layers.values(), *columns, strict=True):
            layer.rank, layer.reserve, layer.drawn = rank, reserve, list(drawn)
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


def step_young(young: Sequence[Young], optimizer: torch.optim.Optimizer) -> None:
    """Replace the step that AdamW has just made for each part by the one that it makes for a parameter of that age.

    The moments of a part are those of a parameter of its own, as they are 0 until it trains; only the corrections of their
    bias go by the step count that the whole parameter has.

    Raises:
        ConfigError: the optimizer is another than AdamW, or keeps the largest second moments.
    """
    if not young:
        return
    groups = {parameter: group for group in optimizer.param_groups for parameter in group["params"]}
    for part in young:
        group, state = groups[part.parameter], optimizer.state[part.parameter]
        if "exp_avg_sq" not in state or group.get("amsgrad"):
            raise ConfigError(f"increlora: found optimizer {type(optimizer).__name__}, expected AdamW without amsgrad")
        rate, (beta1, beta2) = float(group["lr"]) * part.warmth, group["betas"]
        first = state["exp_avg"][part.index] / (1 - beta1**part.age)
        second = state["exp_avg_sq"][part.index] / (1 - beta2**part.age)
        kept = part.before * (1 - rate * group["weight_decay"])
        part.parameter.data[part.index] = kept.addcdiv_(first, second.sqrt_().add_(group["eps"]), value=-rate)


def _zero_moments(optimizer: torch.optim.Optimizer, layer: IncreLoraLinear, slots: slice) -> None:
    for parameter, index in ((layer.lora_A, slots), (layer.lora_E, slots), (layer.lora_B, (slice(None), slots))):
        for moment in optimizer.state.get(parameter, {}).values():
            if moment.shape == parameter.shape:
                moment[index] = 0
