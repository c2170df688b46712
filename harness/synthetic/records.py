"""Records in the formats of the public sets. Fine-tuning and evaluation sets share no problem (``split``)."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from harness.synthetic import competition, programs, word_problems
from harness.synthetic.split import is_held_out

Record = dict[str, Any]

#: The kinds of MetaMathQA that are kept: answers augmented and questions rephrased, for both of its sources.
METAMATH_TYPES = ("GSM_AnsAug", "GSM_Rephrased", "MATH_AnsAug", "MATH_Rephrased")
CODE_TWO_STEP_SHARE = 0.5
ASSERTIONS = 3
#: Draws in a row without a new question after which a generator counts as exhausted.
MAX_FRUITLESS_DRAWS = 3000


def word_problem_key(problem: word_problems.WordProblem) -> tuple[Any, ...]:
    """What the split of word problems is decided on."""
    return ("word", problem.start, *problem.steps)


def program_key(program: programs.Program) -> tuple[Any, ...]:
    """What the split of programs is decided on."""
    return ("program", program.arguments, program.expression)


def distinct(rows: int, draw: Callable[[], tuple[str, Record] | None]) -> list[Record]:
    """``rows`` records with different questions. ``draw`` gives (question, record), or None to skip a draw.

    Raises:
        ValueError: the generator cannot make that many different questions.
    """
    records: dict[str, Record] = {}
    fruitless = 0
    while len(records) < rows:
        before, drawn = len(records), draw()
        if drawn is not None:
            records.setdefault(*drawn)
        fruitless = 0 if len(records) > before else fruitless + 1
        if fruitless == MAX_FRUITLESS_DRAWS:
            raise ValueError(f"rows: found {rows}, but this generator made only {len(records)} different questions")
    return list(records.values())


def metamath(rows: int, seed: int) -> list[Record]:
    """Fine-tuning records {type, query, original_question, response}, as MetaMathQA has them."""
    rng = random.Random(f"metamath/{seed}")

    def draw() -> tuple[str, Record] | None:
        kind = rng.choice(METAMATH_TYPES)
        answer: int | str
        if kind.startswith("GSM"):
            told = word_problems.draw(rng)
            story = word_problems.tell(rng, told)
            original, other = word_problems.question(told, story), word_problems.rephrased(told, story)
            response, key, answer = word_problems.solution(told), word_problem_key(told), told.answer
        else:
            problem = competition.draw(rng)
            original, other = problem.question, problem.rephrased
            response, key, answer = problem.solution, problem.key, problem.answer
        query = other if kind.endswith("Rephrased") else original
        response = f"{response}\nThe answer is: {answer}"
        if is_held_out(key):
            return None
        return query, {"type": kind, "query": query, "original_question": original, "response": response}

    return distinct(rows, draw)


def gsm8k(rows: int, seed: int) -> list[Record]:
    """Held-out records {question, answer}, as GSM8K has them."""
    rng = random.Random(f"gsm8k/{seed}")

    def draw() -> tuple[str, Record] | None:
        problem = word_problems.draw(rng)
        if not is_held_out(word_problem_key(problem)):
            return None
        text = word_problems.question(problem, word_problems.tell(rng, problem))
        return text, {"question": text, "answer": word_problems.solution(problem)}

    return distinct(rows, draw)


def math(rows: int, seed: int) -> list[Record]:
    """Held-out records {problem, level, type, solution}, as MATH has them."""
    rng = random.Random(f"math/{seed}")

    def draw() -> tuple[str, Record] | None:
        problem = competition.draw(rng)
        if not is_held_out(problem.key):
            return None
        return problem.question, {
            "problem": problem.question,
            "level": f"Level {problem.level}",
            "type": problem.subject,
            "solution": problem.solution,
        }

    return distinct(rows, draw)


def _draw_program(rng: random.Random, *, held_out: bool) -> programs.Program:
    while True:
        program = programs.draw(rng, new_words=True, two_step_share=CODE_TWO_STEP_SHARE)
        if is_held_out(program_key(program)) == held_out:
            return program


def codefeedback(rows: int, seed: int) -> list[Record]:
    """Fine-tuning records {query, response}, as CodeFeedback has them: the response holds a fenced function."""
    rng = random.Random(f"codefeedback/{seed}")

    def draw() -> tuple[str, Record]:
        program = _draw_program(rng, held_out=False)
        source = program.source
        form = rng.randrange(3)
        if form == 0:
            query = f"Write a Python function {program.name}({program.arguments}) to {program.description}."
        elif form == 1:
            query = f"Create a Python script for this problem:\n{program.stub}"
            source = program.documented_source
        else:
            assertion = programs.assertions(rng, program, name=program.name, count=ASSERTIONS)[0]
            query = (
                f"Write a function to {program.description}. Your code should satisfy the following assertion:\n"
                f"```python\n{assertion}\n```"
            )
        return query, {"query": query, "response": f"```python\n{source}\n```"}

    return distinct(rows, draw)


def humaneval(rows: int, seed: int) -> list[Record]:
    """Held-out records {task_id, prompt, entry_point, canonical_solution, test}, as HumanEval has them."""
    rng = random.Random(f"humaneval/{seed}")

    def draw() -> tuple[str, Record]:
        program = _draw_program(rng, held_out=True)
        checks = "\n".join(f"    {line}" for line in programs.assertions(rng, program, name="candidate", count=ASSERTIONS))
        record = {
            "prompt": program.stub,
            "entry_point": program.name,
            "test": f"def check(candidate):\n{checks}\n",
            "canonical_solution": f"    return {program.expression}\n",
        }
        return program.stub, record

    return [{"task_id": f"Synthetic/{index}", **record} for index, record in enumerate(distinct(rows, draw))]


def mbpp(rows: int, seed: int) -> list[Record]:
    """Held-out records {task_id, text, code, test_list, test_setup_code, challenge_test_list}, as MBPP has them."""
    rng = random.Random(f"mbpp/{seed}")

    def draw() -> tuple[str, Record]:
        program = _draw_program(rng, held_out=True)
        text = f"Write a function to {program.description}."
        tests = programs.assertions(rng, program, name=program.name, count=ASSERTIONS)
        record = {"text": text, "code": program.source, "test_list": tests, "test_setup_code": "", "challenge_test_list": []}
        return text, record

    return [{"task_id": index, **record} for index, record in enumerate(distinct(rows, draw), start=1)]
