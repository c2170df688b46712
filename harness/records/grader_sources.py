"""Which sources graded a task and averaged the verdicts, so that an old number under a changed grader can say so. No torch."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from evaluation import sets
from harness.provenance import file_sha256
from harness.source_files import ROOT, source_hash

if TYPE_CHECKING:
    from evaluation.sets.columns import Format

#: Grades completions, and choices by their log-likelihoods, whatever the set.
_GRADING = ("evaluation.grading", "evaluation.graders.choices")
#: Makes metrics of verdicts.
_METRICS = "harness/evaluate/task.py"


@cache
def grader_sources(format: Format) -> dict[str, str]:
    """The SHA-256 of the sources behind a task's verdicts (``grader``: the set's module, its graders and all that they import)
    and of those that average them (``metric``).

    Raises:
        KeyError: no set of that name.
    """
    return {"grader": source_hash(*_GRADING, sets.module_of(format)), "metric": file_sha256(ROOT / _METRICS)}
