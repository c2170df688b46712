"""The contract between the training loop and a fine-tuning method.

The loop (``harness.train.run``) never asks which method it runs. It calls, in this order: ``wrap``, ``param_groups``,
``callbacks``, then during training ``regularizer`` in every step, ``rank_importance`` at every snapshot and
``checkpoint_tensors`` / ``state_dict`` at every checkpoint, and at the end ``evidence`` and ``finalize``.

This module imports neither torch nor PEFT: the Snakefile reads method settings through it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from pydantic import AliasChoices, Field

from harness.schema.fields import Frozen, Names

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, TrainerCallback

#: The seven linear layers of a Llama or Mistral block, the targets of the paper's math and code experiments (A.2).
ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class MechanismError(RuntimeError):
    """The method's mechanism did not happen during training (AdaLoRA that never allocated, and the like)."""


class MethodSettings(Frozen):
    """Base of every method's typed settings. Every field changes numbers and is part of the run's spec."""


class AdapterSettings(MethodSettings):
    """Settings that every low-rank method shares. Names are PEFT's; TRL's and LLaMA-Factory's are accepted as aliases."""

    r: int = Field(64, ge=1, le=10**5, validation_alias=AliasChoices("r", "lora_r", "lora_rank"))
    lora_alpha: int = Field(128, gt=0, le=10**6, description="scaling is lora_alpha / r; the released script uses 2r")
    lora_dropout: float = Field(0.05, ge=0, lt=1)
    target_modules: Names = ALL_LINEAR

    @property
    def largest_rank(self) -> int:
        """The largest rank that any module's matrices can have: what must fit into the module."""
        return self.r

    @property
    def largest_rank_setting(self) -> str:
        """The setting that it follows from."""
        return "r"


@dataclass(frozen=True, kw_only=True)
class TrainingContext:
    """What a method may know about the run it takes part in. All counts are in optimizer steps."""

    total_steps: int
    steps_per_epoch: int
    seed: int
    learning_rate: float
    weight_decay: float
    gradient_accumulation_steps: int
    world_size: int
    #: Folder for results that depend only on the base model, such as its SVDs. Shared by all runs.
    cache_dir: Path
    #: Content hash of the base model's weights, the key of anything in ``cache_dir``.
    base_model_hash: str
    #: Where the method logs what it did, one JSON line per event (operations.jsonl). None outside the main process.
    log_dir: Path | None


@dataclass(frozen=True, kw_only=True)
class OperationSteps:
    """The optimizer steps after which a method operates on ranks, and those of them at which it prunes."""

    all: tuple[int, ...] = ()
    pruning: tuple[int, ...] = ()


SettingsT = TypeVar("SettingsT", bound=MethodSettings)


class Method(ABC, Generic[SettingsT]):
    """One fine-tuning method. A subclass says only what differs from training all parameters with the shared loop."""

    #: Registry name, lower case, used in paths and YAML.
    name: ClassVar[str]
    #: The name shown in tables, as the paper writes it.
    label: ClassVar[str]
    Settings: ClassVar[type[MethodSettings]]
    #: Named variants (ablations): registry name -> (label, settings that differ from the defaults). A subclass has its own.
    variants: ClassVar[dict[str, tuple[str, dict[str, Any]]]] = {}
    #: Whether several processes share its parameters out between them (FSDP2) instead of having a copy each (DDP): for what one
    #: GPU cannot hold. Only for methods that edit neither parameters nor moments, and whose trained tensors keep their names.
    sharded: ClassVar[bool] = False
    #: Whether the artefact is a LoRA adapter of the ranks that were trained, so that single ranks can be taken out of it.
    prunable: ClassVar[bool] = False

    def __init__(self, settings: SettingsT) -> None:
        self.settings = settings

    def trained_parameters(self, base: int, layers: Iterable[tuple[int, int]]) -> int | None:
        """How many parameters ``wrap`` lets train, of a base model of ``base`` parameters whose targets have these sizes,
        (inputs, outputs): for a plan, which loads no model. None, the default: a plan builds the model to count them."""
        return None

    @abstractmethod
    def wrap(self, model: PreTrainedModel, context: TrainingContext) -> torch.nn.Module:
        """Prepare ``model`` (base weights, float32 on CPU) for training: add adapters, freeze the rest. May work in place."""

    def param_groups(self, model: torch.nn.Module) -> list[dict[str, Any]] | None:
        """Optimizer groups, or None for the loop's default: one group of all trainable parameters."""
        return None

    def callbacks(self) -> list[TrainerCallback]:
        """Callbacks for what happens between steps. They get ``model`` and ``optimizer`` from the Trainer."""
        return []

    def regularizer(self, model: torch.nn.Module) -> torch.Tensor | None:
        """A scalar of the parameters alone that is added to the data loss: the loop asks for it once per *optimizer step*, on
        one of the processes."""
        return None

    def checkpoint_tensors(self, model: torch.nn.Module) -> dict[str, torch.Tensor]:
        """Every model tensor that training changes, by its name in checkpoints; saved with each, and restored in place by the
        names that the resumed run gives. The default is the trainable parameters by their names in ``model``; a method that
        edits frozen weights or buffers adds them."""
        return {name: p for name, p in model.named_parameters() if p.requires_grad}

    def disk_parameters(self, *, adapter: int, base: int) -> tuple[int, int]:
        """How many numbers lie on disk at most: in the artefact, and in one checkpoint with its two moments.

        Args:
            adapter: trained parameters; all of the base model's for a method without adapter.
            base: parameters of the base model.
        """
        return adapter, 3 * adapter

    def state_dict(self) -> dict[str, Any]:
        """State beside the model and the optimizer (snapshots, averages, counters), as nested dicts of tensors and plain
        values that ``torch.save`` / ``torch.load(weights_only=True)`` round-trip."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned. Called before the first resumed step."""
        if state:
            raise ValueError(f"method {self.name!r} keeps no state, but the checkpoint holds {sorted(state)}")

    def rank_importance(self, model: torch.nn.Module) -> dict[str, torch.Tensor] | None:
        """||scaling s_i b_i a_i||_F of every rank (section 2.2) as the adapter stands now: module name in the base model ->
        float32 (r,) on the CPU. None, the default, for a method whose update is not a sum of such ranks."""
        return None

    def extra_work(self) -> dict[str, Collection[int]]:
        """What the method does beside the training step: kind of work -> the optimizer steps, counted from 1, that include it.
        Steps with the same kinds of work cost the same. Called after ``wrap``; the default is nothing."""
        return {}

    def schedule(self, *, total_steps: int, steps_per_epoch: int) -> OperationSteps:
        """When ranks are operated on in a run of this length. Known from the settings alone, before ``wrap``; the default is
        never.

        Raises:
            ValueError: the settings do not fit a run of this length.
        """
        return OperationSteps()

    def evidence(self, model: torch.nn.Module) -> dict[str, Any]:
        """Facts, as plain JSON, that show the mechanism happened; written to train.json.

        Raises:
            MechanismError: the mechanism did not happen although the settings ask for it.
        """
        return {}

    @abstractmethod
    def finalize(self, model: torch.nn.Module, output_dir: Path) -> None:
        """Write the trained artefact to ``output_dir``: either a PEFT adapter that reloads exactly on the *original* base
        model (``adapter_config.json`` + ``adapter_model.safetensors``; an exact plain-LoRA export in ``lora/`` where one
        exists and the native form needs a plug-in), or a full model in Hugging Face form (``config.json`` + weights)."""
