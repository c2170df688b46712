"""What train.json holds: the run's own record, and the blocks that PEFT's method comparison reads.

The blocks have the keys that ``preprocess`` in peft's method_comparison/processing.py takes from a result. What was not
measured is null, which ``load_df`` there refuses: it wants an integer for every memory.
"""

from __future__ import annotations

import datetime
import math
import platform
import resource
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from evaluation.sets.columns import Columns
from harness import provenance
from harness.schema.fields import SCHEMA_VERSION
from harness.schema.run import RunSpec

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
    tokens = trainer.all_tokens
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
        "out_of_memory": trainer.out_of_memory,
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
    config = getattr(model, "peft_config", {}).get("default")
    reserved = torch.cuda.max_memory_reserved() if torch.cuda.is_available() else None
    total = sum(p.numel() for p in model.parameters())
    blocks = {
        "run_info": run_info(record, None if config is None else config.to_dict()),
        "train_info": train_info(record, total_parameters=total, reserved_bytes=reserved),
        "meta_info": meta_info(record),
    }
    return record | blocks


def _finite(value: float) -> float | None:
    """JSON has no NaN: a loss that is not a number is missing."""
    return value if isinstance(value, int) or abs(value) < float("inf") else None


def run_info(record: Mapping[str, Any], peft_config: Mapping[str, Any] | None) -> dict[str, Any]:
    """PEFT's block on what was run. Null: the total time, of which the evaluation is a part (metrics.json has its time), and
    the branch, since PEFT is an installed release here, not a checkout.

    Args:
        peft_config: the adapter's configuration as ``PeftConfig.to_dict`` gives it; None for full fine-tuning.
    """
    spec = record["spec"]
    model_id = spec["model"]["source"].get("model_name_or_path", spec["model_key"])
    if peft_config is not None:  # PEFT's own base_model_name_or_path may be a path on this machine
        peft_config = {**peft_config, "base_model_name_or_path": model_id}
    return {
        "created_at": record["created_at"],
        "total_time": None,
        "experiment_name": f"{spec['method']['key']}/{spec['model_key']}-{spec['domain']}-seed{spec['seed']}",
        "peft_branch": None,
        "train_config": {"model_id": model_id, "seed": spec["seed"], **spec["training"]},
        "peft_config": _plain(peft_config),
        "error_msg": record["reason"] or "",
    }


def train_info(record: Mapping[str, Any], *, total_parameters: int, reserved_bytes: int | None) -> dict[str, Any]:
    """PEFT's block on the training, but for the size of the artefact's file. Null: the test accuracy, which is the
    evaluation's to say (metrics.json), and the memory reserved on average and in the 99th percentile of steps, which is not
    sampled.

    Args:
        total_parameters: of the model with its adapter.
        reserved_bytes: most that the accelerator's allocator held; None without one, where PEFT measures nothing.
    """
    last = record["loss_curve"][-1] if record["loss_curve"] else {"loss": None}
    return {
        "accelerator_memory_reserved_avg": None,
        "accelerator_memory_max": reserved_bytes,
        "accelerator_memory_reserved_99th": None,
        "train_time": record["wall_time_s"],
        "num_trainable_params": record["trainable_parameters"],
        "num_total_params": total_parameters,
        "status": record["status"],
        "metrics": [
            {
                "step": record["steps"],
                "test accuracy": None,
                "train loss": last["loss"],
                "train samples": _samples(record),
                "train total tokens": record["tokens"]["input"],
            }
        ],
    }


def _samples(record: Mapping[str, Any]) -> int:
    """Examples that the finished steps read: the last batch of an epoch holds what is left of the rows."""
    rows, training = record["data"]["rows"], record["spec"]["training"]
    batch = training["per_device_train_batch_size"] * training["gradient_accumulation_steps"]
    epochs, steps = divmod(record["steps"], math.ceil(rows / batch))
    return epochs * rows + steps * batch


def meta_info(record: Mapping[str, Any]) -> dict[str, Any]:
    """PEFT's block on software and hardware. Its ``sha`` is a commit on the hub: null for a model from elsewhere, and for the
    data, whose content the record itself identifies."""
    source, versions = record["spec"]["model"]["source"], record["versions"]
    format = record["spec"]["data"]["format"]
    accelerators = record["hardware"]["accelerators"]
    return {
        "model_info": {"sha": record["base_model_hash"] if source["kind"] == "hub" else None},
        "dataset_info": {format if isinstance(format, str) else str(Columns(**format)): {"sha": None}},
        "package_info": {
            f"{name}-version": versions.get(name) for name in ("transformers", "peft", "datasets", "bitsandbytes", "torch")
        },
        "system_info": {
            "system": platform.system(),
            "release": platform.release(),
            "version": platform.version(),
            "machine": platform.machine(),
            "processor": platform.processor(),
            "accelerator": accelerators[0] if accelerators else None,
        },
        "pytorch_info": torch.__config__.show(),
    }


def _plain(value: Any) -> Any:
    """Enums and other strings in disguise as plain JSON values, sets in order."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, set):
        return sorted(_plain(item) for item in value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        return str(getattr(value, "value", value))
    return value if isinstance(value, int | float | bool) or value is None else str(value)
