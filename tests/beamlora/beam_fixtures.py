"""Tiny random models, data and Trainer runs for the BeamLoRA tests. Nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Trainer, TrainingArguments

from beamlora import BeamLoraCallback, BeamLoraConfig
from beamlora.model import beam_modules

VOCAB = 64
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


def tiny_llama(seed: int = 0, dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    """A random Llama with one layer and 7 linear modules."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**SIZES)).to(dtype)


def beam_config(**changes: Any) -> BeamLoraConfig:
    """r 8 on all linear layers, an operation every 6 steps, p = 1 from step 16 on, no dropout."""
    values = {
        "r": 8,
        "lora_alpha": 16,
        "target_modules": list(TARGETS),
        "task_type": "CAUSAL_LM",
        "delta_t": 6,
        "horizon_steps": 16,
    }
    return BeamLoraConfig(**(values | changes))


def beam_model(seed: int = 0, **changes: Any) -> PeftModel:
    """A tiny Llama with a fresh adapter, the same for the same seed."""
    model = tiny_llama(seed)
    return get_peft_model(model, beam_config(**changes))


def randomize(model: PreTrainedModel | PeftModel, adapter: str = "default", seed: int = 1) -> None:
    """Give the adapter non-trivial weights and scores."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, module in beam_modules(model, adapter):
            for tensor, std in (
                (module.lora_A[adapter].weight, 0.2),
                (module.lora_B[adapter].weight, 0.2),
                (module.lora_gate[adapter].weight, 0.05),
            ):
                tensor.copy_((torch.randn(tensor.shape, generator=generator) * std).to(tensor.dtype))


def token_batch(rows: int = 3, length: int = 10, seed: int = 5) -> torch.Tensor:
    """Random token ids, (rows, length)."""
    return torch.randint(0, VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    """Float32 logits of a fixed batch, in evaluation mode."""
    return model.eval()(token_batch()).logits.float()


class TokenData(Dataset):
    """Random sequences that are their own labels."""

    def __init__(self, rows: int = 64) -> None:
        self.ids = token_batch(rows, 12, seed=9)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.ids[index], "labels": self.ids[index]}


def training_arguments(folder: Path, **changes: Any) -> TrainingArguments:
    """24 steps of AdamW on the CPU, a log entry per step, nothing saved."""
    values = {
        "output_dir": str(folder),
        "max_steps": 24,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 3,
        "optim": "adamw_torch",
    }
    return TrainingArguments(**(values | changes))


def beam_trainer(
    folder: Path, *, callback: BeamLoraCallback | None = None, config: dict[str, Any] | None = None, **arguments: Any
) -> Trainer:
    """A stock Trainer on a fresh tiny model, as a user would write it."""
    return Trainer(
        model=beam_model(**(config or {})),
        args=training_arguments(folder, **arguments),
        train_dataset=TokenData(),
        callbacks=[callback or BeamLoraCallback()],
    )


def adapter_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Copies of all trainable tensors by name."""
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
