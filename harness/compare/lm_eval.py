"""Sample files of lm-evaluation-harness: ``samples_<task>_<date>.jsonl``, written by its ``--log_samples``.

A row is one document under one filter (schema: lm-eval 0.4.13, ``lm_eval/result_schema.py``); a metric is named as in its
results, ``exact_match,strict-match``. The file ``results_<date>.json`` beside it, where there is one, says of which metrics
less is better, and which are more than the mean of their rows (a perplexity): those cannot be compared item by item.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.compare.answers import Answers, finite
from harness.errors import ConfigError
from harness.records.read import read_rows

PATTERN = "samples_*.jsonl"
#: How the names of its summaries begin, which hold no samples.
RESULTS = "results_"
_PARTS = {"document": "doc_hash", "prompt": "prompt_hash", "target": "target_hash"}
_FIELDS = ("doc_id", "filter", "metrics", *_PARTS.values())


def _task_and_date(path: Path) -> tuple[str, str]:
    """By lm-eval's rule: the date is what follows the last underscore."""
    task, _, date = path.stem.removeprefix("samples_").rpartition("_")
    return (task, date) if task else (path.stem, "")


def _by_filter(path: Path) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Filter -> document -> row."""
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in read_rows(path, fields=_FIELDS):
        rows = found.setdefault(row["filter"], {})
        if str(row["doc_id"]) in rows:
            raise ConfigError(f"{path}: found doc_id {row['doc_id']} twice under filter {row['filter']!r}, expected it once")
        rows[str(row["doc_id"])] = row
    if not found:
        raise ConfigError(f"{path}: found no samples, expected one a line")
    first, *others = found
    for name in others:
        if found[name].keys() != found[first].keys():
            raise ConfigError(f"{path}: found other doc_ids under filter {name!r} than under {first!r}, expected the same")
    return found


def _results(path: Path, date: str) -> Mapping[str, Any]:
    """What lm-eval wrote beside the samples; nothing where that is not there."""
    results = path.with_name(f"{RESULTS}{date}.json")
    if not results.is_file():
        return {}
    try:
        content = json.loads(results.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{results}: found no JSON ({error}), expected lm-eval's results") from None
    return content if isinstance(content, dict) else {}


def _is_mean(values: NDArray[np.float64], result: Any) -> bool:
    return not finite(result) or math.isclose(float(values.mean()), result, rel_tol=1e-6, abs_tol=1e-9)


def read(path: Path) -> Answers:
    """The answers of one file.

    Raises:
        ConfigError: it is no such file, is broken, or holds no metric with one number a document.
    """
    task, date = _task_and_date(path)
    by_filter, results = _by_filter(path), _results(path, date)
    numbers = results.get("results", {}).get(task, {})
    scores, kinds = {}, []
    for filtered, rows in by_filter.items():
        for metric in next(iter(rows.values()))["metrics"]:
            name, values = f"{metric},{filtered}", [row.get(metric) for row in rows.values()]
            if not all(map(finite, values)):
                kinds.append(f"{name} (not one number a document)")
            elif not _is_mean(np.array(values, dtype=float), numbers.get(name)):
                kinds.append(f"{name} (not the mean over documents)")
            else:
                scores[name] = np.array(values, dtype=float)
    if not scores:
        raise ConfigError(f"{path}: found metrics {', '.join(kinds) or 'none'}, expected one that is a mean over documents")
    better = results.get("higher_is_better", {}).get(task, {})
    return Answers(
        path=path,
        task=task,
        items={
            item: {part: str(row[key]) for part, key in _PARTS.items()} for item, row in next(iter(by_filter.values())).items()
        },
        scores=scores,
        less_is_better=frozenset(name for name in scores if better.get(name.partition(",")[0]) is False),
    )
