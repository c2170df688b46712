"""What train.json holds: the run's own record, and the blocks that PEFT's method comparison reads."""

from __future__ import annotations

import datetime
import platform
import resource
from typing import TYPE_CHECKING, Any

import torch

from harness import provenance
from harness.config import SCHEMA_VERSION, RunSpec

if TYPE_CHECKING:
    from harness.data.tokens import TokenizedSet
    from harness.train.trainer import MethodTrainer


def peak_memory() -> dict[str, Any]:
    """Peak memory in bytes: of the accelerator where there is one, else of this process (imports included)."""
    if torch.cuda.is_available():
        return {"bytes": torch.cuda.max_memory_allocated(), "of": "accelerator, allocated"}
    return {"bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "of": "process, resident"}


def training_record(
    spec: RunSpec,
    trainer: MethodTrainer,
    dataset: TokenizedSet,
    *,
    status: str,
    reason: str | None,
    base: dict[str, Any],
    git: dict[str, Any],
    evidence: dict[str, Any],
) -> dict[str, Any]:
    """The content of train.json but for the artefact's hashes. Times in seconds, memory in bytes, loss in nats per token."""
    model = trainer.model
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    history = [{key: _finite(value) for key, value in entry.items()} for entry in trainer.state.log_history if "loss" in entry]
    seconds = trainer.seconds
    tokens = _summed_tokens(trainer)
    memory = peak_memory()
    record = {
        "schema_version": SCHEMA_VERSION,
        "run_id": spec.run_id,
        "spec": spec.model_dump(mode="json"),
        "training_hash": spec.training_hash(),
        "status": status,
        "reason": reason,
        "created_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "trainable_parameters": trainable,
        "base_parameters": base["parameters"],
        "steps": trainer.state.global_step,
        "loss_curve": history,
        "tokens": tokens,
        "tokens_per_second": tokens["input"] / seconds["wall"],
        "wall_time_s": seconds["wall"],
        "cpu_time_s": seconds["cpu"],
        "peak_memory_bytes": memory["bytes"],
        "peak_memory_of": memory["of"],
        "data": {"rows": len(dataset), "rows_cut": dataset.cut, "sha256": dataset.fingerprint},
        "base_model_hash": base["hash"],
        "versions": provenance.versions(),
        "git": git,
        "hardware": provenance.hardware(),
        "world_size": trainer.args.world_size,
        "evidence": evidence,
    }
    return record | _peft_blocks(spec, trainer, record)


def _finite(value: float) -> float | None:
    """JSON has no NaN: a loss that is not a number is missing."""
    return value if isinstance(value, int) or abs(value) < float("inf") else None


def _summed_tokens(trainer: MethodTrainer) -> dict[str, int]:
    counts = torch.tensor(list(trainer.tokens.values()), device=trainer.args.device)
    if trainer.args.world_size > 1:
        torch.distributed.all_reduce(counts)
    return dict(zip(trainer.tokens, counts.tolist(), strict=True))


def _peft_blocks(spec: RunSpec, trainer: MethodTrainer, record: dict[str, Any]) -> dict[str, Any]:
    """``run_info``, ``train_info`` and ``meta_info`` with the keys that peft's method_comparison/processing.py reads.

    The test accuracy is None here: it is the evaluation's to say (metrics.json).
    """
    config = getattr(trainer.model, "peft_config", {}).get("default")
    model_id = getattr(spec.model.source, "model_name_or_path", spec.model_key)
    peft_config = None
    if config is not None:
        peft_config = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
        peft_config["base_model_name_or_path"] = model_id  # PEFT's own may be a path on this machine
    last = record["loss_curve"][-1] if record["loss_curve"] else {"loss": None}
    samples = record["steps"] * spec.training.per_device_train_batch_size * spec.training.gradient_accumulation_steps
    versions = record["versions"]
    accelerators = record["hardware"]["accelerators"]
    return {
        "run_info": {
            "created_at": record["created_at"],
            "total_time": record["wall_time_s"],
            "experiment_name": f"{spec.method.key}/{spec.model_key}-{spec.domain}-seed{spec.seed}",
            "peft_branch": "main",
            "train_config": {
                "model_id": model_id,
                "seed": spec.seed,
                **spec.training.model_dump(mode="json"),
            },
            "peft_config": _plain(peft_config),
            "error_msg": record["reason"] or "",
        },
        "train_info": {
            "accelerator_memory_reserved_avg": record["peak_memory_bytes"],
            "accelerator_memory_max": record["peak_memory_bytes"],
            "accelerator_memory_reserved_99th": record["peak_memory_bytes"],
            "train_time": record["wall_time_s"],
            "num_trainable_params": record["trainable_parameters"],
            "num_total_params": record["base_parameters"] + record["trainable_parameters"] * (peft_config is not None),
            "status": record["status"],
            "metrics": [
                {
                    "step": record["steps"],
                    "test accuracy": None,
                    "train loss": last["loss"],
                    "train samples": samples,
                    "train total tokens": record["tokens"]["input"],
                }
            ],
        },
        "meta_info": {
            "model_info": {"sha": record["base_model_hash"]},
            "dataset_info": {spec.data.format: {"sha": record["data"]["sha256"]}},
            "package_info": {
                f"{name}-version": versions.get(name) for name in ("transformers", "peft", "datasets", "bitsandbytes", "torch")
            },
            "system_info": {
                "system": platform.system(),
                "release": platform.release(),
                "version": platform.version(),
                "machine": platform.machine(),
                "processor": platform.processor(),
                "gpu": accelerators[0] if accelerators else "N/A",
            },
            "pytorch_info": torch.__config__.show(),
        },
    }


def _plain(value: Any) -> Any:
    """Enums and other strings in disguise as plain JSON values."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        return str(getattr(value, "value", value))
    return value if isinstance(value, int | float | bool) or value is None else str(value)
