"""Graders of the commonsense sets: from a completion, or from the scores of the choices, to a label. No torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from evaluation.sets.commonsense import FAMILIES, labels_of

#: The grader that reads the choices' log-likelihoods instead of the completion.
LOGLIKELIHOOD = "loglikelihood"

#: Where a model stops answering and starts a new problem, in the words of its prompt template.
_NEXT_PROBLEM = re.compile(r"\n[ \t]*###? ?(?:Instruction|Input|Response)\b", re.IGNORECASE)
_NEGATED = re.compile(r"(?:\bnot|n['\u2019]t)\s+(?:the\s+|an?\s+)?$", re.IGNORECASE)


@cache
def _stated(format: str) -> re.Pattern[str]:
    """A label as a word of its own, in any case, with or without a blank before its number."""
    if format == "boolq":
        return re.compile(r"(?<!\w)(true|false)(?!\w)", re.IGNORECASE)
    return re.compile(rf"(?<!\w)({FAMILIES[format][0]}) ?(\d+)(?!\w)", re.IGNORECASE)


def stated_label(format: str, completion: str) -> str | None:
    """The one label that a completion states, in lower case. None where it states none, negates one, or names two that
    differ: a reader could not tell which is the answer. What follows a new problem's header does not count."""
    answer = _NEXT_PROBLEM.split(completion, maxsplit=1)[0]
    found = set()
    for match in _stated(format).finditer(answer):
        if _NEGATED.search(answer[max(0, match.start() - 24) : match.start()]):
            return None
        found.add("".join(match.groups()).lower())
    return found.pop() if len(found) == 1 else None


@cache
def _released(format: str) -> re.Pattern[str]:
    return re.compile("|".join(labels_of(format)))


def released_label(format: str, completion: str) -> str | None:
    """The label that LLM-Adapters' evaluation takes: the first match anywhere, even inside a word, in lower case only."""
    match = _released(format).search(completion)
    return match.group() if match else None


def likeliest(scores: Mapping[str, float]) -> str:
    """The label whose statement has the highest log-likelihood; the first of equals."""
    return max(scores, key=lambda label: scores[label])
