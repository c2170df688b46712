"""When what a program returned is what was expected: EvalPlus's rule (``evalplus.eval.unsafe_execute`` in 0.3.1).

Values are plain data (``evaluation.sandbox.child.Codec``), so that Python's own ``==`` asks no method of the program's. One
departure, towards the safe side: numbers in lists are close only where the shapes agree (NumPy would stretch ``[[1.0]]``
to fit ``[[1.0, 1.0]]``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

#: Floats are compared with this absolute tolerance where a task states none; and the relative one.
FLOAT_ATOL = 1e-6
_RTOL = 1e-7


class Comparison:
    """Compares outputs in the order of their inputs: equal, or numbers close by ``atol`` (0: none may differ).

    It has a state: as in EvalPlus, once a float was expected, the float tolerance holds for the inputs that follow.
    """

    def __init__(self, atol: float = 0.0) -> None:
        self.atol = atol

    def accepts(self, arguments: Sequence[Any], output: Any, expected: Any) -> bool:
        """Whether an output is right. All three are plain data, or objects that equal only themselves."""
        try:
            return self._accepts(arguments, output, expected)
        except (TypeError, ValueError, ArithmeticError, IndexError, RecursionError):
            return False

    def _accepts(self, arguments: Sequence[Any], output: Any, expected: Any) -> bool:
        exact = self.exact(arguments, output, expected)
        if self.atol == 0 and _is_floats(expected):
            self.atol = FLOAT_ATOL
        return exact or (self.atol != 0 and self.same_kind(output, expected) and _close(output, expected, self.atol))

    def exact(self, arguments: Sequence[Any], output: Any, expected: Any) -> bool:
        """Whether an output is right without any tolerance."""
        return bool(output == expected)

    def same_kind(self, output: Any, expected: Any) -> bool:
        """Whether a tolerance applies between two values."""
        return type(output) is type(expected)


class JsonComparison(Comparison):
    """With expected values written in JSON, which has no tuples and one kind of number: a tuple equals the list of its items,
    and a tolerance that is stated holds between whole numbers and floats, too."""

    def __init__(self, atol: float = 0.0) -> None:
        super().__init__(atol)
        self._stated = atol != 0

    def _accepts(self, arguments: Sequence[Any], output: Any, expected: Any) -> bool:
        return super()._accepts(arguments, _without_tuples(output), _without_tuples(expected))

    def same_kind(self, output: Any, expected: Any) -> bool:
        """Whether a tolerance applies between two values."""
        return super().same_kind(output, expected) or (self._stated and {type(output), type(expected)} == {int, float})


def _without_tuples(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_without_tuples(item) for item in value]
    if isinstance(value, dict):
        return {key: _without_tuples(item) for key, item in value.items()}
    return value


def _is_floats(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and all(isinstance(item, float) for item in value)
    return isinstance(value, float)


def _close(output: Any, expected: Any, atol: float) -> bool:
    """Numbers, or sequences of them of the same shape, that differ by at most atol + 1e-7 |expected|."""
    if isinstance(expected, list | tuple) and isinstance(output, list | tuple):
        return len(output) == len(expected) and all(
            _close(left, right, atol) for left, right in zip(output, expected, strict=True)
        )
    if not _is_machine_number(output) or not _is_machine_number(expected):
        return False
    if isinstance(expected, float) and math.isinf(expected):
        return output == expected
    return abs(output - expected) <= atol + _RTOL * abs(expected)


def _is_machine_number(value: Any) -> bool:
    """Whether NumPy has a type for a number; it does not compare larger integers with a tolerance."""
    return isinstance(value, float | complex) or (isinstance(value, int) and -(1 << 63) <= value < 1 << 64)
