"""MATH, Hendrycks et al. 2021 (``EleutherAI/hendrycks_math``): competition problems whose answer is a LaTeX expression."""

from __future__ import annotations

from evaluation.example import Example, Record, text
from evaluation.graders.answers import EXPRESSION_GRADERS
from evaluation.graders.extraction import last_boxed
from evaluation.sets.base import EvaluationSet
from evaluation.sets.prompts import maths_protocols


def _read(record: Record, row: int, where: str) -> Example:
    solution = text(record, "solution", where)
    gold = last_boxed(solution)
    if gold is None:
        raise ValueError(f"{where}: field 'solution': found no \\boxed or \\fbox, expected the final answer in one")
    return Example(
        id=f"math/{row}",
        query=text(record, "problem", where),
        gold=gold,
        reference=f"{solution}\nThe answer is: {gold}",
    )


SETS = (
    EvaluationSet(
        name="math",
        label="MATH",
        read=_read,
        graders=EXPRESSION_GRADERS,
        protocols=maths_protocols(sound_tokens=1024, paper_tokens=2048),
        paper_domain="math",
    ),
)
