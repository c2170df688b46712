"""GSM8K, Cobbe et al. 2021 (``openai/gsm8k``): word problems whose answer is a number."""

from __future__ import annotations

from evaluation.example import Example, Record, text
from evaluation.graders.answers import NUMBER_GRADERS
from evaluation.sets.base import EvaluationSet
from evaluation.sets.prompts import maths_protocols
from evaluation.sets.training import worked_solution


def _read(record: Record, row: int, where: str) -> Example:
    gold, reference = worked_solution(text(record, "answer", where), where)
    return Example(id=f"gsm8k/{row}", query=text(record, "question", where), gold=gold, reference=reference)


SETS = (
    EvaluationSet(
        name="gsm8k",
        label="GSM8K",
        read=_read,
        graders=NUMBER_GRADERS,
        protocols=maths_protocols(sound_tokens=512, paper_tokens=1024),
        paper_domain="math",
    ),
)
