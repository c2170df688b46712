"""Prompts are those of the lineages, to the byte."""

from __future__ import annotations

import gzip
import json

import pytest

from evaluation.sets import examples
from evaluation.sets.prompts import TEMPLATES, alpaca
from tests.paths import SHARED, needs_shared


def test_alpaca_puts_all_but_the_first_line_into_the_input() -> None:
    assert alpaca("Add 1 and 2.") == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nAdd 1 and 2.\n\n### Response:"
    )
    assert alpaca("Add.\n1\n2") == (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nAdd.\n\n### Input:\n1\n2\n\n### Response:"
    )


def test_alpaca_cot_has_one_header_and_a_cue() -> None:
    prompt = TEMPLATES["alpaca-cot"]("Add.\n1\n2")
    assert "### Input" not in prompt and "### Instruction:\nAdd.\n1\n2\n\n" in prompt
    assert prompt.endswith("### Response: Let's think step by step.")


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_every_template_holds_the_query_and_ends_in_the_response_mark(name: str) -> None:
    prompt = TEMPLATES[name]("first {line}\nsecond")
    assert "first {line}" in prompt and "second" in prompt and "### Response:" in prompt.rstrip().splitlines()[-1]


def test_the_sound_code_prompt_is_the_training_template() -> None:
    assert TEMPLATES["alpaca-humaneval"]("def f():\n") == alpaca("Create a Python script for this problem:\ndef f():\n")


@needs_shared
def test_pissa_prompts_equal_the_published_ones() -> None:
    published = {
        row["output"]: row["instruction"] for row in json.loads((SHARED / "data/prompts/pissa_python_test.json").read_text())
    }
    with gzip.open(SHARED / "data/humaneval/HumanEval.jsonl.gz", "rt") as stream:
        humaneval = examples("humaneval", [json.loads(line) for line in stream])
    assert len(humaneval) == 164
    for example in humaneval:
        assert TEMPLATES["pissa-humaneval"](example.query) == published[example.id]
    with gzip.open(SHARED / "data/evalplus/MbppPlus.jsonl.gz", "rt") as stream:
        mbpp = examples("mbpp", [json.loads(line) for line in stream])
    assert len(mbpp) == 378
    # PiSSA used EvalPlus's release 0.1.0; 0.2.0 dropped a link from 18 task texts.
    linked = {e.id for e in mbpp if "https://" in published[e.id]}
    assert len(linked) == 18
    assert [e.id for e in mbpp if TEMPLATES["pissa-mbpp"](e.query) != published[e.id] and e.id not in linked] == []
