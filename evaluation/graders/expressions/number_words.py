"""English number words."""

from __future__ import annotations

import re
from fractions import Fraction

_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
NUMBER_WORDS = {word: value for value, word in enumerate(_SMALL.split())}
NUMBER_WORDS |= {word: 10 * value for value, word in enumerate(_TENS.split(), start=2)}
SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
PARTS = {"half": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8, "ninth": 9}
PARTS |= {"tenth": 10, "hundredth": 100, "thousandth": 1000}
PARTS |= {"halves": 2} | {f"{word}s": value for word, value in PARTS.items() if word != "half"}


def words_to_number(text: str) -> Fraction | None:
    """The value of English number words such as "five", "twenty-one", "two hundred and six", "two thirds", "minus three and a
    half" or "two and a half dozen". None for other text, also for numbers one after another ("one two")."""
    words = [word for word in re.split(r"[\s-]+", text.lower().strip()) if word != "and"]
    if words and words[0] in ("negative", "minus"):
        value = words_to_number(" ".join(words[1:]))
        return None if value is None else -value
    if words and words[0] == "half" and (whole := words_to_number(" ".join(words[1:]))) is not None:
        return whole / 2
    if words and words[-1] in PARTS:
        return _with_part(words)
    if len(words) > 1 and words[-1] in SCALES and words[-2] in PARTS:
        count = _with_part(words[:-1])
        return None if count is None else count * SCALES[words[-1]]
    total = current = Fraction(0)
    for position, word in enumerate(words):
        if word in NUMBER_WORDS:
            after_tens = current % 10 == 0 and current % 100 >= 20 and NUMBER_WORDS[word] < 10
            if position and current % 100 and not after_tens:  # "three and four"
                return None
            current += NUMBER_WORDS[word]
        elif word in ("a", "an") and len(words) > 1 and position == 0:
            current += 1
        elif word in SCALES and position:
            current *= SCALES[word]
            if SCALES[word] >= 1000:
                total, current = total + current, Fraction(0)
        else:
            return None
    return total + current if words else None


def _with_part(words: list[str]) -> Fraction | None:
    """ "two thirds", "half", "two [and] a half"."""
    part = Fraction(1, PARTS[words[-1]])
    before = words[:-1]
    if not before or before in (["a"], ["an"], ["one"]):
        return part if before or words[-1] == "half" else None
    if before[-1] in ("a", "an", "one") and (whole := words_to_number(" ".join(before[:-1]))) is not None:
        return whole + part
    count = words_to_number(" ".join(before))
    return None if count is None else count * part
