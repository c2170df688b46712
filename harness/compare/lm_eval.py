"""Sample files of lm-evaluation-harness: ``samples_<task>_<date>.jsonl``, written by its ``--log_samples``.

A row is one document under one filter (schema: lm-eval 0.4.13, ``lm_eval/result_schema.py``); a metric is named as in its
results, ``exact_match,strict-match``. The file ``results_<date>.json`` beside it, where there is one, says of which metrics
less is better, and which are more than the mean of their rows (a perplexity): those cannot be compared item by item.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from harness.compare.answers import Answers, checked, finite, outputs_of
from harness.errors import ConfigError
from harness.records.read import read_rows

PATTERN = "samples_*.jsonl"
#: How the names of its summaries begin, which hold no samples.
RESULTS = "results_"


class _Sample(BaseModel):
    """A row; its metrics stand beside these keys, each under its name."""

    model_config = ConfigDict(extra="allow")

    doc_id: str = Field(coerce_numbers_to_str=True)
    filter: str
    metrics: list[str]
    doc_hash: str
    prompt_hash: str
    target_hash: str
    resps: Any = None
    filtered_resps: Any = None

    def parts(self) -> dict[str, str]:
        return {"document": self.doc_hash, "prompt": self.prompt_hash, "target": self.target_hash}


class _Results(BaseModel):
    """A file of results. Of a metric whose direction the task does not give, lm-eval writes null."""

    results: dict[str, dict[str, Any]] = {}
    higher_is_better: dict[str, dict[str, bool | None]] = {}


def _task_and_date(path: Path) -> tuple[str, str]:
    """By lm-eval's rule: the date is what follows the last underscore."""
    task, _, date = path.stem.removeprefix("samples_").rpartition("_")
    return (task, date) if task else (path.stem, "")


def _by_filter(path: Path) -> dict[str, dict[str, _Sample]]:
    """Filter -> document -> row."""
    found: dict[str, dict[str, _Sample]] = {}
    for number, content in enumerate(read_rows(path, fields=()), start=1):
        row = checked(f"{path}:{number}", content, _Sample)
        rows = found.setdefault(row.filter, {})
        if row.doc_id in rows:
            raise ConfigError(f"{path}: found doc_id {row.doc_id} twice under filter {row.filter!r}, expected it once")
        rows[row.doc_id] = row
    if not found:
        raise ConfigError(f"{path}: found no samples, expected one a line")
    first, *others = found
    for name in others:
        if found[name].keys() != found[first].keys():
            raise ConfigError(f"{path}: found other doc_ids under filter {name!r} than under {first!r}, expected the same")
    return found


def _results(path: Path, date: str) -> _Results:
    """What lm-eval wrote beside the samples; nothing where that is not there."""
    results = path.with_name(f"{RESULTS}{date}.json")
    if not results.is_file():
        return _Results()
    try:
        content = json.loads(results.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{results}: found no JSON ({error}), expected lm-eval's results") from None
    return checked(results, content, _Results)


def _is_mean(values: NDArray[np.float64], result: Any) -> bool:
    return not finite(result) or math.isclose(float(values.mean()), result, rel_tol=1e-6, abs_tol=1e-9)


def read(path: Path) -> Answers:
    """The answers of one file.

    Raises:
        ConfigError: it is no such file, is broken, or holds no metric with one number a document.
    """
    task, date = _task_and_date(path)
    by_filter, results = _by_filter(path), _results(path, date)
    numbers = results.results.get(task, {})
    scores, kinds = {}, []
    for filtered, rows in by_filter.items():
        for metric in next(iter(rows.values())).metrics:
            name, values = f"{metric},{filtered}", [(row.model_extra or {}).get(metric) for row in rows.values()]
            if not all(map(finite, values)):
                kinds.append(f"{name} (not one number a document)")
            elif not _is_mean(np.array(values, dtype=float), numbers.get(name)):
                kinds.append(f"{name} (not the mean over documents)")
            else:
                scores[name] = np.array(values, dtype=float)
    if not scores:
        raise ConfigError(f"{path}: found metrics {', '.join(kinds) or 'none'}, expected one that is a mean over documents")
    better = results.higher_is_better.get(task, {})
    rows = next(iter(by_filter.values()))
    return Answers(
        path=path,
        task=task,
        items={item: row.parts() for item, row in rows.items()},
        scores=scores,
        higher_is_better={name: said for name in scores if (said := better.get(name.partition(",")[0])) is not None},
        outputs=outputs_of(
            {item: [part for of in by_filter.values() for part in (of[item].resps, of[item].filtered_resps)] for item in rows}
        ),
    )
