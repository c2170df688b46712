"""Everything that the figures read, invented: an experiment with sweeps, pruning and timing, and the files of its runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.text import Text

from harness.experiment.runs import all_runs, pruning_runs, timing_runs
from harness.figures import Selection, catalogue, style
from harness.figures.inputs import Inputs
from harness.records import importance
from harness.schema.experiment import Experiment
from harness.schema.fields import SCHEMA_VERSION
from harness.schema.run import RunSpec
from tests.harness import fake_runs

RANKS, LAYERS, STEPS = 16, 2, 120
KINDS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
         "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")  # fmt: skip
PAIR = ("lora", "beamlora")
WHERE = {"domains": ["math"], "models": ["llama-tiny"]}
SWEEPS = {
    "rank_sweep": {"setting": "r", "points": [{"r": r, "lora_alpha": 2 * r} for r in (4, 8, 16, 32)], "methods": PAIR, **WHERE},
    "delta_t": {"setting": "delta_t", "points": [{"delta_t": t} for t in (8, 16, 32)], "methods": ["beamlora"], **WHERE},
    "p_init": {"setting": "p_init", "points": [{"p_init": p} for p in (0.93, 0.95, 0.97)], "methods": ["beamlora"], **WHERE},
    "learning_rate": {"setting": "learning_rate", "points": [{"learning_rate": x} for x in (1e-3, 3e-3, 1e-2)],
                      "methods": PAIR, **WHERE},
}  # fmt: skip


def experiment(*, methods: Mapping[str, tuple[str, ...]] | None = None, **changes: Any) -> Experiment:
    """Two methods on one model in two domains, with everything that a figure can be made of."""
    methods = methods or {"llama-tiny": PAIR}
    keys = {key for names in methods.values() for key in names}
    content: dict[str, Any] = {
        "training": {"learning_rate": 0.003, "per_device_train_batch_size": 8, "max_steps": STEPS, "importance_every": 20},
        "methods": {key: {} for key in keys} | {"beamlora": {"settings": {"p_init": 0.95, "delta_t": 16, "horizon_steps": 80}}},
        "adapter": {"r": RANKS, "lora_alpha": 2 * RANKS},
        "sweeps": SWEEPS,
        "pruning": {"domain": "math", "model": "llama-tiny", "methods": PAIR},
        "timing": {"domain": "math", "model": "llama-tiny", "methods": PAIR, "rounds": 3},
    }
    made = fake_runs.experiment(methods=methods).model_dump(mode="json") | content
    tasks = made["domains"]["math"]["evaluation"]["tasks"]
    tasks["gsm8k_validation"] = {**tasks["gsm8k"], "split": "validation"}
    return Experiment.model_validate(made | changes)


def inputs(made: Experiment, results: Path, **selection: Any) -> Inputs:
    return Inputs(
        experiment=made, configfiles=(Path("fake.yaml"),), results=results, command="snakemake --cores all",
        selection=Selection(**selection),
    )  # fmt: skip


# --------------------------------------------------------------------------------------------------------------- files


def write_operations(run: RunSpec, folder: Path, rng: np.random.Generator) -> None:
    """Operations with fewer ranks each time, the last without any, as at threshold 1."""
    settings = run.method.settings
    steps = range(settings["delta_t"], 80 + settings["delta_t"], settings["delta_t"])
    rows = []
    for i, step in enumerate(steps):
        last = step >= 80
        p = 1.0 if last else settings["p_init"] + (1 - settings["p_init"]) * step / 80
        modules = []
        for layer in range(LAYERS):
            for kind in KINDS:
                k = 0 if last else int(rng.integers(1, max(2, round(60 * (1 - p)) + 1)))
                name = f"base_model.model.model.layers.{layer}.{kind}"
                modules.append({"name": name, "K": k, "pruned": list(range(k)), "sources": list(range(k, 2 * k))})
        rows.append({"step": step, "p": p, "modules": modules, "loss_before": 1.0 - 0.05 * i, "loss_after": 0.9 - 0.05 * i})
    path = folder / "adapter" / "operations.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_importance(run: RunSpec, folder: Path, rng: np.random.Generator, *, layers: int = LAYERS) -> None:
    """Equal at the start, different at the end; BeamLoRA's more even."""
    steps = np.arange(0, STEPS + 1, 20)
    spread = 0.25 if run.method.name == "beamlora" else 0.7
    modules = {}
    for layer in range(layers):
        for kind in KINDS:
            final = np.exp(spread * rng.normal(size=RANKS)) * (1 + 0.2 * layer)
            growth = 1 - np.exp(-steps / 40)
            modules[f"model.layers.{layer}.{kind}"] = (growth[:, None] * final ** growth[:, None]).astype(np.float32)
    path = folder / "adapter" / importance.FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    importance.write(path, importance.ImportanceHistory(steps=steps, modules=modules))


def write_pruning(made: Experiment, run: RunSpec, folder: Path, rng: np.random.Generator) -> None:
    """A curve that stays and then drops, BeamLoRA's earlier."""
    fractions = list(made.pruning.fractions)
    sharpness = 3.0 if run.method.name == "beamlora" else 8.0
    tasks = {}
    for task, spec in run.evaluation.tasks.items():
        if spec.split != "test":
            continue
        n = spec.source.rows
        ability = rng.random(n)
        rows = [ability < 0.75 * (1 - f**sharpness) for f in fractions]
        losses = [(1 + f**sharpness - 0.2 * ability).tolist() for f in fractions]
        answered = spec.grader is not None
        tasks[task] = {
            "n": n, "ids": [f"{task}/{i}" for i in range(n)], "grader": spec.grader,
            "losses": losses, "gold_nll": [float(np.mean(row)) for row in losses],
            "accuracy": [float(row.mean()) for row in rows] if answered else None,
            "correct": ["".join("01"[int(v)] for v in row) for row in rows] if answered else None,
        }  # fmt: skip
    record = {"schema_version": SCHEMA_VERSION, "run_id": run.run_id, "training_hash": run.training_hash(),
              "status": "success", "fractions": fractions, "tasks": tasks}  # fmt: skip
    fake_runs.write_json(folder / "pruning.json", record)


def write_losses(folder: Path, rng: np.random.Generator) -> None:
    steps = [1, *range(4, STEPS + 1, 4)]
    curve = [{"step": s, "loss": float(2 * np.exp(-s / 40) + 0.2 + 0.02 * rng.normal())} for s in steps]
    fake_runs.edit_json(folder / "train.json", loss_curve=curve)


def write_timing(made: Experiment, results: Path, rng: np.random.Generator) -> Path:
    """Measurements of every round: DoRA and AdaLoRA cost more."""
    slower = {"dora": 1.7, "adalora": 1.6, "full-ft": 0.8}
    larger = {"dora": 1.35, "adalora": 1.1, "full-ft": 1.9}
    measurements = []
    for number in range(made.timing.rounds):
        for order, method in enumerate(made.timing.methods):
            seconds = 0.2 * slower.get(method, 1.0) * (1 + 0.03 * rng.random())
            peak = int(2**29 * larger.get(method, 1.0) * (1 + 0.01 * rng.random()))
            work = [{"kinds": [], "steps_in_run": STEPS, "steps": [1, 2], "seconds": [seconds, seconds]}]
            measurements.append({
                "method": method, "round": number, "order": order, "work": work, "wall_time_s": 2 * seconds,
                "cpu_time_s": 2 * seconds, "memory_of": "process, resident", "loaded_bytes": 2**28, "peak_bytes": peak,
                "reserved_bytes": None,
            })  # fmt: skip
    record = {
        "schema_version": SCHEMA_VERSION, "experiment": made.name, "timing": made.timing.model_dump(mode="json"),
        "settings": {key: run.training_hash() for key, run in timing_runs(made).items()}, "versions": {},
        "git": {}, "hardware": {"cpu": "a CPU", "threads": 1, "accelerators": []}, "measurements": measurements,
    }  # fmt: skip
    path = results / made.name / "timing.json"
    fake_runs.write_json(path, record)
    return path


def write_all(made: Experiment, results: Path, *, rng_seed: int = 0) -> None:
    """Records and files of every run of an experiment; a method's ability grows with its rank."""
    rng = np.random.default_rng(rng_seed)
    if made.timing is not None:
        write_timing(made, results, rng)
    runs = all_runs(made)
    fake_runs.populate(runs, results, effects={"full-ft": 0.6, "adalora": -0.8, "beamlora": 0.3}, rng_seed=rng_seed)
    pruned = {run.run_id for run in pruning_runs(made)}
    for run in runs:
        folder = fake_runs.run_folder(run, results)
        write_losses(folder, rng)
        if run.method.name == "beamlora":
            write_operations(run, folder, rng)
        if run.run_id in pruned:
            write_importance(run, folder, rng)
            write_pruning(made, run, folder, rng)
        scale = {"full-ft": 13.0, "dora": 1.1, "adalora": 1.02}.get(run.method.name, 1.0)
        seconds = {"full-ft": 0.8, "dora": 1.7, "adalora": 1.6}.get(run.method.name, 1.0) * (20 + rng.random())
        fake_runs.edit_json(
            folder / "train.json",
            trainable_parameters=int(61440 * scale),
            wall_time_s=seconds,
            peak_memory_bytes=int((500 + 30 * rng.random() + 8 * scale) * 2**20),
        )


def diverge(run: RunSpec, results: Path) -> None:
    """Turn a run's record into that of a diverged one."""
    fake_runs.write_run(run, results)


# ------------------------------------------------------------------------------------------------------------- drawing


def data_of(name: str, made: Experiment, results: Path, **selection: Any) -> pd.DataFrame:
    """The data behind a figure."""
    with style.theme():
        return catalogue.build(name, inputs(made, results, **selection)).data


def words_of(name: str, made: Experiment, results: Path) -> str:
    """All words of a figure."""
    with style.theme():
        figure = catalogue.build(name, inputs(made, results)).figure
    return words_in(figure)


def words_in(figure: Figure) -> str:
    """All words of a drawn figure."""
    return " ".join(text.get_text().replace("\n", " ") for text in figure.findobj(Text))
