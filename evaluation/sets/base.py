"""What an evaluation set says about itself. One module of this folder, or of a package of one's own, defines one or more.

Names no grader module and no torch: the schema completes and checks an experiment's tasks through it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from evaluation.example import Example, Record
from evaluation.sets.prompts import TEMPLATE_NAMES

if TYPE_CHECKING:
    from evaluation.graders.code import CodeGrader
    from evaluation.graders.verdicts import AnswerGrader


def _whole_query(example: Example) -> str:
    return example.query


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationSet:
    """One evaluation set: how its records are read, asked, graded and printed.

    Raises:
        ValueError: a protocol lacks a setting that a task needs, or names an unknown template or grader.
    """

    #: The ``format`` of a task in an experiment, lower case.
    name: str
    #: The name shown in tables, as the paper writes it.
    label: str
    #: (record, row from 0, where) -> example; ``where`` is what errors about the record begin with.
    read: Callable[[Record, int, str], Example]
    #: Name -> grader; every completion is graded by all of them. Those that run programs need a ``CodeExample``.
    graders: Mapping[str, AnswerGrader | CodeGrader]
    #: Protocol -> what it asks, where it stops, how it decodes and which grader's verdict is the headline: fields of
    #: ``harness.schema.evaluation.TaskSpec``. ``sound`` is required.
    protocols: Mapping[str, Mapping[str, Any]]
    #: What leaderboards call the accuracy; pass@1 where one program is generated and run.
    metric: Literal["accuracy", "pass@1"] = "accuracy"
    #: Label -> the response that states it, where questions offer labelled choices: their log-likelihoods are comparable.
    statement: Callable[[str], str] | None = None
    #: The part of a query that differs from question to question; training sets are searched for it too.
    core: Callable[[Example], str] = _whole_query
    #: Where all splits are (fields of ``harness.schema.data.FileData``), if the set that is asked shares examples with them: a
    #: training set that holds any of it is suspect.
    all_splits: Mapping[str, Any] | None = None
    #: The domain that the paper fine-tunes on before this test; None: it does not report it.
    paper_domain: str | None = None

    def __post_init__(self) -> None:
        if "sound" not in self.protocols:
            raise ValueError(f"set {self.name!r}: protocols: found {', '.join(self.protocols) or 'none'}, expected sound")
        for protocol, settings in self.protocols.items():
            for key, known in (("prompt_template", TEMPLATE_NAMES), ("grader", self.graders)):
                # Scored choices have a grader beside those of completions; ``harness.evaluate.task`` knows it.
                if settings.get(key) not in known and not (key == "grader" and settings.get("score_choices")):
                    raise ValueError(
                        f"set {self.name!r}: protocols.{protocol}.{key}: found {settings.get(key)!r}, expected one of "
                        f"{', '.join(known)}"
                    )

    @property
    def default_grader(self) -> str:
        """The most trustworthy grader."""
        return self.protocols["sound"]["grader"]

    def examples(self, records: Sequence[Record]) -> list[Example]:
        """The examples of the set, in the order of its records.

        Raises:
            ValueError: a missing or malformed field (names the set, the row from 0 and the field), or an id twice.
        """
        examples = [self.read(record, row, f"{self.name} row {row}") for row, record in enumerate(records)]
        seen: dict[str, int] = {}
        for row, example in enumerate(examples):
            if seen.setdefault(example.id, row) != row:
                raise ValueError(
                    f"{self.name} row {row}: id {example.id!r} is that of row {seen[example.id]}, expected unique ids"
                )
        return examples
