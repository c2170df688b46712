"""The evaluation protocols: what each asks, where it stops, how it decodes and which grader's verdict is the headline.

``sound`` asks in the prompt of training, decodes greedily and grades strictly. ``paper`` is what produced the paper's
numbers, as far as it is known: MetaMath's prompts and stops with the released grader for math, PiSSA's prompts and
post-processing with EvalPlus's base tests for code, LLM-Adapters' template and beam search for commonsense. ``continuation``
is for models that were not tuned to answer: each choice of a commonsense question is scored as running text, as lm-eval does.

A task of an experiment takes every setting that it does not state itself from its set's protocol (``evaluation/sets/``). No
torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from evaluation import sets
from evaluation.sets.base import EvaluationSet
from evaluation.sets.columns import Columns


def with_defaults(protocol: str, task: Mapping[str, Any]) -> dict[str, Any]:
    """A task's settings, completed from the protocol. Unknown protocols and formats are left for the schema to refuse."""
    known = _set_of(task)
    return {**(known.protocols.get(protocol, {}) if known else {}), **task}


def has(protocol: str, task: Mapping[str, Any]) -> bool:
    """Whether the task's set has the protocol. A task that names its own grader needs none; unknown formats count as having
    it, so that the schema refuses them."""
    known = _set_of(task)
    return known is None or protocol in known.protocols or "grader" in task


def _set_of(task: Mapping[str, Any]) -> EvaluationSet | None:
    format = task.get("format")
    if not isinstance(format, Mapping | Columns):
        return sets.registry().get(str(format))
    try:
        return sets.get(Columns.model_validate(format))
    except ValidationError:
        return None
