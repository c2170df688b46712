"""The commonsense questions as running text that an answer continues, in the words of lm-eval 0.4.13's tasks. No torch.

Two differences to lm-eval remain, both from LLM-Adapters' records: BoolQ has no passage, and the last fragment of a HellaSwag
context keeps its small initial.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from evaluation.example import Continuation
from evaluation.sets.llm_adapters import FAMILIES

#: Set -> what the question becomes, for sets whose answers follow it.
_ASKED = {
    "arc_challenge": "Question: {}\nAnswer:",
    "arc_easy": "Question: {}\nAnswer:",
    "boolq": "Question: {}\nAnswer:",
    "hellaswag": "{}",
    "openbookqa": "{}",
    "piqa": "Question: {}\nAnswer:",
    "siqa": "Q: {}\nA:",
}
#: The words of BoolQ's labels, which offer no text of their own.
_BOOLEAN = {"true": "yes", "false": "no"}
_BLANK = "_"


def _parts(name: str, query: str, labels: Sequence[str]) -> tuple[str, list[str]] | None:
    """(question, the text of each choice) of LLM-Adapters' instruction; None of another one."""
    end = r"(?:\n\n| )Answer format: "
    if name == "boolq":
        texts, pattern = [_BOOLEAN[label] for label in labels], rf"Please [^:]*: (.*){end}"
    else:
        word = FAMILIES[name][0].title()
        listed = "".join(rf"(?:\n\n| ){word}{number}: (.*?)" for number in range(1, len(labels) + 1))
        texts, pattern = [], rf"Please [^:]*: (.*?){listed}{end}"
    match = re.match(pattern, query, re.DOTALL)
    if match is None:
        return None
    question, *listed_texts = match.groups()
    return question.removeprefix("question: "), texts or listed_texts


def _without_wikihow_marks(text: str) -> str:
    """HellaSwag's WikiHow part has headings in brackets."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


def continuations(name: str, query: str, labels: Sequence[str]) -> tuple[Continuation, ...]:
    """Each choice as a context and the text that continues it, in the order of ``labels``; none where the query is not an
    instruction of LLM-Adapters' form.

    WinoGrande's choices stand in the context, and what follows the blank is scored [Trinh and Le, arXiv 1806.02847]; of the
    others the choice itself.
    """
    parts = _parts(name, query, labels)
    if parts is None:
        return ()
    question, texts = parts
    if name == "winogrande":
        before, blank, after = question.partition(_BLANK)
        return tuple(Continuation(context=before + text, text=after.strip()) for text in texts) if blank else ()
    if name == "hellaswag":
        question, texts = _without_wikihow_marks(question), [_without_wikihow_marks(text) for text in texts]
    return tuple(Continuation(context=_ASKED[name].format(question), text=text) for text in texts)
