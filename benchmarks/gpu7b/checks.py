"""Whether the device computes what it should: BeamLoRA's operation, packing and precision, the rotary frequencies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from torch.nn.functional import cosine_similarity
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from beamlora.adapter_state import AdapterTensors
from beamlora.operation import OperationPlan, private_permutations
from benchmarks.gpu7b.bench import Bench, random_llama
from benchmarks.gpu7b.training import harness_trainer
from harness.models.load import load_base, load_for_evaluation
from harness.records.gpu7b import LoadedRotary, Precision, Replay, Rotary, Variant
from harness.schema.base_models import BaseModelSpec, LocalModel
from harness.schema.run import RunSpec
from harness.train.trainer import MethodTrainer
from methods.beamlora.replay import Recording, differences, replay
from methods.beamlora.settings import BeamLoRASettings
from methods.peft_support import ADAPTER, adapted_layers, add_adapter, save_adapter

# ------------------------------------------------------------------------------------------------------- BeamLoRA's operation

#: Steps between operations: the snapshot follows the third, the operation the fourth, after scores and moments have moved.
DELTA_T = 4
#: Prunes about every seventh rank, so that modules of any rank take part.
THRESHOLD = 0.8


class Recorder(TrainerCallback):
    """Copies the adapter and its moments to the CPU at a snapshot, before the operation and after it, and ends training. Must
    come after BeamLoRA's own callback: between a step's update and its end nothing but the operation changes them."""

    def __init__(self, *, snapshot_step: int, operation_step: int) -> None:
        self.snapshot_step = snapshot_step
        self.operation_step = operation_step
        #: snapshot, before or after -> module -> tensor.
        self.copies: dict[str, dict[str, dict[str, torch.Tensor]]] = {}

    def on_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **event: Any) -> None:
        step = state.global_step + 1  # counted after this event
        if step == self.snapshot_step:
            self._copy("snapshot", event)
        if step == self.operation_step:
            self._copy("before", event)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **event: Any) -> None:
        if state.global_step == self.operation_step:
            self._copy("after", event)
            control.should_training_stop = True

    def _copy(self, when: str, event: Mapping[str, Any]) -> None:
        adapter = AdapterTensors.of(event["model"], event["optimizer"], adapter=ADAPTER)
        self.copies[when] = {
            name: {key: tensor.detach().to("cpu", copy=True) for key, tensor in tensors.items()}
            for name, tensors in adapter.items()
        }


def check_operation(bench: Bench, folder: Path) -> Replay:
    """Train BeamLoRA on the device up to its first operation, and repeat that on the CPU."""
    made, recorder, settings = operate(bench, folder)
    return compare_operation(made, recorder, settings=settings, seed=bench.runs["beamlora"].seed)


def operate(bench: Bench, folder: Path) -> tuple[OperationPlan, Recorder, BeamLoRASettings]:
    """The first operation of a run, as it was logged, and the tensors around it."""
    spec = _forced(bench.runs["beamlora"])
    base = bench.model(attn_implementation=spec.training.attn_implementation)
    trainer = harness_trainer(bench, spec, base, folder)
    work = trainer.method.extra_work()
    recorder = Recorder(snapshot_step=min(work["snapshot"]), operation_step=min(work["operation"]))
    trainer.add_callback(recorder)
    trainer.train()
    logged = json.loads((folder / "operations.jsonl").read_text())
    return OperationPlan.from_json(logged), recorder, trainer.method.settings


def _forced(spec: RunSpec) -> RunSpec:
    """The run, so short that its only operation comes after ``DELTA_T`` steps."""
    steps = 2 * DELTA_T
    settings = {**spec.method.settings, "delta_t": DELTA_T, "p_init": THRESHOLD, "horizon_steps": steps}
    training = {"max_steps": steps, "num_train_epochs": None}
    return spec.model_copy(
        update={
            "method": spec.method.model_copy(update={"settings": settings}),
            "training": spec.training.model_copy(update=training),
        }
    )


def compare_operation(made: OperationPlan, recorder: Recorder, *, settings: BeamLoRASettings, seed: int) -> Replay:
    """The CPU's operation on the recorded tensors, with the pairing of the same seed, against the recorded outcome."""
    draw = private_permutations(seed=seed, step=made.step)
    names = [module.name for module in made.modules]
    copies = {when: [modules[name] for name in names] for when, modules in recorder.copies.items()}
    recording = Recording(
        p=made.p,
        temperature=settings.gate_temperature,
        modules=names,
        pruned=[list(module.pruned) for module in made.modules],
        permutations=[draw(module.name, module.k) for module in made.modules],
        **copies,
    )
    try:
        plan, results = replay(recording, settings)
    except ValueError as error:  # the CPU prunes another number of ranks, for which there is no recorded pairing
        raise RuntimeError(f"the operation cannot be repeated on the CPU: {error}") from error
    return Replay(
        modules=len(names),
        snapshot_step=recorder.snapshot_step,
        operation_step=made.step,
        threshold=made.p,
        pruned_ranks=sum(module.k for module in made.modules),
        plans_equal=plan.modules == made.modules,
        tensors=sum(len(tensors) for tensors in recording.after),
        differing=tuple(differences(recording, results)),
    )


# ---------------------------------------------------------------------------------------------------- packing and precision

#: The reference, then what is compared with it: (packing, dtype of the base weights, fused).
VARIANTS = tuple(
    (packing, dtype, fused) for dtype in ("float32", "bfloat16") for packing in (True, False) for fused in (False, True)
)


class GradientRecorder(TrainerCallback):
    """Keeps the gradients of all trained parameters as one vector, float64 in host memory."""

    def __init__(self) -> None:
        self.gradient = torch.empty(0)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **event: Any
    ) -> None:
        gradients = [p.grad.detach().double().flatten().cpu() for p in event["model"].parameters() if p.requires_grad]
        self.gradient = torch.cat(gradients)


def check_precision(bench: Bench, folder: Path) -> Precision:
    """One micro-batch of LoRA by the harness's loop, on a model of the same widths with ``few_layers`` layers and the same
    weights (bfloat16 numbers) in every variant. Without dropout, and with B moved off zero, so that A has gradients too."""
    gradients = [_gradient(bench, folder, packing=packing, dtype=dtype, fused=fused) for packing, dtype, fused in VARIANTS]
    loss, reference, tokens = gradients[0]
    return Precision(
        layers=bench.scale.few_layers,
        tokens=tokens,
        reference=f"packed, {VARIANTS[0][1]}, not fused",
        variants=tuple(
            Variant(
                packing=packing,
                dtype=dtype,
                fused=fused,
                loss=own_loss,
                loss_difference=own_loss - loss,
                gradient_cosine=float(cosine_similarity(own, reference, dim=0)),
                gradient_difference=float((own - reference).norm() / reference.norm()),
            )
            for (packing, dtype, fused), (own_loss, own, _) in zip(VARIANTS, gradients, strict=True)
        ),
    )


def _gradient(bench: Bench, folder: Path, *, packing: bool, dtype: str, fused: bool) -> tuple[float, torch.Tensor, int]:
    """(loss, gradient of the adapter, tokens of the examples) of one step."""
    spec = _one_micro_batch(bench.runs["lora"], packing=packing, dtype=dtype, fused=fused)
    base = bench.model(
        attn_implementation=spec.training.attn_implementation,
        dtype=getattr(torch, dtype),
        num_hidden_layers=bench.scale.few_layers,
    )
    trainer = harness_trainer(bench, spec, base, folder)
    _move_b(trainer, seed=bench.scale.seed)
    recorder = GradientRecorder()
    trainer.add_callback(recorder)
    trainer.train()
    loss = next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    return loss, recorder.gradient, trainer.tokens["input"]


def _one_micro_batch(spec: RunSpec, *, packing: bool, dtype: str, fused: bool) -> RunSpec:
    """The run, cut to one step of one micro-batch, without dropout; its gradients are not clipped."""
    training = {
        "max_steps": 1,
        "num_train_epochs": None,
        "gradient_accumulation_steps": 1,
        "max_grad_norm": 1e9,
        "packing": packing,
        "attn_implementation": "packed_sdpa" if packing else "sdpa",
        "dtype": dtype,
        "fused": fused,
    }
    settings = {**spec.method.settings, "lora_dropout": 0.0}
    return spec.model_copy(
        update={
            "method": spec.method.model_copy(update={"settings": settings}),
            "training": spec.training.model_copy(update=training),
        }
    )


def _move_b(trainer: MethodTrainer, *, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for layer in adapted_layers(trainer.model).values():
        b = layer.lora_B[ADAPTER].weight
        b.data.copy_(0.02 * torch.randn(b.shape, generator=generator))


# ------------------------------------------------------------------------------------------------------------------- rotary


def check_rotary(bench: Bench, folder: Path) -> Rotary:
    """Write a model of one narrow layer with the head size of the scale's, and an adapter, and load them in bfloat16 as
    training does and as evaluation does."""
    fields = dict(bench.scale.model)
    head = fields["hidden_size"] // fields["num_attention_heads"]
    fields |= {"hidden_size": head, "intermediate_size": head, "num_hidden_layers": 1}
    fields |= {"num_attention_heads": 1, "num_key_value_heads": 1}
    model = random_llama(fields, device=torch.device("cpu"), seed=bench.scale.seed, attn_implementation="sdpa")
    exact = _frequencies(model)
    base, adapter = folder / "base", folder / "adapter"
    model.save_pretrained(base)
    bench.tokenizer.save_pretrained(base)
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    save_adapter(add_adapter(model, config, seed=bench.scale.seed), adapter)
    source = BaseModelSpec(label="random", stands_for=None, source=LocalModel(kind="local", path=str(base)))
    spec = bench.runs["lora"].model_copy(update={"model": source})
    training, _ = load_base(
        spec.model_key, source, models_dir=folder, dtype=torch.bfloat16, attn_implementation=spec.training.attn_implementation
    )
    evaluation, _ = load_for_evaluation(spec, adapter_dir=adapter, models_dir=folder)
    return Rotary(
        loaded=tuple(
            LoadedRotary(
                loading=loading,
                dtype=str(_frequencies(loaded).dtype).removeprefix("torch."),
                largest_error=float((_frequencies(loaded).double().cpu() / exact.double() - 1).abs().max()),
            )
            for loading, loaded in (("training", training), ("evaluation", evaluation))
        )
    )


def _frequencies(model: PreTrainedModel) -> torch.Tensor:
    return model.get_buffer("model.rotary_emb.inv_freq")
