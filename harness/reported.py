"""The paper's numbers (config/paper_reported.csv), what lies behind them (config/paper_samples.csv) and where they apply.

The paper says neither how many runs nor how many examples are behind a number, nor how much it varies. The second file
infers both from the numbers themselves, which are multiples of 1 / (runs x examples).
"""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path

from evaluation import sets

CONFIG = Path(__file__).resolve().parent.parent / "config"
PAPER_FILE = CONFIG / "paper_reported.csv"
SAMPLES_FILE = CONFIG / "paper_samples.csv"
MODEL_LABELS = {"llama2-7b": "LLaMA2-7B", "mistral-7b": "Mistral-7B", "llama2-13b": "LLaMA2-13B"}
#: A test set's name in the paper's file -> in ours.
_OURS = {"social_iqa": "siqa"}


def in_paper(domain: str, task: str) -> bool:
    """Whether the paper reports this test set after fine-tuning on this domain."""
    return home(task) == domain


def label(task: str) -> str:
    """The name of a test set in tables; a task that is called otherwise keeps its own."""
    return known.label if (known := sets.registry().get(task)) else task


def home(task: str) -> str | None:
    """The domain that the paper fine-tunes on before this test; None where it does not report it."""
    return known.paper_domain if (known := sets.registry().get(task)) else None


def tests_after(domain: str) -> list[str]:
    """The test sets that the paper reports after fine-tuning on this domain."""
    return [name for name in sets.registry() if home(name) == domain]


def value(*, table: str, model: str, method_names: Sequence[str], domain: str, task: str) -> float | None:
    """The paper's accuracy (a fraction) of a method, under any of its names in any case, on a test set.

    The table's own number is preferred; other tables repeat the same runs.
    """
    if not in_paper(domain, task):
        return None
    entries = _entries(model, method_names)
    source = _preferred([t for t, values in entries.items() if task in values], table)
    return None if source is None else entries[source][task]


def average(*, table: str, model: str, method_names: Sequence[str], parts: Collection[tuple[str, str]]) -> float | None:
    """The paper's average (a fraction), where it averages over exactly these (domain, task) pairs."""
    entries = _entries(model, method_names)
    source = _average_source(entries, table, parts)
    return None if source is None else entries[source]["avg"]


def stderr(*, table: str, model: str, method_names: Sequence[str], parts: Collection[tuple[str, str]]) -> float | None:
    """Binomial standard error of the paper's number: of its accuracy on one test set, or of its average over several.

    sqrt(p (1 - p) / (runs x examples)): as if every answer of every run were drawn anew. On one and the same test set only
    the runs are, so that this is an upper bound as long as a run's answers do not change together.
    """
    entries = _entries(model, method_names)
    if len(parts) == 1:
        ((_, only),) = parts
        source = _preferred([t for t, values in entries.items() if only in values], table)
    else:
        source = _average_source(entries, table, parts)
    if source is None or not all(in_paper(domain, task) for domain, task in parts):
        return None
    variances = []
    for _, task in parts:
        p = entries[source][task]
        examples, runs = sample(table=source, method_names=method_names, task=task)
        variances.append(p * (1 - p) / (examples * runs))
    return math.sqrt(sum(variances)) / len(variances)


def sample(*, table: str, method_names: Sequence[str], task: str) -> tuple[int, int]:
    """(examples, runs) behind one of the paper's accuracies.

    Raises:
        KeyError: config/paper_samples.csv has no line for it.
    """
    names = {name.lower() for name in method_names}
    by_method = {row["method"]: row for row in _samples() if (row["table"], row["task"]) == (table, task)}
    own = [row for method, row in by_method.items() if method.lower() in names]
    row = own[0] if own else by_method["*"]
    return int(row["examples"]), int(row["runs"])


def parameters_millions(*, model: str, method_names: Sequence[str]) -> float | None:
    """The trainable parameters that the paper's Table 1 prints, in millions."""
    names = {name.lower() for name in method_names}
    millions = [
        float(row["params_millions"])
        for row in _rows()
        if row["model"] == model and row["method"].lower() in names and row["params_millions"]
    ]
    return millions[0] if millions else None


@cache
def settings() -> dict[tuple[str, str, str], float]:
    """(domain, model, setting) -> value of the paper's Table 4; the settings are rank, p_init and delta_t."""
    values = {}
    for row in _rows():
        if row["table"] == "table4":
            domain, setting = row["metric"].split(":")
            values[domain, row["model"], setting] = float(row["value"])
    return values


@cache
def _samples() -> tuple[dict[str, str], ...]:
    with SAMPLES_FILE.open(encoding="utf-8", newline="") as stream:
        return tuple(csv.DictReader(stream))


@cache
def _rows() -> tuple[dict[str, str], ...]:
    with PAPER_FILE.open(encoding="utf-8", newline="") as stream:
        return tuple(csv.DictReader(stream))


def _entries(model: str, method_names: Sequence[str]) -> dict[str, dict[str, float]]:
    """table -> metric -> accuracy as a fraction, for one method on one model. Table 4 holds settings, not results."""
    names = {name.lower() for name in method_names}
    entries: dict[str, dict[str, float]] = {}
    for row in _rows():
        if row["model"] == model and row["method"].lower() in names and row["table"] != "table4":
            task = _OURS.get(row["metric"], row["metric"])
            entries.setdefault(row["table"], {})[task] = round(float(row["value"]) / 100, 6)
    return entries


def _average_source(entries: dict[str, dict[str, float]], table: str, parts: Collection[tuple[str, str]]) -> str | None:
    """The table that averages over exactly these pairs."""
    if not all(in_paper(domain, task) for domain, task in parts):
        return None
    tasks = {task for _, task in parts}
    return _preferred([t for t, v in entries.items() if "avg" in v and set(v) - {"avg"} == tasks], table)


def _preferred(tables: Collection[str], table: str) -> str | None:
    return table if table in tables else min(tables, default=None)
