"""The predicted peak of a run against what PyTorch's profiler reports of the same run, on the CPU."""

from __future__ import annotations

import gc
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import methods
from harness.experiment.runs import load_experiment, table_runs
from harness.measure.rehearsal import peak_bytes
from harness.models.architecture import architecture
from harness.models.stand_in import model_config
from harness.plan.peaks import largest_batch
from harness.schema.run import RunSpec
from harness.train import attention
from harness.train.run import Base, Folders, make_trainer
from methods.lora import Lora
from tests.experiments import SETTINGS, miniature, write
from tests.tiny_models import byte_tokenizer

LENGTH, SIZE = 128, 4
#: Wide enough that what the step keeps outweighs bookkeeping.
WIDTHS = {"hidden_size": 192, "intermediate_size": 512}


def spec_of(folder: Path, method: str, *, layers: int = 2, **training: Any) -> RunSpec:
    sizes = WIDTHS | {"num_hidden_layers": layers}
    changes: dict[str, Any] = {f"models.llama-mini.source.{name}": size for name, size in sizes.items()}
    changes |= {
        "methods": {method: {"settings": SETTINGS.get(method, {})}},
        "tables.table1.methods": {"llama-mini": [method]},
        "domains.math.train.max_length": LENGTH,
        "training.per_device_train_batch_size": SIZE,
        "training.gradient_accumulation_steps": 2,
        "training.max_steps": 16,
    }
    content = miniature(**changes | {f"training.{name}": value for name, value in training.items()})
    (run,) = table_runs(load_experiment([write(folder, content)]), "table1")
    return run


def reported(run: RunSpec, folder: Path) -> int:
    """Bytes of the model, and the most that PyTorch's allocator held beside it in two optimizer steps of the real loop."""
    from transformers import AutoModelForCausalLM, TrainerCallback

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = state.global_step == 2

    attention.register()
    dtype = getattr(torch, run.training.dtype)
    config = model_config(run.model.source)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=run.training.attn_implementation)
    example = {name: torch.full((LENGTH,), 5) for name in ("input_ids", "labels")}
    example["labels"][0] = -100  # nothing predicts the first token
    base = Base(model=model, tokenizer=byte_tokenizer(), dataset=[example] * 128, parameters=0, hash="x")
    trainer, _ = make_trainer(run, base, Folders(output=folder, scratch=folder, models=folder, cache=folder))
    trainer.add_callback(Stop())
    gc.collect()  # what an earlier test has left would be freed in the middle of this one's count
    held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in (*model.parameters(), *model.buffers())}
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        trainer.train()
    assert profiler.profiler is not None
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return sum(held.values()) + max(accumulate(event.nbytes() for event in events))


CASES: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in sorted({named.cls.name for named in methods.registry().values()} - {"lora", "full-ft"})),
    *((name, {"fused": False}) for name in ("lora", "dora", "adalora", "increlora")),
    ("lora", {"gradient_checkpointing": True}),
    ("lora", {"dtype": "bfloat16"}),
    ("lora", {"micro_batch_tokens": 2 * LENGTH, "gradient_accumulation_steps": 1}),
    ("full-ft", {"layers": 3}),
    ("full-ft", {"gradient_accumulation_steps": 1, "dtype": "bfloat16"}),
    ("full-ft", {"dtype": "bfloat16", "bf16_update": "kahan"}),
    ("full-ft", {"dtype": "bfloat16", "bf16_update": "float32"}),
]


@pytest.mark.parametrize(
    ("method", "training"),
    [("lora", {"layers": 4}), *(pytest.param(*case, marks=pytest.mark.slow) for case in CASES)],
    ids=str,
)
def test_within_five_percent_of_the_profiler(tmp_path: Path, method: str, training: dict[str, Any]) -> None:
    run = spec_of(tmp_path, method, **training)
    base = architecture(run, models_dir=tmp_path)
    assert base is not None
    predicted = peak_bytes(run, base, lengths=largest_batch(run), gpu=False)
    found = reported(run, tmp_path)
    assert predicted == pytest.approx(found, rel=0.05)


def test_a_method_that_asks_for_values_has_no_prediction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = spec_of(tmp_path, "lora")
    base = architecture(run, models_dir=tmp_path)
    assert base is not None
    monkeypatch.setattr(Lora, "regularizer", lambda self, model: next(model.parameters()).sum() * bool(model.training))
    assert peak_bytes(run, base, lengths=[8], gpu=True) is not None
    monkeypatch.setattr(Lora, "regularizer", lambda self, model: float(next(model.parameters()).sum()))
    assert peak_bytes(run, base, lengths=[8], gpu=True) is None
