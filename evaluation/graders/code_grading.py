"""Grading code tasks: each distinct program is run once in the sandbox, whichever graders ask for it. No torch."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from evaluation.graders import evalplus_oracle
from evaluation.graders.code import CodeExample, CodeGrader, check_available
from evaluation.graders.verdicts import Grading, Verdict
from evaluation.sandbox.run import Job, Limits, Sandbox


def grade(
    graders: Mapping[str, CodeGrader],
    examples: Sequence[CodeExample],
    completions: Sequence[str],
    *,
    limits: Limits | None,
    cache_dir: Path | None,
    allow_unsafe: bool,
) -> Grading:
    """The verdicts of the graders.

    Args:
        limits: ``timeout_s`` is for a program's assertions; EvalPlus's inputs have the limits of
            ``evalplus_oracle.TimeLimits``.
        cache_dir: where EvalPlus's expected outputs are kept; None: they are computed for this call only.

    Raises:
        code.GraderUnavailable: a record lacks the tests of a grader.
        evalplus_oracle.OracleError: a reference solution does not run.
    """
    check_available(graders, examples)
    pairs = list(zip(examples, completions, strict=True))
    # Blank lines around a program are all that most programs of the two extractions differ in.
    texts = {name: [grader.program(*pair).lstrip("\n").rstrip() for pair in pairs] for name, grader in graders.items()}
    plus = any(grader.suite == "plus" for grader in graders.values())
    programs = sorted({(row, text) for column in texts.values() for row, text in enumerate(column) if text})
    with Sandbox(limits=limits, allow_unsafe=allow_unsafe) as sandbox, _folder(cache_dir) as folder:
        outcomes = _assertion_outcomes(examples, programs, sandbox)
        outcomes |= _evalplus_outcomes(examples, programs, sandbox, evalplus_oracle.Oracle(folder, sandbox), plus=plus)
        level, recorded = sandbox.level, sandbox.limits.as_dict()
    if any(example.evalplus for example in examples):
        recorded |= evalplus_oracle.TimeLimits().as_dict()
    if all(example.evalplus for example in examples):
        del recorded["timeout_s"]
    verdicts = {
        name: [_verdict(outcomes.get((row, text), {}).get(graders[name].suite), text) for row, text in enumerate(column)]
        for name, column in texts.items()
    }
    return Grading(verdicts=verdicts, sandbox_level=level, limits=recorded)


#: A program of a row.
Program = tuple[int, str]
Outcomes = dict[Program, dict[str, str]]


@contextmanager
def _folder(cache_dir: Path | None) -> Iterator[Path]:
    if cache_dir is not None:
        yield cache_dir
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)


def _assertion_outcomes(examples: Sequence[CodeExample], programs: Sequence[Program], sandbox: Sandbox) -> Outcomes:
    programs = [program for program in programs if examples[program[0]].evalplus is None]
    results = sandbox.run_all([examples[row].job(text) for row, text in programs])
    return {program: {"base": result.outcome} for program, result in zip(programs, results, strict=True)}


def _evalplus_outcomes(
    examples: Sequence[CodeExample],
    programs: Sequence[Program],
    sandbox: Sandbox,
    truths: evalplus_oracle.Oracle,
    *,
    plus: bool,
) -> Outcomes:
    """The added inputs are run only where ``plus`` asks for them."""
    programs = [program for program in programs if examples[program[0]].evalplus is not None]
    suites = {row: [suite for suite in examples[row].suites if plus or suite == "base"] for row, _ in programs}
    tasks = {row: task for row in suites if (task := examples[row].evalplus) is not None}
    truths.prepare([(tasks[row], suite) for row, own in suites.items() for suite in own])
    # Expected outputs reach a hundred megabytes: they are read when a program's turn comes, and let go with its result.
    expected: dict[int, list[evalplus_oracle.Truth]] = {}

    def jobs() -> Iterator[Job]:
        for place, (row, text) in enumerate(programs):
            expected[place] = [truths.truth(tasks[row], suite) for suite in suites[row]]
            source = examples[row].source(text)
            yield evalplus_oracle.program_job(tasks[row], source, expected[place], evalplus_oracle.TimeLimits())

    by_program: Outcomes = {}
    for place, result in sandbox.run_each(jobs()):
        row, text = programs[place]
        outcomes = evalplus_oracle.outcomes(result, expected.pop(place))
        by_program[row, text] = dict(zip(suites[row], outcomes, strict=True))
    return by_program


def _verdict(outcome: str | None, program: str) -> Verdict:
    return Verdict(correct=outcome == "passed", extracted=program or None, outcome=outcome)
