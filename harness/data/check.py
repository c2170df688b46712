"""What training and evaluation sets of an experiment share, and what the length limit cuts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation import sets
from evaluation.sets.columns import Format
from harness.data.contamination import LISTED_IDS, find_overlap, repetitions, task_overlap
from harness.data.load import load_records, source_fingerprint
from harness.data.tokens import IGNORE_INDEX, note_lengths, training_set
from harness.errors import ConfigError, within
from harness.schema.base_models import BaseModelSpec, BuiltModel
from harness.schema.data import FileData
from harness.schema.experiment import Experiment
from harness.schema.run import RunSpec

if TYPE_CHECKING:
    from harness.data.tokens import TokenizedSet

Report = dict[str, Any]


def check_experiment(
    experiment: Experiment, runs: list[RunSpec], *, models_dir: Path, cache_dir: Path, say: Callable[[str], None]
) -> Report:
    """Check every domain that ``runs`` train on.

    Returns:
        domain -> ``training`` (rows, sha256, repeated_rows, repeated_queries), ``tasks`` (name -> n, exact, near, ngram,
        share, ids, matches) and ``length`` (model -> max_length, tokens, cut, without_label).

    Raises:
        ConfigError: names the key of the set or model that is missing or malformed.
    """
    report: Report = {}
    for domain in dict.fromkeys(run.domain for run in runs):
        say(f"{domain}: reading")
        models = {run.model_key: run.model for run in runs if run.domain == domain}
        report[domain] = _check_domain(experiment, domain, models, models_dir=models_dir, cache_dir=cache_dir, say=say)
    return report


def _check_domain(
    experiment: Experiment,
    domain: str,
    models: Mapping[str, BaseModelSpec],
    *,
    models_dir: Path,
    cache_dir: Path,
    say: Callable[[str], None],
) -> Report:
    data = experiment.domains[domain].train
    with within("domains", domain, "train"):
        training = load_records(data.source, data_dir=experiment.data_dir, limit=data.limit)
        repeated = repetitions(training, data.format)
    tasks: dict[str, tuple[Format, list[dict[str, Any]]]] = {}
    for name, task in experiment.domains[domain].evaluation.tasks.items():
        with within("domains", domain, "evaluation", "tasks", name):
            tasks[name] = (task.format, load_records(task.source, data_dir=experiment.data_dir, limit=task.limit))
    tasks |= _all_splits(experiment, say=say)
    say(f"{domain}: comparing {len(training):,} training rows with {sum(len(r) for _, r in tasks.values()):,} questions")
    with within("domains", domain):
        overlap = find_overlap(training, data.format, tasks)
    length = {}
    for key, model in models.items():
        say(f"{domain}: tokens of {key}")
        tokenizer = planned_tokenizer(key, model, models_dir=models_dir)
        with within("domains", domain, "train"):
            tokens = training_set(data, tokenizer, data_dir=experiment.data_dir, cache_dir=cache_dir)
        note_lengths(tokens, data, model, cache_dir=cache_dir)
        length[key] = {
            "max_length": data.max_length,
            "tokens": len(tokens.input_ids),
            "cut": tokens.cut,
            "without_label": _without_label(tokens),
        }
    return {
        "training": {
            "rows": len(training),
            "sha256": source_fingerprint(training),
            "repeated_rows": repeated["rows"],
            "repeated_queries": repeated["queries"],
        },
        "tasks": {name: _task_report(asked, matches) for name, (asked, matches) in overlap.items()},
        "length": length,
    }


def _all_splits(experiment: Experiment, *, say: Callable[[str], None]) -> dict[str, tuple[Format, list[dict[str, Any]]]]:
    """All splits of the sets that have them read (``EvaluationSet.all_splits``), where the experiment is evaluated on the real
    set: it reads a part of it itself."""
    tasks = [task for domain in experiment.domains.values() for task in domain.evaluation.tasks.values()]
    splits = {}
    for format in dict.fromkeys(task.format for task in tasks if isinstance(task.source, FileData)):
        known = sets.get(format)
        if known.all_splits is None:
            continue
        source = FileData.model_validate({"kind": "files", **known.all_splits})
        try:
            splits[f"{format}, all splits"] = (format, load_records(source, data_dir=experiment.data_dir))
        except ConfigError as error:
            say(f"not checked against all splits of {known.label}: {error}")
    return splits


def _without_label(tokens: TokenizedSet) -> int:
    """Rows whose prompt alone reaches the limit: they take part in training and teach nothing."""
    counted = np.concatenate([[0], np.cumsum(tokens.labels.numpy() != IGNORE_INDEX)])
    offsets = tokens.offsets.numpy()
    return int((counted[offsets[1:]] == counted[offsets[:-1]]).sum())


def planned_tokenizer(key: str, model: BaseModelSpec, *, models_dir: Path) -> Any:
    """The model's tokenizer; for a stand-in that is not built yet, the one it will have."""
    from harness.models.load import load_tokenizer, local_folder

    folder = local_folder(key, model, models_dir=models_dir)
    if isinstance(model.source, BuiltModel) and folder is not None and not folder.is_dir():
        from harness.models.stand_in import build_tokenizer

        return build_tokenizer(model.source.pretraining)
    return load_tokenizer(key, model, models_dir=models_dir)


def _task_report(asked: list[Any], matches: list[Any]) -> Report:
    overlap = task_overlap(asked, matches)
    quoted = [
        {
            "id": example.id,
            "kind": "exact" if match.exact else "near",
            "training_row": match.exact_row if match.exact else match.near_row,
            "share": round(match.share, 3),
            "question": " ".join(example.query.split())[:200],
        }
        for example, match in zip(asked, matches, strict=True)
        if match.exact or match.near
    ]
    ids = None if overlap.ids is None else list(overlap.ids)
    counts = {"n": overlap.n, "exact": overlap.exact, "near": overlap.near, "ngram": overlap.ngram}
    return {**counts, "share": overlap.share, "ids": ids, "matches": quoted[:LISTED_IDS]}
