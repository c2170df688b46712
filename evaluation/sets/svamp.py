"""SVAMP, Patel et al. 2021 (``ChilleD/SVAMP``): a story, a question and a number, asked and graded as GSM8K's are.

Not among the paper's tests: learning rates are chosen on it.
"""

from __future__ import annotations

from evaluation.example import Example, Record, field, text
from evaluation.graders.answers import NUMBER_GRADERS
from evaluation.sets.base import EvaluationSet
from evaluation.sets.prompts import maths_protocols
from evaluation.sets.training import HASHES, worked_solution


def _read(record: Record, row: int, where: str) -> Example:
    query = f"{text(record, 'Body', where).strip()} {text(record, 'Question', where).strip()}"
    answer = str(field(record, "Answer", where)).strip().removesuffix(".0")
    gold, reference = worked_solution(f"{text(record, 'Equation', where)}\n{HASHES} {answer}", where)
    return Example(id=f"svamp/{row}", query=query, gold=gold, reference=reference)


SETS = (
    EvaluationSet(
        name="svamp",
        label="SVAMP",
        read=_read,
        graders=NUMBER_GRADERS,
        protocols=maths_protocols(sound_tokens=512, paper_tokens=1024),
    ),
)
