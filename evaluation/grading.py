"""Graders: from (example, completion) to a verdict. No torch.

Every completion is graded by every grader of its format; the task's settings name the one whose accuracy is the
headline.

====================  ==============  ===========================================================================
``sound``             gsm8k, math     strict structure, exact values, algebra by Math-Verify: nearest to a reader
``metamath``          gsm8k, math     MetaMath's evaluation, also PiSSA's
``paper``             gsm8k, math     the released BeamLoRA evaluation in its official environment (no antlr4)
``math_verify``       gsm8k, math     Math-Verify on the extracted answer
``code_tests``        humaneval, mbpp the program of the first fenced block, run against the set's tests
``pissa_code_tests``  humaneval, mbpp the same tests on the program as PiSSA's clean-up cuts it
====================  ==============  ===========================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from evaluation import extraction, math_equal, math_strict
from evaluation.algebra import AlgebraWorker
from evaluation.tasks import Example

if TYPE_CHECKING:
    from evaluation.sandbox import Limits

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


@cache
def algebra() -> AlgebraWorker:
    """The process-wide worker for symbolic comparisons."""
    return AlgebraWorker()


def _answer_grader(extract: Callable[[str], str | None], equal: Callable[[str, str], bool]) -> Callable[[str, str], Verdict]:
    """``equal`` takes (prediction, gold). Answers too long or too deeply nested to compare are wrong."""

    def grade(gold: str, completion: str) -> Verdict:
        answer = extract(completion)
        if not answer:
            return Verdict(correct=False, extracted=None)
        if len(answer) > MAX_ANSWER_CHARACTERS:
            return Verdict(correct=False, extracted=answer[:MAX_ANSWER_CHARACTERS])
        try:
            correct = equal(answer, gold)
        except RecursionError:
            correct = False
        return Verdict(correct=correct, extracted=answer)

    return grade


def _lineage_number(completion: str) -> str | None:
    number = extraction.metamath_number(completion)
    return None if number is None else str(number)


def _number_equal(prediction: str, gold: str) -> bool:
    return float(prediction) == float(gold.replace(",", ""))


def _released_number_equal(prediction: str, gold: str) -> bool:
    return _number_equal(prediction, gold) or math_equal.tolerant_equal(
        prediction, gold.replace(",", ""), algebra().expression_equal
    )


def _strict_number_equal(prediction: str, gold: str) -> bool:
    value = math_strict.gsm8k_number(prediction)
    return value is not None and value == math_strict.gsm8k_number(gold)


def _released_equal(prediction: str, gold: str) -> bool:
    return math_equal.released_equal(prediction, gold, algebra().expression_equal)


def _strict_equal(prediction: str, gold: str) -> bool:
    return math_strict.strict_equal(prediction, gold, algebra().latex_equal)


def _math_verify_equal(prediction: str, gold: str) -> bool:
    return algebra().latex_equal(prediction, gold)


AnswerGrader = Callable[[str, str], Verdict]
_ANSWER_GRADERS: dict[str, dict[str, AnswerGrader]] = {
    "sound": {
        "gsm8k": _answer_grader(extraction.answer_text, _strict_number_equal),
        "math": _answer_grader(extraction.answer_text, _strict_equal),
    },
    "metamath": {
        "gsm8k": _answer_grader(_lineage_number, _number_equal),
        "math": _answer_grader(extraction.metamath_answer, math_equal.hendrycks_equal),
    },
    "paper": {
        "gsm8k": _answer_grader(_lineage_number, _released_number_equal),
        "math": _answer_grader(extraction.metamath_answer, _released_equal),
    },
    "math_verify": {name: _answer_grader(extraction.answer_text, _math_verify_equal) for name in ("gsm8k", "math")},
}


# ---------------------------------------------------------------------------------------------------------------- code


def _sound_program(example: Example, completion: str) -> str:
    entry_point = (example.record or {}).get("entry_point")
    return extraction.sound_code(completion, entry_point=entry_point)


def _pissa_program(example: Example, completion: str) -> str:
    return extraction.pissa_code(completion)


_PROGRAMS: dict[str, Callable[[Example, str], str]] = {
    "code_tests": _sound_program,
    "pissa_code_tests": _pissa_program,
}
_CODE_FORMATS = ("humaneval", "mbpp")

#: Grader names and the formats that each applies to.
GRADERS: dict[str, tuple[str, ...]] = {name: tuple(by_format) for name, by_format in _ANSWER_GRADERS.items()} | {
    name: _CODE_FORMATS for name in _PROGRAMS
}

#: The most trustworthy grader of each format.
DEFAULT_GRADER = {"gsm8k": "sound", "math": "sound", "humaneval": "code_tests", "mbpp": "code_tests"}


def graders_of(format: str) -> tuple[str, ...]:
    """The names of the graders that apply to a format."""
    return tuple(name for name, formats in GRADERS.items() if format in formats)


@dataclass(frozen=True, kw_only=True)
class Grading:
    """All verdicts on one set: ``verdicts[grader][i]`` belongs to example i. ``sandbox_level`` is None for math."""

    verdicts: dict[str, list[Verdict]]
    sandbox_level: str | None = None
    limits: dict[str, float] = field(default_factory=dict)


def grade(
    format: str,
    examples: Sequence[Example],
    completions: Sequence[str],
    *,
    graders: Sequence[str] | None = None,
    limits: Limits | None = None,
) -> Grading:
    """Grade completions with the named graders, or with all of the format.

    Args:
        limits: for code tasks; the default otherwise.

    Raises:
        KeyError: a grader that does not exist or does not apply to the format.
        ValueError: as many completions as examples are expected.
    """
    names = tuple(graders or graders_of(format))
    for name in names:
        if format not in GRADERS.get(name, ()):
            raise KeyError(f"grader {name!r} for {format}: expected one of {', '.join(graders_of(format))}")
    if len(examples) != len(completions):
        raise ValueError(f"found {len(completions)} completions for {len(examples)} examples")
    if format in _CODE_FORMATS:
        return _grade_code(format, examples, completions, names, limits)
    pairs = [(example.gold or "", completion) for example, completion in zip(examples, completions, strict=True)]
    return Grading(verdicts={name: [_ANSWER_GRADERS[name][format](*pair) for pair in pairs] for name in names})


def _grade_code(
    format: str, examples: Sequence[Example], completions: Sequence[str], names: Sequence[str], limits: Limits | None
) -> Grading:
    """Run each distinct program once, whichever graders ask for it."""
    from evaluation import sandbox
    from evaluation.code_tests import job_of

    limits = limits or sandbox.Limits()
    programs = {name: [_PROGRAMS[name](*pair) for pair in zip(examples, completions, strict=True)] for name in names}
    keys = sorted({(row, program) for texts in programs.values() for row, program in enumerate(texts) if program.strip()})
    results = dict(
        zip(
            keys,
            sandbox.run_all([job_of(format, examples[row], text) for row, text in keys], limits=limits),
            strict=True,
        )
    )
    verdicts = {
        name: [_code_verdict(results.get((row, text)), text) for row, text in enumerate(texts)]
        for name, texts in programs.items()
    }
    return Grading(verdicts=verdicts, sandbox_level=sandbox.level(), limits=limits.as_dict())


def _code_verdict(result: object | None, program: str) -> Verdict:
    outcome = getattr(result, "outcome", None)
    return Verdict(correct=outcome == "passed", extracted=program if program.strip() else None, outcome=outcome)
