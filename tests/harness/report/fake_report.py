"""Everything that the report reads, invented: an experiment file, and the records of its runs with prompts and completions."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from harness.claims import __main__ as claims
from harness.cli import Config
from harness.experiment.runs import all_runs, base_evaluations, pruning_runs
from harness.figures import catalogue, style
from harness.figures.inputs import Inputs
from harness.records import bench
from harness.records.read import run_folder
from harness.report.sources import Source, open_source
from harness.schema.experiment import Experiment
from tests.harness import fake_runs
from tests.harness.figures import fake_figures

#: What a model might write to take over a page.
HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'><!--"
#: The run of the whole experiment that failed.
LOST = "math/llama-tiny/dora/seed1"
METHODS = {"llama-tiny": ("full-ft", "lora", "dora", "adalora", "beamlora"), "mistral-tiny": ("lora", "beamlora")}


def picture() -> bytes:
    """A small PNG."""
    content = io.BytesIO()
    Image.new("RGB", (40, 30), "white").save(content, "PNG")
    return content.getvalue()


def experiment(**changes: Any) -> Experiment:
    """Tables 1 and 3 with a learning-rate sweep, pruning, timing and base models; one of the paper's numbers beside each."""
    made = fake_figures.experiment(methods=METHODS).model_dump(mode="json")
    ablation = "beamlora-no-expansion"
    made["methods"][ablation] = made["methods"]["beamlora"]
    three = {"domains": ["math"], "methods": {"llama-tiny": ["lora", "beamlora", ablation]}, "seeds": None}
    tasks = made["domains"]["math"]["evaluation"]["tasks"]
    made |= {
        "sweeps": {"learning_rate": made["sweeps"]["learning_rate"]},
        "tables": {**made["tables"], "table3": three},
        "seeds": [0, 1, 2, 3, 4],
        "comparisons": {
            "margin": {"accuracy": 0.05},
            "families": {
                "primary": {"tables": ["table1"], "methods": ["beamlora"]}, "secondary": {"tables": ["table1"]},
                "ablations": {"tables": ["table3"], "against": "beamlora"},
            },
        },
        "base_evaluation": {"models": ["llama-tiny"], "tasks": {"gsm8k": tasks["gsm8k"]}},
    }  # fmt: skip
    return Experiment.model_validate(made | changes)


def small(seeds: Sequence[int] = (0, 1)) -> Experiment:
    """Table 1 of LoRA and BeamLoRA on one model, their pruning and timing, for what does not depend on how much there is."""
    return fake_figures.experiment(seeds=list(seeds), sweeps={})


def answers(rows: list[dict[str, Any]], run: str) -> list[dict[str, Any]]:
    """The same rows with all that a real prediction has."""
    return [
        row | {
            "prompt": f"### Instruction:\nHow much is {i} + {i}?\n\n### Response:", "gold": str(2 * i),
            "completion": HOSTILE if i == 0 else f"{i} + {i} = {2 * i if row['correct'] else i} ({run})",
            "extracted": str(2 * i if row["correct"] else i),
            "verdicts": {"sound": row["correct"], "paper": row["correct"], "math_verify": row["correct"] or i == 1},
            "outcome": None, "truncated": False,
        }
        for i, row in enumerate(rows)
    ]  # fmt: skip


def _with_text(folder: Path, run_id: str) -> None:
    metrics = json.loads((folder / "metrics.json").read_text())
    for name, task in metrics["tasks"].items():
        path = folder / "predictions" / f"{name}.jsonl"
        rows = answers([json.loads(line) for line in path.read_text().splitlines()], run_id)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        task["graders"] = {grader: sum(row["verdicts"][grader] for row in rows) / len(rows) for grader in rows[0]["verdicts"]}
    overlap = {task: {"n": scores["n"], "exact": 0, "near": 1, "ngram": 2, "share": 1 / scores["n"], "ids": []}
               for task, scores in metrics["tasks"].items()}  # fmt: skip
    fake_runs.write_json(folder / "metrics.json", metrics | {"contamination": overlap})


def fill(made: Experiment, results: Path, *, effects: Mapping[str, float] | None = None) -> None:
    """Records of every run, ``LOST`` diverged; and all measurements."""
    rng = np.random.default_rng(3)
    runs = all_runs(made)
    fake_runs.populate(runs, results, effects={"adalora": -2.5, "full-ft": 0.6, **(effects or {})})
    for run in runs:
        folder = run_folder(run, results=results)
        if run.run_id == LOST:
            for path in (folder / "predictions").glob("*.jsonl"):
                path.unlink()
            fake_runs.write_run(run, results)
        else:
            _with_text(folder, run.run_id)
        fake_figures.write_losses(folder, rng)
        fake_runs.edit_json(
            folder / "train.json", training_hash=run.training_hash(), git={"commit": "0123456789abcdef" * 2, "dirty": False},
            artefact={"adapter_model.safetensors": "ab" * 32}, versions={"torch": "2.13.0"},
            data={"sha256": "cd" * 32, "rows": 96}, evidence={"steps": [4, 8], "ranks": {"0.q_proj": 3, "0.v_proj": 5}},
            hardware={"cpu": "a CPU", "cores": 2, "threads": 1, "accelerators": []}, created_at="2026-11-22T05:39:45+00:00",
        )  # fmt: skip
        if run.method.name.startswith("beamlora"):
            fake_figures.write_operations(run, folder, rng)
    for run in pruning_runs(made):
        fake_figures.write_pruning(made, run, run_folder(run, results=results), rng)
        fake_figures.write_importance(run, run_folder(run, results=results), rng)
    fake_figures.write_timing(made, results, rng)
    fake_runs.write_base(made, results, rng)
    for base in base_evaluations(made):
        _with_text(results / made.name / base.folder, base.folder)
    _bench(results)


def draw(source: Source, *names: str) -> None:
    """The data of these figures, which the page draws its plots from, beside their pictures."""
    where = {"configfiles": source.config.files, "results": source.results, "command": source.command}
    inputs = Inputs(experiment=source.experiment, **where)
    for name in names:
        with style.theme():
            data = catalogue.build(name, inputs).data
        (source.figures / f"{name}.csv").write_text(style.csv_text(data))


def _bench(results: Path) -> None:
    def cost(size: float) -> bench.Cost:
        return bench.Cost(cpu_s=size, wall_s=2 * size, bytes=int(1e6 * size))

    ratios, seconds = (0.5, 0.7, 0.62), (4.0, 4.5)
    rounds = tuple(bench.Round(ours=cost(2 * ratio), peer=cost(2)) for ratio in ratios)
    alone = tuple(bench.Round(ours=cost(one), peer=None) for one in seconds)
    record = bench.BenchRecord(
        created_at="2026-11-28T02:00:00+00:00", smoke=False, versions={"torch": "2.13.0"}, hardware={"cpu": "a CPU"},
        git={"commit": "0123456789abcdef" * 2, "dirty": False},
        rows=(
            bench.Row(name="LoRA", ours="LoRA", peer="PEFT, padded", goal=0.6, rounds=rounds),
            bench.Row(name="LoRA, memory", ours="LoRA", peer="PEFT, padded", of="memory", goal=0.6, rounds=rounds),
            bench.Row(name="harness.plan", ours="CPU seconds", peer=None, goal=None, rounds=alone),
        ),
    )  # fmt: skip
    (results / bench.FILE).parent.mkdir(parents=True)
    fake_runs.write_json(results / bench.FILE, record.model_dump(mode="json"))


def write(folder: Path, made: Experiment | None = None, *, picture: bytes = b"") -> Source:
    """The experiment file, its records, claims and figures (all the same ``picture``) in ``folder``."""
    made = made or experiment()
    file = folder / "fake.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(made.model_dump(mode="json"), sort_keys=False))
    results = folder / "results"
    fill(made, results)
    claims.main(["--configfile", str(file), "--results-dir", str(results)])
    source = open_source(Config(files=(file,)), results=results, figures=folder / "figures")
    for figure in catalogue.planned(made):
        (source.figures).mkdir(exist_ok=True)
        (source.figures / f"{figure.name}.png").write_bytes(picture)
    return source
