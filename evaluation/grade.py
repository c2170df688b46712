"""Grade completions without a model: ``python -m evaluation.grade --task gsm8k [--grader NAME] < cases.jsonl``.

Reads ``{"id", "gold", "completion"}`` lines, optionally with ``"question"`` (what was asked) and ``"truncated"`` (whether the
token limit cut the completion off), or for code tasks ``{"id", "record", "completion"}`` with the record of HumanEval, MBPP or
EvalPlus, and writes ``{"id", "correct", "extracted"}`` lines in the same order.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

from evaluation import sets
from evaluation.example import Example
from evaluation.graders.code import GraderUnavailable
from evaluation.graders.evalplus_oracle import OracleError
from evaluation.grading import grade, graders_of, runs_programs


class BadCase(ValueError):
    """A line that is not a case. The message names the line and what was expected."""


def _cases(lines: Iterable[bytes], task: str) -> tuple[list[Any], list[Example], list[str], list[bool]]:
    ids: list[Any] = []
    asked: list[Example] = []
    completions: list[str] = []
    truncated: list[bool] = []
    answer = "record" if runs_programs(task) else "gold"
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        # Bytes that are not UTF-8 come from the model: they are kept as they are, and at worst wrong.
        try:
            case = json.loads(line.decode("utf-8", errors="surrogateescape"))
        except ValueError as error:
            raise BadCase(f"line {number}: found no JSON ({error}), expected one object a line") from None
        missing = [key for key in ("id", answer, "completion") if not isinstance(case, dict) or key not in case]
        if missing:
            raise BadCase(f"line {number}: field {missing[0]!r} is missing, expected id, {answer} and completion")
        if not isinstance(case["completion"], str):
            raise BadCase(f"line {number}: completion: found {type(case['completion']).__name__}, expected text")
        for key, kind, expected in (("question", str, "text"), ("truncated", bool, "true or false")):
            if not isinstance(case.get(key, kind()), kind):
                raise BadCase(f"line {number}: {key}: found {type(case[key]).__name__}, expected {expected}")
        ids.append(case["id"])
        asked.append(_example(case, task, number))
        completions.append(case["completion"])
        truncated.append(case.get("truncated", False))
    return ids, asked, completions, truncated


def _example(case: dict[str, Any], task: str, number: int) -> Example:
    if not runs_programs(task):
        return Example(id=str(case["id"]), query=case.get("question", ""), gold=str(case["gold"]), reference="")
    try:
        return sets.examples(task, [case["record"]])[0]
    except ValueError as error:
        raise BadCase(f"line {number}: {error}") from None


def grade_lines(lines: Iterable[bytes], output: TextIO, *, task: str, grader: str, cache_dir: Path | None = None) -> None:
    """Grade every line of ``lines`` and write one verdict a line.

    Raises:
        BadCase: a line that is not a case, or whose record lacks what the grader needs; nothing is written then.
    """
    ids, asked, completions, truncated = _cases(lines, task)
    try:
        grading = grade(task, asked, completions, truncated=truncated, graders=[grader], cache_dir=cache_dir)
    except (GraderUnavailable, OracleError) as error:
        raise BadCase(str(error)) from None
    for identity, verdict in zip(ids, grading.verdicts[grader], strict=True):
        output.write(json.dumps({"id": identity, "correct": verdict.correct, "extracted": verdict.extracted}) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; exit status 2 on a bad argument or line."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.grade", description=__doc__.split("\n")[0])
    known = sets.registry()
    parser.add_argument("--task", required=True, choices=sorted(known))
    names = sorted({name for one in known.values() for name in one.graders})
    parser.add_argument("--grader", choices=names, help="default: the task's sound grader")
    parser.add_argument(
        "--cache-dir", type=Path, metavar="DIR", help="keep the expected outputs of EvalPlus's tasks here (default: nowhere)"
    )
    args = parser.parse_args(arguments)
    grader = args.grader or known[args.task].default_grader
    if grader not in graders_of(args.task):
        parser.error(f"--grader: found {grader}, expected one of {', '.join(graders_of(args.task))} for {args.task}")
    try:
        grade_lines(sys.stdin.buffer, sys.stdout, task=args.task, grader=grader, cache_dir=args.cache_dir)
    except BadCase as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
