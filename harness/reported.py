"""The paper's numbers (config/paper_reported.csv) and where they apply."""

from __future__ import annotations

import csv
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path

PAPER_FILE = Path(__file__).resolve().parent.parent / "config" / "paper_reported.csv"
MODEL_LABELS = {"llama2-7b": "LLaMA2-7B", "mistral-7b": "Mistral-7B", "llama2-13b": "LLaMA2-13B"}
#: task -> (label, the domain that the paper fine-tunes on before this test).
TASKS = {
    "gsm8k": ("GSM8K", "math"),
    "math": ("MATH", "math"),
    "humaneval": ("HumanEval", "code"),
    "mbpp": ("MBPP", "code"),
    "arc_challenge": ("ARC-c", "commonsense"),
    "social_iqa": ("SIQA", "commonsense"),
    "winogrande": ("WinoGrande", "commonsense"),
    "boolq": ("BoolQ", "commonsense"),
    "arc_easy": ("ARC-e", "commonsense"),
    "piqa": ("PIQA", "commonsense"),
    "openbookqa": ("OBQA", "commonsense"),
    "hellaswag": ("HellaSwag", "commonsense"),
}


def in_paper(domain: str, task: str) -> bool:
    """Whether the paper reports this test set after fine-tuning on this domain."""
    return task in TASKS and TASKS[task][1] == domain


def value(*, table: str, model: str, method_names: Sequence[str], domain: str, task: str) -> float | None:
    """The paper's accuracy (a fraction) of a method, under any of its names, on a test set.

    The table's own number is preferred; other tables repeat the same runs.
    """
    if not in_paper(domain, task):
        return None
    found = {t: values[task] for t, values in _entries(model, method_names).items() if task in values}
    return _preferred(found, table)


def average(*, table: str, model: str, method_names: Sequence[str], parts: Collection[tuple[str, str]]) -> float | None:
    """The paper's average (a fraction), where it averages over exactly these (domain, task) pairs."""
    if not all(in_paper(domain, task) for domain, task in parts):
        return None
    tasks = {task for _, task in parts}
    found = {
        t: values["avg"]
        for t, values in _entries(model, method_names).items()
        if "avg" in values and set(values) - {"avg"} == tasks
    }
    return _preferred(found, table)


def parameters_millions(*, model: str, method_names: Sequence[str]) -> float | None:
    """The trainable parameters that the paper's Table 1 prints, in millions."""
    names = {_plain(name) for name in method_names}
    found = [
        float(row["params_millions"])
        for row in _rows()
        if row["model"] == model and _plain(row["method"]) in names and row["params_millions"]
    ]
    return found[0] if found else None


@cache
def _rows() -> tuple[dict[str, str], ...]:
    with PAPER_FILE.open(encoding="utf-8", newline="") as stream:
        return tuple(csv.DictReader(stream))


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def _entries(model: str, method_names: Sequence[str]) -> dict[str, dict[str, float]]:
    """table -> metric -> accuracy as a fraction, for one method on one model. Table 4 holds settings, not results."""
    names = {_plain(name) for name in method_names}
    found: dict[str, dict[str, float]] = {}
    for row in _rows():
        if row["model"] == model and _plain(row["method"]) in names and row["table"] != "table4":
            found.setdefault(row["table"], {})[row["metric"]] = round(float(row["value"]) / 100, 6)
    return found


def _preferred(found: dict[str, float], table: str) -> float | None:
    return found.get(table, found[min(found)] if found else None)
