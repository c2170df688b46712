"""Which of the offered choices a model finds most likely. No torch.

================================  =====================================================================================
``loglikelihood``                 the summed log-likelihood of a choice (lm-eval's ``acc``)
``loglikelihood_per_character``   divided by the characters of the choice's text (lm-eval's ``acc_norm``)
``loglikelihood_per_token``       divided by its tokens
================================  =====================================================================================

Choices that score exactly alike share the answer: k of them, one of which is right, are worth 1/k, what drawing one of them by
chance is worth on average. (lm-eval takes the first.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from evaluation.graders.labels import LOGLIKELIHOOD

PER_CHARACTER = f"{LOGLIKELIHOOD}_per_character"
PER_TOKEN = f"{LOGLIKELIHOOD}_per_token"
#: The graders of choices whose own texts are scored. Statements of labels differ in nothing but the label: theirs is the first.
CHOICE_GRADERS = (LOGLIKELIHOOD, PER_CHARACTER, PER_TOKEN)


@dataclass(frozen=True, kw_only=True)
class ChoiceScore:
    """How likely one choice is."""

    #: Nats.
    loglikelihood: float
    #: Length of what was scored, without the blank before it.
    characters: int
    tokens: int

    def under(self, grader: str) -> float:
        """The score that a grader compares; an empty choice has none to divide."""
        lengths = {LOGLIKELIHOOD: 1, PER_CHARACTER: self.characters, PER_TOKEN: self.tokens}
        return self.loglikelihood / max(1, lengths[grader])


@dataclass(frozen=True, kw_only=True)
class ChoiceVerdict:
    """What one grader of choices says about one example."""

    #: The choices with the highest score: one label, or all that tie.
    best: tuple[str, ...]
    gold: str | None
    outcome: None = None
    unparseable: bool = False

    @property
    def correct(self) -> bool | float:
        """Whether the best choice is right; 1/k where k choices tie and one of them is right."""
        if len(self.best) == 1:
            return self.best[0] == self.gold
        return 1 / len(self.best) if self.gold in self.best else False

    @property
    def extracted(self) -> str:
        """The best choice, or all of a tie."""
        return "/".join(self.best)


def judge(scores: Mapping[str, ChoiceScore], gold: str | None, *, grader: str) -> ChoiceVerdict:
    """The verdict on one example, of the scores of its choices by label."""
    values = {label: score.under(grader) for label, score in scores.items()}
    highest = max(values.values())
    return ChoiceVerdict(best=tuple(label for label, value in values.items() if value == highest), gold=gold)
