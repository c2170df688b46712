"""Graders of math answers: from (gold answer, completion) to a verdict. No torch.

================  ===========================================================================
``sound``         strict structure, exact values, algebra by Math-Verify: nearest to a reader
``metamath``      MetaMath's evaluation, also PiSSA's
``paper``         the released BeamLoRA evaluation in its official environment (no antlr4)
``math_verify``   Math-Verify on the extracted answer
================  ===========================================================================
"""

from __future__ import annotations

from functools import cache

from evaluation.graders import extraction, math_lineages, math_strict
from evaluation.graders.algebra import AlgebraWorker
from evaluation.graders.verdicts import AnswerGrader, answer_grader


@cache
def algebra() -> AlgebraWorker:
    """The process-wide worker for symbolic comparisons. It starts with the first of them."""
    return AlgebraWorker()


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


#: Of sets that ask for a number, such as GSM8K.
NUMBER_GRADERS: dict[str, AnswerGrader] = {
    "sound": answer_grader(extraction.answer_text, _strict_number_equal),
    "metamath": answer_grader(_lineage_number, _number_equal),
    "paper": answer_grader(_lineage_number, _released_number_equal),
    "math_verify": answer_grader(extraction.answer_text, _math_verify_equal),
}

#: Of sets that ask for any LaTeX expression, such as MATH.
EXPRESSION_GRADERS: dict[str, AnswerGrader] = {
    "sound": answer_grader(extraction.answer_text, _strict_equal),
    "metamath": answer_grader(extraction.metamath_answer, math_lineages.hendrycks_equal),
    "paper": answer_grader(extraction.metamath_answer, _released_equal),
    "math_verify": answer_grader(extraction.answer_text, _math_verify_equal),
}
