"""Graders of open answers: from (gold answer, completion) to a verdict. No torch.

================  ===========================================================================
``sound``         strict structure, worked out as far as the gold, exact values: nearest to a reader
``metamath``      MetaMath's evaluation, also PiSSA's
``paper``         the released BeamLoRA evaluation in its official environment (no antlr4)
``math_verify``   Math-Verify on the extracted answer
``exact_match``   the whole completion is the gold answer, white space around it apart
``number``        ``sound`` of numbers, also of a completion that is nothing but the answer
``expression``    ``sound`` of LaTeX expressions, also of a completion that is nothing but the answer
================  ===========================================================================
"""

from __future__ import annotations

from functools import cache

from evaluation.graders import extraction, math_lineages, math_strict, quantities
from evaluation.graders.algebra import AlgebraWorker
from evaluation.graders.verdicts import Answered, AnswerGrader, answer_grader, reading_grader


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


def _read_answer(case: Answered) -> str | None:
    return extraction.answer_text(case.completion, truncated=case.truncated)


def _read_answer_or_all(case: Answered) -> str | None:
    answer = _read_answer(case)
    return answer if answer is not None or case.truncated else extraction.first_line(case.completion)


def _strict_number_equal(prediction: str, case: Answered) -> bool:
    value = quantities.one_number(prediction)
    return value is not None and value == quantities.one_number(case.gold)


def _released_equal(prediction: str, gold: str) -> bool:
    return math_lineages.released_equal(prediction, gold, algebra().expression_equal)


def _strict_equal(prediction: str, case: Answered) -> bool:
    return math_strict.strict_equal(prediction, case.gold, algebra(), question=case.question)


def _math_verify_equal(prediction: str, gold: str) -> bool:
    return algebra().latex_equal(prediction, gold)


#: Of sets that ask for a number, such as GSM8K.
NUMBER_GRADERS: dict[str, AnswerGrader] = {
    "sound": reading_grader(_read_answer, _strict_number_equal),
    "metamath": answer_grader(_lineage_number, _number_equal),
    "paper": answer_grader(_lineage_number, _released_number_equal),
    "math_verify": answer_grader(extraction.answer_text, _math_verify_equal),
}

#: Of sets that ask for any LaTeX expression, such as MATH.
EXPRESSION_GRADERS: dict[str, AnswerGrader] = {
    "sound": reading_grader(_read_answer, _strict_equal),
    "metamath": answer_grader(extraction.metamath_answer, math_lineages.hendrycks_equal),
    "paper": answer_grader(extraction.metamath_answer, _released_equal),
    "math_verify": answer_grader(extraction.answer_text, _math_verify_equal),
}

#: Of sets of one's own, whose answers may be of any kind and need not be announced.
OWN_GRADERS: dict[str, AnswerGrader] = {
    "exact_match": answer_grader(str.strip, lambda completion, gold: completion == gold.strip()),
    "number": reading_grader(_read_answer_or_all, _strict_number_equal),
    "expression": reading_grader(_read_answer_or_all, _strict_equal),
}
