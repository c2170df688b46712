"""A comparison in words for a terminal, and as a record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from harness.compare.paired import MIN_SEEDS, Result, Scores, Task
from harness.schema.evaluation import Metric
from harness.statistics import stats
from harness.statistics.comparison import count_seeds
from harness.tables import words

#: Items listed for each direction; the record has all.
SHOWN = 5


def _scale(result: Result) -> Metric:
    """How numbers are written: in per cent, or with three decimals as an NLL is."""
    return "accuracy" if result.fractions else "gold_nll"


def _numbers(scores: Scores, scale: Metric) -> str:
    """Both means, and the difference with its interval and the degrees of freedom of that."""
    sides = ", ".join(f"{side} {words.level(one.mean, scale)}" for side, one in (("A", scores.first), ("B", scores.second)))
    d = scores.difference
    dof = "" if d.dof is None else f" (df {words.dof(d)})"
    return (
        f"{sides}, A {words.MINUS} B {words.signed(d.mean, scale)} {words.interval(d.low, d.high, scale, with_sign=True)}{dof}"
    )


def _items(found: Mapping[str, int], pairs: int) -> str:
    """The items that differ in most seeds first, such as ``17 (4 of 5)``."""
    most = sorted(found, key=lambda item: -found[item])
    names = [item if pairs == 1 else f"{item} ({found[item]} of {pairs})" for item in most[:SHOWN]]
    return ", ".join([*names, "..."] if len(most) > SHOWN else names)


def _flips(task: Task, pairs: int) -> list[str]:
    """How often a pair's answers to an item differ, and which items these are; of scores between right and wrong the number."""
    if not task.binary:
        return [f"  higher in A: {sum(task.higher.values())}, lower in A: {sum(task.lower.values())}"]
    lines = []
    for found, what in ((task.higher, "right in A and wrong in B"), (task.lower, "wrong in A and right in B")):
        items = "" if pairs == 1 or not found else f" answers to {len(found)} items"
        lines.append(f"  {what}: {sum(found.values())}{items}{': ' if found else ''}{_items(found, pairs)}")
    p_values = ", ".join(map(words.p_value, task.scores.difference.p_by_seed or ()))
    return [*lines, f"  exact McNemar test{'' if pairs == 1 else ' of each pair'}: p {p_values}"]


def _verdict(result: Result) -> list[str]:
    compared = result.comparison
    d = compared.difference
    reasons = []
    if compared.p_adjusted is not None:
        reasons.append(f"p of no difference {words.p_value(compared.p_adjusted)}")
    if compared.p_equivalent is not None:
        reasons.append(f"p of one beyond the margin {words.p_value(compared.p_equivalent)}")
    if d.p_sign_flip is not None:
        reasons.append(f"by flipping the seeds' signs {words.p_value(d.p_sign_flip)}")
    if compared.outcome is None:
        reasons.append(f"a word needs {MIN_SEEDS} seeds")
    lines = [f"{compared.word}: {', '.join(reasons)}"]
    if d.n_seeds == 1:
        lines.append(
            "one seed: interval and McNemar's test are over items, about these two trained models and not their methods"
        )
    what = "as large as the margin" if result.margin is not None else "as large as here"
    size = words.amount(result.target, "accuracy") if result.fractions else f"{result.target:.3f}"
    lines.append(f"seeds needed to find a difference {what} ({size}) four times in five: {words.settle(result.seeds_needed)}")
    return lines


def report(result: Result) -> str:
    """What the command prints."""
    pairs, scale = len(result.pairs), _scale(result)
    how = "" if pairs == 1 else ", paired by seed" if result.by_seed else ", paired in the order given"
    unit = "per cent and points" if result.fractions else "units of the metric"
    less = ", less is better" if result.less_is_better else ""
    lines = [f"A {words.MINUS} B, {count_seeds(pairs)}{how}; {unit}{less}; [..] is a 95 % interval"]
    lines += [f"  {first.path} {words.MINUS} {second.path}" for first, second in result.pairs]
    for task in result.tasks:
        others = f" (also there: {', '.join(task.other_metrics)})" if task.other_metrics else ""
        n = task.scores.difference.n_examples
        lines += [
            "",
            f"{task.name}, {task.metric}{others}, {n} items",
            f"  {_numbers(task.scores, scale)}",
            *_flips(task, pairs),
            *(
                ["  NOT GRADED ALIKE: the runs' records name other graders, or only some name theirs"]
                if task.graded_unlike
                else []
            ),
        ]
    if len(result.tasks) > 1:
        lines += ["", f"average over {len(result.tasks)} test sets", f"  {_numbers(result.scores, scale)}"]
    return "\n".join([*lines, "", *_verdict(result)])


def _estimates(scores: Scores) -> dict[str, Any]:
    return {"a": asdict(scores.first), "b": asdict(scores.second), "difference": asdict(scores.difference)}


def record(result: Result) -> dict[str, Any]:
    """The same unrounded, with every item that differs."""
    compared = result.comparison
    d = compared.difference
    return {
        "pairs": [
            {"a": str(first.path), "b": str(second.path), "seed": first.seed if result.by_seed else None}
            for first, second in result.pairs
        ],
        "tasks": [
            {"task": task.name, "metric": task.metric, **_estimates(task.scores)}
            | {"higher_in_a": dict(task.higher), "lower_in_a": dict(task.lower), "graded_unlike": task.graded_unlike}
            for task in result.tasks
        ],
        "average": _estimates(result.scores),
        "less_is_better": result.less_is_better,
        "margin": result.margin,
        "word": compared.word,
        "outcome": compared.outcome,
        "within_margin": compared.within_margin,
        "min_seeds": MIN_SEEDS,
        "minimum_detectable_difference": stats.minimum_detectable_difference(d) if d.n_seeds > 1 else None,
        "seeds_needed": result.seeds_needed,
        "seeds_needed_for": result.target,
    }
