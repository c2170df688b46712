"""EvalPlus's tasks and its rules of comparison: what HumanEval+ (v0.1.10) and MBPP+ (v0.2.0) ask, and what counts as right.

A task gives inputs and a reference solution; the expected outputs are what the reference returns on them
(``evaluation.graders.evalplus_oracle``). The rules are those of evalplus 0.3.1, with its repaired check of HumanEval/32;
that of most tasks is in ``evaluation.comparison``. One more departure, towards the safe side: an argument that a
program changed is not used to judge its own answer. Nothing runs here; no torch.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from evaluation.comparison import Comparison
from evaluation.example import Record

#: base: the original set's inputs. plus: those that EvalPlus added.
Suite = Literal["base", "plus"]
Inputs = tuple[list[Any], ...]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task: every input is the list of arguments of one call."""

    #: humaneval or mbpp: which special rules apply.
    dataset: str
    id: str
    entry_point: str
    #: The whole reference program.
    reference: str
    #: The original set's inputs; None where they cannot be told from the added ones (a task that the hub's set has anew).
    base: Inputs | None
    #: EvalPlus's added inputs.
    plus: Inputs
    #: Absolute tolerance; 0 where values must be equal.
    atol: float

    @property
    def inputs(self) -> Inputs:
        """All inputs, the base ones first."""
        return (self.base or ()) + self.plus


# ------------------------------------------------------------------------------------------------------------- records


def is_release(record: Record) -> bool:
    """Whether a record has the form of EvalPlus's release files (HumanEvalPlus.jsonl.gz, MbppPlus.jsonl.gz)."""
    return "base_input" in record


def is_export(record: Record) -> bool:
    """Whether a record has the form of EvalPlus's sets on the hub (evalplus/humanevalplus, evalplus/mbppplus): no list
    of inputs, but a test program that holds one."""
    return not is_release(record) and isinstance(record.get("test"), str) and bool(_EXPORTED_INPUTS.search(record["test"]))


def task_of(record: Record, *, dataset: str) -> Task | None:
    """The task of a record in either of EvalPlus's two forms; None for a record of HumanEval or MBPP themselves.

    Raises:
        ValueError: a field is missing or has the wrong type.
    """
    if is_release(record):
        return _from_release(record, dataset)
    return _from_export(record, dataset) if is_export(record) else None


def read(record: Record, *, dataset: str, where: str) -> Task | None:
    """``task_of``, with errors that begin with ``where``."""
    try:
        return task_of(record, dataset=dataset)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _field(record: Record, name: str, kind: type | tuple[type, ...], expected: str) -> Any:
    if name not in record:
        raise ValueError(f"field {name!r} is missing, found {', '.join(sorted(record))}")
    if not isinstance(record[name], kind) or isinstance(record[name], bool):
        raise ValueError(f"field {name!r}: found {type(record[name]).__name__}, expected {expected}")
    return record[name]


def _text(record: Record, name: str) -> str:
    return _field(record, name, str, "text")


def _from_release(record: Record, dataset: str) -> Task:
    identity = str(_field(record, "task_id", (str, int), "an id"))
    number = identity.rpartition("/")[2]
    inputs = []
    for name in ("base_input", "plus_input"):
        # The one task without added inputs has {} for them.
        calls = _field(record, name, (list, dict), "a list of argument lists") or []
        if not isinstance(calls, list) or not all(isinstance(arguments, list) for arguments in calls):
            raise ValueError(f"field {name!r}: found {str(calls)[:60]}, expected a list of argument lists")
        try:
            inputs.append(tuple(restore(number, arguments) if dataset == "mbpp" else arguments for arguments in calls))
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            raise ValueError(f"field {name!r}: found {error}, expected the arguments of {identity}") from None
    base, plus = inputs
    if not base:
        raise ValueError("field 'base_input': found no inputs, expected at least one")
    return Task(
        dataset=dataset,
        id=identity,
        entry_point=_text(record, "entry_point"),
        reference=_text(record, "prompt") + _text(record, "canonical_solution"),
        base=base,
        plus=plus,
        atol=float(_field(record, "atol", (int, float), "a number")),
    )


#: In the hub's test programs: all inputs (base ones first, repetitions dropped), the call, and the tolerance.
_EXPORTED_INPUTS = re.compile(r"^[ \t]*inputs = (\[.*\])$", re.MULTILINE)
_EXPORTED_CALL = re.compile(r"(\w+)\(\*inp\)[^\n]*?(?:, |<= )([0-9.e+-]+)\)?\s*$", re.MULTILINE)

#: Distinct base inputs of HumanEval/0 to HumanEval/163 in v0.1.10: with how many of them the hub's list begins.
_HUMANEVAL_BASE = [
    int(count)
    for count in (
        "7 4 3 6 3 3 3 4 5 4 5 3 3 4 3 3 5 5 4 5 5 5 3 3 5 8 3 3 3 2 4 12 99 7 1 2 8 3 100 10 9 5 3 9 12 3 4 5 7 7 100 7 "
        "6 105 7 5 12 8 4 5 5 12 5 7 7 5 8 7 8 25 9 9 6 8 9 4 10 9 7 4 8 6 16 5 5 4 7 6 7 8 6 6 10 5 9 7 10 8 7 5 5 6 8 "
        "12 4 5 4 8 8 5 7 7 9 3 12 5 7 7 13 12 11 7 5 4 16 8 13 8 8 10 10 7 14 12 10 5 11 8 8 4 5 26 11 7 12 6 7 4 7 7 10 "
        "7 4 9 6 8 14 11 10 6 3 8 4 4"
    ).split()
]


def _from_export(record: Record, dataset: str) -> Task:
    """The hub's test programs are read, not run: that of HumanEval/32 fails for every program, and the expected outputs
    in them follow from the reference anyway."""
    test = _text(record, "test")
    literal, calls = _EXPORTED_INPUTS.search(test), _EXPORTED_CALL.findall(test)
    if literal is None or not calls:
        raise ValueError("field 'test': found no list of inputs with a call, expected EvalPlus's test program")
    inputs = tuple(_literal(literal.group(1)))
    if not all(isinstance(arguments, list) for arguments in inputs):
        raise ValueError("field 'test': inputs: found other items than lists, expected argument lists")
    called, atol = calls[-1]
    identity = str(_field(record, "task_id", (str, int), "an id"))
    if dataset == "humaneval":
        called, reference = _text(record, "entry_point"), _text(record, "prompt") + _text(record, "canonical_solution")
        number = identity.removeprefix("HumanEval/")
        count = _HUMANEVAL_BASE[int(number)] if number.isdecimal() and int(number) < len(_HUMANEVAL_BASE) else None
    else:
        reference = _text(record, "code")
        count = len(dict.fromkeys(_field(record, "test_list", list, "a list of assertions")))
    return Task(
        dataset=dataset,
        id=identity,
        entry_point=called,
        reference=reference,
        base=None if count is None else inputs[:count],
        plus=inputs if count is None else inputs[count:],
        atol=float(atol),
    )


class _Names(ast.NodeTransformer):
    """The names that Python prints for some floats."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(float(node.id)) if node.id in ("inf", "nan") else node


def _literal(text: str) -> Any:
    """The value of a Python literal, which may hold inf, nan and set()."""
    try:
        tree = ast.parse(text, mode="eval").body
        if re.search(r"\b(?:inf|nan)\b", text):
            tree = ast.fix_missing_locations(_Names().visit(tree))
        return ast.literal_eval(tree)
    except (ValueError, SyntaxError) as error:
        raise ValueError(f"field 'test': inputs: found {error}, expected a Python literal") from None


# ------------------------------------------------------------------------------------------------- inputs of MBPP tasks
# JSON has no tuples, sets or complex numbers. Which arguments of which task are such is known by task number only
# (evalplus.data.mbpp has the list).

Restore = Callable[[list[Any]], list[Any]]


def _tuples(arguments: list[Any]) -> list[Any]:
    return [tuple(value) for value in arguments]


def _lists_of_tuples(arguments: list[Any]) -> list[Any]:
    return [_tuples(value) for value in arguments]


def _tuples_of_tuples(arguments: list[Any]) -> list[Any]:
    return _tuples(_lists_of_tuples(arguments))


def _first_is_tuple(arguments: list[Any]) -> list[Any]:
    return [tuple(arguments[0]), *arguments[1:]]


def _first_is_list_of_tuples(arguments: list[Any]) -> list[Any]:
    return [_tuples(arguments[0]), *arguments[1:]]


def _second_is_tuple(arguments: list[Any]) -> list[Any]:
    return [arguments[0], tuple(arguments[1])]


def _first_is_tuple_with_tuples(arguments: list[Any]) -> list[Any]:
    return [tuple(tuple(item) if isinstance(item, list) else item for item in value) for value in arguments[:1]]


def _sets(arguments: list[Any]) -> list[Any]:
    """Mbpp/115: an empty one is a dict, as in its tests."""
    return [[set(item) if isinstance(item, list) and item else {} for item in arguments[0]]]


def _dict_of_tuples(arguments: list[Any]) -> list[Any]:
    return [{key: tuple(value) for key, value in arguments[0].items()}, *arguments[1:]]


def _all_tuples(arguments: list[Any]) -> list[Any]:
    def deep(value: Any) -> Any:
        return tuple(deep(item) for item in value) if isinstance(value, list) else value

    return [deep(value) for value in arguments]


_RESTORE_BY_NUMBERS: tuple[tuple[Restore, str], ...] = (
    (_tuples, "2 116 132 143 222 261 273 394 399 421 424 429 470 560 579 596 616 630 726 740 744 809"),
    (_lists_of_tuples, "63 64 70 94 120 237 272 299 400 409 417 438 473 614 780"),
    (_first_is_list_of_tuples, "75 413 444 753"),
    (_second_is_tuple, "106 750"),
    (_sets, "115"),
    (lambda arguments: [float(arguments[0]), complex(arguments[1])], "124"),
    (_first_is_tuple, "250 307 405 446 617 720 763 808"),
    (lambda arguments: [complex(arguments[0])], "252"),
    (_tuples_of_tuples, "259 401 445"),
    (_first_is_tuple_with_tuples, "278"),
    (_all_tuples, "580 615 791"),
    (_dict_of_tuples, "722"),
)
_RESTORE: dict[str, Restore] = {number: restore for restore, numbers in _RESTORE_BY_NUMBERS for number in numbers.split()}


def restore(number: str, arguments: list[Any]) -> list[Any]:
    """The arguments of an MBPP task as its tests pass them."""
    return _RESTORE[number](arguments) if number in _RESTORE else arguments


# ---------------------------------------------------------------------------------------------------------- comparison

#: MBPP tasks (by function) whose answers are compared as sets.
_AS_SETS = frozenset(
    "similar_elements find_char_long common_in_nested_lists extract_singly larg_nnum intersection_array find_dissimilar "
    "Diff".split()
)
#: MBPP tasks whose answers are match objects: only whether there is one counts.
_NOT_NONE = frozenset(("check_str", "text_match_three", "text_starta_endb"))


def is_none_or_object(task: Task) -> bool:
    """Whether only counts if a task's answer is None or not; the expected output is then a truth value."""
    return task.dataset == "mbpp" and task.entry_point in _NOT_NONE


class OutputComparison(Comparison):
    """Compares the outputs of one suite of a task, with the special rules of some tasks."""

    def __init__(self, task: Task) -> None:
        super().__init__(task.atol)
        self._dataset, self._entry_point = task.dataset, task.entry_point

    def _accepts(self, arguments: Sequence[Any], output: Any, expected: Any) -> bool:
        if self._dataset == "humaneval" and self._entry_point == "find_zero":
            return self._is_root(arguments[0], output) or not self._is_root(arguments[0], expected)
        return super()._accepts(arguments, output, expected)

    def _is_root(self, coefficients: list[float], x: Any) -> bool:
        """HumanEval/32. From Python 3.12 on ``sum`` compensates for rounding, and with it the reference, Newton's method,
        misses the roots of 7 of the added polynomials: an input on which the reference fails judges no program."""
        return abs(_polynomial(coefficients, x)) <= self.atol

    def exact(self, arguments: Sequence[Any], output: Any, expected: Any) -> bool:
        """Whether an output is right without any tolerance, or by the special rule of its task."""
        name = self._entry_point if self._dataset == "mbpp" else None
        if name in _AS_SETS:
            return set(output) == set(expected)
        if name in _NOT_NONE:
            return output == expected if isinstance(output, bool) else expected == (output is not None)
        if name == "are_equivalent":  # Mbpp/164: whatever is returned
            return True
        if super().exact(arguments, output, expected):
            return True
        if name == "sum_div":  # Mbpp/295
            return bool(output == 0)
        if name == "surface_Area":  # Mbpp/581: the height may be that of the pyramid, not of its sides
            return abs(output - _pyramid_area(*arguments)) <= self.atol
        return name == "digit_distance_nums" and output == _digit_distance(*arguments)  # Mbpp/558


def _polynomial(coefficients: list[float], x: float) -> float:
    """The value at x of c0 + c1 x + c2 x^2 + ..."""
    return sum(coefficient * math.pow(x, power) for power, coefficient in enumerate(coefficients))


def _pyramid_area(base: float, height: float) -> int:
    slant = math.sqrt((base / 2) ** 2 + height**2)
    return round(base**2 + 4 * (base * slant) / 2)


def _digit_distance(first: int, second: int) -> int:
    """Sum of the differences of the digits, the shorter number padded with zeros."""
    width = max(len(str(first)), len(str(second)))
    pairs = zip(str(first).zfill(width), str(second).zfill(width), strict=True)
    return sum(abs(int(left) - int(right)) for left, right in pairs)
