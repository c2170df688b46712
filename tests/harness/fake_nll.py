"""An experiment that is judged by the NLL of the gold answer, as config/evidence.yaml is, with records of all its runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from harness.schema.experiment import Experiment
from tests.harness import fake_runs
from tests.harness.figures import fake_figures

#: By name: rows and what a task is for. Nothing is answered but a secondary task.
MATH = {"gsm8k": (40, "test"), "math": (30, "secondary"), "arc_easy": (25, "secondary")}


def _task(name: str, rows: int, split: str) -> dict[str, Any]:
    asked = {"max_new_tokens": 8, "grader": "sound"} if name == "arc_easy" else {"max_new_tokens": 0, "grader": None}
    source = {"kind": "generated", "generator": name, "rows": rows, "seed": 2}
    return {"source": source, "format": name, "split": split, "prompt_template": "alpaca", **asked}


def experiment(**changes: Any) -> Experiment:
    """LoRA and BeamLoRA on one model: a test set, two secondary ones, rates chosen in a domain that has validation rows alone,
    sweeps, pruning, and the base model asked the same."""
    made = fake_figures.experiment(seeds=[0, 1, 2, 3, 4]).model_dump(mode="json")
    math = made["domains"]["math"]
    tasks = {name: _task(name, rows, split) for name, (rows, split) in MATH.items()}
    rates = {"gsm8k_validation": _task("gsm8k", 30, "validation")}
    made["domains"] = {
        name: {**math, "evaluation": {"tasks": own}} for name, own in (("math", tasks), ("rates", rates))
    }  # fmt: skip
    made["tables"] = {"table1": {"domains": ["math"], "methods": {"llama-tiny": ["lora", "beamlora"]}}}
    made["sweeps"]["learning_rate"] |= {"domains": ["rates"], "seeds": [9]}
    for name in ("rank_sweep", "delta_t", "p_init"):
        made["sweeps"][name]["seeds"] = [0, 1]
    made["sweeps"]["rank_sweep"] |= {"points": [{"r": 4, "lora_alpha": 8}, {"r": 16, "lora_alpha": 32}]}
    made |= {
        "pruning": made["pruning"] | {"tasks": ["gsm8k"]},
        "timing": None,
        "comparisons": {
            "margin": {"gold_nll": 0.05},
            "families": {"primary": {"tables": ["table1"], "methods": ["beamlora"], "metric": "gold_nll"}},
        },
        "base_evaluation": {"models": ["llama-tiny"], "tasks": tasks},
    }
    return Experiment.model_validate(made | changes)


def write(folder: Path) -> tuple[Experiment, Path, Path]:
    """The experiment with its file and its results in ``folder``."""
    made, file, results = experiment(), folder / "fake.yaml", folder / "results"
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(made.model_dump(mode="json"), sort_keys=False))
    fake_figures.write_all(made, results)
    fake_runs.write_base(made, results, np.random.default_rng(1))
    return made, file, results
