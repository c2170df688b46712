"""BeamLoRA and its ablations as methods of the shared training loop."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beamlora.schedule import Schedule
from beamlora.settings import SETTINGS
from methods.base import MechanismError, Method, OperationSteps, TrainingContext
from methods.beamlora.settings import BeamLoRASettings

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, TrainerCallback

    from beamlora.callback import BeamLoraCallback


class BeamLoRA(Method[BeamLoRASettings]):
    """LoRA with trainable rank scores; periodically the lowest-scored ranks become copies of the highest-scored
    ones."""

    name = "beamlora"
    label = "BeamLoRA"
    Settings = BeamLoRASettings
    variants = {
        "beamlora-no-expansion": ("BeamLoRA w/o Expansion", {"expansion": False}),
        "beamlora-no-expansion-masked": ("BeamLoRA w/o Expansion (masked)", {"expansion": False, "dead_ranks": "masked"}),
        "beamlora-no-assessment": ("BeamLoRA w/o Assessment", {"assessment": False}),
        "beamlora-no-dynamic-p": ("BeamLoRA w/o Dynamic P", {"dynamic_p": False}),
        "beamlora-released": ("BeamLoRA (released code)", {"flavor": "released"}),
        "beamlora-gate-only": ("BeamLoRA (scores only)", {"operations": False}),
        "beamlora-copy-current": ("BeamLoRA (copies of current ranks)", {"source": "current"}),
    }
    prunable = True

    def __init__(self, settings: BeamLoRASettings) -> None:
        super().__init__(settings)
        self._callback: BeamLoraCallback | None = None
        self._schedule: Schedule | None = None

    def trained_parameters(self, base: int, layers: Iterable[tuple[int, int]]) -> int:
        """A, B and the scores."""
        return sum(self.settings.r * (inputs + outputs + 1) for inputs, outputs in layers)

    def wrap(self, model: PreTrainedModel, context: TrainingContext) -> torch.nn.Module:
        """Add the adapter.

        Raises:
            ValueError: the run is too short for any operation.
        """
        import torch
        from peft import get_peft_model

        from beamlora.callback import BeamLoraCallback
        from beamlora.config import BeamLoraConfig
        from beamlora.model import beam_modules

        settings = self.settings
        self._schedule = self._schedule_of(total_steps=context.total_steps, steps_per_epoch=context.steps_per_epoch)
        config = BeamLoraConfig(
            r=settings.r,
            lora_alpha=settings.lora_alpha,
            lora_dropout=settings.lora_dropout,
            target_modules=list(settings.target_modules),
            task_type="CAUSAL_LM",
            **{name: getattr(settings, name) for name in SETTINGS},
        )
        wrapped = get_peft_model(model, config)
        for _, module in beam_modules(wrapped, "default"):
            for parameter in module.parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data.to(getattr(torch, settings.adapter_dtype))
        self._callback = BeamLoraCallback(
            steps_per_epoch=context.steps_per_epoch,
            seed=context.seed,
            log_dir=context.log_dir,
            save_with_checkpoints=False,
        )
        return wrapped

    def callbacks(self) -> list[TrainerCallback]:
        return [self._wrapped()]

    def checkpoint_tensors(self, model: torch.nn.Module) -> dict[str, torch.Tensor]:
        """A, B and the scores, whose name is that of the earlier checkpoints and of adapter files."""
        gate = ".lora_gate.default.weight"
        tensors = super().checkpoint_tensors(model)
        return {name.removesuffix(".weight") if name.endswith(gate) else name: tensor for name, tensor in tensors.items()}

    def state_dict(self) -> dict[str, Any]:
        return self._wrapped().state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._wrapped().load_state_dict(state)

    def extra_work(self) -> dict[str, Collection[int]]:
        """Snapshots, operations that prune, and operations with p = 1, which only reset the moments of the scores."""
        schedule = self._planned()
        pruning = schedule.pruning_steps()
        return {
            "snapshot": [step for step in range(1, schedule.total_steps + 1) if schedule.is_snapshot_step(step)],
            "operation": pruning,
            "reset": sorted(set(schedule.operation_steps()) - set(pruning)),
        }

    def schedule(self, *, total_steps: int, steps_per_epoch: int) -> OperationSteps:
        """The operations, those with p = 1 (which prune nothing) included.

        Raises:
            ValueError: the run is too short for any that prunes.
        """
        schedule = self._schedule_of(total_steps=total_steps, steps_per_epoch=steps_per_epoch)
        return OperationSteps(all=tuple(schedule.operation_steps()), pruning=tuple(schedule.pruning_steps()))

    def rank_importance(self, model: torch.nn.Module) -> dict[str, torch.Tensor]:
        """The scores count: it is the importance of the ranks of the plain-LoRA export."""
        from methods.importance import importance_by_module

        return importance_by_module(model)

    def evidence(self, model: torch.nn.Module) -> dict[str, Any]:
        """The operations that took place, and how far the scores have spread.

        ``operations``, ``pruning_operations``: how many took place, and in how many of them ranks were pruned.
        ``steps``, ``thresholds``, ``operated_ranks``, ``operated_share``: per operation the step, p, the sum of K, and
        that sum over all ranks. ``mean_score_entropy``: mean over modules of the entropy of the scores over ln r; 1 is
        equal scores.
        """
        from beamlora.adapter_state import unwrap
        from beamlora.model import beam_modules
        from beamlora.operation import score_entropy

        scores = [module.rank_scores("default").detach().cpu() for _, module in beam_modules(unwrap(model), "default")]
        records = self._wrapped().records
        operated = [sum(module["K"] for module in record["modules"]) for record in records]
        self._check_operations(records, operated)
        ranks = sum(values.numel() for values in scores)
        return {
            "operations": len(records),
            "pruning_operations": sum(k > 0 for k in operated),
            "steps": [record["step"] for record in records],
            "thresholds": [record["p"] for record in records],
            "operated_ranks": operated,
            "operated_share": [k / ranks for k in operated],
            "mean_score_entropy": sum(score_entropy(values) for values in scores) / len(scores),
        }

    def finalize(self, model: torch.nn.Module, output_dir: Path) -> None:
        """The native adapter, and its plain-LoRA export in ``lora/``."""
        from beamlora.adapter_state import unwrap
        from beamlora.export import export_lora

        wrapped: Any = unwrap(model)  # a PeftModel
        wrapped.save_pretrained(output_dir)
        export_lora(wrapped, output_dir / "lora")

    def _schedule_of(self, *, total_steps: int, steps_per_epoch: int) -> Schedule:
        schedule = Schedule.for_run(self.settings, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
        schedule.check()
        return schedule

    def _wrapped(self) -> BeamLoraCallback:
        if self._callback is None:
            raise RuntimeError("BeamLoRA: wrap(model, context) has not been called")
        return self._callback

    def _planned(self) -> Schedule:
        if self._schedule is None:
            raise RuntimeError("BeamLoRA: wrap(model, context) has not been called")
        return self._schedule

    def _check_operations(self, records: list[dict[str, Any]], operated: list[int]) -> None:
        due = self._planned().operation_steps()
        done = [record["step"] for record in records]
        if done != due:
            raise MechanismError(f"{self.name}: operations were due after steps {due}, but took place after {done}")
        pruning = self._planned().pruning_steps()
        idle = [step for step, k in zip(done, operated, strict=True) if step in pruning and k == 0]
        if pruning and idle == pruning:
            raise MechanismError(f"{self.name}: no rank was pruned in any of the operations after steps {pruning}")
