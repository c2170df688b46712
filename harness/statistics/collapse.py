"""Whether a trained model answers no better than a constant: a run that ended well, at the floor of its test sets.

Users of DoRA met such runs: WinoGrande at 11.5 in one seed, the other sets at 57 to 76 [NVlabs/DoRA, issue 26]. An average over
sets and seeds hides it, so that each set is judged by itself. A run that lost accuracy and is still above the floor of every
set (53.6 in the place of 77.5, in the same place) is not seen here: the interval over seeds is what shows it.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def is_at_floor(accuracy: float | None, floor: float | None, n: int) -> bool:
    """Whether an accuracy is not above the floor of its set by more than one binomial standard error.

    Whoever gives one answer to all questions, or guesses, scores at most the floor on average, and exceeds it by one standard
    error once in six sets; a run that learned anything of use is many standard errors above on sets of a few hundred examples.
    Two would be surer of the first and call a run collapsed that learned little.

    Args:
        accuracy: None: nothing was answered, which is no collapse.
        floor: what the best constant answer scores. None for open answers, for which there is ``has_lost_answers``. A set
            whose answers are all the same has a floor of 1 and says nothing.
        n: examples.
    """
    if accuracy is None or floor is None or floor == 1:
        return False
    return accuracy <= floor + math.sqrt(floor * (1 - floor) / n)


def has_lost_answers(correct: NDArray[np.float64], before: NDArray[np.float64] | None, *, constant: float) -> bool:
    """Whether a run answers next to nothing of a set of open answers, of which its base model answered more.

    Of open answers a low accuracy alone is no sign: the task may be too hard. It is one where the run is at the floor
    (``is_at_floor``) and the base model, asked the same in the same way, is significantly above it: by McNemar's exact test
    at ``ALPHA``, for a run that answers nothing right from six right answers of the base model on.

    Args:
        correct: 1 or 0 for each example, of the run, shape (examples,).
        before: of the base model, in the same order. None: it was not asked, and nothing can be known.
        constant: what the best constant answer scores, a fraction.
    """
    if before is None or not is_at_floor(float(correct.mean()), constant, len(correct)):
        return False
    from harness.statistics.comparison import ALPHA  # with SciPy, a second that a plan's look at records need not take
    from harness.statistics.stats import mcnemar_exact

    lost, won = int((before > correct).sum()), int((correct > before).sum())
    return lost > won and mcnemar_exact(only_first=lost, only_second=won) < ALPHA
