"""``gpus``: which key gives it, that no hash depends on it, and where one process cannot be several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.errors import ConfigError
from harness.experiment.gpus import check_world, gpus_of
from harness.experiment.runs import all_runs, load_experiment
from harness.schema.run import RunSpec
from tests.experiments import miniature, write

NAMES = ("lora", "dora", "full-ft")


def resolved(folder: Path, **changes: Any) -> tuple[dict[str, int], dict[str, RunSpec]]:
    """Method -> processes, and run."""
    rows = {"methods": {name: {} for name in NAMES}, "tables.table1.methods": {"llama-mini": list(NAMES)}}
    content = miniature(**rows, **{"training.gradient_accumulation_steps": 4}, **changes)
    experiment = load_experiment([write(folder, content)])
    runs = {run.method.key: run for run in all_runs(experiment)}
    return {name: gpus_of(experiment, run) for name, run in runs.items()}, runs


def test_the_nearest_key_wins_and_changes_no_hash(tmp_path: Path) -> None:
    one, plain = resolved(tmp_path)
    assert set(one.values()) == {1}
    overrides = [{"method": ["full-ft"], "gpus": 1}, {"method": ["full-ft"], "model": ["llama-mini"], "gpus": 4}]
    several, runs = resolved(tmp_path, gpus=2, **{"methods.lora.gpus": 1, "overrides": overrides})
    assert several == {"lora": 1, "dora": 2, "full-ft": 4}
    assert resolved(tmp_path, gpus=2, **{"domains.math.gpus": 4})[0] == dict.fromkeys(several, 4)
    assert runs == plain and "gpus" not in runs["lora"].training_json()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"methods.dora.gpus": 3},
            r":\d+: methods.dora.gpus: found 3 for math/llama-mini/dora/seed0, but gradient_accumulation_steps: found 4 "
            "micro-batches of 8 for 3 processes, expected a multiple of 3$",
        ),
        ({"gpus": 8}, "gpus: found 8 .* expected a multiple of 8; 8 of 4 .per_device_train_batch_size. are the same batch$"),
        (
            {"gpus": 2, "training.dtype": "bfloat16"},
            "gpus: found 2 for math/llama-mini/full-ft/seed0, but training.bf16_update: found 'plain', expected float32: ",
        ),
        ({"gpus": 0}, "gpus: found 0, expected >= 1"),
    ],
)
def test_what_several_processes_cannot_train_is_refused_where_it_says_so(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        resolved(tmp_path, **changes)
    float32 = {"gpus": 2, "training.dtype": "bfloat16", "methods.full-ft.training": {"bf16_update": "float32"}}
    assert set(resolved(tmp_path, **float32)[0].values()) == {2}


def test_processes_that_were_started_by_hand_are_checked_too(tmp_path: Path) -> None:
    run = resolved(tmp_path)[1]["lora"]
    check_world(run, 4)
    with pytest.raises(ConfigError, match="torchrun: found 3 processes for math/llama-mini/lora/seed0, but gradient_acc"):
        check_world(run, 3)
