"""Whether a trained model answers no better than a constant: a run that ended well, at the floor of its test sets.

Users of DoRA met such runs: WinoGrande at 11.5 in one seed, the other sets at 57 to 76 [NVlabs/DoRA, issue 26]. An average over
sets and seeds hides it, so that each set is judged by itself. A run that lost accuracy and is still above the floor of every
set (53.6 in the place of 77.5, in the same place) is not seen here: the interval over seeds is what shows it.
"""

from __future__ import annotations

import math


def is_at_floor(accuracy: float | None, floor: float | None, n: int) -> bool:
    """Whether an accuracy is not above the floor of its set by more than one binomial standard error.

    Whoever gives one answer to all questions, or guesses, scores at most the floor on average, and exceeds it by one standard
    error once in six sets; a run that learned anything of use is many standard errors above on sets of a few hundred examples.
    Two would be surer of the first and call a run collapsed that learned little.

    Args:
        accuracy: None: nothing was answered, which is no collapse.
        floor: what the best constant answer scores. None for open answers, of which a low accuracy is no sign. A set whose
            answers are all the same has a floor of 1 and says nothing.
        n: examples.
    """
    if accuracy is None or floor is None or floor == 1:
        return False
    return accuracy <= floor + math.sqrt(floor * (1 - floor) / n)
