"""Commonsense questions as running text are those of lm-eval's own tasks."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from jinja2 import Template

from evaluation import sets
from evaluation.example import Continuation
from evaluation.sets.llm_adapters import COMMONSENSE
from harness.data.load import load_records
from harness.experiment.runs import load_experiment
from tests.paths import ROOT, SHARED, needs_shared

#: Our set -> lm-eval's file of the task, below its folder ``tasks``.
FILES = {
    "arc_easy": "arc/arc_easy.yaml",
    "arc_challenge": "arc/arc_easy.yaml",  # the other one includes it
    "openbookqa": "openbookqa/openbookqa.yaml",
    "piqa": "piqa/piqa.yaml",
    "siqa": "siqa/siqa.yaml",
}
CHOICES = {"text": ["a stone", "two  birds ", "the sea"], "label": ["A", "B", "C"]}
#: Records as the hub has them.
RECORDS: dict[str, dict[str, Any]] = {
    "arc_easy": {"question": "What flies? Say so.", "choices": CHOICES, "answerKey": "B"},
    "arc_challenge": {"question": "What flies: this?", "choices": CHOICES, "answerKey": "B"},
    "openbookqa": {"question_stem": "In spring, one sees", "choices": CHOICES, "answerKey": "B"},
    "piqa": {"goal": "keep bread", "sol1": "in a box \n\nof tin ", "sol2": "outside", "label": 0},
    "siqa": {
        "context": "Kai left.", "question": "Why?", "answerA": "to eat", "answerB": "to sleep", "answerC": "no", "label": "1",
    },
}  # fmt: skip


def _lm_eval() -> Path:
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("lm-eval is not installed")
    return Path(spec.submodule_search_locations[0]) / "tasks"


def _module(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("of_lm_eval", _lm_eval() / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _continuations(name: str, record: dict[str, Any]) -> tuple[Continuation, ...]:
    return sets.examples(name, [record])[0].continuations


@pytest.mark.parametrize("name", FILES)
def test_context_and_texts_are_those_of_lm_evals_templates(name: str) -> None:
    text = (_lm_eval() / FILES[name]).read_text().replace("!function", "")
    config, record = yaml.safe_load(text), RECORDS[name]

    def fill(template: str) -> str:
        return Template(record.get(template) or template, keep_trailing_newline=True).render(**record)

    offered = config["doc_to_choice"]
    expected = record["choices"]["text"] if "choices" in record else ast.literal_eval(fill(offered))
    assert [choice.context for choice in _continuations(name, record)] == [fill(config["doc_to_text"])] * len(expected)
    assert [choice.text for choice in _continuations(name, record)] == expected
    assert config.get("target_delimiter", " ") == " "


def test_winogrande_scores_what_follows_the_blank_as_lm_eval_does() -> None:
    theirs = _module("winogrande/preprocess_winogrande.py")
    record = {"sentence": "The cup fell on the mat, so the _ broke. It did.", "option1": "cup", "option2": "mat", "answer": "1"}
    ours = _continuations("winogrande", record)
    assert [choice.context for choice in ours] == theirs.doc_to_choice(record)
    assert {choice.text for choice in ours} == {theirs.doc_to_target(record)}


def test_hellaswag_is_cleaned_as_lm_eval_does() -> None:
    clean: Callable[[str], str] = _module("hellaswag/utils.py").preprocess
    endings = ["[substeps] Hold  it. [title] Let go.", " a b", "x [step] y", "z"]
    record = {"activity_label": "Juggling", "ctx": "[header] How to juggle [title] Begin. [step] Take  a ball.", "label": "0"}
    ours = _continuations("hellaswag", record | {"endings": endings})
    assert {choice.context for choice in ours} == {clean(f"Juggling: {record['ctx']}")}
    assert [choice.text for choice in ours] == [clean(ending) for ending in endings]


def test_boolq_is_asked_without_its_passage() -> None:
    first, second = _continuations("boolq", {"question": "is it so", "answer": False, "passage": "It is not."})
    assert {first.context, second.context} == {"Question: is it so?\nAnswer:"} and (first.text, second.text) == ("yes", "no")


def test_an_instruction_of_another_form_has_no_running_text() -> None:
    record = {"instruction": "Is it?\n\nAnswer format: true/false", "input": "", "answer": "true"}
    assert _continuations("boolq", record) == ()


@needs_shared
@pytest.mark.parametrize("name", COMMONSENSE)
def test_every_question_of_the_public_sets_has_its_texts(name: str) -> None:
    asked = load_experiment([ROOT / "config/small.yaml"], {}).base_evaluation
    assert asked is not None
    records = load_records(asked.evaluation("continuation").tasks[name].source, data_dir=str(SHARED / "data"))
    for example, record in zip(sets.examples(name, records), records, strict=True):
        assert len(example.continuations) == len(example.choices)
        for choice in example.continuations:
            assert choice.text.strip() and choice.context and "Answer format" not in choice.context + choice.text
            if name not in ("boolq", "hellaswag"):
                assert choice.text in record["instruction"]
