"""Whether training data holds what is asked in the evaluation, and what the length limit cuts off.

``summarize`` is what goes into every run's record; ``python -m harness.data check`` reports the whole experiment.
``harness.data.overlap`` defines when two texts count as the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evaluation import sets
from evaluation.example import Example, Record
from evaluation.sets.columns import Format
from evaluation.sets.training import training_example
from harness import files
from harness.data.load import load_records, source_fingerprint
from harness.data.overlap import DEFINITION, Match, Question, QuestionIndex, words
from harness.errors import ConfigError
from harness.schema.data import TrainingData
from harness.schema.evaluation import TaskSpec
from harness.schema.fields import content_hash
from harness.source_files import source_hash

#: More ids than this are not listed in a record, only counted.
LISTED_IDS = 200


# --------------------------------------------------------------------------------------------------- one training set


def _question(format: Format, example: Example) -> Question:
    return Question(query=example.query, core=sets.get(format).core(example))


def _training_pairs(format: Format, records: Sequence[Record]) -> Iterator[tuple[str, str]]:
    for row, record in enumerate(records):
        yield training_example(format, record, row=row)


@dataclass(frozen=True, kw_only=True)
class TaskOverlap:
    """How many of a task's ``n`` questions are found in a training set; the terms are those of ``harness.data.overlap``.

    ``ids`` are the questions found exactly or nearly; None where there are more than LISTED_IDS.
    """

    n: int
    exact: int
    near: int
    ngram: int
    ids: tuple[str, ...] | None

    @property
    def share(self) -> float:
        """The part of the questions found exactly or nearly."""
        return (self.exact + self.near) / self.n


def find_overlap(
    training: Sequence[Record], training_format: Format, tasks: Mapping[str, tuple[Format, Sequence[Record]]]
) -> dict[str, tuple[list[Example], list[Match]]]:
    """Hold every task's questions against a training set, which is read once.

    Args:
        tasks: name -> (format, records).

    Raises:
        ValueError: a record lacks a field (names set, row and field).
    """
    asked = {name: sets.examples(format_, records) for name, (format_, records) in tasks.items()}
    questions = [_question(tasks[name][0], example) for name in tasks for example in asked[name]]
    index = QuestionIndex(questions, sets=[len(examples) for examples in asked.values()])
    matches = iter(index.matches(_training_pairs(training_format, training)))
    return {name: (examples, [next(matches) for _ in examples]) for name, examples in asked.items()}


def task_overlap(asked: Sequence[Example], matches: Sequence[Match]) -> TaskOverlap:
    """Count one task's matches."""
    contaminated = [example.id for example, match in zip(asked, matches, strict=True) if match.exact or match.near]
    return TaskOverlap(
        n=len(asked),
        exact=sum(match.exact for match in matches),
        near=sum(match.near for match in matches),
        ngram=sum(match.ngram for match in matches),
        ids=tuple(contaminated) if len(contaminated) <= LISTED_IDS else None,
    )


def repetitions(training: Sequence[Record], training_format: Format) -> dict[str, int]:
    """``rows`` whose query and response stand in an earlier row, and ``queries`` that stand in an earlier row."""
    pairs: set[int] = set()
    queries: set[int] = set()
    repeated_rows = repeated_queries = 0
    for query, response in _training_pairs(training_format, training):
        question = " ".join(words(query))
        key, pair = hash(question), hash((question, " ".join(words(response))))
        repeated_queries += key in queries
        repeated_rows += pair in pairs
        queries.add(key)
        pairs.add(pair)
    return {"rows": repeated_rows, "queries": repeated_queries}


# ------------------------------------------------------------------------------------------------------------ the record


def contamination_summary(
    data: TrainingData,
    tasks: Mapping[str, TaskSpec],
    records: Mapping[str, Sequence[Record]],
    *,
    data_dir: str | None,
    cache_dir: Path,
    training_sha256: str,
) -> dict[str, dict[str, Any]]:
    """What a run's record says about contamination: task -> n, exact, near, ngram, share and ids.

    Kept in ``cache_dir`` by the content of both sides, so that it is computed once for all runs of a domain.

    Args:
        records: the records that each task is asked, already cut to its limit.
        training_sha256: ``source_fingerprint`` of the rows trained on (train.json: data.sha256). The training set is only
            read where the cache has no answer.

    Raises:
        ConfigError: the training set cannot be read, lacks a field, or is no longer what was trained on.
    """
    paths = {
        name: cache_dir / f"overlap-{_key(data.format, training_sha256, tasks[name].format, rows)}.json"
        for name, rows in records.items()
    }
    found = {name: files.read_or_set_aside(path, _read_summary) for name, path in paths.items()}
    missing = {name: (tasks[name].format, rows) for name, rows in records.items() if found[name] is None}
    if missing:
        training = load_records(data.source, data_dir=data_dir, limit=data.limit)
        _check_same(training, training_sha256)
        try:
            overlap = find_overlap(training, data.format, missing)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        for name, (asked, matches) in overlap.items():
            counts = task_overlap(asked, matches)
            files.write_json(paths[name], {**asdict(counts), "share": counts.share})
    return {name: _read_summary(path) for name, path in paths.items()}


def _read_summary(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    return {name: content[name] for name in ("n", "exact", "near", "ngram", "ids", "share")}


def _key(training_format: Format, training_sha256: str, format: Format, records: Sequence[Record]) -> str:
    # The set says how a record is read and what the core of its question is, in its module or in one that this imports.
    reader = source_hash(sets.module_of(format))
    return content_hash([DEFINITION, training_format, training_sha256, format, source_fingerprint(records), reader])


def _check_same(training: Sequence[Record], expected: str) -> None:
    actual = source_fingerprint(training)
    if actual != expected:
        raise ConfigError(
            f"data: found training rows with sha256 {actual[:16]}..., expected {expected[:16]}..., the rows that the run "
            "was trained on; restore them or train again"
        )
