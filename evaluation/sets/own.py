"""The evaluation set that ``evaluation.sets.columns`` describes: how it is asked and graded. No torch."""

from __future__ import annotations

from functools import cache

from evaluation.example import Continuation, Example, Record
from evaluation.graders.answers import OWN_GRADERS
from evaluation.graders.choices import PER_CHARACTER
from evaluation.graders.labels import label_graders
from evaluation.sets.base import EvaluationSet
from evaluation.sets.columns import Columns
from evaluation.sets.llm_adapters import FORMAT_MARK, statement
from evaluation.sets.prompts import CONTINUATION

#: Of questions whose choices are offered under numbered labels; the numbers that a question has are its own.
_LABEL_GRADERS = {"label": label_graders(("answer1", "answer2"))["label"]}


def _core(example: Example) -> str:
    return example.query.rpartition(f"\n\n{FORMAT_MARK} ")[0]


@cache
def own_set(columns: Columns) -> EvaluationSet:
    """The set with these columns."""

    def read(record: Record, row: int, where: str) -> Example:
        said = columns.read(record, where)
        return Example(
            id=f"{columns.name}/{row}",
            query=said.query,
            gold=said.gold,
            reference=said.response,
            choices=said.labels,
            continuations=tuple(Continuation(context=said.prompt, text=text) for text in said.texts),
        )

    if not columns.choices:
        sound = {"prompt_template": "alpaca", "max_new_tokens": 512, "grader": "exact_match"}
        return EvaluationSet(name=columns.name, label="own data", read=read, graders=OWN_GRADERS, protocols={"sound": sound})
    return EvaluationSet(
        name=columns.name,
        label="own data",
        read=read,
        graders=_LABEL_GRADERS,
        protocols={
            "sound": {"prompt_template": "alpaca", "max_new_tokens": 32, "grader": "label", "score_choices": True},
            "continuation": {
                "prompt_template": CONTINUATION,
                "max_new_tokens": 0,
                "grader": PER_CHARACTER,
                "score_choices": True,
            },
        },
        statement=statement,
        core=_core,
    )
