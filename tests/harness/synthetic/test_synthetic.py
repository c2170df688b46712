"""The generated world: formats, determinism, and that evaluation problems are unseen in every wording."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.sets import examples
from evaluation.sets.llm_adapters import COMMONSENSE
from evaluation.sets.prompts import alpaca
from harness.synthetic import GENERATORS, pretraining_documents
from harness.synthetic.arithmetic import all_equations, apply, equation, equation_is_held_out, operand
from harness.synthetic.programs import FUNCTION_NAMES
from harness.synthetic.split import is_held_out
from harness.synthetic.tokenizer import prompt_tokens, train_tokenizer

ROWS = 300

FIELDS = {
    "metamath": {"type", "query", "original_question", "response"},
    "codefeedback": {"query", "response"},
    "gsm8k": {"question", "answer"},
    "math": {"problem", "level", "type", "solution"},
    "humaneval": {"task_id", "prompt", "entry_point", "canonical_solution", "test"},
    "mbpp": {"task_id", "text", "code", "test_list", "test_setup_code", "challenge_test_list"},
    **dict.fromkeys(("commonsense", *COMMONSENSE), {"instruction", "input", "output", "answer"}),
}


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_records_have_the_fields_of_the_real_set_and_depend_on_the_seed_alone(name: str) -> None:
    generate = GENERATORS[name]
    records = generate(ROWS, 3)
    assert len(records) == ROWS
    assert all(set(record) == FIELDS[name] for record in records)
    assert generate(ROWS, 3) == records
    assert generate(ROWS, 4) != records


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_more_rows_extend_fewer(name: str) -> None:
    assert GENERATORS[name](ROWS, 0)[:50] == GENERATORS[name](50, 0)


def test_too_many_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="rows: found 1000000, but this generator made only"):
        GENERATORS["math"](1_000_000, 0)


# ------------------------------------------------------------------------------------------------------------ separation


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text))


def _word_problem(question: str) -> tuple[Any, ...]:
    """The start and the steps of a word problem, read back from its text: a second way to the split's key."""
    operator = {"more": "+", "wins": "+", "sells": "-", "loses": "-", "away": "-", "times": "*"}
    start, *_ = _numbers(question)
    events = re.findall(r"(?:(wins|sells|loses|gives away) (\d+)|(\d+) (more|times))", question)
    steps = [(operator[(verb or after).split()[-1]], int(n or m)) for verb, n, m, after in events]
    return ("word", start, *steps)


def test_fine_tuning_and_evaluation_share_no_word_problem_in_any_wording() -> None:
    train = {
        _word_problem(record[field])
        for record in GENERATORS["metamath"](3000, 0)
        if record["type"].startswith("GSM")
        for field in ("query", "original_question")
    }
    held_out = {_word_problem(record["question"]) for record in GENERATORS["gsm8k"](ROWS, 1)}
    assert len(train) > 300 and len(held_out) > 50
    assert not train & held_out
    assert all(is_held_out(problem) for problem in held_out)


def test_fine_tuning_and_evaluation_share_no_math_problem() -> None:
    train = [record for record in GENERATORS["metamath"](3000, 0) if record["type"].startswith("MATH")]
    asked = {record[field] for record in train for field in ("query", "original_question")}
    held_out = [record["problem"] for record in GENERATORS["math"](ROWS, 1)]
    assert not asked & set(held_out)
    # The numbers of a problem, in order, are the same in both wordings, which use the same operators.
    signs = str.maketrans("", "", "+-")

    def core(text: str) -> tuple[Any, ...]:
        return (_numbers(text), text.translate(signs) != text and "-" in text, "frac" in text, "point" in text)

    assert not {core(text) for text in asked} & {core(text) for text in held_out}


def test_fine_tuning_and_evaluation_share_no_closed_question() -> None:
    train = {record["instruction"] for record in GENERATORS["commonsense"](5000, 0)}
    for format in COMMONSENSE:
        held_out = {record["instruction"] for record in GENERATORS[format](150, 1)}
        assert len(held_out) == 150 and not train & held_out
    # The pairs of numbers, whatever the names: (set, first, second).
    pairs = [{_numbers(text)[:2] for text in texts if "is that more" in text} for texts in (train, held_out | _asked("boolq"))]
    assert len(pairs[0]) > 50 and len(pairs[1]) > 10 and not pairs[0] & pairs[1]


def _asked(format: str) -> set[str]:
    return {record["instruction"] for record in GENERATORS[format](150, 1)}


def test_closed_questions_have_balanced_answers_and_fit_the_stand_ins() -> None:
    from harness.models.stand_in import build_tokenizer
    from harness.schema.base_models import PretrainingSpec

    tokenizer = build_tokenizer(PretrainingSpec(max_steps=1, learning_rate=1.0, vocab_size=640, corpus_documents=5000))
    train = GENERATORS["commonsense"](2000, 0)
    for format in COMMONSENSE:
        asked = examples(format, GENERATORS[format](150, 2))
        golds = [example.gold for example in asked]
        assert set(golds) == set(asked[0].choices) and max(map(golds.count, set(golds))) < 2.2 * 150 / len(set(golds))
        assert sum(record["answer"] in asked[0].choices for record in train) > 150
        assert max(len(tokenizer(alpaca(e.query) + e.reference)["input_ids"]) for e in asked) < 80


def _function_body(text: str) -> str:
    return re.sub(r"def \w+", "def f", text.split("def ", 1)[1]).split("return ")[1].split("\n")[0]


def test_fine_tuning_and_evaluation_share_no_program() -> None:
    train = {_function_body(record["response"]) for record in GENERATORS["codefeedback"](3000, 0)}
    for name, field in (("humaneval", "canonical_solution"), ("mbpp", "code")):
        held_out = {record[field].split("return ")[1].strip() for record in GENERATORS[name](ROWS, 1)}
        assert len(held_out) > 50
        assert not train & held_out


def test_pretraining_shows_no_held_out_equation_program_or_prompt() -> None:
    text = "\n".join(pretraining_documents(5000, 0))
    shown = set(re.findall(r"\d+ [-+*] \d+ = \d+", text))
    held_out = {equation(*parts) for parts in all_equations() if equation_is_held_out(*parts)}
    assert len(shown) > 300 and len(held_out) > 30
    assert not shown & held_out
    bodies = {line.split("return ")[1] for line in text.split("\n") if "return " in line}
    assert not bodies & {record["code"].split("return ")[1] for record in GENERATORS["mbpp"](ROWS, 1)}
    told = {_word_problem(line) for line in text.split("\n") if re.search(r" (gets|loses) \d| times as many", line)}
    assert len(told) > 300 and not any(is_held_out(problem) for problem in told)
    formulas = {tuple(map(_numbers, re.findall(r"\(.*?\)", line))) for line in text.split("\n") if line.startswith("(")}
    points = {
        tuple(map(_numbers, re.findall(r"\(.*?\)", record["problem"])))
        for record in GENERATORS["math"](ROWS, 1)
        if record["type"] == "Geometry"
    }
    assert len(formulas) > 100 and len(points) > 20 and not formulas & points
    for phrase in ("### Response", "### Instruction", "The answer is", "Write a"):
        assert phrase not in text


def test_the_base_has_seen_every_token_that_fine_tuning_writes() -> None:
    from harness.models.stand_in import build_tokenizer
    from harness.schema.base_models import PretrainingSpec

    spec = PretrainingSpec(max_steps=1, learning_rate=1.0, vocab_size=640, corpus_documents=5000)
    tokenizer = build_tokenizer(spec)
    seen = {token for ids in tokenizer(pretraining_documents(5000, 0))["input_ids"] for token in ids}
    for name in ("metamath", "codefeedback"):
        written = {token for record in GENERATORS[name](1000, 0) for token in tokenizer(record["response"])["input_ids"]}
        assert not [tokenizer.decode([token]) for token in written - seen]


# --------------------------------------------------------------------------------------------------------------- meaning


def test_every_equation_in_every_text_is_true() -> None:
    texts = [record["response"] for record in GENERATORS["metamath"](ROWS, 0)]
    texts += [record["answer"] for record in GENERATORS["gsm8k"](ROWS, 0)] + pretraining_documents(ROWS, 0)
    equations = [match for text in texts for match in re.findall(r"(\d+) ([-+*]) (\d+) = (\d+)", text)]
    assert len(equations) > ROWS
    assert all(apply(int(a), operator, int(b)) == int(value) >= 0 for a, operator, b, value in equations)


@pytest.mark.parametrize("largest", [20, 30])
def test_operand_draws_every_equation_in_range_and_no_other(largest: int) -> None:
    rng, numbers = random.Random(0), range(1, largest + 2)
    drawn = {
        (a, operator, operand(rng, a, operator, largest=largest)) for _ in range(300) for a in numbers for operator in "+-*"
    }
    inside = {triple for triple in drawn if triple[2] is not None and triple[0] <= largest}
    assert inside == set(all_equations(largest=largest))


@pytest.mark.parametrize("name", ["gsm8k", "math"])
def test_gold_answers_are_read_from_the_records(name: str) -> None:
    for example in examples(name, GENERATORS[name](ROWS, 2)):
        assert example.gold and example.reference.endswith(f"\nThe answer is: {example.gold}")


def test_math_answers_are_of_several_kinds() -> None:
    golds = [example.gold or "" for example in examples("math", GENERATORS["math"](ROWS, 2))]
    assert sum(gold.startswith("\\frac") for gold in golds) > 10
    assert sum(gold.startswith("(") for gold in golds) > 10
    assert sum(gold.isdigit() for gold in golds) > 10


def test_metamath_rephrases_only_the_rephrased() -> None:
    for record in GENERATORS["metamath"](ROWS, 0):
        assert (record["query"] != record["original_question"]) == record["type"].endswith("Rephrased")
        assert ("#### " in record["response"]) == record["type"].startswith("GSM")


def test_reference_code_passes_its_own_tests_and_another_program_does_not() -> None:
    failed = 0
    humaneval, mbpp = GENERATORS["humaneval"](60, 5), GENERATORS["mbpp"](60, 5)
    for record in humaneval:
        scope: dict[str, Any] = {}
        exec(record["prompt"] + record["canonical_solution"] + record["test"], scope)
        scope["check"](scope[record["entry_point"]])
        assert record["entry_point"] in FUNCTION_NAMES.values()
        with pytest.raises(Exception):  # noqa: B017 - any failure will do: the argument itself is never the answer
            scope["check"](lambda *arguments: arguments[0])
    for record, other in zip(mbpp, mbpp[1:], strict=False):
        for code, expected in ((record["code"], True), (other["code"], False)):
            scope = {}
            try:
                exec(re.sub(r"def \w+", f"def {record['test_list'][0].split()[1].split('(')[0]}", code), scope)
                for line in record["test_list"]:
                    exec(line, scope)
            except Exception:
                assert not expected
                failed += 1
    assert failed > 55


# ------------------------------------------------------------------------------------------------------------- tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    texts = [alpaca(record["query"]) + record["response"] for record in GENERATORS["codefeedback"](200, 0)]
    return train_tokenizer([*pretraining_documents(300, 0), *texts], vocab_size=400)


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text_round_trips(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids[1:]) == text or any(token in text for token in tokenizer.all_special_tokens)


def test_every_digit_is_a_token_and_special_tokens_differ(tokenizer: Any) -> None:
    assert len(tokenizer("2026", add_special_tokens=False)["input_ids"]) == 4
    assert len({tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}) == 3
    assert len(tokenizer) == 400


def test_the_prompt_costs_few_tokens_and_ends_on_a_token_boundary(tokenizer: Any) -> None:
    assert len(tokenizer(alpaca("x"))["input_ids"]) == 4
    assert len(tokenizer(alpaca("x\ny"))["input_ids"]) == 6
    prompt = tokenizer(alpaca("x"))["input_ids"]
    for response in ("1", "```python\n", " Let's", "\n", "def"):
        assert tokenizer(alpaca("x") + response)["input_ids"][: len(prompt)] == prompt
    assert "".join(prompt_tokens()[:1]) in alpaca("x")


def test_a_saved_tokenizer_reloads_the_same(tokenizer: Any, tmp_path: Any) -> None:
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    text = alpaca("Compute $2 \\cdot 3$.\n") + "2 * 3 = 6\u00e9\n#### 6"
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert again.decode(again(text)["input_ids"], skip_special_tokens=True) == text


def test_a_vocabulary_larger_than_the_texts_allow_is_refused() -> None:
    with pytest.raises(ValueError, match="vocab_size: found 5000, but training gave"):
        train_tokenizer(pretraining_documents(50, 0), vocab_size=5000)
