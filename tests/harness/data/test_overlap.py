"""When training text and a question count as the same."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.data import overlap
from harness.data.overlap import LONG, NEAR_SHARE, SHORT, SHORTEST, TEMPLATE_QUESTIONS, Match, Question, QuestionIndex, words

#: 40 different words, so that every n-gram of the text occurs once.
TEXT = " ".join(f"w{i}" for i in range(40))


def one(question: str, *training: str, core: str | None = None) -> Match:
    index = QuestionIndex([Question(query=question, core=core or question)])
    return index.matches((query, "") for query in training)[0]


def test_case_white_space_and_punctuation_do_not_matter() -> None:
    match = one("Tom has 3 apples. How many, in all?", "unrelated", "tom has 3 APPLES -  how many  in all")
    assert match.exact is False, "a sign is a word: the second has a minus"
    match = one("Tom has 3 apples. How many, in all?", "unrelated", "tom has 3 APPLES;  how\nmany  in all")
    assert match.exact and match.exact_row == 1 and not match.near


def test_a_sign_of_a_formula_matters() -> None:
    assert not one("What is 3 - 2?", "What is 3 + 2?").exact
    assert one("What is $3-2$?", "what is 3 - 2").exact


def test_a_python_function_is_a_function() -> None:
    assert words("Write a Python function to add") == words("write a function to add")
    assert one("Write a python function to add two numbers.", "Write a function to add two numbers").exact


def test_the_question_without_its_wrapping_counts_as_exact_too() -> None:
    assert one("Please answer: is it so?\n\nAnswer format: true/false", "Is it so?", core="is it so?").exact


def test_one_changed_word_in_a_long_question_is_near() -> None:
    changed = TEXT.replace("w20", "other")
    match = one(TEXT, "unrelated", changed)
    assert match.near and not match.exact and match.near_row == 1
    assert match.share == pytest.approx((36 - 5) / 36)


def test_half_of_a_question_is_not_near_but_shares_a_13_gram() -> None:
    match = one(TEXT, " ".join(TEXT.split()[:20]))
    assert not match.near and match.ngram and match.ngram_row == 0
    assert not one(TEXT, " ".join(TEXT.split()[: LONG - 1])).ngram


def test_a_question_inside_a_response_is_near() -> None:
    index = QuestionIndex([Question(query=TEXT, core=TEXT)])
    assert index.matches([("something else", f"before {TEXT} after")])[0].near


@pytest.mark.parametrize(("length", "expected"), [(SHORTEST - 1, False), (SHORTEST, True), (LONG - 1, True)])
def test_a_short_question_counts_as_a_whole(length: int, expected: bool) -> None:
    question = " ".join(TEXT.split()[:length])
    assert one(question, f"before {question} after").ngram is expected
    assert not one(question, f"before {question.rpartition(' ')[0]} after").ngram


def test_what_many_questions_of_a_set_share_is_a_template() -> None:
    wrapping = "please choose the one correct answer to the question that follows here and now"
    for count, expected in ((TEMPLATE_QUESTIONS, True), (TEMPLATE_QUESTIONS + 1, False)):
        questions = [Question(query=f"{wrapping} q{i}", core=f"{wrapping} q{i}") for i in range(count)]
        assert QuestionIndex(questions).matches([(f"{wrapping} another", "")])[0].ngram is expected


def test_sets_have_templates_of_their_own() -> None:
    questions = [Question(query=f"{TEXT} {i}", core=f"{TEXT} {i}") for i in range(2 * TEMPLATE_QUESTIONS)]
    together, apart = QuestionIndex(questions), QuestionIndex(questions, sets=[TEMPLATE_QUESTIONS] * 2)
    assert not any(match.ngram for match in together.matches([(TEXT, "")]))
    assert all(match.ngram and match.near for match in apart.matches([(TEXT, "")]))


def test_how_training_examples_are_streamed_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(0)
    vocabulary = [f"v{i}" for i in range(30)]
    questions = [" ".join(rng.choices(vocabulary, k=20)) for _ in range(30)]
    training = [(" ".join(rng.choices(vocabulary, k=10) + question.split()[2:]), "") for question in questions for _ in "ab"]
    index = QuestionIndex([Question(query=q, core=q) for q in questions])
    whole = index.matches(training)
    monkeypatch.setattr(overlap, "_CHUNK", 7)
    assert index.matches(iter(training)) == whole
    assert sum(match.near for match in whole) >= 25 and [match.near_row for match in whole if match.near][0] == 0


def naive(questions: list[list[str]], training: list[list[str]]) -> list[tuple[bool, bool, bool]]:
    """The definition, word by word."""

    def grams(text: list[str], n: int) -> set[tuple[str, ...]]:
        return {tuple(text[i : i + n]) for i in range(len(text) - n + 1)}

    matches = []
    for question in questions:
        n = LONG if len(question) >= LONG else len(question)
        shared = {n_: [grams(q, n_) for q in questions if n_ == LONG or n_ == SHORT or len(q) == n_] for n_ in (n, SHORT)}

        def own(n: int, question: list[str] = question, shared: dict = shared) -> set[tuple[str, ...]]:
            return {g for g in grams(question, n) if sum(g in other for other in shared[n]) <= TEMPLATE_QUESTIONS}

        short = own(SHORT) if len(question) >= SHORT else set()
        exact = any(question == row for row in training) and bool(question)
        near = len(short) >= overlap.FEWEST and any(
            len(short & grams(row, SHORT)) / len(short) >= NEAR_SHARE for row in training
        )
        ngram = len(question) >= SHORTEST and any(own(n) & grams(row, n) for row in training)
        matches.append((exact, near and not exact, bool(ngram)))
    return matches


texts = st.lists(st.sampled_from("abcd"), max_size=24)


@given(questions=st.lists(texts, min_size=1, max_size=14), training=st.lists(texts, max_size=5))
@settings(max_examples=150, deadline=None)
def test_it_finds_what_the_definition_says(questions: list[list[str]], training: list[list[str]]) -> None:
    index = QuestionIndex([Question(query=" ".join(q), core=" ".join(q)) for q in questions])
    matches = index.matches((" ".join(row), "") for row in training)
    assert [(m.exact, m.near, m.ngram) for m in matches] == naive(questions, training)
