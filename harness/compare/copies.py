"""One model that stands for several: its answers, copied, are not another seed's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

from harness.compare.answers import Answers, Model
from harness.errors import ConfigError

#: Surprise, in bits, from which equal answers are no coincidence: two seeds that agree on 97 of 100 items agree on all of 150,
#: half of them right, once in a hundred times.
_BITS = 150

#: The scores of an item by every metric that all models share, and the output where all files keep it.
_Answer = tuple[tuple[float, ...], Hashable]


def _given(task: str, models: Sequence[Model]) -> list[tuple[_Answer, ...]]:
    """What each model answered, item by item, in the order of the first one's items."""
    own: list[Answers] = [model.tasks[task] for model in models]
    shared = [metric for metric in own[0].scores if all(metric in answers.scores for answers in own)]
    keep = all(answers.outputs is not None for answers in own)
    given: list[tuple[_Answer, ...]] = []
    for one in own:
        scores = dict(zip(one.items, zip(*(one.scores[metric] for metric in shared), strict=True), strict=True))
        outputs = (one.outputs or {}) if keep else {}
        given.append(tuple((scores[item], outputs.get(item)) for item in own[0].items))
    return given


def _surprise(answers: Sequence[_Answer]) -> float:
    """In bits, that answers drawn anew with the same frequencies are the same ones. What is right is right alike: its output
    does not count, and answers that are all right, all wrong or all empty are no surprise."""
    told = [(scores, None if set(scores) == {1.0} else output) for scores, output in answers]
    counts = np.array(list(Counter(told).values()))
    return float(-(counts * np.log2(counts / len(told))).sum())


def check_no_copies(models: Sequence[Model]) -> None:
    """Models of one side, which have answered the same items and share a metric, are different ones.

    Models that answer all items alike are one, unless that could be coincidence: answers that are few, or nearly all the same
    as at a floor, may be found again in another one.

    Raises:
        ConfigError: several are one model; the message names two.
    """
    given = [_given(task, models) for task in models[0].tasks]
    alike: dict[tuple[tuple[_Answer, ...], ...], list[Model]] = {}
    for model, answers in zip(models, zip(*given, strict=True), strict=True):
        alike.setdefault(answers, []).append(model)
    for answers, (first, *others) in alike.items():
        if len(others) * sum(map(_surprise, answers)) > _BITS:
            raise ConfigError(
                f"{others[0].path}: found the same answers to all {sum(map(len, answers))} items as in {first.path}, expected "
                "those of another trained model: copies of one are no seeds"
            )
