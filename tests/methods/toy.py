"""A tiny model, a fake context and a training loop with the Trainer's order of events, for the tests of methods."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, TrainerControl, TrainerState

import methods
from methods.base import Method, TrainingContext

VOCABULARY = 64
#: The target modules of the toy model: one layer of 7.
MODULES = 7
#: Settings for all low-rank methods, and those that fit a method's schedule into 20 steps.
ADAPTER = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0}
SCHEDULES: dict[str, dict[str, Any]] = {
    "relora": {"merge_every": 6, "restart_warmup": 1},
    "increlora": {"top_h": 0.5},
    "beamlora": {"delta_t": 4, "horizon_steps": 12},
}


def base_model(seed: int = 0, *, layers: int = 1) -> LlamaForCausalLM:
    """A random Llama, of one layer unless more are named; weights large enough that every module matters."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        initializer_range=0.1,
        pad_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


def context(folder: Path, **changes: Any) -> TrainingContext:
    """A context of 20 steps whose caches and logs lie in ``folder``."""
    values: dict[str, Any] = dict(
        total_steps=20,
        steps_per_epoch=10,
        seed=7,
        learning_rate=5e-3,
        weight_decay=0.0,
        gradient_accumulation_steps=1,
        world_size=1,
        cache_dir=folder / "cache",
        base_model_hash="toy",
        log_dir=folder / "log",
    )
    return TrainingContext(**{**values, **changes})


def make(name: str, **settings: Any) -> Method:
    """The named method with toy settings (full-ft has none)."""
    named = methods.get(name)
    toy = {**ADAPTER, **SCHEDULES.get(named.cls.name, {})}
    known = {key: value for key, value in toy.items() if key in named.cls.Settings.model_fields}
    return named.cls(named.cls.Settings(**{**known, **named.preset, **settings}))


def batch(step: int, *, rows: int = 4, length: int = 12) -> torch.Tensor:
    """Token ids (rows, length), the same for the same step."""
    generator = torch.Generator().manual_seed(1000 + step)
    start = torch.randint(VOCABULARY, (rows, 1), generator=generator)
    return (start + torch.arange(length) * (1 + step % 3)) % VOCABULARY


def next_token_loss(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the next token, from logits, as the loop computes it (no labels reach the model)."""
    logits = model(input_ids=ids).logits[:, :-1].float()
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1))


def logits(model: torch.nn.Module) -> torch.Tensor:
    """Evaluation-mode logits of one fixed batch."""
    training = model.training
    model.eval()
    with torch.no_grad():
        values = model(input_ids=batch(999)).logits.clone()
    model.train(training)
    return values


class Loop:
    """One optimizer step per call of ``step``, with the callbacks where transformers.Trainer has them."""

    def __init__(self, method: Method, model: PreTrainedModel, ctx: TrainingContext, *, accumulation: int = 1) -> None:
        self.method, self.accumulation, self.total = method, accumulation, ctx.total_steps
        self.model = method.wrap(model, ctx)
        groups = method.param_groups(self.model) or [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(groups, lr=ctx.learning_rate, weight_decay=ctx.weight_decay)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: max(0.0, 1 - step / ctx.total_steps))
        self.callbacks = method.callbacks()
        self.model.train()
        self.state, self.started = TrainerState(max_steps=ctx.total_steps), False
        self.losses: list[float] = []
        self.rates: list[float] = []

    def _event(self, name: str) -> None:
        for callback in self.callbacks:
            getattr(callback, name)(
                None, self.state, TrainerControl(), model=self.model, optimizer=self.optimizer, lr_scheduler=self.scheduler
            )

    def backward(self) -> None:
        """Gradients of one step's data, split into ``accumulation`` micro-batches."""
        total = 0.0
        for part in batch(self.state.global_step).chunk(self.accumulation):
            loss = next_token_loss(self.model, part) / self.accumulation
            total += loss.item()
            penalty = self.method.regularizer(self.model)
            if penalty is not None:
                loss = loss + penalty / self.accumulation
            loss.backward()
        self.losses.append(total)

    def step(self) -> None:
        self.backward()
        torch.nn.utils.clip_grad_norm_([p for p in self.model.parameters() if p.requires_grad], 1.0)
        self._event("on_pre_optimizer_step")
        self.rates.append(self.optimizer.param_groups[0]["lr"])
        self.optimizer.step()
        self._event("on_optimizer_step")
        self.scheduler.step()
        self.optimizer.zero_grad()
        self.state.global_step += 1
        self._event("on_step_end")

    def run(self, steps: int | None = None) -> Loop:
        """``steps`` steps, or all that are left."""
        if not self.started:
            self._event("on_train_begin")
            self.started = True
        for _ in range(steps if steps is not None else self.total - self.state.global_step):
            self.step()
        return self

    def checkpoint(self) -> dict[str, Any]:
        """What the loop saves, as deep copies."""
        tensors = {k: v.detach().clone() for k, v in self.method.checkpoint_tensors(self.model).items()}
        return copy.deepcopy(
            {
                "tensors": tensors,
                "optimizer": self.optimizer.state_dict(),
                "step": self.state.global_step,
                "scheduler": self.scheduler.state_dict(),
                "method": self.method.state_dict(),
                "rng": torch.get_rng_state(),
            }
        )

    def restore(self, saved: dict[str, Any]) -> Loop:
        """Continue from ``checkpoint`` in a freshly built loop, in the order of ``harness.train.trainer``."""
        self.method.load_state_dict(saved["method"])
        current = self.method.checkpoint_tensors(self.model)
        assert current.keys() == saved["tensors"].keys()
        with torch.no_grad():
            for name, tensor in saved["tensors"].items():
                current[name].copy_(tensor)
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scheduler.load_state_dict(saved["scheduler"])
        self.state.global_step = saved["step"]
        torch.set_rng_state(saved["rng"])
        return self


def start(name: str, folder: Path, *, accumulation: int = 1, ctx: dict[str, Any] | None = None, **settings: Any) -> Loop:
    """A loop that is about to train the toy model with the named method; the global seed is set as the real loop does."""
    base, given = base_model(), context(folder, **(ctx or {}))
    torch.manual_seed(given.seed)
    return Loop(make(name, **settings), base, given, accumulation=accumulation)


def reload(folder: Path, *, merge: bool = False, layers: int = 1) -> torch.nn.Module:
    """The artefact in ``folder``: an adapter on a fresh base model (merged into it on request), or a full model."""
    from peft import PeftModel

    if not (folder / "adapter_config.json").exists():
        return LlamaForCausalLM.from_pretrained(folder).eval()
    model = PeftModel.from_pretrained(base_model(layers=layers), str(folder)).eval()
    return model.merge_and_unload() if merge else model


def folder_hash(folder: Path) -> str:
    """SHA-256 over the names and bytes of all weights and configurations in ``folder``."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.suffix in (".safetensors", ".json")):
        digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return digest.hexdigest()
