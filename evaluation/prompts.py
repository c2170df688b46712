"""Prompt templates: from an example's query to the text that the model continues. Pure functions, no torch.

Fine-tuning uses ``alpaca``. ``alpaca-cot`` is what the released evaluation asks (from MetaMath's, by way of MiLoRA):
one header for all queries and a cue after "### Response:", neither of which occurs in training. The ``pissa-*``
templates are PiSSA's evaluation prompts to the byte.
"""

from __future__ import annotations

from collections.abc import Callable

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


TEMPLATES: dict[str, Callable[[str], str]] = {
    "alpaca": alpaca,
    "alpaca-cot": alpaca_cot,
    "alpaca-humaneval": alpaca_humaneval,
    "alpaca-mbpp": alpaca,
    "pissa-humaneval": pissa_humaneval,
    "pissa-mbpp": pissa_mbpp,
}
