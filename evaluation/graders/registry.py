"""Graders: from (example, completion) to a verdict. No torch.

Every completion is graded by every grader of its format; the task's settings name the one whose accuracy is the
headline.

====================  ==============  ===========================================================================
``sound``             gsm8k, math     strict structure, exact values, algebra by Math-Verify: nearest to a reader
``metamath``          gsm8k, math     MetaMath's evaluation, also PiSSA's
``paper``             gsm8k, math     the released BeamLoRA evaluation in its official environment (no antlr4)
``math_verify``       gsm8k, math     Math-Verify on the extracted answer
``code_tests``        humaneval, mbpp the program of the first fenced block, run against the set's (base) tests
``code_plus``         humaneval, mbpp the same program, which must pass EvalPlus's added tests as well
``pissa_code_tests``  humaneval, mbpp the base tests on the program as PiSSA's clean-up cuts it
``pissa_code_plus``   humaneval, mbpp base and added tests on that program
``label``             commonsense     the one label that the completion states; naming two is no answer
``llm_adapters``      commonsense     LLM-Adapters' evaluation: the first match of any label
====================  ==============  ===========================================================================
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING

from evaluation.graders import code as code_grading
from evaluation.graders import extraction, labels, math_lineages, math_strict
from evaluation.graders.algebra import AlgebraWorker
from evaluation.graders.verdicts import Grading, Verdict
from evaluation.sets.commonsense import COMMONSENSE
from evaluation.sets.examples import Example

if TYPE_CHECKING:
    from pathlib import Path

    from evaluation.sandbox.run import Limits

#: Longer extracted answers are wrong without a comparison.
MAX_ANSWER_CHARACTERS = 1000


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
    return _number_equal(prediction, gold) or math_lineages.tolerant_equal(
        prediction, gold.replace(",", ""), algebra().expression_equal
    )


def _strict_number_equal(prediction: str, gold: str) -> bool:
    value = math_strict.gsm8k_number(prediction)
    return value is not None and value == math_strict.gsm8k_number(gold)


def _released_equal(prediction: str, gold: str) -> bool:
    return math_lineages.released_equal(prediction, gold, algebra().expression_equal)


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
        "math": _answer_grader(extraction.metamath_answer, math_lineages.hendrycks_equal),
    },
    "paper": {
        "gsm8k": _answer_grader(_lineage_number, _released_number_equal),
        "math": _answer_grader(extraction.metamath_answer, _released_equal),
    },
    "math_verify": {name: _answer_grader(extraction.answer_text, _math_verify_equal) for name in ("gsm8k", "math")},
    "label": {name: _answer_grader(partial(labels.stated_label, name), operator.eq) for name in COMMONSENSE},
    "llm_adapters": {name: _answer_grader(partial(labels.released_label, name), operator.eq) for name in COMMONSENSE},
}
#: SVAMP asks for a number, like GSM8K.
for _by_format in _ANSWER_GRADERS.values():
    if "gsm8k" in _by_format:
        _by_format["svamp"] = _by_format["gsm8k"]

#: Grader names and the formats that each applies to.
GRADERS: dict[str, tuple[str, ...]] = {name: tuple(by_format) for name, by_format in _ANSWER_GRADERS.items()} | {
    name: code_grading.FORMATS for name in code_grading.GRADERS
}

#: The most trustworthy grader of each format.
DEFAULT_GRADER = {
    **{"gsm8k": "sound", "svamp": "sound", "math": "sound", "humaneval": "code_tests", "mbpp": "code_tests"},
    **dict.fromkeys(COMMONSENSE, "label"),
}


def graders_of(format: str) -> tuple[str, ...]:
    """The names of the graders that apply to a format."""
    return tuple(name for name, formats in GRADERS.items() if format in formats)


def graders_for(format: str, examples: Sequence[Example]) -> tuple[str, ...]:
    """Those of the format's graders whose tests all of the records have: the plus graders need EvalPlus's."""
    return code_grading.graders_for(examples) if format in code_grading.FORMATS else graders_of(format)


def check_available(format: str, grader: str, examples: Sequence[Example]) -> None:
    """Refuse a grader of the format for which a record has no tests.

    Raises:
        code_grading.GraderUnavailable: (a ValueError) naming the grader and the record.
    """
    if format in code_grading.FORMATS:
        code_grading.check_available([grader], examples)


def grade(
    format: str,
    examples: Sequence[Example],
    completions: Sequence[str],
    *,
    graders: Sequence[str] | None = None,
    limits: Limits | None = None,
    cache_dir: Path | None = None,
    allow_unsafe: bool = False,
) -> Grading:
    """Grade completions with the named graders, or with all that apply to the format and the records.

    Args:
        limits: for code tasks; the default otherwise.
        cache_dir: where the expected outputs of EvalPlus's tasks are kept; None: they are computed for this call only.
        allow_unsafe: run model-written code with resource limits only where no isolation works, instead of refusing.

    Raises:
        KeyError: a grader that does not exist or does not apply to the format.
        ValueError: as many completions as examples are expected, or a named code grader has no tests in the records.
    """
    names = tuple(graders or graders_for(format, examples))
    for name in names:
        if format not in GRADERS.get(name, ()):
            raise KeyError(f"grader {name!r} for {format}: expected one of {', '.join(graders_of(format))}")
    if len(examples) != len(completions):
        raise ValueError(f"found {len(completions)} completions for {len(examples)} examples")
    if format in code_grading.FORMATS:
        return code_grading.grade(
            format, examples, completions, names, limits=limits, cache_dir=cache_dir, allow_unsafe=allow_unsafe
        )
    pairs = [(example.gold or "", completion) for example, completion in zip(examples, completions, strict=True)]
    return Grading(verdicts={name: [_ANSWER_GRADERS[name][format](*pair) for pair in pairs] for name in names})
