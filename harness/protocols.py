"""The two evaluation protocols: what each asks, where it stops, how it decodes and which grader's verdict is the headline.

``sound`` asks in the prompt of training, decodes greedily and grades strictly. ``paper`` is what produced the paper's
numbers, as far as it is known: MetaMath's prompts and stops with the released grader for math, PiSSA's prompts and
post-processing with EvalPlus's base tests for code, LLM-Adapters' template and beam search for commonsense.

A task of an experiment takes every setting that it does not state itself from here. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evaluation.sets.commonsense import COMMONSENSE

#: Where the released math evaluation cuts a completion.
_METAMATH_STOPS = ("Instruction:", "Instruction", "Response:", "Response")

_SOUND: dict[str, dict[str, Any]] = {
    "gsm8k": {"prompt_template": "alpaca", "max_new_tokens": 512, "grader": "sound"},
    "svamp": {"prompt_template": "alpaca", "max_new_tokens": 512, "grader": "sound"},
    "math": {"prompt_template": "alpaca", "max_new_tokens": 1024, "grader": "sound"},
    "humaneval": {"prompt_template": "alpaca-humaneval", "max_new_tokens": 512, "grader": "code_tests"},
    "mbpp": {"prompt_template": "alpaca-mbpp", "max_new_tokens": 512, "grader": "code_tests"},
} | {
    name: {"prompt_template": "commonsense", "max_new_tokens": 32, "grader": "label", "score_choices": True}
    for name in COMMONSENSE
}

_PAPER: dict[str, dict[str, Any]] = {
    "gsm8k": {"prompt_template": "alpaca-cot", "max_new_tokens": 1024, "stop_strings": _METAMATH_STOPS, "grader": "paper"},
    "svamp": {"prompt_template": "alpaca-cot", "max_new_tokens": 1024, "stop_strings": _METAMATH_STOPS, "grader": "paper"},
    "math": {"prompt_template": "alpaca-cot", "max_new_tokens": 2048, "stop_strings": _METAMATH_STOPS, "grader": "paper"},
    "humaneval": {"prompt_template": "pissa-humaneval", "max_new_tokens": 1024, "grader": "pissa_code_tests"},
    "mbpp": {"prompt_template": "pissa-mbpp", "max_new_tokens": 1024, "grader": "pissa_code_tests"},
} | {
    name: {"prompt_template": "commonsense-evaluation", "max_new_tokens": 32, "grader": "llm_adapters", "num_beams": 4}
    for name in COMMONSENSE
}

PROTOCOLS: dict[str, dict[str, dict[str, Any]]] = {"sound": _SOUND, "paper": _PAPER}


def with_defaults(protocol: str, task: Mapping[str, Any]) -> dict[str, Any]:
    """A task's settings, completed from the protocol. Unknown protocols and formats are left for the schema to refuse."""
    return {**PROTOCOLS.get(protocol, {}).get(str(task.get("format")), {}), **task}
