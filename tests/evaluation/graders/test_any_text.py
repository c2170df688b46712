"""No completion stops an evaluation: whatever a model writes, every grader of final answers and of labels gives a verdict."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from evaluation.graders.answers import EXPRESSION_GRADERS, NUMBER_GRADERS, OWN_GRADERS
from evaluation.graders.labels import label_graders
from evaluation.graders.verdicts import Answered, AnswerGrader, Verdict
from evaluation.sets import get

NUMBERS = ("7", "-3", "1000000")
EXPRESSIONS = (
    r"\frac12",
    "x^2+1",
    "(1,2]",
    r"\text{(C)}",
    "204_5",
    r"\text{1:03 PM}",
    "12 cm",
    "x>1",
    r"1 \pm \sqrt2",
    "50\\%",
)
#: Each grader, and golds of its sets.
GRADERS: dict[str, tuple[AnswerGrader, tuple[str, ...]]] = {
    **{f"number {name}": (grader, NUMBERS) for name, grader in NUMBER_GRADERS.items()},
    **{f"expression {name}": (grader, EXPRESSIONS) for name, grader in EXPRESSION_GRADERS.items()},
    **{f"own {name}": (grader, ("7", r"\frac12")) for name, grader in OWN_GRADERS.items()},
    **{f"words {name}": (grader, ("true",)) for name, grader in label_graders(("true", "false")).items()},
    **{f"numbered {name}": (grader, ("answer2",)) for name, grader in label_graders(("answer1", "answer2")).items()},
}
#: Graders that ask another process about most texts, which takes milliseconds.
ASKING = frozenset(("number paper", "number math_verify", "expression paper", "expression math_verify"))

PIECES = [
    *r"""
    \frac \dfrac \frac{ \sqrt \sqrt[ \text{ \boxed{ \boxed \fbox \left( \right) \cdot \times \div \pm \le \ge \log_
    \sin \cos^{-1} \binom{ \pi \infty ^\circ \overline{ \cup \in \{ \} \% \$ \lfloor \rfloor \ldots \mathbb{R}
    \emptyset \\ \begin{pmatrix} & \end{pmatrix} ^ _ { } ( ) [ ] | ! / : ; , . = < > + - * % $ ~ << >> #### 0 1 3 12
    345 5e3 1'000 ² ³ ⁻ ₂ ½ ⅟ ↉ ① ٣ ５ 𝟗 Ⅻ 四 é λ ª √ – − × ≥ π ° € x e i C two half hundred dozen none not but as of
    or at most more base option answer1 th a.m. cm^2
    """.split(),
    *("\n", " ", "The answer is: ", "the answer is", " base ", " of the "),
]
TEXTS = st.lists(st.sampled_from(PIECES) | st.characters(), max_size=8).map("".join)
COMPLETIONS = st.sampled_from(("The answer is: ", "")).flatmap(lambda start: TEXTS.map(lambda text: start + text))
QUIET = {"derandomize": True, "deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}


def verdicts(completion: str, names: set[str]) -> list[Verdict]:
    return [
        grade(Answered(gold=gold, completion=completion, question=r"Is $x^2$ or $\frac12$ a percentage?", truncated=truncated))
        for grade, golds in map(GRADERS.__getitem__, sorted(names))
        for gold in golds
        for truncated in (False, True)
    ]


@pytest.mark.timeout(60)
@settings(max_examples=800, **QUIET)
@given(COMPLETIONS)
@example(r"The answer is: \frac12")
@example(r"The answer is: \frac 34 cup")
@example(r"The answer is: 2\frac12 = 2.5")
@example("The answer is: 10^² = 3")
@example("The answer is: √² = 4")
@example(r"The answer is: \sqrt² = 4")
@example(r"The answer is: \frac² = 1")
@example("The answer is: 10^①")
@example(r"The answer is: \frac①")
@example("The answer is: 12_①")
@example("The answer is: 12 base ①")
@example("The answer is: é")  # was read for ever
def test_every_text_gets_a_verdict(completion: str) -> None:
    assert all(isinstance(verdict, Verdict) for verdict in verdicts(completion, GRADERS.keys() - ASKING))


@settings(max_examples=40, **QUIET)
@given(COMPLETIONS)
def test_every_text_gets_a_verdict_from_graders_that_ask_another_process(completion: str) -> None:
    assert all(isinstance(verdict, Verdict) for verdict in verdicts(completion, set(ASKING)))


def test_these_are_the_graders_of_the_sets_with_open_answers() -> None:
    assert {name: get(name).graders for name in ("gsm8k", "svamp", "math")} == {
        "gsm8k": NUMBER_GRADERS,
        "svamp": NUMBER_GRADERS,
        "math": EXPRESSION_GRADERS,
    }
