"""From the records of a public set to examples that can be asked, graded and scored. No torch.

Field names are those of the Hugging Face hub: ``openai/gsm8k``, ``EleutherAI/hendrycks_math``,
``openai/openai_humaneval``, ``google-research-datasets/mbpp`` and EvalPlus's MBPP+ for evaluation; ``meta-math/MetaMathQA``,
``openai/gsm8k``, ``fxmeng/CodeFeedback-Python105K``, LLM-Adapters' commonsense_170k and Stanford Alpaca for training. The
commonsense sets are read in LLM-Adapters' format or the hub's (``evaluation.sets.commonsense``).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from evaluation.graders import evalplus
from evaluation.graders.extraction import last_boxed
from evaluation.sets import commonsense
from evaluation.sets.commonsense import COMMONSENSE
from evaluation.sets.fields import Record
from evaluation.sets.fields import field as _field
from evaluation.sets.fields import text as _text


@dataclass(frozen=True, kw_only=True)
class Example:
    """One evaluation example."""

    id: str
    #: What is asked; the input of a prompt template.
    query: str
    #: The final answer of math tasks, the label of commonsense tasks.
    gold: str | None
    #: A correct response as fine-tuning data would write it; its negative log-likelihood is the continuous metric.
    reference: str
    #: The code tasks' record, which holds the tests.
    record: Record | None = None
    #: The same where the record is EvalPlus's: inputs for which the reference solution gives the expected outputs.
    evalplus: evalplus.Task | None = None
    #: The labels that the question offers, for commonsense tasks.
    choices: tuple[str, ...] = ()


_CALCULATOR = re.compile(r"<<[^<>]*>>")
_HASHES = "####"


def _gsm8k_response(answer: str, where: str) -> tuple[str, str]:
    """The final number and the response that MetaMathQA would write for a GSM8K ``answer`` field: the solution without
    calculator marks, ``#### N`` and ``The answer is: N``, N without thousands separators."""
    solution, mark, number = answer.rpartition(_HASHES)
    gold = number.strip().replace(",", "")
    if not mark or not re.fullmatch(r"-?\d+(\.\d+)?", gold):
        raise ValueError(f"{where}: field 'answer': found no number after {_HASHES!r}, expected '{_HASHES} N' at the end")
    return gold, f"{_CALCULATOR.sub('', solution).strip()}\n{_HASHES} {gold}\nThe answer is: {gold}"


def _gsm8k(record: Record, row: int, where: str) -> Example:
    gold, reference = _gsm8k_response(_text(record, "answer", where), where)
    return Example(id=f"gsm8k/{row}", query=_text(record, "question", where), gold=gold, reference=reference)


def _svamp(record: Record, row: int, where: str) -> Example:
    """Patel et al. 2021 (ChilleD/SVAMP): a story, a question and a number."""
    query = f"{_text(record, 'Body', where).strip()} {_text(record, 'Question', where).strip()}"
    answer = str(_field(record, "Answer", where)).strip().removesuffix(".0")
    gold, reference = _gsm8k_response(f"{_text(record, 'Equation', where)}\n{_HASHES} {answer}", where)
    return Example(id=f"svamp/{row}", query=query, gold=gold, reference=reference)


def _math(record: Record, row: int, where: str) -> Example:
    solution = _text(record, "solution", where)
    gold = last_boxed(solution)
    if gold is None:
        raise ValueError(f"{where}: field 'solution': found no \\boxed or \\fbox, expected the final answer in one")
    return Example(
        id=f"math/{row}",
        query=_text(record, "problem", where),
        gold=gold,
        reference=f"{solution}\nThe answer is: {gold}",
    )


def _fenced(code: str) -> str:
    return "```python\n" + code.replace("\r\n", "\n").strip("\n") + "\n```"


def _evalplus(record: Record, dataset: str, where: str) -> evalplus.Task | None:
    try:
        return evalplus.task_of(record, dataset=dataset)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _humaneval(record: Record, row: int, where: str) -> Example:
    """Rows of HumanEval, or of EvalPlus's HumanEval+."""
    prompt = _text(record, "prompt", where)
    for name in ("test", "entry_point"):
        _text(record, name, where)
    return Example(
        id=_text(record, "task_id", where),
        query=prompt,
        gold=None,
        record=record,
        reference=_fenced(prompt + _text(record, "canonical_solution", where)),
        evalplus=_evalplus(record, "humaneval", where),
    )


def _mbpp(record: Record, row: int, where: str) -> Example:
    """Rows of MBPP itself, or of EvalPlus's MBPP+: as on the hub, or as released, where the prompt is a docstring that ends
    in one assertion."""
    if evalplus.is_release(record):
        body = _text(record, "prompt", where).strip().strip('"').strip()
        text, mark, assertion = body.rpartition("\nassert ")
        if not mark:
            raise ValueError(f"{where}: field 'prompt': found no assertion, expected EvalPlus's docstring with one")
        assertion, name = "assert " + assertion, "canonical_solution"
    else:
        tests = _field(record, "test_list", where)
        if not isinstance(tests, list) or not tests or not all(isinstance(test, str) for test in tests):
            raise ValueError(f"{where}: field 'test_list': found {str(tests)[:60]}, expected a list of assertions")
        text, assertion, name = _text(record, "text" if "text" in record else "prompt", where), tests[0], "code"
    text = text.strip()
    text += "" if text.endswith(".") else "."
    query = f"{text} Your code should satisfy the following assertion:\n```python\n{assertion.strip()}\n```"
    return Example(
        id=f"Mbpp/{str(_field(record, 'task_id', where)).rpartition('/')[2]}",
        query=query,
        gold=None,
        record=record,
        reference=_fenced(_text(record, name, where)),
        evalplus=_evalplus(record, "mbpp", where),
    )


def _commonsense(format: str) -> Callable[[Record, int, str], Example]:
    def convert(record: Record, row: int, where: str) -> Example:
        found = commonsense.read(format, record, where)
        return Example(
            id=f"{format}/{row}",
            query=found.instruction,
            gold=found.gold,
            reference=commonsense.statement(found.gold),
            choices=found.choices,
        )

    return convert


_EVALUATION: dict[str, Callable[[Record, int, str], Example]] = {
    "gsm8k": _gsm8k,
    "svamp": _svamp,
    "math": _math,
    "humaneval": _humaneval,
    "mbpp": _mbpp,
    **{name: _commonsense(name) for name in COMMONSENSE},
}


def examples(format: str, records: list[Record]) -> list[Example]:
    """The examples of an evaluation set, in the order of its records.

    Raises:
        ValueError: a missing or malformed field (names the set, the row from 0 and the field), or an id that occurs
        twice. KeyError: an unknown format.
    """
    found = [_EVALUATION[format](record, row, f"{format} row {row}") for row, record in enumerate(records)]
    seen: dict[str, int] = {}
    for row, example in enumerate(found):
        if seen.setdefault(example.id, row) != row:
            raise ValueError(f"{format} row {row}: id {example.id!r} is that of row {seen[example.id]}, expected unique ids")
    return found


def _metamath_pair(record: Record, where: str) -> tuple[str, str]:
    return _text(record, "query", where), _text(record, "response", where)


def _gsm8k_pair(record: Record, where: str) -> tuple[str, str]:
    return _text(record, "question", where), _gsm8k_response(_text(record, "answer", where), where)[1]


def _alpaca_pair(record: Record, where: str) -> tuple[str, str]:
    extra = record.get("input") or ""
    instruction = _text(record, "instruction", where)
    return f"{instruction}\n{extra}" if extra else instruction, _text(record, "output", where)


_TRAINING: dict[str, Callable[[Record, str], tuple[str, str]]] = {
    "metamath": _metamath_pair,
    "codefeedback": _metamath_pair,
    "gsm8k": _gsm8k_pair,
    "alpaca": _alpaca_pair,
    "commonsense": commonsense.training_pair,
}


def training_example(format: str, record: Record, *, row: int | None = None) -> tuple[str, str]:
    """(query, response) of a training record.

    Raises:
        ValueError: a missing or malformed field; ``row`` is named where given.
        KeyError: an unknown format.
    """
    return _TRAINING[format](record, f"{format} row {row}" if row is not None else f"{format} record")
