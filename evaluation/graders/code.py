"""Graders of HumanEval and MBPP: how a program is taken from a completion, and which tests it must pass. No torch.

Records of HumanEval and MBPP themselves hold assertions: the base tests. Records of EvalPlus hold inputs: its base and its
added ones, compared with the reference solution's outputs. The plus graders apply to these only.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from evaluation.graders import code_tests, evalplus_oracle, extraction
from evaluation.graders.verdicts import Grading, Verdict
from evaluation.sandbox.run import Job, Limits, Sandbox
from evaluation.sets.examples import Example

FORMATS = ("humaneval", "mbpp")


class GraderUnavailable(ValueError):
    """The records of a set lack the tests that a grader runs. The message names the grader and a record."""


@dataclass(frozen=True, kw_only=True)
class CodeGrader:
    """How a program is taken from (example, completion), and the last suite of tests that it must pass."""

    program: Callable[[Example, str], str]
    suite: evalplus_oracle.Suite


def _sound_program(example: Example, completion: str) -> str:
    entry_point = example.evalplus.entry_point if example.evalplus else (example.record or {}).get("entry_point")
    return extraction.sound_code(completion, entry_point=entry_point)


def _pissa_program(example: Example, completion: str) -> str:
    return extraction.pissa_code(completion)


GRADERS = {
    "code_tests": CodeGrader(program=_sound_program, suite="base"),
    "code_plus": CodeGrader(program=_sound_program, suite="plus"),
    "pissa_code_tests": CodeGrader(program=_pissa_program, suite="base"),
    "pissa_code_plus": CodeGrader(program=_pissa_program, suite="plus"),
}


def graders_for(examples: Sequence[Example]) -> tuple[str, ...]:
    """The graders whose tests every record has."""
    return tuple(name for name, grader in GRADERS.items() if all(grader.suite in _suites(example) for example in examples))


def _suites(example: Example) -> tuple[evalplus_oracle.Suite, ...]:
    """The suites of tests that an example's record has."""
    if example.evalplus is None:
        return ("base",)
    return ("plus",) if example.evalplus.base is None else ("base", "plus")


def check_available(names: Sequence[str], examples: Sequence[Example]) -> None:
    """Refuse graders whose tests a record lacks.

    Raises:
        GraderUnavailable: naming the first such grader and record.
    """
    for name in names:
        suite = GRADERS[name].suite
        lacking = next((example.id for example in examples if suite not in _suites(example)), None)
        if lacking is not None:
            expected = "rows of EvalPlus's sets" if suite == "plus" else "rows that tell base inputs from added ones"
            raise GraderUnavailable(f"grader {name!r}: found no {suite} tests for {lacking}, expected {expected}")


def grade(
    format: str,
    examples: Sequence[Example],
    completions: Sequence[str],
    names: Sequence[str],
    *,
    limits: Limits | None,
    cache_dir: Path | None,
    allow_unsafe: bool,
) -> Grading:
    """Run each distinct program once, whichever graders ask for it.

    Args:
        limits: ``timeout_s`` is for a program's assertions; EvalPlus's inputs have the limits of ``oracle.TimeLimits``.
        cache_dir: where EvalPlus's expected outputs are kept; None: they are computed for this call only.

    Raises:
        GraderUnavailable: a record lacks the tests of a named grader.
        oracle.OracleError: a reference solution does not run.
    """
    check_available(names, examples)
    pairs = list(zip(examples, completions, strict=True))
    # Blank lines around a program are all that most programs of the two extractions differ in.
    texts = {name: [GRADERS[name].program(*pair).lstrip("\n").rstrip() for pair in pairs] for name in names}
    plus = any(GRADERS[name].suite == "plus" for name in names)
    programs = sorted({(row, text) for found in texts.values() for row, text in enumerate(found) if text})
    with Sandbox(limits=limits, allow_unsafe=allow_unsafe) as sandbox, _folder(cache_dir) as folder:
        outcomes = _assertion_outcomes(format, examples, programs, sandbox)
        outcomes |= _evalplus_outcomes(format, examples, programs, sandbox, evalplus_oracle.Oracle(folder, sandbox), plus=plus)
        level, recorded = sandbox.level, sandbox.limits.as_dict()
    if any(example.evalplus for example in examples):
        recorded |= evalplus_oracle.TimeLimits().as_dict()
    if all(example.evalplus for example in examples):
        del recorded["timeout_s"]
    verdicts = {
        name: [_verdict(outcomes.get((row, text), {}).get(GRADERS[name].suite), text) for row, text in enumerate(found)]
        for name, found in texts.items()
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


def _assertion_outcomes(format: str, examples: Sequence[Example], programs: Sequence[Program], sandbox: Sandbox) -> Outcomes:
    programs = [program for program in programs if examples[program[0]].evalplus is None]
    results = sandbox.run_all([code_tests.job_of(format, examples[row], text) for row, text in programs])
    return {program: {"base": result.outcome} for program, result in zip(programs, results, strict=True)}


def _evalplus_outcomes(
    format: str,
    examples: Sequence[Example],
    programs: Sequence[Program],
    sandbox: Sandbox,
    truths: evalplus_oracle.Oracle,
    *,
    plus: bool,
) -> Outcomes:
    """The added inputs are run only where ``plus`` asks for them."""
    programs = [program for program in programs if examples[program[0]].evalplus is not None]
    suites = {row: [suite for suite in _suites(examples[row]) if plus or suite == "base"] for row, _ in programs}
    tasks = {row: task for row in suites if (task := examples[row].evalplus) is not None}
    truths.prepare([(tasks[row], suite) for row, found in suites.items() for suite in found])
    # Expected outputs reach a hundred megabytes: they are read when a program's turn comes, and let go with its result.
    expected: dict[int, list[evalplus_oracle.Truth]] = {}

    def jobs() -> Iterator[Job]:
        for place, (row, text) in enumerate(programs):
            expected[place] = [truths.truth(tasks[row], suite) for suite in suites[row]]
            source = code_tests.source_of(format, examples[row], text)
            yield evalplus_oracle.program_job(tasks[row], source, expected[place], evalplus_oracle.TimeLimits())

    found: Outcomes = {}
    for place, result in sandbox.run_each(jobs()):
        row, text = programs[place]
        outcomes = evalplus_oracle.outcomes(tasks[row], result, expected.pop(place))
        found[row, text] = dict(zip(suites[row], outcomes, strict=True))
    return found


def _verdict(outcome: str | None, program: str) -> Verdict:
    return Verdict(correct=outcome == "passed", extracted=program or None, outcome=outcome)
