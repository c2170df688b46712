"""What the lm-eval tasks in ``evaluation/tasks/*.yaml`` call: our records, prompts and graders, so that lm-eval asks what we
ask. No torch.

``lm_eval --include_path evaluation/tasks --tasks beamlora_boolq --metadata '{"data_dir": "/path/to/data"}' ...`` reads
local copies of the sets; without ``data_dir`` they come from the hub. Records go through our own loader rather than
lm-eval's ``dataset_path``: it checks row counts, and reads every format that the experiments read.
"""

from __future__ import annotations

import json
from typing import Any

from evaluation import grading, sets
from evaluation.example import Example
from evaluation.sets.prompts import CONTINUATION, TEMPLATES, continuation
from harness.data.load import load_records
from harness.protocols import with_defaults
from harness.schema.data import FileData
from harness.schema.evaluation import TaskSpec


def task_spec(format: str, source: dict[str, Any], protocol: str = "sound", **settings: Any) -> TaskSpec:
    """The settings of a set under a protocol.

    Args:
        source: the fields of ``harness.schema.data.FileData``.
        settings: fields of ``harness.schema.evaluation.TaskSpec`` that take another value.
    """
    file = FileData.model_validate({"kind": "files"} | source)
    return TaskSpec.model_validate(with_defaults(protocol, {"format": format, "source": file} | settings))


def documents(spec: TaskSpec, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """lm-eval's documents: what is asked, the choices where there are any, and what grading needs. Of choices as running text
    also ``contexts`` and ``continued``, for sets whose choices stand in the context."""
    asked = sets.examples(spec.format, records)
    return [_document(spec, example, record) for example, record in zip(asked, records, strict=True)]


def _document(spec: TaskSpec, example: Example, record: dict[str, Any]) -> dict[str, Any]:
    document: dict[str, Any] = {
        "id": example.id,
        "format": spec.format,
        "grader": spec.grader,
        "gold": example.gold,
        "reference": example.reference,
        "record": json.dumps(record),  # as text: the test inputs of MBPP+ have no single Arrow type
    }
    if spec.prompt_template == CONTINUATION:
        assert example.gold is not None
        contexts, texts = zip(*((choice.context, choice.text) for choice in example.continuations), strict=True)
        document |= {"gold_index": example.choices.index(example.gold), "prompt": contexts[0], "choices": texts}
        return document | {"contexts": contexts, "continued": texts[0]}
    document["prompt"] = TEMPLATES[spec.prompt_template](example.query)
    state = sets.get(spec.format).statement
    if state is not None:
        assert example.gold is not None  # a question that offers labels has one of them as its answer
        statements = [continuation(spec.prompt_template, state(label)) for label in example.choices]
        document |= {"choices": statements, "gold_index": example.choices.index(example.gold)}
    return document


def dataset(
    *, format: str, source: dict[str, Any], protocol: str = "sound", data_dir: str | None = None, **_: Any
) -> dict[str, Any]:
    """The set as lm-eval's ``custom_dataset``; further keywords are the task's metadata.

    Args:
        data_dir: folder with local copies; None reads the hub.

    Raises:
        harness.errors.ConfigError: the records cannot be had, or are not as many as expected.
    """
    from datasets import Dataset

    spec = task_spec(format, source, protocol)
    return {"test": Dataset.from_list(documents(spec, load_records(spec.source, data_dir=data_dir)))}


def grade(document: dict[str, Any], results: list[str]) -> dict[str, float]:
    """lm-eval's ``process_results``: one completion under the set's strict grader."""
    example = sets.examples(document["format"], [json.loads(document["record"])])[0]
    name = document["grader"]
    verdict = grading.grade(document["format"], [example], results[:1], graders=[name]).verdicts[name][0]
    return {"exact_match": float(verdict.correct)}
