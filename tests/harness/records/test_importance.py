"""Importance snapshots: what a run records, the file, and the measures."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import ConfigError
from harness.experiment.runs import load_run
from harness.records import importance
from harness.records.importance import ImportanceHistory, deciles, evenness, variation
from tests.experiments import miniature, write
from tests.paths import ROOT
from tests.rounding import assert_equal_but_for_rounding

positive = st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=70)


def history() -> ImportanceHistory:
    return ImportanceHistory(
        steps=np.array([0, 5]),
        modules={"model.layers.0.mlp.up_proj": np.arange(6, dtype=np.float32).reshape(2, 3)},
    )


# ---------------------------------------------------------------------------------------------------------------- the file


def test_what_is_written_is_read_and_numpy_alone_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "adapter" / importance.FILE
    importance.write(path, history())
    recorded = importance.read(path)
    assert recorded.steps.tolist() == [0, 5]
    np.testing.assert_array_equal(recorded.modules["model.layers.0.mlp.up_proj"], [[0, 1, 2], [3, 4, 5]])
    assert recorded.last["model.layers.0.mlp.up_proj"].tolist() == [3, 4, 5]
    with np.load(path) as content:
        assert content.files == ["steps", "model.layers.0.mlp.up_proj"]


def test_equal_histories_are_equal_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    importance.write(tmp_path / "now.npz", history())
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 4e7)
    importance.write(tmp_path / "later.npz", history())
    assert (tmp_path / "now.npz").read_bytes() == (tmp_path / "later.npz").read_bytes()


def test_what_is_no_history_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a.npz: found no such file; make it: .* training.importance_every"):
        importance.read(tmp_path / "a.npz")
    (tmp_path / "b.npz").write_bytes(b"no archive")
    with pytest.raises(ConfigError, match=r"b.npz: cannot be read"):
        importance.read(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", steps=np.arange(2), module=np.zeros((3, 4)))
    with pytest.raises(ConfigError, match=r"c.npz: found steps \(2,\) and {'module': \(3, 4\)}, expected"):
        importance.read(tmp_path / "c.npz")
    np.savez(tmp_path / "d.npz", module=np.zeros((3, 4)))
    with pytest.raises(ConfigError, match=r"d.npz: found steps None"):
        importance.read(tmp_path / "d.npz")


def test_reading_needs_no_torch() -> None:
    code = "import sys, harness.records.importance; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True) == "False\n"


# ---------------------------------------------------------------------------------------------------------------- measures


def test_deciles_are_means_of_tenths_from_least_to_most_important() -> None:
    values = np.random.default_rng(0).permutation(30)
    np.testing.assert_allclose(deciles(values), np.arange(1, 30, 3))


def test_a_rank_on_a_border_counts_for_both_deciles() -> None:
    np.testing.assert_allclose(deciles([4, 0]), [0] * 5 + [4] * 5)
    np.testing.assert_allclose(deciles([1, 2, 3, 4]), [1, 1, 1.5, 2, 2, 3, 3, 3.5, 4, 4])


@given(positive)
def test_deciles_rise_and_keep_the_mean(values: list[float]) -> None:
    tenths = deciles(values)
    assert tenths.shape == (10,) and np.all(np.diff(tenths) >= -1e-9 * max(values))
    assert tenths.mean() == pytest.approx(np.mean(values))


def test_variation_and_evenness_at_their_limits() -> None:
    over_time = np.array([[0, 0, 0, 0], [2, 2, 2, 2], [8, 0, 0, 0]])
    np.testing.assert_allclose(variation(over_time), [np.nan, 0, np.sqrt(3)])
    np.testing.assert_allclose(evenness(over_time), [np.nan, 1, 0], atol=1e-12)


@given(positive, st.floats(0.1, 10))
def test_measures_do_not_depend_on_scale_or_order(values: list[float], factor: float) -> None:
    other = factor * np.array(values)[::-1]
    for measure in (variation, evenness):
        assert measure(other) == pytest.approx(float(measure(values)), abs=1e-9)
    assert 0 <= evenness(values) <= 1 + 1e-12


# --------------------------------------------------------------------------------------------------------- what a run records


def trained(folder: Path, models_dir: Path, method: str, **changes: object) -> Path:
    """Train the miniature with one method; returns the run's folder."""
    from harness.train.run import Folders, train

    content = miniature(
        **{
            "training.importance_every": 5,
            "methods": {method: {}},
            "tables.table1.methods": {"llama-mini": [method]},
            **changes,
        }
    )
    experiment, spec = load_run([write(folder, content)], {}, f"math/llama-mini/{method}/seed0")
    output = folder / "run"
    train(spec, experiment, Folders(output=output, scratch=folder / "scratch", models=models_dir, cache=folder / "cache"))
    return output


@pytest.mark.numeric
def test_lora_is_recorded_from_the_first_to_the_last_step(tmp_path: Path, models_dir: Path) -> None:
    import torch
    from safetensors.torch import load_file

    run = trained(tmp_path, models_dir, "lora")
    recorded = importance.read(run / "adapter" / importance.FILE)
    assert recorded.steps.tolist() == [0, 5, 10, 12] and recorded.steps.dtype == np.int64
    assert len(recorded.modules) == 7
    tensors = load_file(run / "adapter" / "adapter_model.safetensors")
    for name, values in recorded.modules.items():
        assert values.shape == (4, 8) and values.dtype == np.float32
        assert not values[0].any() and (values[1:] > 0).all()
        a, b = (tensors[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
        norms = torch.stack([2 * torch.outer(b[:, i], a[i]).norm() for i in range(8)])
        assert_equal_but_for_rounding(values[-1], norms, terms=len(b) * a.shape[1])
    record = json.loads((run / "train.json").read_text())
    assert record["rank_importance"] == {"every": 5, "snapshots": 4, "reason": None}


def test_other_processes_than_the_main_one_record_nothing() -> None:
    from types import SimpleNamespace

    import torch

    from harness.train.trainer import RecordImportance

    method = SimpleNamespace(rank_importance=lambda model: {"module": torch.ones(3)})
    for is_main, expected in ((True, [0, 2, 3]), (False, [])):
        recorder = RecordImportance(method, every=2)
        for step in range(4):
            state = SimpleNamespace(global_step=step, is_world_process_zero=is_main)
            (recorder.on_step_end if step else recorder.on_train_begin)(None, state, None, model=None)
        recorder.on_train_end(None, state, None, model=None)
        assert recorder.steps == expected and (recorder.history() is None) == (not is_main)


def test_pissa_is_recorded_as_it_is_trained(tmp_path: Path, models_dir: Path) -> None:
    recorded = importance.read(trained(tmp_path, models_dir, "pissa") / "adapter" / importance.FILE)
    values = recorded.modules["model.layers.0.mlp.up_proj"]
    assert values.shape == (4, 8) and (values[0] > 0).all()
    assert (np.diff(values[0]) < 0).all()  # at the start the importances are the singular values, largest first


def test_a_replaced_slot_jumps(tmp_path: Path, models_dir: Path) -> None:
    settings = {"delta_t": 4, "horizon_steps": 12, "p_init": 0.6}
    run = trained(
        tmp_path, models_dir, "beamlora", **{"methods": {"beamlora": {"settings": settings}}, "training.importance_every": 1}
    )
    recorded = importance.read(run / "adapter" / importance.FILE)
    operation = json.loads((run / "adapter" / "operations.jsonl").read_text().splitlines()[-1])
    step = operation["step"]
    assert step == 8 and recorded.steps.tolist() == list(range(13))
    jumps: dict[bool, list[float]] = {True: [], False: []}
    for module in operation["modules"]:
        before, after = recorded.modules[module["name"].removeprefix("base_model.model.")][step - 1 : step + 1]
        for slot in set(range(8)) - set(module["sources"]):
            jumps[slot in module["pruned"]].append(abs(np.log(after[slot] / before[slot])))
    assert np.median(jumps[True]) > 2 * np.median(jumps[False])


@pytest.mark.parametrize("method", ["dora", "full-ft"])
def test_a_method_without_such_ranks_says_so(tmp_path: Path, models_dir: Path, method: str) -> None:
    run = trained(tmp_path, models_dir, method)
    assert not (run / "adapter" / importance.FILE).exists()
    record = json.loads((run / "train.json").read_text())["rank_importance"]
    assert record["snapshots"] == 0 and "not a sum of ranks" in record["reason"]


def test_without_the_setting_nothing_is_recorded(tmp_path: Path, models_dir: Path) -> None:
    run = trained(tmp_path, models_dir, "lora", **{"training.importance_every": None})
    assert not (run / "adapter" / importance.FILE).exists()
    assert json.loads((run / "train.json").read_text())["rank_importance"] is None
