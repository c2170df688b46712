"""One model that stands for several: its answers, copied, are not another seed's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

from harness.compare.answers import Answers, Model
from harness.errors import ConfigError

#: Surprise, in bits, from which equal answers are no coincidence: one in a million.
_BITS = 20


def _given(task: str, models: Sequence[Model]) -> list[tuple[Hashable, ...]]:
    """What each model answered, item by item: by its outputs where all files keep them, and else by all scores they share."""
    own: list[Answers] = [model.tasks[task] for model in models]
    items = list(own[0].items)
    outputs = [answers.outputs for answers in own if answers.outputs is not None]
    if len(outputs) == len(own):
        return [tuple(one[item] for item in items) for one in outputs]
    shared = [metric for metric in own[0].scores if all(metric in answers.scores for answers in own)]
    by_item = [dict(zip(one.items, zip(*(one.scores[m] for m in shared), strict=True), strict=True)) for one in own]
    return [tuple(one[item] for item in items) for one in by_item]


def _surprise(answers: Sequence[Hashable]) -> float:
    """In bits, that answers drawn anew with the same frequencies are the same ones; 0 where all are wrong, or all empty."""
    counts = np.array(list(Counter(answers).values()))
    return float(-(counts * np.log2(counts / len(answers))).sum())


def check_no_copies(models: Sequence[Model]) -> None:
    """Models of one side, which have answered the same items and share a metric, are different ones.

    Models that answer all items alike are one, unless that could be coincidence: answers that are few, or nearly all the same
    as at a floor, would be found again in that many models with a chance above one in a million.

    Raises:
        ConfigError: several are one model; the message names two.
    """
    given = [_given(task, models) for task in models[0].tasks]
    alike: dict[tuple[tuple[Hashable, ...], ...], list[Model]] = {}
    for model, answers in zip(models, zip(*given, strict=True), strict=True):
        alike.setdefault(answers, []).append(model)
    for answers, (first, *others) in alike.items():
        if len(others) * sum(map(_surprise, answers)) > _BITS:
            raise ConfigError(
                f"{others[0].path}: found the same answers to all {sum(map(len, answers))} items as in {first.path}, expected "
                "those of another trained model: copies of one are no seeds"
            )
