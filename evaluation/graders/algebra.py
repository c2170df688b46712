"""Algebra on answers that a model wrote, in a process of its own that can hang or die without harm.

``AlgebraWorker`` is a client; ``python -m evaluation.graders.algebra`` is its server. The server imports sympy once and forks
a child that answers requests; a request that exceeds its time or memory kills only that child, and a fresh one is
forked in milliseconds. No text is evaluated as Python: LaTeX goes to Math-Verify's parser, plain expressions through
a whitelist of syntax-tree nodes, and trees arrive parsed.
"""

from __future__ import annotations

import ast
import contextlib
import json
import math
import os
import resource
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.graders.expressions import values
from evaluation.graders.expressions.parse import Node

if TYPE_CHECKING:
    import sympy

#: Seconds per comparison. Math-Verify needs about a millisecond for an ordinary pair.
TIMEOUT_S = 0.7
MEMORY_BYTES = 2 << 30
#: Longer answers are unequal by definition: no gold answer of MATH has more than 200 characters.
MAX_CHARACTERS = 1000
_START_UP_S = 120.0

# -------------------------------------------------------------------------------------------------------------- client


class AlgebraWorker:
    """Compares answers in a server process that starts on first use. Thread-safe."""

    def __init__(self, *, timeout_s: float = TIMEOUT_S) -> None:
        self.timeout_s = timeout_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = b""
        self._requests = 0

    def latex_equal(self, prediction: str, gold: str) -> bool:
        """Math-Verify's verdict on two LaTeX answers. False where it takes too long."""
        return self._ask("latex", prediction, gold)

    def expression_equal(self, prediction: str, gold: str) -> bool:
        """Whether two plain expressions (Python's operators) are equal by sympy, or within 1e-3 numerically."""
        return self._ask("expression", prediction, gold)

    def same_value(self, prediction: Node, gold: Node) -> bool:
        """``values.same_value``. False where it takes too long."""
        return self._ask("same_value", prediction, gold)

    def proportional(self, prediction: Node, gold: Node, *, positive: bool) -> bool:
        """``values.proportional``. False where it takes too long."""
        return self._ask("above" if positive else "proportional", prediction, gold)

    def close(self) -> None:
        """End the server. The next comparison starts another."""
        with self._lock:
            if self._process is not None:
                self._process.kill()
                self._process.communicate()
                self._process = None

    def _ask(self, kind: str, prediction: str | Node, gold: str | Node) -> bool:
        if isinstance(prediction, str) and max(len(prediction), len(gold)) > MAX_CHARACTERS:
            return False
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._start()
            assert self._process is not None and self._process.stdin is not None
            self._requests += 1
            request = {
                "id": self._requests,
                "kind": kind,
                "prediction": prediction,
                "gold": gold,
                "timeout_s": self.timeout_s,
            }
            self._process.stdin.write(json.dumps(request, default=str).encode() + b"\n")
            self._process.stdin.flush()
            reply = self._read(self.timeout_s + 5)
            if reply is None:  # the server itself hangs; its child is limited, so this is a machine in trouble
                self._process.kill()
                self._process.communicate()
                self._process = None
                return False
            return reply.get("id") == self._requests and reply.get("equal") is True

    def _start(self) -> None:
        self._buffer = b""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "evaluation.graders.algebra"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=Path(__file__).resolve().parents[2],
            start_new_session=True,
            env={"PATH": os.defpath, "OMP_NUM_THREADS": "1"},
        )
        if self._read(_START_UP_S) is None:
            raise RuntimeError(
                f"the algebra server did not start (exit status {self._process.poll()}); is math-verify installed?"
            )

    def _read(self, timeout_s: float) -> dict[str, Any] | None:
        assert self._process is not None and self._process.stdout is not None
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._process.stdout], [], [], timeout_s)
            chunk = os.read(self._process.stdout.fileno(), 65536) if ready else b""
            if not chunk:
                return None
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)


# -------------------------------------------------------------------------------------------------------------- server

_MAX_EXPONENT = 1000
_CONSTANTS = ("pi", "E", "I", "oo")
_FUNCTIONS = ("sqrt", "sin", "cos", "tan", "asin", "acos", "atan", "log", "ln", "exp", "Abs", "factorial", "binomial")


def _expression(text: str) -> sympy.Basic:
    """A sympy expression from Python's expression syntax, where ``^`` is Xor as in sympy's own parser.

    Raises:
        ValueError, SyntaxError, TypeError: anything but numbers, names, operators, tuples and known functions.
    """
    import sympy

    def build(node: ast.AST) -> Any:
        match node:
            case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
                return sympy.Integer(value) if isinstance(value, int) else sympy.Float(ast.unparse(node))
            case ast.Name(id=name):
                return getattr(sympy, name) if name in _CONSTANTS else sympy.Symbol(name)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -build(operand)
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return build(operand)
            case ast.Tuple(elts=items):
                return sympy.Tuple(*map(build, items))
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
                return getattr(sympy, name)(*map(build, args))
            case ast.BinOp(left=left, op=operator, right=right):
                return _operate(operator, build(left), build(right))
        raise ValueError(f"{type(node).__name__} is not arithmetic")

    return build(ast.parse(text.strip(), mode="eval").body)


def _operate(operator: ast.operator, left: Any, right: Any) -> Any:
    match operator:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
        case ast.Div():
            return left / right
        case ast.Pow():
            if getattr(right, "is_number", False) and abs(right) > _MAX_EXPONENT:
                raise ValueError("exponent too large")
            return left**right
        case ast.BitXor():
            return left ^ right
    raise ValueError(f"{type(operator).__name__} is not arithmetic")


def _expression_equal(prediction: str, gold: str) -> bool:
    import sympy

    try:
        left, right = _expression(prediction), _expression(gold)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError, OverflowError):
        return False
    with contextlib.suppress(Exception):
        if sympy.simplify(left - right) == 0:
            return True
    with contextlib.suppress(Exception):
        return math.isclose(float(sympy.N(left)), float(sympy.N(right)), rel_tol=1e-3)
    return False


def _latex_equal(prediction: str, gold: str) -> bool:
    from math_verify import LatexExtractionConfig, parse, verify

    try:
        left, right = (
            parse(f"\\boxed{{{text}}}", [LatexExtractionConfig()], parsing_timeout=None) for text in (gold, prediction)
        )
        return bool(verify(left, right, timeout_seconds=None))
    except Exception:  # a third-party parser on arbitrary text: whatever it raises, the answer is not shown to be equal
        return False


def _tree(node: Any) -> Any:
    """A tree from its JSON, in which tuples are lists and fractions texts."""
    if not isinstance(node, list):
        return node
    if node and node[0] == "num":
        return ("num", Fraction(node[1]), node[2])
    return tuple(map(_tree, node))


def _on_trees(compare: Callable[[Node, Node], bool]) -> Callable[[Any, Any], bool]:
    return lambda prediction, gold: compare(_tree(prediction), _tree(gold))


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "latex": _latex_equal,
    "expression": _expression_equal,
    "same_value": _on_trees(values.same_value),
    "proportional": _on_trees(partial(values.proportional, positive=False)),
    "above": _on_trees(partial(values.proportional, positive=True)),
}


def _serve() -> None:
    """Answer requests until the input ends. A request over its time ends this process, in C code too."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    buffer = b""
    while True:
        while b"\n" not in buffer:
            chunk = os.read(0, 65536)
            if not chunk:
                return
            buffer += chunk
        line, _, buffer = buffer.partition(b"\n")
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, request["timeout_s"])
        equal = _COMPARE[request["kind"]](request["prediction"], request["gold"])
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.write(1, json.dumps({"id": request["id"], "equal": equal}).encode() + b"\n")


def _main() -> None:
    """Import once, then keep one serving child alive; the line that announces a new child tells the client that the
    request before it has failed."""
    import logging

    import math_verify
    import sympy  # noqa: F401

    logging.disable(logging.CRITICAL)
    sys.stdout = sys.stderr
    _expression_equal("1/2+x", "x+0.5")
    math_verify.verify(
        math_verify.parse("\\boxed{\\frac12}", parsing_timeout=None),
        math_verify.parse("\\boxed{0.5}", parsing_timeout=None),
        timeout_seconds=None,
    )
    while True:
        os.write(1, b'{"ready": true}\n')
        child = os.fork()
        if child == 0:
            status = 1
            try:
                _serve()
                status = 0
            finally:
                os._exit(status)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
            return


if __name__ == "__main__":
    _main()
