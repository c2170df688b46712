"""What the page holds of every run: settings, loss, operations, scores by grader, who solved what, and sample predictions.

Examples are stored once, answers by run: the same examples are shown of all runs, so that two runs can be held side by side.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.experiment.runs import all_runs, base_evaluations, pruning_metric, pruning_runs
from harness.figures.style import colour_of
from harness.records import pruning
from harness.records.credit import digit
from harness.records.grader_sources import graded_otherwise
from harness.records.read import Loaded, RunRecord, read_predictions
from harness.records.training import OPERATIONS, read_operations
from harness.records.versioned import Recipe, read_json
from harness.report.numbers import BASE_COLOUR
from harness.report.sources import Source
from harness.schema.evaluation import TaskSpec
from harness.schema.fields import content_hash
from harness.schema.run import RunSpec
from harness.tables.base_row import load_base_answers

#: Characters kept of one prompt or completion.
LONGEST = 4000
_METRICS = ("accuracy", "n", "grader", "graders", "unparseable", "truncated", "timed_out", "gold_nll", "floor")
_TRAIN = (
    "status", "reason", "created_at", "trainable_parameters", "base_parameters", "steps", "tokens", "tokens_per_second",
    "wall_time_s", "cpu_time_s", "peak_memory_bytes", "peak_memory_of", "data", "base_model_hash", "training_hash", "versions",
    "git", "hardware", "world_size", "evidence", "artefact", "spec",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Answers:
    """One run's answers on one task; texts of some examples only."""

    run_id: str
    task: str
    #: The same for all runs that were asked the same, in the same words.
    group: str
    ids: list[str]
    #: One character an example (``harness.records.credit``).
    bits: str
    #: Position -> row with its texts.
    rows: dict[int, dict[str, Any]]


def sample(n: int, most: int) -> list[int]:
    """``most`` of ``n`` positions, evenly spread, or all: chosen without a look at the answers. A smaller sample is a part of
    a larger one."""
    golden = (math.sqrt(5) - 1) / 2
    return sorted(sorted(range(n), key=lambda i: i * golden % 1)[:most])


def _cut(text: Any) -> str | None:
    if text is None:
        return None
    words = str(text)
    return words if len(words) <= LONGEST else words[:LONGEST] + " [cut]"


# ---------------------------------------------------------------------------------------------------------------- runs


def _operations(path: Path, recipe: Recipe) -> dict[str, Any] | None:
    """BeamLoRA's operated ranks by operation and module; None for other methods, whose events have other forms."""
    if not path.is_file() or '"modules"' not in path.read_text(encoding="utf-8").partition("\n")[0]:
        return None
    operations = read_operations(path, recipe)
    return {
        "modules": [name.removeprefix("base_model.model.") for name in operations[0].ranks],
        "rows": [
            {"step": one.step, "p": one.p, "before": one.loss_before, "after": one.loss_after, "ranks": [*one.ranks.values()]}
            for one in operations
        ],
    }


def _read(source: Source, path: Path) -> dict[str, Any]:
    return read_json(path, Recipe.workflow(source.command, path))


def _pruned(source: Source, records: Sequence[RunRecord]) -> dict[str, dict[str, Any]]:
    """Run id -> task -> scores after pruning, of those among the finished runs that have been pruned."""
    planned, metric = {run.run_id for run in pruning_runs(source.experiment)}, pruning_metric(source.experiment)
    done = [record for record in records if record.run.run_id in planned and not record.diverged]
    runs = [record.run for record in done if (record.folder / pruning.FILE).is_file()]
    loaded = pruning.load(source.experiment, runs, results=source.results, command=source.command)
    return {
        run: {
            task: {"fractions": c.fractions.tolist(), "metric": metric, "means": c.means.tolist()} for task, c in curves.items()
        }
        for run, curves in loaded.items()
    }


def _commands(source: Source, folder: Path) -> dict[str, str]:
    return {
        "again": f"{source.command} --force -- {folder / 'train.json'} && {source.command} -- {folder / 'metrics.json'}",
        "card": f"less {folder / 'adapter' / 'README.md'}",
    }


def _scores(task: dict[str, Any], spec: TaskSpec) -> dict[str, Any]:
    """The numbers of one task; ``graded`` says in words where they were not made as this code grades."""
    return {key: task.get(key) for key in _METRICS} | {"graded": graded_otherwise(task.get("sources"), spec)}


def _entry(source: Source, run: RunSpec, status: str) -> dict[str, Any]:
    """What is known of a run before its records are read."""
    folder = source.run_folder(run)
    return {
        "id": run.run_id, "domain": run.domain, "model": run.model.label, "model_key": run.model_key,
        "method": run.method.label, "method_key": run.method.key, "colour": colour_of(run.method.key), "seed": run.seed,
        "status": status, "folder": str(folder), "commands": _commands(source, folder), "tasks": {},
    }  # fmt: skip


def run_entries(source: Source, loaded: Loaded) -> list[dict[str, Any]]:
    """Every planned run in the order of the plan, finished, failed or not run."""
    done = {record.run.run_id: record for record in loaded.records}
    stale = {run.run_id for run in loaded.stale}
    runs = all_runs(source.experiment)
    base = load_base_answers(source.experiment, runs, results=source.results, command=source.command, allow_missing=True)
    pruned = _pruned(source, loaded.records)
    entries = []
    for run in runs:
        if run.run_id not in done:
            entries.append(_entry(source, run, "stale" if run.run_id in stale else "missing"))
            continue
        folder = source.run_folder(run)
        train, metrics = (_read(source, folder / name) for name in ("train.json", "metrics.json"))
        entry = _entry(source, run, train["status"])
        entry["train"] = {name: train.get(name) for name in _TRAIN}
        entry["loss"] = [[point["step"], point["loss"]] for point in train.get("loss_curve", []) if "loss" in point]
        entry["operations"] = _operations(folder / OPERATIONS, Recipe.beside(source.command, folder / "train.json"))
        entry["pruning"] = pruned.get(run.run_id)
        entry["contamination"] = metrics.get("contamination")
        entry["collapsed"] = done[run.run_id].collapsed_on(metrics["tasks"], base)
        entry["tasks"] = {name: _scores(task, run.evaluation.tasks[name]) for name, task in metrics["tasks"].items()}
        entries.append(entry)
    return entries


def base_entries(source: Source) -> list[dict[str, Any]]:
    """The base models as runs of their own, as far as they have been evaluated."""
    entries = []
    for base in base_evaluations(source.experiment):
        folder = source.folder / base.folder
        if not (folder / "metrics.json").is_file():
            continue
        metrics = _read(source, folder / "metrics.json")
        again = f"{source.command} --force -- {folder / 'metrics.json'}"
        entries.append({
            "id": base.folder, "domain": "base", "model": source.experiment.models[base.model_key].label,
            "model_key": base.model_key, "method": f"no fine-tuning ({base.protocol})", "method_key": "base",
            "colour": BASE_COLOUR, "seed": None, "status": metrics["status"], "folder": str(folder),
            "commands": {"again": again}, "loss": [], "operations": None, "pruning": None, "contamination": None,
            "train": {name: metrics.get(name) for name in ("created_at", "base_model_hash", "versions", "git", "hardware")}
            | {"spec": {"evaluation": metrics.get("evaluation")}},
            "tasks": {name: _scores(task, base.evaluation.tasks[name]) for name, task in metrics["tasks"].items()},
        })  # fmt: skip
    return entries


# ------------------------------------------------------------------------------------------------------------- answers


def read_answers(entries: Sequence[dict[str, Any]], *, most: int) -> list[Answers]:
    """The predictions of every finished run, with the texts of ``most`` examples."""
    answered = []
    for entry in entries:
        for task in entry["tasks"]:
            rows = read_predictions(Path(entry["folder"]), task, fields=("id", "correct"))
            answered.append(
                Answers(
                    run_id=entry["id"],
                    task=task,
                    group=content_hash([[row["id"], row.get("prompt"), row.get("gold")] for row in rows]),
                    ids=[str(row["id"]) for row in rows],
                    bits="".join(digit(row["correct"]) for row in rows if row["correct"] is not None),
                    rows={i: rows[i] for i in sample(len(rows), most)},
                )
            )
    return answered


def readable(entries: Sequence[dict[str, Any]], choices: Sequence[int], *, max_bytes: int) -> list[int]:
    """Of ``choices`` of sample sizes, largest first, those whose texts have at most ``max_bytes`` in the files."""

    def size(most: int) -> float:
        return sum(
            (Path(entry["folder"]) / "predictions" / f"{task}.jsonl").stat().st_size * min(1.0, most / scores["n"])
            for entry in entries
            for task, scores in entry["tasks"].items()
        )

    return [most for most in choices if size(most) <= max_bytes] or list(choices[-1:])


def _answer(row: dict[str, Any]) -> list[Any]:
    """completion, extracted, verdicts by grader, outcome, truncated: what is not there is None."""
    texts = [_cut(row.get(name)) for name in ("completion", "extracted")]
    return [*texts, row.get("verdicts"), row.get("outcome"), row.get("truncated")]


def answers(answered: Iterable[Answers], *, most: int) -> dict[str, Any]:
    """Questions by group, and by run and task its group, its bits and its sample answers.

    Args:
        most: examples of each group whose text is kept; not more than were read.
    """
    groups: dict[str, Any] = {}
    runs: dict[str, dict[str, Any]] = {}
    for one in answered:
        shown = sample(len(one.ids), most)
        if one.group not in groups:
            groups[one.group] = {
                "task": one.task, "ids": one.ids, "shown": shown,
                "prompts": [_cut(one.rows[i].get("prompt")) for i in shown],
                "gold": [_cut(one.rows[i].get("gold")) for i in shown],
            }  # fmt: skip
        kept = {"group": one.group, "bits": one.bits, "answers": [_answer(one.rows[i]) for i in shown]}
        runs.setdefault(one.run_id, {})[one.task] = kept
    return {"groups": groups, "runs": runs}
