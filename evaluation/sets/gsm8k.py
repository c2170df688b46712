"""GSM8K, Cobbe et al. 2021 (``openai/gsm8k``): word problems whose answer is a number."""

from __future__ import annotations

from evaluation.example import Example, Record, text
from evaluation.graders.answers import NUMBER_GRADERS
from evaluation.sets.base import EvaluationSet
from evaluation.sets.prompts import METAMATH_STOPS
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
        protocols={
            "sound": {"prompt_template": "alpaca", "max_new_tokens": 512, "grader": "sound"},
            "paper": {
                "prompt_template": "alpaca-cot",
                "max_new_tokens": 1024,
                "stop_strings": METAMATH_STOPS,
                "grader": "paper",
            },
        },
        paper_domain="math",
    ),
)
