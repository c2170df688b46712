"""AdaLoRA (Zhang et al. 2023, arXiv 2303.10512), from PEFT: ranks are taken from unimportant modules during training."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from harness.errors import ConfigError
from methods.base import AdapterSettings, MechanismError, Method, OperationSteps, TrainingContext
from methods.peft_support import (
    ADAPTER,
    LoraFactors,
    OperationLog,
    Steps,
    adapted_layers,
    add_adapter,
    orthogonality,
    resolve_steps,
    save_adapter,
    save_plain_lora,
)

if TYPE_CHECKING:
    import torch
    from peft.tuners.lora import LoraLayer
    from transformers import PreTrainedModel, TrainerCallback

#: What PEFT adds to the rank in the denominator of the scaling.
RANK_EPSILON = 1e-5


class AdaloraSettings(AdapterSettings):
    """``r`` is the final mean rank (PEFT's target_r). Names are PEFT's. The BeamLoRA paper gives none of the schedule."""

    init_r: int | None = Field(None, ge=2, description="rank of every module at the start; null: 1.5 r (AdaLoRA, section 4)")
    tinit: Steps = Field(0.1, description="steps before the first allocation (AdaLoRA's MNLI run: 9 % of the total)")
    tfinal: Steps = Field(0.5, description="last steps, at least 1, with fixed ranks (AdaLoRA's MNLI run: 58 % of the total)")
    deltaT: Steps = Field(0.001, gt=0, description="steps between allocations (AdaLoRA's MNLI run: 0.1 % of the total)")
    beta1: float = Field(0.85, gt=0, lt=1, description="smoothing of the importance")
    beta2: float = Field(0.85, gt=0, lt=1, description="smoothing of its deviation")
    orth_reg_weight: float = Field(0.1, ge=0, description="weight of the orthogonality term (AdaLoRA: 0.1; PEFT: 0.5)")

    @property
    def initial_rank(self) -> int:
        """The rank of every module before the first allocation."""
        return self.init_r if self.init_r is not None else math.ceil(1.5 * self.r)

    @property
    def largest_rank(self) -> int:
        """PEFT allocates and keeps the initial rank; allocation only masks."""
        return self.initial_rank

    @property
    def largest_rank_setting(self) -> str:
        return "r" if self.init_r is None else "init_r"

    @model_validator(mode="after")
    def _room_to_prune(self) -> AdaloraSettings:
        if self.initial_rank <= self.r:
            raise ValueError(f"init_r: found {self.initial_rank}, expected more than the final mean rank r = {self.r}")
        return self


class Adalora(Method[AdaloraSettings]):
    """delta W = (lora_alpha / init_r) B diag(E) A; the triplets of least importance are masked until r per module remain.

    Importance is the smoothed |weight * gradient| times its smoothed deviation (Eq. 8-11); the budget falls with a cubic
    schedule (Eq. 19) between ``tinit`` and total - ``tfinal``. The allocation runs after each optimizer step, on the new
    weights and the (clipped, accumulated, all-reduced) gradients of that step, with a 0-based step, as in AdaLoRA's code.
    The orthogonality term reaches the loop through ``regularizer``; PEFT adds its own only where the model computes a loss,
    which the loop avoids: there it grows with gradient accumulation and the number of processes.
    The scaling stays lora_alpha / init_r, because PEFT masks triplets without renormalising.

    From the BeamLoRA paper: the settings shared with LoRA. Its released code has orthogonality weight 0.1 and betas 0.85
    as defaults; which initial rank and schedule the paper's numbers used is unknown. ``init_r``, the schedule and the
    weight follow AdaLoRA's own paper, in fractions of the run.
    Artefacts: PEFT's native adapter, and in ``lora/`` the same update as a plain LoRA with E folded in.
    """

    name = "adalora"
    label = "AdaLoRA"
    Settings = AdaloraSettings

    def trained_parameters(self, base: int, layers: Iterable[tuple[int, int]]) -> int:
        """A, E and B of the largest rank, which is allocated from the start."""
        return sum(self.settings.largest_rank * (inputs + outputs + 1) for inputs, outputs in layers)

    def _ends(self, total: int) -> tuple[int, int]:
        """Steps before the first allocation, and after the last one."""
        # PEFT fixes the ranks at the 0-based step total - tfinal, which must exist.
        tinit = resolve_steps(self.settings.tinit, total_steps=total)
        tfinal = max(1, resolve_steps(self.settings.tfinal, total_steps=total))
        if tinit >= total - tfinal:
            raise ConfigError(f"tinit: found {tinit} steps, expected fewer than total - tfinal = {total} - {tfinal}")
        return tinit, tfinal

    def schedule(self, *, total_steps: int, steps_per_epoch: int) -> OperationSteps:
        """None are operated on; the run is held against the settings."""
        self._ends(total_steps)
        return OperationSteps()

    def wrap(self, model: PreTrainedModel, context: TrainingContext) -> torch.nn.Module:
        """Add the adapter.

        Raises:
            ConfigError: the schedule leaves no step for an allocation.
        """
        from peft import AdaLoraConfig

        s, total = self.settings, context.total_steps
        tinit, tfinal = self._ends(total)
        config = AdaLoraConfig(
            init_r=s.initial_rank,
            target_r=s.r,
            lora_alpha=s.lora_alpha,
            lora_dropout=s.lora_dropout,
            target_modules=list(s.target_modules),
            tinit=tinit,
            tfinal=tfinal,
            deltaT=max(1, resolve_steps(s.deltaT, total_steps=total)),
            beta1=s.beta1,
            beta2=s.beta2,
            orth_reg_weight=s.orth_reg_weight,
            total_step=total,
            bias="none",
            task_type="CAUSAL_LM",
        )
        self._log = OperationLog(context.log_dir)
        self._model = add_adapter(model, config, seed=context.seed)
        self._layers = adapted_layers(self._model)
        for layer in self._layers.values():
            # Where PEFT moves this constant of the scaling to a GPU or casts it, it becomes a trained parameter of the
            # base's dtype, which a saved adapter leaves out.
            ranknum = layer.ranknum[ADAPTER].requires_grad_(False)
            ranknum.data = ranknum.data.float().fill_(s.initial_rank)
        self._config = self._model.peft_config[ADAPTER]
        self._allocator = self._model.base_model.rankallocator
        self._allocations = 0
        return self._model

    def callbacks(self) -> list[TrainerCallback]:
        from transformers import TrainerCallback

        method = self

        class AdaloraCallback(TrainerCallback):
            """Runs PEFT's allocation where the step is done and its gradients are still there."""

            def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                method.allocate(state.global_step)

        return [AdaloraCallback()]

    def allocate(self, step: int) -> None:
        """Update importances and, where the schedule says so, the masks. ``step`` is 0-based."""
        before = self._config.rank_pattern
        self._model.base_model.update_and_allocate(step)
        if self._config.rank_pattern is not before:
            self._allocations += 1
            self._log.write({"operation": "allocate", "step": step, "ranks": self.ranks()})

    def extra_work(self) -> dict[str, Collection[int]]:
        """Importances until the ranks are fixed, allocations among these steps, and masking by the fixed ranks afterwards."""
        config, total = self._config, self._config.total_step
        fixed = total - config.tfinal  # 0-based, as PEFT's other steps
        return {
            "importance": range(1, fixed + 2),
            "allocation": [s + 1 for s in range(config.tinit + 1, fixed + 1) if s % config.deltaT == 0 or s == fixed],
            "masking": range(fixed + 2, total + 1),
        }

    def regularizer(self, model: torch.nn.Module) -> torch.Tensor | None:
        """weight * mean over all A and B of |P^T P - I|_F (Eq. 4)."""
        if self.settings.orth_reg_weight == 0:
            return None
        return self.settings.orth_reg_weight * orthogonality(
            (layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]) for layer in self._layers.values()
        )

    def ranks(self) -> dict[str, int]:
        """Unmasked triplets per module; the initial rank before the first allocation."""
        return {name: int(sum(mask)) for name, mask in self._masks().items()}

    def _masks(self) -> dict[str, list[bool]]:
        pattern = self._config.rank_pattern or {}
        # PEFT's keys are module names in the base model followed by .lora_E.default, or by .lora_E after a save.
        by_module = {key.split(".lora_E")[0]: mask for key, mask in pattern.items()}
        return {name: by_module.get(name, [True] * self.settings.initial_rank) for name in self._layers}

    def state_dict(self) -> dict[str, Any]:
        """The smoothed importances, the current masks, and how often they were set."""
        return {
            "exp_avg_ipt": dict(self._allocator.exp_avg_ipt),
            "exp_avg_unc": dict(self._allocator.exp_avg_unc),
            "rank_pattern": self._config.rank_pattern,
            "allocations": self._allocations,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        devices = {name: p.device for name, p in self._model.base_model.model.named_parameters()}
        for field in ("exp_avg_ipt", "exp_avg_unc"):
            setattr(self._allocator, field, {name: t.to(devices[name]) for name, t in state[field].items()})
        # PEFT starts the averages afresh for names that ipt lacks; its values are overwritten before they are read.
        self._allocator.ipt = dict(self._allocator.exp_avg_ipt)
        self._config.rank_pattern = state["rank_pattern"]
        self._allocations = state["allocations"]

    def evidence(self, model: torch.nn.Module) -> dict[str, Any]:
        """The ranks that were allocated and the parameters that are left.

        Raises:
            MechanismError: no allocation happened, or more ranks than the budget are left.
        """
        ranks, budget = self.ranks(), self.settings.r * len(self.ranks())
        if not self._allocations or sum(ranks.values()) > budget:
            raise MechanismError(
                f"AdaLoRA made {self._allocations} allocations and kept {sum(ranks.values())} ranks, "
                f"expected at least one and at most {budget}"
            )
        sizes = {name: layer.in_features + layer.out_features + 1 for name, layer in self._layers.items()}
        return {
            "allocations": self._allocations,
            "initial_rank": self.settings.initial_rank,
            "ranks": ranks,
            "mean_rank": sum(ranks.values()) / len(ranks),
            "parameters_at_end": sum(rank * sizes[name] for name, rank in ranks.items()),
        }

    def finalize(self, model: torch.nn.Module, output_dir: Path) -> None:
        """Write the native adapter and, in ``lora/``, the plain LoRA."""
        masks = self._masks()
        factors = {name: _folded(layer, masks[name]) for name, layer in self._layers.items()}
        save_plain_lora(factors, output_dir / "lora", base_name=self._config.base_model_name_or_path)
        save_adapter(model, output_dir)


def _folded(layer: LoraLayer, mask: list[bool]) -> LoraFactors:
    """The kept triplets with E folded into A and the scale into B."""
    kept = [index for index, keep in enumerate(mask) if keep]
    a, e, b = (getattr(layer, f"lora_{part}")[ADAPTER].detach() for part in "AEB")
    scale = layer.scaling[ADAPTER] / (layer.ranknum[ADAPTER].detach() + RANK_EPSILON)
    return LoraFactors(a=(a * e)[kept], b=b[:, kept] * scale)
