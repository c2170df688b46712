"""What graders say, and what a grader of final answers is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

#: Longer extracted answers are wrong without a comparison.
MAX_ANSWER_CHARACTERS = 1000


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one grader says about one completion."""

    correct: bool
    #: The answer or program taken from the completion; None where there is none.
    extracted: str | None
    #: How the program's run ended (code tasks): passed, failed, timed_out, out_of_memory or forbidden.
    outcome: str | None = None

    @property
    def unparseable(self) -> bool:
        """Whether no answer could be taken from the completion."""
        return self.extracted is None


@dataclass(frozen=True, kw_only=True)
class Grading:
    """All verdicts on one set: ``verdicts[grader][i]`` belongs to example i. ``sandbox_level`` is None where nothing
    ran."""

    verdicts: dict[str, list[Verdict]]
    sandbox_level: str | None = None
    limits: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One completion to grade, and what is known about it."""

    gold: str
    completion: str
    #: What was asked; empty where it is not at hand.
    question: str = ""
    #: Whether the token limit cut the completion off.
    truncated: bool = False


AnswerGrader = Callable[[Answered], Verdict]


def answer_grader(extract: Callable[[str], str | None], equal: Callable[[str, str], bool]) -> AnswerGrader:
    """The grader that takes an answer from the completion and compares it with the gold one, whatever was asked and however
    the completion ended.

    Args:
        extract: completion -> answer, or None where there is none.
        equal: (answer, gold) -> whether they are the same. Answers too long or too deeply nested to compare are wrong.
    """
    return reading_grader(lambda case: extract(case.completion), lambda answer, case: equal(answer, case.gold))


def reading_grader(extract: Callable[[Answered], str | None], equal: Callable[[str, Answered], bool]) -> AnswerGrader:
    """``answer_grader`` for one that also reads the question or how the completion ended."""

    def grade(case: Answered) -> Verdict:
        answer = extract(case)
        if not answer:
            return Verdict(correct=False, extracted=None)
        if len(answer) > MAX_ANSWER_CHARACTERS:
            return Verdict(correct=False, extracted=answer[:MAX_ANSWER_CHARACTERS])
        try:
            correct = equal(answer, case)
        except RecursionError:
            correct = False
        return Verdict(correct=correct, extracted=answer)

    return grade
