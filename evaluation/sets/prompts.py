"""Prompt templates: from an example's query to the text that the model continues. Pure functions, no torch.

Fine-tuning uses ``alpaca``. ``alpaca-cot`` is what the released evaluation asks (from MetaMath's, by way of MiLoRA):
one header for all queries and a cue after "### Response:", neither of which occurs in training. The ``pissa-*``
templates are PiSSA's evaluation prompts to the byte. ``commonsense`` is LLM-Adapters' training template,
``commonsense-evaluation`` the other one that its evaluation asks. ``continuation`` is no template: it asks what
``Example.continuations`` says, and nothing is generated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_HEADER = "Below is an instruction that describes a task"
_REQUEST = "Write a response that appropriately completes the request."
_CODE_QUESTION = "Create a Python script for this problem:\n"


def alpaca(query: str) -> str:
    """Stanford Alpaca's template as the released training code fills it: the first line of the query is the
    instruction, whatever follows is the input."""
    instruction, newline, extra = query.partition("\n")
    if not newline:
        return f"{_HEADER}. {_REQUEST}\n\n### Instruction:\n{instruction}\n\n### Response:"
    return (
        f"{_HEADER}, paired with an input that provides further context. {_REQUEST}\n\n"
        f"### Instruction:\n{instruction}\n\n### Input:\n{extra}\n\n### Response:"
    )


def alpaca_cot(query: str) -> str:
    """The single-instruction template for queries of any number of lines, with a chain-of-thought cue."""
    return f"{_HEADER}. {_REQUEST}\n\n### Instruction:\n{query}\n\n### Response: Let's think step by step."


def alpaca_humaneval(query: str) -> str:
    """PiSSA's question about a HumanEval stub, in the template of training."""
    return alpaca(_CODE_QUESTION + query)


def _pissa(instruction: str) -> str:
    """PiSSA's own template: two blank lines after the header, four blanks turned into a tab wherever they stand."""
    instruction = instruction.replace("    ", "\t")
    return f"{_HEADER}. {_REQUEST}\n\n\n### Instruction:\n{instruction}\n\n### Response:"


def pissa_humaneval(query: str) -> str:
    """PiSSA's HumanEval prompt."""
    return _pissa(_CODE_QUESTION + query)


def pissa_mbpp(query: str) -> str:
    """PiSSA's MBPP prompt; the query holds the task and one assertion."""
    return _pissa(query)


_INDENT = " " * 16


def commonsense(query: str) -> str:
    """LLM-Adapters' training text up to the blank before the response, which is indented like everything else; that blank
    begins the response (``RESPONSE_LEAD``), so that its first word has the tokens of training."""
    return (
        f"{_HEADER}. {_REQUEST}  \n\n{_INDENT}### Instruction:\n{_INDENT}{query}\n{_INDENT}\n"
        f"{_INDENT}### Response:\n{_INDENT[1:]}"
    )


def commonsense_evaluation(query: str) -> str:
    """What LLM-Adapters' evaluation asks: other white space than in training, and the whole last indent in the prompt."""
    return f"{_HEADER}. {_REQUEST} \n\n{_INDENT}### Instruction:\n{_INDENT}{query}\n\n{_INDENT}### Response:\n{_INDENT}"


TEMPLATES: dict[str, Callable[[str], str]] = {
    "alpaca": alpaca,
    "alpaca-cot": alpaca_cot,
    "alpaca-humaneval": alpaca_humaneval,
    "alpaca-mbpp": alpaca,
    "pissa-humaneval": pissa_humaneval,
    "pissa-mbpp": pissa_mbpp,
    "commonsense": commonsense,
    "commonsense-evaluation": commonsense_evaluation,
}

#: The ``prompt_template`` of tasks whose choices are scored as running text.
CONTINUATION = "continuation"
#: What a task's ``prompt_template`` may be.
TEMPLATE_NAMES = (*TEMPLATES, CONTINUATION)

#: Where the released math evaluation, which asks alpaca-cot, cuts a completion.
_METAMATH_STOPS = ("Instruction:", "Instruction", "Response:", "Response")


def maths_protocols(*, sound_tokens: int, paper_tokens: int) -> dict[str, dict[str, Any]]:
    """How the sets of word problems and MATH are asked and judged under each protocol.

    Args:
        sound_tokens: most tokens of an answer under ``sound``.
        paper_tokens: the same under ``paper``, the released evaluation's.
    """
    return {
        "sound": {"prompt_template": "alpaca", "max_new_tokens": sound_tokens, "grader": "sound"},
        "paper": {
            "prompt_template": "alpaca-cot",
            "max_new_tokens": paper_tokens,
            "stop_strings": _METAMATH_STOPS,
            "grader": "paper",
        },
    }


#: What stands between a template's prompt and the response.
RESPONSE_LEAD: dict[str, str] = {"commonsense": " "}


def continuation(template: str, response: str) -> str:
    """The text that follows the template's prompt where the answer is ``response``."""
    return RESPONSE_LEAD.get(template, "") + response
