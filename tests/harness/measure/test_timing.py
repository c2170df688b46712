"""Timing: which steps are measured, what follows from the measurements, and how they are made and kept."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import methods
from harness.errors import ConfigError
from harness.experiment.runs import load_experiment, load_run, timing_runs
from harness.measure import loaded, timing
from harness.measure.time_lapse import kinds_of_steps, plan_steps
from harness.measure.timing import measure_all
from harness.records.timing import Measurement, TimingRecord, read, summarise
from harness.schema.experiment import Experiment
from harness.schema.run import RunSpec
from tests.experiments import miniature, settings_of, write
from tests.paths import ROOT

# -------------------------------------------------------------------------------------------------------------- which steps


def test_steps_are_grouped_by_all_their_kinds_of_work() -> None:
    by_kind = kinds_of_steps(6, {"b": [2, 4], "a": range(4, 7)})
    assert by_kind == {(): [1, 3], ("b",): [2], ("a", "b"): [4], ("a",): [5, 6]}


def test_each_kind_is_measured_as_often_as_asked_or_as_it_happens() -> None:
    planned = plan_steps(kinds_of_steps(100, {"operation": [30, 60, 90], "snapshot": range(16, 100, 10)}), steps=4)
    assert [(entry.step, entry.kinds, entry.batch) for entry in planned] == [
        (1, (), 0),
        (16, ("snapshot",), 0),
        (24, (), 1),
        (26, ("snapshot",), 1),
        (30, ("operation",), 0),
        (36, ("snapshot",), 2),
        (46, ("snapshot",), 3),
        (50, (), 2),
        (60, ("operation",), 1),
        (75, (), 3),
        (90, ("operation",), 2),
    ]


@given(st.integers(1, 60), st.dictionaries(st.sampled_from("abc"), st.sets(st.integers(1, 60))), st.integers(1, 9))
def test_no_kind_is_left_out_and_the_whole_run_is_counted(total: int, work: dict[str, set[int]], steps: int) -> None:
    by_kind = kinds_of_steps(total, {kind: [s for s in members if s <= total] for kind, members in work.items()})
    assert sorted(step for members in by_kind.values() for step in members) == list(range(1, total + 1))
    planned = plan_steps(by_kind, steps=steps)
    assert [entry.step for entry in planned] == sorted({entry.step for entry in planned})
    for kinds, members in by_kind.items():
        chosen = [entry for entry in planned if entry.kinds == kinds]
        assert len(chosen) == min(steps, len(members)) and {entry.step for entry in chosen} <= set(members)
        assert [entry.batch for entry in chosen] == list(range(len(chosen)))


# ----------------------------------------------------------------------------------------------------- what follows from them


def measurement(method: str, number: int, *, seconds: float, operation: float | None = None, peak: int = 300) -> dict[str, Any]:
    """A run of 1000 steps, 10 of them operations if these have a cost."""
    rare = 0 if operation is None else 10
    work = [{"kinds": [], "steps_in_run": 1000 - rare, "steps": [1, 2, 3], "seconds": [seconds, seconds, 50 * seconds]}]
    if operation is not None:
        work.append({"kinds": ["operation"], "steps_in_run": rare, "steps": [9], "seconds": [seconds + operation]})
    return {
        "method": method,
        "round": number,
        "order": 0,
        "work": work,
        "wall_time_s": 1.0,
        "cpu_time_s": 1.0,
        "memory_of": "process, resident",
        "loaded_bytes": 100,
        "peak_bytes": peak,
        "reserved_bytes": None,
    }


def record_of(measurements: list[dict[str, Any]], *, rounds: int) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "experiment": "mini",
        "timing": {"domain": "math", "model": "m", "methods": ["lora", "dora"], "rounds": rounds},
        "settings": {},
        "versions": {},
        "git": {},
        "hardware": {},
        "measurements": measurements,
    }


def test_rare_work_counts_as_often_as_the_run_has_it_and_a_hiccup_does_not() -> None:
    measured = Measurement.model_validate(measurement("beamlora", 0, seconds=1.0, operation=5.0))
    assert measured.seconds_per_step == pytest.approx(1.0 + 10 * 5.0 / 1000)
    assert Measurement.model_validate(measurement("lora", 0, seconds=1.0)).seconds_per_step == 1.0
    assert measured.added_bytes == 200


def test_ratios_are_within_rounds() -> None:
    """The machine gets three times slower from round to round; the method costs 1.5 times as much in each."""
    rounds = [
        measurement(method, number, seconds=factor * 3**number, peak=peak)
        for number in range(4)
        for method, factor, peak in (("lora", 1.0, 300), ("dora", 1.5, 400))
    ]
    summaries = summarise(TimingRecord.model_validate(record_of(rounds, rounds=4)))
    assert list(summaries) == ["lora", "dora"]
    dora = summaries["dora"]
    assert (dora.time.low, dora.time.median, dora.time.high) == pytest.approx((1.5, 1.5, 1.5))
    assert (dora.peak.median, dora.added.median, dora.rounds) == (pytest.approx(4 / 3), 1.5, 4)
    assert (summaries["lora"].time.low, summaries["lora"].time.high, summaries["lora"].peak.median) == (1, 1, 1)
    assert summaries["lora"].seconds_per_step == (3 + 9) / 2


def test_the_interval_shows_how_much_the_rounds_differ() -> None:
    factors = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6]
    rounds = [
        measurement(method, number, seconds=1.0 if method == "lora" else factor)
        for number, factor in enumerate(factors)
        for method in ("lora", "dora")
    ]
    record = TimingRecord.model_validate(record_of(rounds, rounds=len(factors)))
    wide, narrow = summarise(record)["dora"].time, summarise(record, confidence=0.5)["dora"].time
    assert wide.median == pytest.approx(1.3)
    assert 1.0 <= wide.low < narrow.low < 1.3 < narrow.high < wide.high <= 1.6
    assert summarise(record)["dora"].time == wide


def test_a_record_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "timing.json"

    def message(content: Any) -> str:
        path.write_text(json.dumps(content))
        with pytest.raises(ConfigError) as error:
            read(path)
        return str(error.value)

    with pytest.raises(ConfigError, match="found no such file"):
        read(path)
    some = [measurement(method, number, seconds=1.0) for number in range(2) for method in ("lora", "dora")]
    assert "found no measurement of dora in round 1" in message(record_of(some[:3], rounds=2))
    assert "schema_version: found 7" in message({**record_of(some, rounds=2), "schema_version": 7})
    del some[0]["peak_bytes"]
    assert "measurements.0.peak_bytes: Field required" in message(record_of(some, rounds=2))


# ------------------------------------------------------------------------------------------------------------ how they are made

#: Stands for a process that measures: notes what it was asked for, and ends when told to.
FAKE = """
import argparse, json, os, pathlib, sys
parser = argparse.ArgumentParser()
parser.add_argument("--measure", action="store_true")
parser.add_argument("--output")
args = parser.parse_args()
folder = pathlib.Path(sys.argv[0]).parent
for line in sys.stdin:
    method, number = line.split()
    with (folder / "asked").open("a") as stream:
        print(method + number, os.getpid(), file=stream)
    if (folder / "fail").exists() and method == "dora":
        sys.exit(3)
    work = [{"kinds": [], "steps_in_run": 5, "steps": [1], "seconds": [1.0]}]
    found = {"method": method, "round": int(number), "work": work, "wall_time_s": 1, "cpu_time_s": 1,
             "memory_of": "process", "loaded_bytes": 1, "peak_bytes": 2, "reserved_bytes": None}
    pathlib.Path(args.output).write_text(json.dumps(found))
    print(0, flush=True)
"""
TIMING = {"domain": "math", "model": "llama-mini", "methods": ["lora", "dora", "full-ft"], "rounds": 2, "steps": 3}


def experiment_of(folder: Path, **changes: Any) -> Experiment:
    content = miniature(**{"methods": {name: {} for name in TIMING["methods"]}, "timing": TIMING, **changes})
    return load_experiment([write(folder, content)])


def test_the_order_rotates_and_finished_measurements_survive(tmp_path: Path) -> None:
    script = tmp_path / "fake.py"
    script.write_text(FAKE)
    command, output = [sys.executable, str(script)], tmp_path / "results" / "timing.json"
    experiment = experiment_of(tmp_path)
    (tmp_path / "fail").touch()
    with pytest.raises(RuntimeError, match="measuring dora in round 0 ended with exit status 3"):
        measure_all(experiment, command=command, output=output, scratch_dir=tmp_path / "scratch")
    assert not output.exists()
    (tmp_path / "fail").unlink()
    record = measure_all(experiment, command=command, output=output, scratch_dir=tmp_path / "scratch")
    asked = [line.split() for line in (tmp_path / "asked").read_text().splitlines()]
    assert [what for what, _ in asked] == "lora0 dora0 dora0 full-ft0 dora1 full-ft1 lora1".split()
    assert len({process for _, process in asked[:2]}) == len({process for _, process in asked[2:]}) == 1
    assert [(m.method, m.round, m.order) for m in record.measurements][-2:] == [("full-ft", 1, 1), ("lora", 1, 2)]
    assert read(output) == record and set(record.settings) == set(TIMING["methods"])
    assert list((tmp_path / "scratch").iterdir()) == []


def test_methods_that_load_other_weights_have_a_process_of_their_own(tmp_path: Path) -> None:
    script = tmp_path / "fake.py"
    script.write_text(FAKE)
    methods = {"lora": {}, "dora": {}, "full-ft": {"training": {"dtype": "bfloat16"}}}
    measure_all(
        experiment_of(tmp_path, methods=methods),
        command=[sys.executable, str(script)],
        output=tmp_path / "timing.json",
        scratch_dir=tmp_path / "scratch",
    )
    processes: dict[str, set[str]] = {}
    for line in (tmp_path / "asked").read_text().splitlines():
        what, process = line.split()
        processes.setdefault(what[:-1], set()).add(process)
    assert processes["lora"] == processes["dora"] != processes["full-ft"]
    assert all(len(ids) == 1 for ids in processes.values())


def test_a_base_is_loaded_once_and_no_measurement_sees_what_another_did_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []
    weights = ["pristine"]

    def load(spec: RunSpec, *_: Any, on_host: bool) -> list[str]:
        assert on_host
        loads.append(spec.method.key)
        return weights

    def measure(spec: RunSpec, base: list[str], *, number: int, **_: Any) -> dict[str, Any]:
        found = {"method": spec.method.key, "round": number, "base": base.copy(), "process": os.getpid()}
        base.append(spec.method.key)
        if number == 7:
            raise ConfigError("diverged")
        return found

    monkeypatch.setattr(loaded, "load_inputs", load)
    monkeypatch.setattr(loaded, "measure", measure)
    output = tmp_path / "measurement.json"

    def served(*requests: str) -> Iterator[int]:
        folders = {"output": output, "models_dir": tmp_path, "cache_dir": tmp_path}
        return loaded.serve(experiment_of(tmp_path), requests, **folders)

    made = [(status, json.loads(output.read_text())) for status in served("lora 0\n", "dora 0\n", "dora 1\n")]
    assert [(status, one["method"], one["round"]) for status, one in made] == [(0, "lora", 0), (0, "dora", 0), (0, "dora", 1)]
    assert loads == ["lora"] and all(one["base"] == ["pristine"] for _, one in made)
    assert len({os.getpid(), *(one["process"] for _, one in made)}) == 4
    assert list(served("lora 7", "lora 1")) == [2, 0]
    with pytest.raises(ConfigError, match="--measure: found 'relora', expected one of timing.methods: lora, dora, full-ft"):
        list(served("relora 0"))


def test_loading_for_others_leaves_the_gpu_alone(
    beam_experiment: Experiment, tmp_path: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA does not survive a fork."""
    import torch
    import transformers.models.llama.modeling_llama  # noqa: F401  (what it imports asks for GPUs)

    from harness.train.run import Folders, load_inputs

    def started() -> None:
        raise RuntimeError("CUDA was started")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "_lazy_init", started)
    spec = timing_runs(beam_experiment)["lora"]
    folders = Folders(output=tmp_path, scratch=tmp_path, models=models_dir, cache=tmp_path / "cache")
    with pytest.raises((RuntimeError, AssertionError)):
        load_inputs(spec, beam_experiment, folders)
    assert load_inputs(spec, beam_experiment, folders, on_host=True).model.device.type == "cpu"


def test_what_is_measured_is_a_run_of_the_experiment_without_its_bookkeeping(tmp_path: Path) -> None:
    runs = timing_runs(experiment_of(tmp_path, **{"training.importance_every": 2}))
    assert list(runs) == TIMING["methods"]
    for run in runs.values():
        assert run.training.importance_every is None and run.training.save_steps > 10**9
        assert (run.training.max_steps, run.training.learning_rate) == (12, 3e-3)
    assert timing_runs(experiment_of(tmp_path, timing=None)) == {}
    with pytest.raises(ConfigError, match="timing: found nothing"):
        measure_all(experiment_of(tmp_path, timing=None), command=[], output=tmp_path / "t.json", scratch_dir=tmp_path)


def test_reading_needs_no_torch() -> None:
    code = "import sys, harness.records.timing, harness.records.pruning; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True) == "False\n"


# ------------------------------------------------------------------------------------------------------- the real measurement

#: Methods that log what they do: its name in operations.jsonl, its kinds of work, and what makes its steps count from 1.
LOGGED = {
    "beamlora": (None, {"operation", "reset"}, 0),
    "adalora": ("allocate", {"allocation"}, 1),
    "relora": ("merge", {"merge"}, 0),
    "increlora": ("grow", {"growth"}, 1),
}


@pytest.mark.parametrize(
    "name", ["adalora", "beamlora", *(pytest.param(n, marks=pytest.mark.slow) for n in ("increlora", "relora"))]
)
def test_the_work_that_a_method_announces_is_what_it_logs(name: str, tmp_path: Path, models_dir: Path) -> None:
    from harness.train.run import Folders, load_inputs, make_trainer

    content = miniature(
        **{
            "training.max_steps": 16,
            "methods": {name: {"settings": settings_of(name)}},
            "tables.table1.methods": {"llama-mini": [name]},
        }
    )
    experiment, spec = load_run([write(tmp_path, content)], {}, f"math/llama-mini/{name}/seed0")
    folders = Folders(output=tmp_path, scratch=tmp_path / "scratch", models=models_dir, cache=tmp_path / "cache")
    trainer, _ = make_trainer(spec, load_inputs(spec, experiment, folders), folders)
    announced = trainer.method.extra_work()
    trainer.train()
    operation, kinds, offset = LOGGED[name]
    lines = map(json.loads, (folders.scratch / "operations.jsonl").read_text().splitlines())
    logged = [line["step"] + offset for line in lines if operation is None or line["operation"] == operation]
    assert logged and sorted(step for kind in kinds for step in announced[kind]) == logged
    assert all(1 <= step <= 16 for steps in announced.values() for step in steps)


def test_every_method_announces_steps_of_the_run(models_dir: Path) -> None:
    assert {name for name, named in methods.registry().items() if "extra_work" in vars(named.cls)} >= set(LOGGED)
    assert methods.get("lora").cls.extra_work is methods.get("full-ft").cls.extra_work


@pytest.fixture
def beam_experiment(tmp_path: Path) -> Experiment:
    changes = {
        "training.max_steps": 1000,
        "training.gradient_accumulation_steps": 2,
        "methods": {"lora": {}, "beamlora": {"settings": {"delta_t": 200, "horizon_steps": 700, "p_init": 0.6}}},
        "timing": {**TIMING, "methods": ["lora", "beamlora"], "warmup_steps": 2},
        "tables.table1.methods": {"llama-mini": ["lora"]},
    }
    return experiment_of(tmp_path, **changes)


def test_a_measurement_visits_the_whole_schedule_and_times_each_kind_of_step(
    beam_experiment: Experiment,
    tmp_path: Path,
    models_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from beamlora.beam import BeamLora
    from harness.measure import time_lapse
    from harness.train.run import Folders, load_inputs

    operate = BeamLora._operate
    done: list[int] = []
    clock = itertools.count()

    def slow(self: Any) -> Any:
        done.append(self.steps)
        for _ in range(30):
            next(clock)
        return operate(self)

    monkeypatch.setattr(time_lapse, "_now", lambda: 0.01 * next(clock))
    monkeypatch.setattr(BeamLora, "_operate", slow)
    spec, plan = timing_runs(beam_experiment)["beamlora"], beam_experiment.timing
    assert plan is not None
    folders = Folders(output=tmp_path, scratch=tmp_path, models=models_dir, cache=tmp_path / "cache")
    base = load_inputs(spec, beam_experiment, folders, on_host=True)
    content = time_lapse.measure(
        spec, base, steps=plan.steps, warmup_steps=plan.warmup_steps, number=0, cache_dir=folders.cache
    )
    measured = Measurement.model_validate({**content, "order": 0})
    assert done == [200, 400, 600, 800]
    work = {w.kinds: w for w in measured.work}
    assert {kinds: (w.steps_in_run, w.steps) for kinds, w in work.items()} == {
        (): (993, (1, 335, 669)),
        ("snapshot",): (3, (101, 301, 501)),
        ("operation",): (3, (200, 400, 600)),
        ("reset",): (1, (800,)),
    }
    assert work["operation",].seconds == pytest.approx([0.31] * 3) and work[()].seconds == pytest.approx([0.01] * 3)
    assert measured.seconds_per_step == pytest.approx(0.01 + 4 * 0.3 / 1000)
    assert measured.peak_bytes > measured.loaded_bytes > 2**20 and measured.cpu_time_s > 0


def test_all_methods_of_a_round_train_on_the_same_batches_and_rounds_on_others(beam_experiment: Experiment) -> None:
    from harness.measure.time_lapse import _rows

    def batches(method: str, number: int) -> dict[int, list[int]]:
        work = {"operation": [4, 8]} if method == "beamlora" else {}
        planned = plan_steps(kinds_of_steps(12, work), steps=3)
        spec = timing_runs(beam_experiment)[method]
        rows = _rows(spec, planned, rows=96, number=number)
        size = len(rows) // len(planned)
        assert size == 16
        by_batch: dict[int, list[int]] = {}
        for index, entry in enumerate(planned):
            assert by_batch.setdefault(entry.batch, rows[index * size :][:size]) == rows[index * size :][:size]
        return by_batch

    assert batches("lora", 0) == batches("beamlora", 0) != batches("lora", 1)
    assert sum(map(len, batches("lora", 0).values())) == len({row for batch in batches("lora", 0).values() for row in batch})


def test_the_peak_is_counted_from_the_reset() -> None:
    from harness.measure.time_lapse import peak_memory, reset_peak_memory

    big = np.ones(30_000_000)
    with_big = peak_memory()["bytes"]
    del big
    reset_peak_memory()
    assert peak_memory()["bytes"] < with_big - 200_000_000


@pytest.mark.slow
def test_the_command_measures_each_method_in_a_process_of_its_own(
    beam_experiment: Experiment,
    tmp_path: Path,
    models_dir: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "timing.json"
    status = timing.main(
        [
            *(
                "--configfile",
                str(tmp_path / "experiment.yaml"),
                "--output",
                str(output),
                "--scratch",
                str(tmp_path / "scratch"),
            ),
            *("--models-dir", str(models_dir), "--cache-dir", str(tmp_path / "cache")),
        ]
    )
    assert status == 0 and "beamlora: " in capfd.readouterr().out
    assert [m.method for m in read(output).measurements] == ["lora", "beamlora", "beamlora", "lora"]
