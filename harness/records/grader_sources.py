"""Which sources graded a task and averaged the verdicts, so that an old number under a changed grader can say so. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

from evaluation import sets
from harness.provenance import file_sha256
from harness.source_files import ROOT, releases, source_hash

if TYPE_CHECKING:
    from evaluation.sets.columns import Format
    from harness.schema.evaluation import TaskSpec

#: Grades completions, and choices by their log-likelihoods, whatever the set.
_GRADING = ("evaluation.grading", "evaluation.graders.choices")
#: Makes metrics of verdicts.
_METRICS = "harness/statistics/averages.py"


def grader_sources(task: TaskSpec) -> dict[str, str]:
    """What made a task's verdicts and its metrics. ``grader`` is the SHA-256 of the sources behind the verdicts (the set's
    module, its graders and all that they import, but for the harness, which writes files and suggests names), ``packages``
    names the releases of what else these import, where anything is graded; ``metric`` is the hash of the source that averages.

    Raises:
        KeyError: no set of the task's format.
    """
    return ({} if task.grader is None else _graders(task.format)) | {"metric": file_sha256(ROOT / _METRICS)}


@cache
def _graders(format: Format) -> dict[str, str]:
    graders = (*_GRADING, sets.module_of(format))
    return {"grader": source_hash(*graders, without="harness"), "packages": releases(*graders)}


def graded_otherwise(recorded: Mapping[str, str] | None, task: TaskSpec) -> str:
    """How a number was graded, in words, where it was not as this code grades: by which other sources, or by which ones is
    not known. Empty where all that is recorded is the same.

    Args:
        recorded: ``sources`` of the task in ``metrics.json``; None in records of before 27 November 2026.
    """
    if recorded is None:
        return "by sources that the record does not name"
    others = [part for part, what in grader_sources(task).items() if recorded.get(part, what) != what]
    return f"by other sources than this code's ({', '.join(others)})" if others else ""


def how_graded(recorded: Sequence[Mapping[str, str] | None], task: TaskSpec) -> str:
    """How records of one task were graded, in words, where some were not as this code grades, or not all alike; else empty."""
    ways = sorted({graded_otherwise(sources, task) for sources in recorded} - {""})
    parts = grader_sources(task).keys()
    own = [sources and {part: what for part, what in sources.items() if part in parts} for sources in recorded]
    return ", ".join([*ways, *(["not all records alike"] if graded_unlike(own) else [])])


def graded_unlike(recorded: Sequence[Mapping[str, str] | None]) -> bool:
    """Whether of some records' ``sources`` two are known to differ, or only some are known."""
    known = [sources for sources in recorded if sources is not None]
    parts = {part for sources in known for part in sources}
    differ = any(len({sources[part] for sources in known if part in sources}) > 1 for part in parts)
    return differ or 0 < len(known) < len(recorded)
