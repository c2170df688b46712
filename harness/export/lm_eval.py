"""A run's results in lm-evaluation-harness's files: ``python -m harness.export.lm_eval RUN_DIR [RUN_DIR ...]``.

Viewers and leaderboards read ``results_<date>.json`` and ``samples_<task>_<date>.jsonl`` (schema: lm-eval 0.4.13,
``lm_eval/result_schema.py``; layout: ``loggers/evaluation_tracker.py``). They are made from metrics.json and predictions/
alone, so that the same record gives the same bytes, at any time and without lm-eval. What lm-eval itself evaluated
(``lm_eval`` in metrics.json, ``predictions/lm_eval/``) goes along as it is.

One of our graders is one of lm-eval's filters: ``exact_match,sound`` and ``exact_match,paper`` are the same completions
under two graders. Where choices were scored too, they are a task of their own, ``boolq_choices`` beside ``boolq``: lm-eval's
tasks have one kind of output. Standard errors are lm-eval's (sample standard deviation over the root of n).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import ne
from pathlib import Path
from typing import Any

from evaluation import sets
from evaluation.graders.choices import PER_CHARACTER, PER_TOKEN
from evaluation.graders.labels import LOGLIKELIHOOD
from evaluation.sets.base import EvaluationSet
from evaluation.sets.prompts import continuation
from harness import cli
from harness.export import evaluated
from harness.export.evaluated import Evaluated
from harness.files import write_json, write_jsonl
from harness.records.read import read_predictions

#: Names of our metrics in lm-eval, and of the accuracy of the likeliest choice by grader; the last one is ours.
_METRICS = {"accuracy": "exact_match", "pass@1": "pass@1"}
_CHOICE_METRICS = {LOGLIKELIHOOD: "acc", PER_CHARACTER: "acc_norm", PER_TOKEN: "acc_per_token"}
#: Further numbers of metrics.json; less is better.
_LESS_IS_BETTER = ("gold_nll", "truncated", "unparseable")
_MODEL_SOURCE = "beamlora-harness"
_FIELDS = ("id", "prompt", "completion", "extracted", "gold", "verdicts")


def _sha256(text: str) -> str:
    # A model's broken bytes are lone surrogates, which UTF-8 has no form for.
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()


def model_name(metrics: Mapping[str, Any]) -> str:
    """The run as lm-eval names models, such as ``small/math/smollm2-135m/lora/seed0``."""
    return f"{metrics['experiment']}/{metrics['run_id']}"


def _sanitized(name: str) -> str:
    """A model's name as a folder, by lm-eval's rule."""
    return re.sub(r'["<>:/|\\?*\[\]]+', "__", name)


@dataclass(frozen=True, kw_only=True)
class _Task:
    """One of lm-eval's tasks: our predictions of one task under the graders that read one kind of output."""

    name: str
    set: EvaluationSet
    #: The task's entry in metrics.json, and its settings.
    metrics: Mapping[str, Any]
    spec: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    #: Grader -> filter, the headline first.
    filters: Mapping[str, str]
    scores_choices: bool

    def metric(self, grader: str) -> str:
        return _CHOICE_METRICS[grader] if self.scores_choices else _METRICS[self.set.metric]


def _tasks(run: Evaluated) -> list[_Task]:
    tasks = []
    for name, task in run.metrics["tasks"].items():
        spec, rows = run.metrics["evaluation"]["tasks"][name], run.rows(name, fields=_FIELDS)
        graders = sorted(task["graders"], key=partial(ne, task["grader"]))
        common = {"set": sets.get(run.tasks[name].format), "metrics": task, "spec": spec, "rows": rows}
        texts = {grader: grader for grader in graders if grader not in _CHOICE_METRICS}
        choices = {grader: "none" for grader in graders if grader in _CHOICE_METRICS}
        if texts:
            tasks.append(_Task(name=name, filters=texts, scores_choices=False, **common))
        if choices:
            own = f"{name}_choices" if texts else name
            tasks.append(_Task(name=own, filters=choices, scores_choices=True, **common))
    return tasks


def _task_results(task: _Task) -> dict[str, Any]:
    n = task.metrics["n"]
    results: dict[str, Any] = {"name": task.name, "alias": task.name, "sample_len": n}
    for grader, name in task.filters.items():
        share = task.metrics["graders"][grader]
        results[f"{task.metric(grader)},{name}"] = share
        results[f"{task.metric(grader)}_stderr,{name}"] = math.sqrt(share * (1 - share) / (n - 1)) if n > 1 else "N/A"
    if not task.scores_choices:
        headline = task.filters.get(task.metrics["grader"], "none")
        filters = {"gold_nll": "none", "truncated": "none", "unparseable": headline}
        results |= {f"{key},{name}": task.metrics[key] for key, name in filters.items()}
    return results


def _generation(spec: Mapping[str, Any]) -> dict[str, Any]:
    beams = spec.get("num_beams", 1)
    settings = {"until": list(spec["stop_strings"]), "max_gen_toks": spec["max_new_tokens"], "do_sample": False}
    return settings | ({"num_beams": beams} if beams > 1 else {})


def _task_config(task: _Task, protocol: str | None) -> dict[str, Any]:
    spec, source = task.spec, task.spec["source"]
    public = source["kind"] == "files"
    path = {"files": "hub_id", "local": "path", "generated": "generator"}[source["kind"]]
    config = {
        "task": task.name,
        "dataset_path": source[path],
        "dataset_name": source["hub_config"] if public else None,
        "test_split": source["split"] if public else "test",
        "output_type": "multiple_choice" if task.scores_choices else "generate_until",
        "num_fewshot": 0,
        "repeats": 1,
        "metadata": {
            "prompt_template": spec["prompt_template"],
            "headline": spec["grader"],
            "protocol": protocol,
            "graded_by": task.metrics.get("sources"),
        }
        | ({"stand_in": evaluated.GENERATED_NOTICE} if source["kind"] == "generated" else {}),
    }
    return config if task.scores_choices else config | {"generation_kwargs": _generation(spec)}


def _sample(task: _Task, index: int, graders: Sequence[str]) -> dict[str, Any]:
    """One prediction under the graders of one filter."""
    row = task.rows[index]
    doc = {"id": row["id"], "gold": row["gold"]}
    target = "" if row["gold"] is None else str(row["gold"])
    arguments, responses, answer = _choices(task, row) if task.scores_choices else _completion(task, row, graders[0])
    return {
        "doc_id": index,
        "doc": doc,
        "target": target,
        "arguments": {f"gen_args_{i}": {"arg_0": asked, "arg_1": argument} for i, (asked, argument) in enumerate(arguments)},
        "resps": responses,
        "filtered_resps": answer,
        "filter": task.filters[graders[0]],
        "metrics": [task.metric(grader) for grader in graders],
        "doc_hash": _sha256(json.dumps(doc, indent=2, ensure_ascii=False)),
        "prompt_hash": _sha256(row["prompt"]),
        "target_hash": _sha256(target),
    } | {task.metric(grader): float(row["verdicts"][grader]) for grader in graders}


def _completion(task: _Task, row: Mapping[str, Any], grader: str) -> tuple[list[Any], list[Any], list[Any]]:
    """(arguments, responses, filtered responses). The record keeps what the headline grader extracted; for the others the
    whole completion stands in its place."""
    answer = row["extracted"] if grader == task.metrics["grader"] else row["completion"]
    return [(row["prompt"], _generation(task.spec))], [[row["completion"]]], ["" if answer is None else answer]


def _choices(task: _Task, row: Mapping[str, Any]) -> tuple[list[Any], list[Any], list[Any]]:
    """(arguments, responses, filtered responses): each choice and its log-likelihood. lm-eval's second value, whether greedy
    decoding would give the choice, is not in the record."""
    scores = row["choice_loglikelihoods"]
    texts, state = row.get("choice_texts"), task.set.statement
    assert state is not None  # its choices were scored
    arguments = [
        tuple(texts[label][:2]) if texts else (row["prompt"], continuation(task.spec["prompt_template"], state(label)))
        for label in scores
    ]
    filtered = [[str(score), str(None)] for score in scores.values()]
    return arguments, [[pair] for pair in filtered], filtered


def _samples(task: _Task) -> list[dict[str, Any]]:
    by_filter: dict[str, list[str]] = {}
    for grader, name in task.filters.items():
        by_filter.setdefault(name, []).append(grader)
    return [_sample(task, index, graders) for graders in by_filter.values() for index in range(len(task.rows))]


def _own_of_lm_eval(run_dir: Path, metrics: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The samples of the tasks that lm-eval evaluated; groups have none."""
    return {
        name: read_predictions(run_dir, f"lm_eval/{name}", fields=("doc_hash", "prompt_hash", "target_hash"))
        for name, task in (metrics.get("lm_eval") or {}).items()
        if "subtasks" not in task
    }


def _with_lm_eval(results: dict[str, Any], tasks: Mapping[str, Any]) -> dict[str, Any]:
    """Add the tasks that lm-eval evaluated. A number that it did not have is "N/A" in its files."""
    for name, task in tasks.items():
        numbers = {key: "N/A" if value is None else value for key, value in task["metrics"].items()}
        results["results"][name] = {"name": name, "alias": name, "sample_len": task["n"]} | numbers
        results["versions"][name] = task["version"]
        results["n-shot"][name] = task["num_fewshot"]
        results["higher_is_better"][name] = task["higher_is_better"]
        if "subtasks" in task:
            results["group_subtasks"][name] = task["subtasks"]
        else:
            results["n-samples"][name] = {"original": task["n_original"], "effective": task["n"]}
    return results


def _results(run: Evaluated, tasks: Sequence[_Task], samples: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    metrics, stand_in = run.metrics, run.stand_in
    evaluation, name = metrics["evaluation"], model_name(metrics)
    return {
        "results": {task.name: _task_results(task) for task in tasks},
        "group_subtasks": {},
        "configs": {task.name: _task_config(task, evaluation.get("protocol")) for task in tasks},
        "versions": {task.name: metrics["schema_version"] for task in tasks},
        "n-shot": {task.name: 0 for task in tasks},
        "higher_is_better": {
            task.name: {task.metric(grader): True for grader in task.filters}
            | ({} if task.scores_choices else dict.fromkeys(_LESS_IS_BETTER, False))
            for task in tasks
        },
        "n-samples": {
            task.name: {"original": task.spec["source"].get("rows") or task.metrics["n"], "effective": task.metrics["n"]}
            for task in tasks
        },
        "config": {
            "model": _MODEL_SOURCE,
            "model_args": {"pretrained": name} | ({"stand_in": stand_in} if stand_in else {}),
            "model_dtype": evaluation["dtype"],
            "batch_sizes": [task.spec["batch_size"] for task in tasks],
            "bootstrap_iters": 0,
        },
        "git_hash": metrics["git"]["commit"],
        "date": run.created.timestamp(),
        "transformers_version": metrics["versions"].get("transformers"),
        "task_hashes": {
            task: _sha256("".join(row["doc_hash"] + row["prompt_hash"] + row["target_hash"] for row in rows))
            for task, rows in samples.items()
        },
        "model_source": _MODEL_SOURCE,
        "model_name": name,
        "model_name_sanitized": _sanitized(name),
        "system_instruction": None,
        "fewshot_as_multiturn": False,
        "chat_template": None,
        "total_evaluation_time_seconds": str(metrics["wall_time_s"]),
    }


def write(run_dir: Path) -> list[Path]:
    """Write ``RUN_DIR/lm_eval/<model>/``: the results first, then each task's samples. Files of an earlier record of the
    run are removed. A diverged run has no numbers and gives no files.

    Raises:
        ConfigError: the folder holds no evaluated run, or its record is broken or has no date.
    """
    run = Evaluated(run_dir)
    metrics = run.metrics
    if not metrics["tasks"] and not metrics.get("lm_eval"):
        return []
    # lm-eval's names hold its local time with colons replaced. Ours is UTC, so that the record alone decides the name.
    date = run.created.replace(tzinfo=None).isoformat(timespec="microseconds").replace(":", "-")
    tasks = _tasks(run)
    samples = {task.name: _samples(task) for task in tasks} | _own_of_lm_eval(run_dir, metrics)
    folder = run_dir / "lm_eval" / _sanitized(model_name(metrics))
    results = folder / f"results_{date}.json"
    write_json(results, _with_lm_eval(_results(run, tasks, samples), metrics.get("lm_eval") or {}))
    written = [results]
    for name, rows in samples.items():
        written.append(folder / f"samples_{name}_{date}.jsonl")
        write_jsonl(written[-1], rows)
    for stale in {*folder.glob("results_*.json"), *folder.glob("samples_*.jsonl")} - set(written):
        stale.unlink()
    return written


main = evaluated.command("harness.export.lm_eval", __doc__, write).main

if __name__ == "__main__":
    cli.run(main)
