"""Graders of questions with labelled answers: from a completion, or from the scores of the choices, to a label. No torch.

=================  ======================================================================
``label``          the one label that the completion states; naming two is no answer
``llm_adapters``   LLM-Adapters' evaluation: the first match of any label
=================  ======================================================================

``labels`` are all that a set knows, in the order of LLM-Adapters' evaluation: either numbered (answer1, answer2) or words of
their own (true, false).
"""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from functools import cache, partial

from evaluation.graders.verdicts import AnswerGrader, answer_grader

#: The grader that reads the choices' log-likelihoods instead of the completion.
LOGLIKELIHOOD = "loglikelihood"

#: Where a model stops answering and starts a new problem, in the words of its prompt template.
_NEXT_PROBLEM = re.compile(r"\n[ \t]*###? ?(?:Instruction|Input|Response)\b", re.IGNORECASE)
_NEGATED = re.compile(r"(?:\bnot|n['\u2019]t)\s+(?:the\s+|an?\s+)?$", re.IGNORECASE)
_REFUSED = re.compile(r"\s+is\s+(?:wrong|incorrect)\b", re.IGNORECASE)
_ANNOUNCED = re.compile(r"\banswer is\b", re.IGNORECASE)
_NUMBERED = re.compile(r"(\D+)\d+")


@cache
def _stated(labels: tuple[str, ...]) -> re.Pattern[str]:
    """A label as a word of its own, in any case; of numbered ones any number, with or without a blank before it."""
    stems = {match[1] if (match := _NUMBERED.fullmatch(label)) else None for label in labels}
    stem = next(iter(stems)) if len(stems) == 1 else None
    label = rf"({re.escape(stem)}) ?(\d+)" if stem is not None else f"({'|'.join(map(re.escape, labels))})"
    return re.compile(rf"(?<!\w){label}(?!\w)", re.IGNORECASE)


def stated_label(labels: tuple[str, ...], completion: str) -> str | None:
    """The one label that a completion states, whichever its case; where it says "answer is", of what follows. None where it
    states none, negates one, or names two that differ: a reader could not tell which is the answer. A label that it calls
    wrong is not stated. What follows a new problem's header does not count."""
    answer = _NEXT_PROBLEM.split(completion, maxsplit=1)[0]
    if announced := _ANNOUNCED.search(answer):
        answer = answer[announced.end() :]
    stated = set()
    for match in _stated(labels).finditer(answer):
        if _NEGATED.search(answer[max(0, match.start() - 24) : match.start()]):
            return None
        if not _REFUSED.match(answer, match.end()):
            stated.add("".join(match.groups()).lower())
    if len(stated) != 1:
        return None
    only = stated.pop()
    return next((label for label in labels if label.lower() == only), only)


@cache
def _released(labels: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, labels)))


def released_label(labels: tuple[str, ...], completion: str) -> str | None:
    """The label that LLM-Adapters' evaluation takes: the first match anywhere, even inside a word, in the labels' own
    case only; before a second "### Response:", where the model goes on to another problem (commonsense_evaluate.py keeps the
    part after the prompt's)."""
    match = _released(labels).search(completion.partition("### Response:")[0])
    return match.group() if match else None


def label_graders(labels: tuple[str, ...]) -> dict[str, AnswerGrader]:
    """The two graders of a set with these labels."""
    return {
        "label": answer_grader(partial(stated_label, labels), operator.eq),
        "llm_adapters": answer_grader(partial(released_label, labels), operator.eq),
    }


def likeliest(scores: Mapping[str, float]) -> str:
    """The label whose statement has the highest log-likelihood; the first of equals."""
    return max(scores, key=lambda label: scores[label])
