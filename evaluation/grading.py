"""Grading completions by the graders of their set. No torch.

Every completion is graded by every grader of its set; the task's settings name the one whose accuracy is the headline.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from evaluation import sets
from evaluation.example import Example
from evaluation.graders import code
from evaluation.graders.code import CodeExample, CodeGrader
from evaluation.graders.verdicts import Answered, Grading

if TYPE_CHECKING:
    from pathlib import Path

    from evaluation.sandbox.run import Limits
    from evaluation.sets.columns import Format


def graders_of(format: Format) -> tuple[str, ...]:
    """The names of the graders that apply to a format.

    Raises:
        KeyError: no set of that name.
    """
    return tuple(sets.get(format).graders)


def runs_programs(format: Format) -> bool:
    """Whether graders of the format run what the model wrote: its examples are ``CodeExample``."""
    return any(isinstance(grader, CodeGrader) for grader in sets.get(format).graders.values())


def graders_for(format: Format, examples: Sequence[Example]) -> tuple[str, ...]:
    """Those of the format's graders whose tests all of the records have: the plus graders need EvalPlus's."""
    asked = cast(Sequence[CodeExample], examples)
    return tuple(
        name
        for name, grader in sets.get(format).graders.items()
        if not isinstance(grader, CodeGrader) or all(grader.suite in example.suites for example in asked)
    )


def check_available(format: Format, grader: str, examples: Sequence[Example]) -> None:
    """Refuse a grader of the format for which a record has no tests.

    Raises:
        evaluation.graders.code.GraderUnavailable: (a ValueError) naming the grader and the record.
    """
    chosen = sets.get(format).graders.get(grader)  # none for the likeliest choice, which needs no completion
    if isinstance(chosen, CodeGrader):
        code.check_available({grader: chosen}, cast(Sequence[CodeExample], examples))


def grade(
    format: Format,
    examples: Sequence[Example],
    completions: Sequence[str],
    *,
    truncated: Sequence[bool] | None = None,
    graders: Sequence[str] | None = None,
    limits: Limits | None = None,
    cache_dir: Path | None = None,
    allow_unsafe: bool = False,
) -> Grading:
    """Grade completions with the named graders, or with all that apply to the format and the records.

    Args:
        truncated: whether the token limit cut each completion off; None: none was.
        limits: for code tasks; the default otherwise.
        cache_dir: where the expected outputs of EvalPlus's tasks are kept; None: they are computed for this call only.
        allow_unsafe: run model-written code with resource limits only where no isolation works, instead of refusing.

    Raises:
        KeyError: a set that does not exist, or a grader that does not apply to it.
        ValueError: as many completions as examples are expected, or a named code grader has no tests in the records.
    """
    known = sets.get(format).graders
    names = tuple(graders or graders_for(format, examples))
    for name in names:
        if name not in known:
            raise KeyError(f"grader {name!r} for {format}: expected one of {', '.join(known)}")
    if len(examples) != len(completions):
        raise ValueError(f"found {len(completions)} completions for {len(examples)} examples")
    cases = [
        Answered(gold=example.gold or "", completion=completion, question=example.query, truncated=cut)
        for example, completion, cut in zip(examples, completions, truncated or [False] * len(examples), strict=True)
    ]
    verdicts = {}
    programs = {}
    for name in names:
        grader = known[name]
        if isinstance(grader, CodeGrader):
            programs[name] = grader
        else:
            verdicts[name] = list(map(grader, cases))
    if not programs:
        return Grading(verdicts=verdicts)
    from evaluation.graders import code_grading

    grading = code_grading.grade(
        programs,
        cast(Sequence[CodeExample], examples),
        completions,
        limits=limits,
        cache_dir=cache_dir,
        allow_unsafe=allow_unsafe,
    )
    both = {**verdicts, **grading.verdicts}
    return Grading(verdicts={name: both[name] for name in names}, sandbox_level=grading.sandbox_level, limits=grading.limits)
