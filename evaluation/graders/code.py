"""Graders of code tasks: how a program is taken from a completion, and which tests it must pass. Nothing runs here; no torch.

====================  ===========================================================================
``code_tests``        the program of the first fenced block, run against the set's (base) tests
``code_plus``         the same program, which must pass EvalPlus's added tests as well
``pissa_code_tests``  the base tests on the program as PiSSA's clean-up cuts it
``pissa_code_plus``   base and added tests on that program
====================  ===========================================================================

Records of HumanEval and MBPP themselves hold assertions: the base tests. Records of EvalPlus hold inputs: its base and its
added ones, compared with the reference solution's outputs. The plus graders apply to these only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evaluation.example import Example, Record
from evaluation.graders import extraction
from evaluation.graders.evalplus import Suite, Task

if TYPE_CHECKING:
    from evaluation.sandbox.run import Job


class GraderUnavailable(ValueError):
    """The records of a set lack the tests that a grader runs. The message names the grader and a record."""


@dataclass(frozen=True, kw_only=True)
class CodeExample(Example, ABC):
    """An example whose answer is a program. A set says in a subclass how its tests are run."""

    record: Record
    #: The record as EvalPlus's task; None where it holds assertions.
    evalplus: Task | None

    @abstractmethod
    def source(self, program: str) -> str:
        """What is run for a program."""

    @abstractmethod
    def job(self, program: str) -> Job:
        """The job that runs a program against the assertions of the record.

        Raises:
            ValueError: the record has none.
        """

    @property
    def entry_point(self) -> str | None:
        """The function that is asked for, where the record names it."""
        return self.evalplus.entry_point if self.evalplus else self.record.get("entry_point")

    @property
    def suites(self) -> tuple[Suite, ...]:
        """The suites of tests that the record has."""
        if self.evalplus is None:
            return ("base",)
        return ("plus",) if self.evalplus.base is None else ("base", "plus")


@dataclass(frozen=True, kw_only=True)
class CodeGrader:
    """How a program is taken from (example, completion), and the last suite of tests that it must pass."""

    program: Callable[[CodeExample, str], str]
    suite: Suite


def _sound_program(example: CodeExample, completion: str) -> str:
    return extraction.sound_code(completion, entry_point=example.entry_point)


def _pissa_program(example: CodeExample, completion: str) -> str:
    return extraction.pissa_code(completion)


CODE_GRADERS = {
    "code_tests": CodeGrader(program=_sound_program, suite="base"),
    "code_plus": CodeGrader(program=_sound_program, suite="plus"),
    "pissa_code_tests": CodeGrader(program=_pissa_program, suite="base"),
    "pissa_code_plus": CodeGrader(program=_pissa_program, suite="plus"),
}


def check_available(graders: Mapping[str, CodeGrader], examples: Sequence[CodeExample]) -> None:
    """Refuse graders whose tests a record lacks.

    Raises:
        GraderUnavailable: naming the first such grader and record.
    """
    for name, grader in graders.items():
        lacking = next((example.id for example in examples if grader.suite not in example.suites), None)
        if lacking is not None:
            expected = "rows of EvalPlus's sets" if grader.suite == "plus" else "rows that tell base inputs from added ones"
            raise GraderUnavailable(f"grader {name!r}: found no {grader.suite} tests for {lacking}, expected {expected}")
