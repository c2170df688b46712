"""What every format comes down to: one model's scores on the items of a test set, and a fingerprint of each item."""

from __future__ import annotations

import hashlib
import json
import math
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from harness.did_you_mean import hint
from harness.errors import ConfigError

#: Items that a message names.
_NAMED = 3

ModelT = TypeVar("ModelT", bound=BaseModel)


@dataclass(frozen=True, kw_only=True)
class Answers:
    """One model's scores on one test set."""

    path: Path
    task: str
    #: Id of an item -> part of it, such as its prompt -> a hash of that part.
    items: Mapping[str, Mapping[str, str]]
    #: Metric -> one finite number for each item, in the order of ``items``. The format's own first metric comes first.
    scores: Mapping[str, NDArray[np.float64]]
    #: Metric -> whether more of it is better, for those of which the file, or what lies beside it, says so.
    higher_is_better: Mapping[str, bool]
    #: Id of an item -> a hash of what the model answered; None where the file keeps only scores.
    outputs: Mapping[str, str] | None
    #: Hashes of what graded them (``harness.records.grader_sources``), where the format has any.
    graded_by: Mapping[str, str] | None = None

    def named(self, metric: str | None) -> str:
        """The metric of that name, also without lm-eval's filter where that leaves no choice; the first for None.

        Raises:
            ConfigError: there is none, or several.
        """
        if metric is None or metric in self.scores:
            return metric or next(iter(self.scores))
        fits = [name for name in self.scores if name.partition(",")[0] == metric]
        if len(fits) == 1:
            return fits[0]
        expected = f"expected one of {', '.join(fits)}" if fits else hint(metric, self.scores)
        raise ConfigError(f"--metric: found {metric!r}, for {self.task} of {self.path}: {expected}")


@dataclass(frozen=True, kw_only=True)
class Model:
    """One trained model's answers, to one or more test sets: a seed of one side."""

    path: Path
    tasks: Mapping[str, Answers]
    seed: int | None


def fingerprint(value: Any) -> str:
    """A hash of plain JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def outputs_of(kept: Mapping[str, Sequence[Any]]) -> dict[str, str] | None:
    """Item -> hash of what a file keeps of the model's answer, in plain JSON; None where that is nothing but nulls."""
    if all(part is None for parts in kept.values() for part in parts):
        return None
    return {item: fingerprint(parts) for item, parts in kept.items()}


def checked(place: object, content: Any, model: type[ModelT]) -> ModelT:
    """What stands in a file, in the form that its format has.

    Args:
        place: the file, and line, for the message.
        content: plain JSON.
        model: the form, as far as it is read.

    Raises:
        ConfigError: it has another; the message names the first key that does not fit.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        is_missing = first["type"] == "missing"
        found = "nothing" if is_missing else reprlib.repr(first["input"])
        expected = "this key" if is_missing else first["msg"].removeprefix("Input should be ").partition(" or instance of ")[0]
        raise ConfigError(f"found {found}, expected {expected}", keys=first["loc"], place=str(place)) from error


def finite(value: Any) -> bool:
    """Whether a value of a file is a number, or true or false, to take means of."""
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # an integer beyond floating point
        return False


def seed_of(name: str) -> int | None:
    """The seed that a path or a run's name gives, such as 3 of ``lora/seed3/samples_gsm8k.jsonl``."""
    found = re.findall(r"seed[-_=]?(\d+)", name.lower())
    return int(found[-1]) if found else None


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def check_same_items(models: Sequence[Model]) -> None:
    """All have answered the same items of the same test sets, in whatever order.

    Raises:
        ConfigError: one differs from the first; the message names the file and the item, and which part of it is another.
    """
    first = models[0]
    for model in models[1:]:
        if model.tasks.keys() != first.tasks.keys():
            raise ConfigError(
                f"{model.path}: found test sets {', '.join(sorted(model.tasks))}, expected those of {first.path}: "
                f"{', '.join(sorted(first.tasks))}"
            )
        for task, answers in model.tasks.items():
            _check_task(answers, first.tasks[task])


def _check_task(answers: Answers, expected: Answers) -> None:
    where = f"{answers.path}: {answers.task}"
    missing = [item for item in expected.items if item not in answers.items]
    foreign = [item for item in answers.items if item not in expected.items]
    if missing or foreign:
        sides = ((missing, "missing"), (foreign, "others"))
        unlike = ", ".join(f"{len(names)} {what} ({_listed(names)})" for names, what in sides if names)
        n, wanted = len(answers.items), len(expected.items)
        raise ConfigError(f"{where}: found {n} items, expected the {wanted} of {expected.path}: {unlike}")
    for item, parts in expected.items.items():
        found = answers.items[item]
        part = next((part for part in {**parts, **found} if parts.get(part) != found.get(part)), None)
        if part is not None:
            others = sum(answers.items[one] != expected.items[one] for one in expected.items)
            raise ConfigError(
                f"{where}: item {item}: found another {part} than in {expected.path}, expected the same; {others} of "
                f"{len(expected.items)} items differ"
            )


def matrix(models: Sequence[Model], task: str, metric: str, items: Sequence[str]) -> NDArray[np.float64]:
    """Scores of shape (models, items), in the order of both."""
    rows = []
    for model in models:
        answers = model.tasks[task]
        by_item = dict(zip(answers.items, answers.scores[answers.named(metric)], strict=True))
        rows.append([by_item[item] for item in items])
    return np.array(rows, dtype=float)
