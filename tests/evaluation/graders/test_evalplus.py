"""EvalPlus's tasks and rules: records in both forms, inputs with their types, comparison, and the oracle end to end."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from evaluation.graders import evalplus_oracle
from evaluation.graders.evalplus import OutputComparison, Task, restore, task_of
from evaluation.sandbox.run import Limits, Sandbox
from tests.evaluation.graders.evalplus_cases import (
    CHANGES,
    VERDICTS,
    cases,
    evalplus_missing,
    program,
    reference_verdicts,
    releases,
)
from tests.evaluation.marks import needs_packages
from tests.paths import needs_shared

HUMANEVAL = {
    "task_id": "HumanEval/29",
    "prompt": 'def f(x):\n    """Twice x."""\n',
    "canonical_solution": "    return 2 * x\n",
    "entry_point": "f",
    "contract": "",
    "base_input": [[1], [2]],
    "plus_input": [[-1], [0.5]],
    "atol": 0,
}
#: The same as the hub has it.
EXPORTED = {
    "task_id": "HumanEval/29",
    "prompt": HUMANEVAL["prompt"],
    "canonical_solution": HUMANEVAL["canonical_solution"],
    "entry_point": "f",
    "test": "def assertion(out, exp, atol):\n    assert out == exp\n\n\ndef check(candidate):\n"
    "    inputs = [[1], [2], [-1], [0.5]]\n    results = [2, 4, -2, 1.0]\n"
    "    for i, (inp, exp) in enumerate(zip(inputs, results)):\n        assertion(candidate(*inp), exp, 1e-06)\n",
}
EXPORTED_MBPP = {
    "task_id": 7,
    "prompt": "Write a function f.",
    "code": "def f(x):\n    return x",
    "test_list": ["assert f((1, 2)) == (1, 2)", "assert f({1}) == {1}", "assert f({1}) == {1}"],
    "test_imports": [],
    "test": "import numpy as np\nfrom math import inf\n\ninputs = [[(1, 2)], [{1}], [set()], [inf], [1j], [-inf]]\n"
    "results = []\nfor i, (inp, exp) in enumerate(zip(inputs, results)):\n    assertion(f(*inp), exp, 0)\n",
}


def release_tasks(dataset: str) -> list[Task]:
    return [task for record in releases()[dataset] if (task := task_of(record, dataset=dataset)) is not None]


def suite_outcomes(programs: list[tuple[Task, str]], cache_dir: Path, *, batch: int = 8) -> list[dict[str, str]]:
    """The outcomes of whole programs on base and plus inputs."""
    outcomes = []
    with Sandbox(limits=Limits()) as sandbox:
        truths = evalplus_oracle.Oracle(cache_dir, sandbox)
        truths.prepare([(task, suite) for task, _ in programs for suite in ("base", "plus")])
        for start in range(0, len(programs), batch):
            now = programs[start : start + batch]
            expected = [[truths.truth(task, "base"), truths.truth(task, "plus")] for task, _ in now]
            jobs = [
                evalplus_oracle.program_job(task, source, truth, evalplus_oracle.TimeLimits())
                for (task, source), truth in zip(now, expected, strict=True)
            ]
            for truth, result in zip(expected, sandbox.run_all(jobs), strict=True):
                outcomes.append(dict(zip(("base", "plus"), evalplus_oracle.outcomes(result, truth), strict=True)))
    return outcomes


def disagreements(rows: list[dict[str, str]], programs: list[tuple[Task, str]], cache_dir: Path) -> list[Any]:
    """The programs on which we and evalplus differ. A program passes plus where it passes both, as evalplus counts it."""
    differing = []
    for row, ours in zip(rows, suite_outcomes(programs, cache_dir), strict=True):
        theirs = (row["base"] == "pass", row["base"] == row["plus"] == "pass")
        if theirs != (ours["base"] == "passed", ours["plus"] == "passed"):
            differing.append((row["task_id"], row["change"], ours, row["base"], row["plus"]))
    return differing


# ------------------------------------------------------------------------------------------------------------- records


def test_the_release_form_and_the_hubs_give_the_same_inputs() -> None:
    released, exported = task_of(HUMANEVAL, dataset="humaneval"), task_of(EXPORTED, dataset="humaneval")
    assert released is not None and exported is not None
    assert released.base == ([1], [2]) and released.plus == ([-1], [0.5])
    assert exported.inputs == released.inputs and exported.base == released.base
    assert (exported.reference, exported.entry_point) == (released.reference, released.entry_point)
    assert (released.atol, exported.atol) == (0.0, 1e-6)


def test_the_hubs_mbpp_form_names_its_base_inputs_by_the_assertions() -> None:
    task = task_of(EXPORTED_MBPP, dataset="mbpp")
    assert task is not None and task.entry_point == "f" and task.reference == EXPORTED_MBPP["code"]
    assert task.base == ([(1, 2)], [{1}])
    assert task.plus == ([set()], [math.inf], [1j], [-math.inf])


@pytest.mark.parametrize(
    ("call", "atol"),
    [
        ("assert _poly(*candidate(*inp), inp) <= 0.0001", 1e-4),  # HumanEval/32: as it stands it fails for every program
        ("assertion(candidate(*inp), ref_func(*inp), 0)", 0.0),  # sets with large outputs
    ],
)
def test_the_hubs_other_calls_are_read(call: str, atol: float) -> None:
    test = EXPORTED["test"].replace("assertion(candidate(*inp), exp, 1e-06)", call)
    task = task_of(EXPORTED | {"test": test}, dataset="humaneval")
    assert task is not None and (task.entry_point, task.atol) == ("f", atol)


def test_records_of_the_original_sets_are_not_evalplus_tasks() -> None:
    assert task_of({"prompt": "", "test": "def check(candidate):\n    assert candidate(1) == 1\n"}, dataset="humaneval") is None
    assert task_of({"text": "", "code": "", "test_list": ["assert f(1) == 1"]}, dataset="mbpp") is None


def exported(task: Task, assertions: int) -> dict[str, Any]:
    """A task as EvalPlus writes it for the hub: all inputs in one literal, repetitions dropped."""
    inputs = list({str(given): given for given in task.inputs}.values())
    indent, called = ("    ", "candidate") if task.dataset == "humaneval" else ("", task.entry_point)
    test = f"def check(candidate):\n{indent}inputs = {inputs}\n{indent}results = []\n"
    test += f"{indent}for i, (inp, exp) in enumerate(zip(inputs, results)):\n"
    test += f"{indent}    assertion({called}(*inp), exp, {task.atol:g})\n"
    record = {"task_id": task.id, "prompt": "", "test": test, "entry_point": task.entry_point}
    # The hub has the reference's source in one field or the other.
    return record | {"canonical_solution": task.reference, "code": task.reference, "test_list": [*map(str, range(assertions))]}


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["humaneval", "mbpp"])
def test_every_task_is_read_the_same_from_the_hubs_form(dataset: str) -> None:
    for task in release_tasks(dataset):
        base = len({str(given) for given in task.base or ()})
        reread = task_of(exported(task, base), dataset=dataset)
        assert reread is not None and (reread.entry_point, reread.atol) == (task.entry_point, task.atol)
        assert list(reread.inputs) == [list(given) for given in {str(given): given for given in task.inputs}.values()]
        assert reread.base == reread.inputs[:base]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"plus_input": None}, "field 'plus_input': found NoneType, expected a list of argument lists"),
        ({"plus_input": [1]}, "field 'plus_input': found \\[1\\]"),
        ({"plus_input": {"0": [1]}}, "field 'plus_input'"),
        ({"base_input": []}, "field 'base_input': found no inputs"),
        ({"atol": "0"}, "field 'atol': found str, expected a number"),
        ({"entry_point": 3}, "field 'entry_point': found int, expected text"),
    ],
)
def test_a_malformed_field_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task_of(HUMANEVAL | change, dataset="humaneval")


def test_malformed_inputs_are_named() -> None:
    with pytest.raises(
        ValueError, match="field 'base_input': found 'int' object is not iterable, expected the arguments of Mbpp/2"
    ):
        task_of(HUMANEVAL | {"task_id": "Mbpp/2"}, dataset="mbpp")
    for inputs in ("[[1], f(2)]", "[[1], ]]", "[1]"):
        broken = EXPORTED | {"test": EXPORTED["test"].replace("[[1], [2], [-1], [0.5]]", inputs)}
        with pytest.raises(ValueError, match="field 'test': inputs: found"):
            task_of(broken, dataset="humaneval")


@pytest.mark.parametrize("name", ["plus_input", "canonical_solution", "entry_point", "atol"])
def test_a_missing_field_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"field '{name}' is missing"):
        task_of({key: value for key, value in HUMANEVAL.items() if key != name}, dataset="humaneval")


@pytest.mark.parametrize(
    ("number", "arguments", "expected"),
    [
        ("2", [[1], [2]], [(1,), (2,)]),
        ("64", [[["a", 1]]], [[("a", 1)]]),
        ("75", [[[1, 2]], 3], [[(1, 2)], 3]),
        ("106", [[1], [2]], [[1], (2,)]),
        ("115", [[[1], []]], [[{1}, {}]]),
        ("124", ["1", "2j"], [1.0, 2j]),
        ("252", ["1+2j"], [1 + 2j]),
        ("307", [[1], 2, 3], [(1,), 2, 3]),
        ("259", [[[1, 2]]], [((1, 2),)]),
        ("278", [[1, [2]]], [(1, (2,))]),
        ("580", [[1, [2, [3]]]], [(1, (2, (3,)))]),
        ("722", [{"a": [1, 2]}, 3], [{"a": (1, 2)}, 3]),
        ("3", [[1]], [[1]]),
    ],
)
def test_arguments_get_the_types_that_json_lacks(number: str, arguments: list[Any], expected: list[Any]) -> None:
    restored = restore(number, arguments)
    assert restored == expected and str(restored) == str(expected)


# ---------------------------------------------------------------------------------------------------------- comparison


def accepts(
    output: Any, expected: Any, *, name: str = "f", atol: float = 0, dataset: str = "mbpp", given: tuple[Any, ...] = ()
) -> bool:
    task = Task(dataset=dataset, id="", entry_point=name, reference="", base=(), plus=(), atol=atol)
    return OutputComparison(task).accepts(list(given), output, expected)


@pytest.mark.parametrize(
    ("output", "expected", "accepted"),
    [
        (1, 1.0, True),
        (True, 1, True),
        ([1], (1,), False),
        ([], (), False),
        ("1", 1, False),
        (None, 0, False),
        ({1: 2}, {1: 2.0}, True),
        (1.0 + 1e-7, 1.0, True),
        (1.0 + 1e-5, 1.0, False),
        (1, 1.0 + 1e-8, False),  # not equal, and the types differ
        (1e9, 1e9 + 50, True),  # relative 1e-7
        ([1.0, 2.0 + 1e-7], [1.0, 2.0], True),
        ((1.0, 2.0 + 1e-7), [1.0, 2.0], False),
        ([1.0 + 1e-7], [1.0, 1.0], False),
        ([1, 2.0 + 1e-7], [1, 2.0], False),  # not all expected values are floats
        ([[1.0 + 1e-7]], [[1.0]], False),
        ({1: 1.0 + 1e-7}, {1: 1.0}, False),
        (math.inf, math.inf, True),
        (1e308, math.inf, False),
        (math.nan, math.nan, False),
        ("a", 1.0, False),
        ([None], [1.0], False),
    ],
)
def test_equal_values_and_near_floats_are_accepted(output: Any, expected: Any, accepted: bool) -> None:
    assert accepts(output, expected) is accepted


@pytest.mark.parametrize(
    ("output", "expected", "accepted"),
    [
        ([[1.0 + 1e-5]], [[1.0]], True),
        ([(1.0 + 1e-5,)], [[1.0]], True),
        ([[1.0]], [[1.0, 1.0]], False),
        ([], [1.0], False),
        (2, 1, False),
        (1 + 1e-5 + 0j, 1 + 0j, True),
        (["a"], ["b"], False),
        ([10**18 + 1], [10**18], True),
        ([10**20 + 1], [10**20], False),
    ],
)
def test_a_tolerance_of_the_task_holds_for_nested_numbers(output: Any, expected: Any, accepted: bool) -> None:
    assert accepts(output, expected, atol=1e-4) is accepted


def test_the_float_tolerance_stays_once_a_float_was_expected() -> None:
    comparison = OutputComparison(Task(dataset="mbpp", id="", entry_point="f", reference="", base=(), plus=(), atol=0))
    assert not comparison.accepts([], [[1.0 + 1e-8]], [[1.0]])
    assert comparison.accepts([], 1.0, 1.0)
    assert comparison.accepts([], [[1.0 + 1e-8]], [[1.0]])


@pytest.mark.parametrize(
    ("name", "given", "output", "expected", "accepted"),
    [
        ("similar_elements", (), [3, 1, 3], (1, 3), True),
        ("similar_elements", (), [1], (1, 3), False),
        ("Diff", (), None, [1], False),
        ("check_str", (), "Valid", True, True),
        ("check_str", (), None, False, True),
        ("check_str", (), False, False, True),
        ("check_str", (), "Invalid", False, False),
        ("are_equivalent", (), "anything", True, True),
        ("sum_div", (7,), 0, 1, True),
        ("sum_div", (7,), 2, 1, False),
        ("surface_Area", (3, 4), 33, 34, False),
        ("surface_Area", (3, 4), 35, 33, True),
        ("digit_distance_nums", (23, 156), 1 + 3 + 3, 0, True),
        ("digit_distance_nums", (23, 156), 6, 0, False),
    ],
)
def test_special_rules_of_mbpp(name: str, given: tuple[Any, ...], output: Any, expected: Any, accepted: bool) -> None:
    assert accepts(output, expected, name=name, given=given) is accepted
    if name != "similar_elements":
        assert accepts(output, expected, name=name, given=given, dataset="humaneval") is (output == expected)


@pytest.mark.parametrize(
    ("output", "accepted"), [(-0.5, True), (-0.50001, True), (-0.6, False), ("x", False), (None, False), (1e308, False)]
)
def test_a_root_is_judged_by_the_polynomial(output: Any, accepted: bool) -> None:
    assert accepts(output, -0.50002, name="find_zero", dataset="humaneval", atol=1e-4, given=([1, 2],)) is accepted


def test_a_polynomial_whose_root_the_reference_misses_judges_no_program() -> None:
    assert accepts(-0.6, 7.0, name="find_zero", dataset="humaneval", atol=1e-4, given=([1, 2],))


# -------------------------------------------------------------------------------------------------------------- oracle


def test_the_reference_passes_and_base_and_plus_are_told_apart(tmp_path: Path) -> None:
    task = task_of(HUMANEVAL, dataset="humaneval")
    assert task is not None
    programs = {
        "def f(x): return 2 * x": {"base": "passed", "plus": "passed"},
        "def f(x): return 2 * int(x)": {"base": "passed", "plus": "failed"},
        "def f(x): return x": {"base": "failed", "plus": "failed"},
        "def f(x):\n    if x == 0.5:\n        while True: pass\n    return 2 * x": {"base": "passed", "plus": "timed_out"},
        "def f(x):\n    while True: pass": {"base": "timed_out", "plus": "timed_out"},
        "def f(x): raise ValueError": {"base": "failed", "plus": "failed"},
        "def g(x): return 2 * x": {"base": "failed", "plus": "failed"},
        "import os\ndef f(x):\n    if x == -1: os._exit(0)\n    return 2 * x": {"base": "passed", "plus": "failed"},
    }
    assert suite_outcomes([(task, source) for source in programs], tmp_path) == list(programs.values())


def test_expected_outputs_are_kept_and_a_changed_task_has_its_own(tmp_path: Path) -> None:
    task, other = (task_of(HUMANEVAL | change, dataset="humaneval") for change in ({}, {"plus_input": [[3]]}))
    assert task is not None and other is not None
    with Sandbox(limits=Limits()) as sandbox:
        truths = evalplus_oracle.Oracle(tmp_path, sandbox)
        truths.prepare([(task, "base"), (task, "plus"), (other, "base"), (other, "plus"), (task, "base")])
        files = {path: path.stat().st_mtime_ns for path in (tmp_path / "evalplus").iterdir()}
        truths.prepare([(task, "base"), (task, "plus"), (other, "plus")])
        assert {path: path.stat().st_mtime_ns for path in (tmp_path / "evalplus").iterdir()} == files and len(files) == 3
        assert truths.truth(task, "plus").expected == (-2, 1.0) and truths.truth(other, "plus").expected == (6,)


def test_a_reference_that_does_not_run_is_named(tmp_path: Path) -> None:
    task = task_of(HUMANEVAL | {"canonical_solution": "    return nothing\n"}, dataset="humaneval")
    assert task is not None
    with (
        Sandbox(limits=Limits()) as sandbox,
        pytest.raises(evalplus_oracle.OracleError, match="HumanEval/29: reference solution: found"),
    ):
        evalplus_oracle.Oracle(tmp_path, sandbox).prepare([(task, "base")])


def test_time_limits_follow_the_reference() -> None:
    limits = evalplus_oracle.TimeLimits()
    assert limits.of_inputs([0.1, 0.5]) == [1.0, 2.0]
    assert limits.of_suite([0.1, 0.5]) == 4.0 and limits.of_suite([0.1] * 100) == 61.0
    assert limits.as_dict() == {"input_min_s": 1.0, "input_factor": 4.0, "suite_max_s": 60.0}


#: HumanEval/32, whose check evalplus 0.3.1 got wrong, tasks with rules of their own, and some others.
SAMPLE = {"HumanEval/32", "HumanEval/2", "HumanEval/115", "Mbpp/2", "Mbpp/124", "Mbpp/737", "Mbpp/558", "Mbpp/7", "Mbpp/722"}


@needs_shared
def test_references_pass_their_own_tests_on_a_sample(tmp_path: Path) -> None:
    records = [(record, dataset) for dataset, release in releases().items() for record in release]
    tasks = [task_of(record, dataset=dataset) for record, dataset in records if record["task_id"] in SAMPLE]
    assert None not in tasks and len(tasks) == len(SAMPLE)
    results = suite_outcomes([(task, task.reference) for task in tasks], tmp_path)
    assert [task.id for task, outcomes in zip(tasks, results, strict=True) if set(outcomes.values()) != {"passed"}] == []


@needs_shared
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("dataset", "count"), [("humaneval", 164), ("mbpp", 378)])
def test_every_reference_passes_its_own_tests(dataset: str, count: int, tmp_path: Path) -> None:
    tasks = release_tasks(dataset)
    assert len(tasks) == count
    results = suite_outcomes([(task, task.reference) for task in tasks], tmp_path)
    assert [task.id for task, outcomes in zip(tasks, results, strict=True) if set(outcomes.values()) != {"passed"}] == []


# ------------------------------------------------------------------------------------------------------ evalplus itself


@needs_packages
@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.slow) for part in (1, 2, 3))])
def test_recorded_verdicts_of_evalplus_are_reproduced(part: int, tmp_path: Path) -> None:
    content = json.loads(VERDICTS.read_text(encoding="utf-8"))
    records = {record["task_id"]: record for record in content["records"]}
    names = sorted(records)[part::4]
    rows = [row for row in content["verdicts"] if row["task_id"] in names]
    tasks = {row["task_id"]: task_of(records[row["task_id"]], dataset=row["dataset"]) for row in rows}
    programs = [(tasks[row["task_id"]], program(records[row["task_id"]], row["change"])) for row in rows]
    assert disagreements(rows, programs, tmp_path) == []


def test_the_recorded_verdicts_hold_every_change_right_and_wrong() -> None:
    rows = json.loads(VERDICTS.read_text(encoding="utf-8"))["verdicts"]
    assert {row["change"] for row in rows} == set(CHANGES)
    assert {(row["base"], row["plus"]) for row in rows} >= {("pass", "pass"), ("pass", "fail"), ("fail", "fail")}


@needs_shared
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(evalplus_missing() is not None, reason=evalplus_missing() or "")
def test_verdicts_agree_with_evalplus_on_all_inputs(tmp_path: Path) -> None:
    """Every ninth task, right and changed programs; evalplus runs now."""
    rows, programs, records = [], [], []
    for dataset, release in releases().items():
        for record in release[4::9]:
            task = task_of(record, dataset=dataset)
            assert task is not None
            asked = cases(record, dataset, count=3)
            records.append(record)
            rows += asked
            programs += [(task, case["program"]) for case in asked]
    verdicts = reference_verdicts(rows, records)
    assert disagreements([{**case, **verdict} for case, verdict in zip(rows, verdicts, strict=True)], programs, tmp_path) == []
