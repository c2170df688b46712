"""Run folders without runs: an experiment in memory and records of invented predictions."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import methods
from evaluation import sets
from harness.experiment.runs import base_evaluations
from harness.records.grader_sources import grader_sources
from harness.records.read import load_records
from harness.schema.experiment import Experiment
from harness.schema.fields import SCHEMA_VERSION
from harness.schema.run import MethodSpec, RunSpec
from harness.schema.training import TrainingSpec
from harness.tables import build as tables
from harness.tables.base_row import BaseAnswers

LABELS = {
    "full-ft": "Full-FT", "lora": "LoRA", "dora": "DoRA", "pissa": "PiSSA", "milora": "MiLoRA", "relora": "ReLoRA",
    "adalora": "AdaLoRA", "increlora": "IncreLoRA", "beamlora": "BeamLoRA",
}  # fmt: skip
MISTRAL = ("full-ft", "lora", "dora", "milora", "adalora", "beamlora")
TASKS = {"math": {"gsm8k": 40, "math": 30}, "code": {"humaneval": 24, "mbpp": 20}}
PARAMETERS = 61440


def _model(label: str, stands_for: str | None, architecture: str) -> dict[str, Any]:
    source = {
        "kind": "built", "architecture": architecture, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2,
        "pretraining": {"max_steps": 10, "learning_rate": 0.003, "corpus_documents": 50},
    }  # fmt: skip
    return {"label": label, "stands_for": stands_for, "source": source}


def _domain(tasks: Mapping[str, int]) -> dict[str, Any]:
    shared = {"prompt_template": "alpaca", "max_new_tokens": 8, "grader": "sound"}
    return {
        "train": {"source": {"kind": "generated", "generator": "metamath", "rows": 100, "seed": 1}, "format": "metamath"},
        "evaluation": {"tasks": {
            task: {"source": {"kind": "generated", "generator": task, "rows": n, "seed": 2}, "format": task, **shared}
            for task, n in tasks.items()
        }},
    }  # fmt: skip


def experiment(
    *,
    seeds: Sequence[int] = (0, 1, 2),
    methods: Mapping[str, Sequence[str]] | None = None,
    domains: Mapping[str, Mapping[str, int]] = TASKS,
    **changes: Any,
) -> Experiment:
    """The shape of Table 1 on two stand-ins; ``methods`` maps model keys to method keys."""
    methods = methods or {"llama-tiny": tuple(LABELS), "mistral-tiny": MISTRAL}
    models = {
        "llama-tiny": _model("Llama 0.8M", "llama2-7b", "llama"),
        "mistral-tiny": _model("Mistral 0.8M", "mistral-7b", "mistral"),
        "alone": _model("Unrelated", None, "llama"),
    }
    content = {
        "name": "fake", "title": "invented numbers", "notes": ["Nothing here was trained."], "seeds": list(seeds),
        "gpu": False, "models": models, "domains": {key: _domain(tasks) for key, tasks in domains.items()},
        "training": {"learning_rate": 0.003, "per_device_train_batch_size": 8, "max_steps": 20}, "adapter": {"r": 8},
        "methods": {key: {} for keys in methods.values() for key in keys},
        "tables": {"table1": {"domains": list(domains), "methods": methods}},
        "comparisons": {"margin": {"accuracy": 0.05, "gold_nll": 0.02}, "families": families(methods)},
    }  # fmt: skip
    return Experiment.model_validate(content | changes)


def families(methods: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """BeamLoRA against LoRA, the rest against LoRA, ablations against BeamLoRA: those that the rows of Table 1 allow."""
    rows = {key for keys in methods.values() for key in keys}
    made: dict[str, Any] = {}
    if "lora" in rows and "beamlora" in rows:
        made["primary"] = {"tables": ["table1"], "methods": ["beamlora"]}
    if "lora" in rows and rows - {"lora", "beamlora"}:
        made["secondary"] = {"tables": ["table1"]}
    if "beamlora" in rows and any(row.startswith("beamlora-") for row in rows):
        made["ablations"] = {"tables": ["table1"], "against": "beamlora"}
    return made


def settings(method: str) -> dict[str, Any]:
    """All settings of a method, with rank 8 where it has ranks."""
    named = methods.get(method)
    rank = {"r": 8} if "r" in named.cls.Settings.model_fields else {}
    return named.cls.Settings.model_validate(named.preset | rank).model_dump(mode="json")


def runs(experiment: Experiment, table: str = "table1") -> list[RunSpec]:
    """What ``plan.table_runs`` gives."""
    spec = experiment.tables[table]
    return [
        RunSpec(
            experiment=experiment.name, domain=domain, model_key=model, model=experiment.models[model],
            method=MethodSpec(key=key, label=LABELS.get(key, key), name=key, settings=settings(key)),
            data=experiment.domains[domain].train, training=TrainingSpec.model_validate(experiment.training),
            evaluation=experiment.domains[domain].evaluation, seed=seed,
        )
        for domain in spec.domains for model, keys in spec.methods.items() for key in keys for seed in experiment.seeds
    ]  # fmt: skip


def run_folder(run: RunSpec, results: Path) -> Path:
    return results / run.experiment / run.run_id


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def edit_json(path: Path, **changes: Any) -> None:
    write_json(path, json.loads(path.read_text()) | changes)


def write_run(
    run: RunSpec,
    results: Path,
    *,
    correct: Mapping[str, Sequence[bool]] | None = None,
    gold_nll: Mapping[str, Sequence[float]] | None = None,
    wall_time_s: float = 10.0,
    gold: Mapping[str, Sequence[str]] | None = None,
) -> Path:
    """Write one run's records and return its folder. ``correct`` None: the run diverged. Tasks without grader have no answers,
    whatever ``correct`` says. ``gold``: the reference answers; of tasks that offer choices, which have a floor, the labels."""
    folder = run_folder(run, results)
    status = "success" if correct is not None else "diverged"
    common = {"schema_version": SCHEMA_VERSION, "run_id": run.run_id, "status": status}
    train = {
        **common, "spec": run.model_dump(mode="json"), "trainable_parameters": PARAMETERS, "base_parameters": 800_000,
        "wall_time_s": wall_time_s, "peak_memory_bytes": 2**29, "loss_curve": [], "git": {"commit": None, "dirty": None},
    }  # fmt: skip
    write_json(folder / "train.json", train)
    tasks = {}
    for task, values in (correct or {}).items():
        losses = gold_nll[task] if gold_nll else [None] * len(values)
        scores = enumerate(zip(values, losses, strict=True))
        spec = run.evaluation.tasks.get(task)
        graded = spec is None or spec.grader is not None
        rows = [{"id": f"{task}/{i}", "correct": bool(v) if graded else None, "gold_nll": loss} for i, (v, loss) in scores]
        tasks[task] = {"accuracy": float(np.mean(values)), "n": len(values), "grader": "sound", "stderr": 0.1,
                       "unparseable": 0.0, "truncated": 0.0, "timed_out": 0.0,
                       "gold_nll": float(np.mean(losses)) if gold_nll else None}  # fmt: skip
        if spec is not None:
            tasks[task]["sources"] = grader_sources(spec)
        if labels := (gold or {}).get(task):
            for row, label in zip(rows, labels, strict=True):
                row["gold"] = label
            if spec is not None and sets.get(spec.format).statement is not None:
                tasks[task]["floor"] = max(Counter(labels).values()) / len(labels)
        if not graded:
            tasks[task] |= dict.fromkeys(("accuracy", "grader", "stderr", "unparseable", "truncated", "timed_out"))
        path = folder / "predictions" / f"{task}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    write_json(folder / "metrics.json", {**common, "tasks": tasks, "wall_time_s": 2.0})
    return folder


def populate(specs: Sequence[RunSpec], results: Path, *, effects: Mapping[str, float] | None = None, rng_seed: int = 0) -> None:
    """Records for every run: a base accuracy of about one half, shifted by ``effects`` (method key -> logit)."""
    rng = np.random.default_rng(rng_seed)
    difficulty = {(run.domain, task): rng.normal(size=spec.source.rows)
                  for run in specs for task, spec in run.evaluation.tasks.items()}  # fmt: skip
    for run in specs:
        logit = (effects or {}).get(run.method.key, 0.0) + 0.3 * rng.normal()
        correct, losses = {}, {}
        for task in run.evaluation.tasks:
            items = difficulty[run.domain, task]
            correct[task] = rng.random(len(items)) < 1 / (1 + np.exp(-logit - items))
            losses[task] = np.exp(-0.3 * logit - 0.2 * items + 0.05 * rng.normal(size=len(items))).tolist()
        write_run(run, results, correct=correct, gold_nll=losses, wall_time_s=20 + 5 * rng.random())


def write_base(made: Experiment, results: Path, rng: np.random.Generator, *, right: int | None = None) -> None:
    """What the base models answer to the tasks of ``base_evaluation``: less than after fine-tuning, of each task a fifth, or
    so many."""
    for base in base_evaluations(made):
        folder, tasks = results / made.name / base.folder, {}
        (folder / "predictions").mkdir(parents=True)
        for task, spec in base.evaluation.tasks.items():
            n, answered = spec.source.rows, spec.grader is not None
            correct = rng.random(n) < 0.2 if right is None else np.arange(n) < right
            losses = (2 + 0.3 * rng.random(n)).tolist()
            rows = [{"id": f"{task}/{i}", "correct": bool(correct[i]) if answered else None, "gold_nll": losses[i]}
                    for i in range(n)]  # fmt: skip
            (folder / "predictions" / f"{task}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            accuracy = float(correct.mean()) if answered else None
            tasks[task] = {"accuracy": accuracy, "n": n, "grader": spec.grader, "gold_nll": float(np.mean(losses)),
                           "sources": grader_sources(spec)}  # fmt: skip
        write_json(folder / "metrics.json", {
            "schema_version": SCHEMA_VERSION, "run_id": base.folder, "status": "success", "tasks": tasks,
            "evaluation": base.evaluation.model_dump(mode="json"),
        })  # fmt: skip


def small() -> Experiment:
    """Two methods, one model, one domain, three seeds."""
    return experiment(methods={"llama-tiny": ("lora", "beamlora")}, domains={"math": {"gsm8k": 20, "math": 15}})


def without_answers(made: Experiment) -> Experiment:
    """The same experiment, whose tasks measure the NLL of the gold answers alone, by which its families decide."""
    content = made.model_dump(mode="json")
    for domain in content["domains"].values():
        for task in domain["evaluation"]["tasks"].values():
            task |= {"grader": None, "max_new_tokens": 0}
    for family in content["comparisons"]["families"].values():
        family["metric"] = "gold_nll"
    return Experiment.model_validate(content)


def build(
    experiment: Experiment, results: Path, *, allow_missing: bool = False, base: BaseAnswers | None = None
) -> tables.Table:
    """Table 1 of the records in ``results``."""
    specs = runs(experiment)
    loaded = load_records(specs, results=results, allow_missing=allow_missing)
    return tables.build_table(experiment, "table1", specs, loaded, base=base)


def full_table(results: Path) -> tuple[Experiment, Path, tables.Table]:
    """All fifteen method-model pairs of Table 1, five seeds, two clear effects."""
    full = experiment(seeds=range(5))
    populate(runs(full), results, effects={"full-ft": 2.0, "adalora": -2.0})
    return full, results, build(full, results)


def collapsed(results: Path) -> tuple[Experiment, dict[str, list[list[bool]]]]:
    """Three seeds of two methods on two sets of choices and one of open answers, written, and what the base model answered to
    that. One of LoRA's seeds is at the floor of PIQA, another one answers nothing of GSM8K right, and the base model six
    questions. Of LoRA what each seed answered right, by task."""
    domain = _domain({"piqa": 40, "arc_easy": 40, "gsm8k": 40})
    asked = {"models": ["llama-tiny"], "tasks": {"gsm8k": domain["evaluation"]["tasks"]["gsm8k"]}}
    made = experiment(
        methods={"llama-tiny": ("lora", "beamlora")},
        domains={"commonsense": {"piqa": 40, "arc_easy": 40, "gsm8k": 40}},
        base_evaluation=asked,
    )
    gold = {
        "piqa": ["solution1", "solution2"] * 20,
        "arc_easy": ["answer1", "answer2", "answer3", "answer4"] * 10,
        "gsm8k": [str(i) for i in range(40)],
    }
    answered: dict[str, list[list[bool]]] = {task: [] for task in gold}
    for run in runs(made):
        lost = {1: "piqa", 2: "gsm8k"}.get(run.seed) if run.method.key == "lora" else None
        few = {"piqa": 23, "gsm8k": 40}
        correct = {task: [i >= (few[task] if lost == task else 8) for i in range(40)] for task in gold}
        write_run(run, results, correct=correct, gold=gold)
        if run.method.key == "lora":
            for task, solved in correct.items():
                answered[task].append(solved)
    write_base(made, results, np.random.default_rng(0), right=6)
    return made, answered
