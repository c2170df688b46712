"""Programs that are right, nearly right and wrong, and what evalplus itself says about them.

A program is made from a task's own reference solution: it returns what that returns, changed in one way.

``EVALPLUS_SITE=FOLDER python -m tests.evaluation.graders.evalplus_cases`` writes ``evalplus_verdicts.json`` anew: some tasks
with few inputs each, and the verdicts of evalplus 0.3.1, which is installed in FOLDER (``pip install --target``).
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.paths import SHARED

Case = dict[str, str]
Verdicts = dict[str, str]

VERDICTS = Path(__file__).with_name("evalplus_verdicts.json")
SITE = "EVALPLUS_SITE"
RELEASES = {"humaneval": "HumanEvalPlus.jsonl.gz", "mbpp": "MbppPlus.jsonl.gz"}

#: What becomes of the reference's result ``r`` (and its arguments ``a``), as Python expressions.
CHANGES = {
    "right": "r",
    "none": "None",
    "off by one": "r + 1 if isinstance(r, (int, float)) else r[1:] if hasattr(r, '__getitem__') else r",
    "other number type": "float(r) if type(r) is int else int(r) if isinstance(r, (bool, float)) else r",
    "truth value": "bool(r)",
    "text": "str(r)",
    "other sequence": "tuple(r) if isinstance(r, list) else list(r) if isinstance(r, (tuple, set)) else r",
    "sorted backwards": "sorted(r, reverse=True) if isinstance(r, (list, tuple)) else r",
    "doubled": "r + r if isinstance(r, (list, tuple, str)) else r * 2",
    "set": "set(r) if isinstance(r, (list, tuple)) else r",
    "iterator": "iter(r) if isinstance(r, (list, tuple)) else r",
    "numbers inside as floats": "type(r)([float(x) if isinstance(x, int) else x for x in r])"
    " if isinstance(r, (list, tuple)) else r",
    "inner sequences exchanged": "[tuple(x) if isinstance(x, list) else list(x) if isinstance(x, tuple) else x for x in r]"
    " if isinstance(r, list) else r",
    "very near": "_shift(r, 1e-9)",
    "near": "_shift(r, 5e-7)",
    "not so near": "_shift(r, 5e-5)",
    "far": "_shift(r, 1e-2)",
    "arguments emptied": "(r, [x.clear() for x in a if isinstance(x, (list, dict, set))])[0]",
    "raises on the third call": "_count(3) or r",
    "none on the fourth call": "None if _calls[0] > 3 else r",
    "right on short input only": "r if len(str(a)) < 30 else None",
    "as Fractions": "_numbers(r, _Fraction)",
    "as Decimals": "_numbers(r, _Decimal)",
    "as numbers of NumPy": "_numbers(r, lambda x: _numpy.array([x])[0])",
    "as an array": "_numpy.array(r)",
    "keys": "dict.fromkeys(r).keys() if isinstance(r, (list, tuple, set)) else r",
    "own class": "type('T', (type(r),), {})(r) if type(r) in (int, str, list, tuple, dict, float) else r",
}

_HELPERS = """

import copy as _copy
from decimal import Decimal as _Decimal
from fractions import Fraction as _Fraction
{imports}
_calls = [0]


def _count(last):
    if _calls[0] >= last:
        raise ValueError
    return None


def _shift(r, by):
    if isinstance(r, float):
        return r + by
    if isinstance(r, (list, tuple)):
        return type(r)(_shift(x, by) for x in r)
    return r


def _numbers(r, kind):
    if isinstance(r, (int, float)) and not isinstance(r, bool):
        return kind(r)
    if isinstance(r, (list, tuple)):
        return type(r)(_numbers(x, kind) for x in r)
    return r


_reference = {entry_point}


def {entry_point}(*a):
    _calls[0] += 1
    r = _reference(*_copy.deepcopy(a))
    return {change}
"""


def program(record: dict[str, Any], change: str) -> str:
    """The reference solution of a release record with its result changed."""
    reference = record["prompt"] + record["canonical_solution"]
    filled = {"{entry_point}": record["entry_point"], "{change}": CHANGES[change]}
    # NumPy takes a tenth of a second to import.
    filled["{imports}"] = "import numpy as _numpy" if "_numpy" in CHANGES[change] else ""
    helpers = _HELPERS
    for name, text in filled.items():
        helpers = helpers.replace(name, text)
    return reference + helpers


def cases(record: dict[str, Any], dataset: str, *, count: int) -> list[Case]:
    """The right program and ``count`` changed ones, drawn by task."""
    chosen = ["right", *random.Random(record["task_id"]).sample(sorted(CHANGES.keys() - {"right"}), count)]
    return [
        {"dataset": dataset, "task_id": record["task_id"], "change": change, "program": program(record, change)}
        for change in chosen
    ]


def releases() -> dict[str, list[dict[str, Any]]]:
    """The records of EvalPlus's release files, by data set."""
    assert SHARED is not None
    records = {}
    for dataset, name in RELEASES.items():
        with gzip.open(SHARED / "data/evalplus" / name, "rt", encoding="utf-8") as stream:
            records[dataset] = [json.loads(line) for line in stream]
    return records


# ------------------------------------------------------------------------------------------------------ evalplus itself


def evalplus_missing() -> str | None:
    """Why evalplus cannot be run here; None where it can."""
    if SITE in os.environ or importlib.util.find_spec("evalplus") is not None:
        return None
    return f"evalplus cannot be imported and {SITE} does not name a folder with evalplus 0.3.1"


def reference_verdicts(asked: Sequence[Case], records: Sequence[dict[str, Any]]) -> list[Verdicts]:
    """What evalplus says about each program: {"base", "plus"}, each pass, fail or timeout."""
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as tasks:
        tasks.writelines(json.dumps(record) + "\n" for record in records)
        tasks.flush()
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("evalplus_reference.py")), tasks.name],
            input="".join(json.dumps(case) + "\n" for case in asked),
            env=os.environ | ({"PYTHONPATH": os.environ[SITE]} if SITE in os.environ else {}),
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        )
    return [json.loads(line) for line in done.stdout.splitlines()]


#: Tasks of the committed verdicts: every kind of argument and result, and every special rule that v0.2.0 still uses.
_TASKS = {
    "humaneval": "0 2 4 8 12 20 21 32 47 95 115 148".split(),
    "mbpp": "2 7 64 75 106 111 124 140 164 232 249 252 259 295 307 558 579 580 615 722 737 769 787 794".split(),
}
_PLUS_INPUTS = 6
_CHANGES_PER_TASK = 5


def main() -> None:
    records, asked = [], []
    for dataset, release in releases().items():
        for record in release:
            if record["task_id"].rpartition("/")[2] in _TASKS[dataset]:
                record["plus_input"] = record["plus_input"][:_PLUS_INPUTS]
                records.append({name: value for name, value in record.items() if name not in ("test", "assertion", "contract")})
                asked += cases(record, dataset, count=_CHANGES_PER_TASK)
    verdicts = reference_verdicts(asked, records)
    rows = [
        {"dataset": case["dataset"], "task_id": case["task_id"], "change": case["change"], **verdict}
        for case, verdict in zip(asked, verdicts, strict=True)
    ]
    content = {
        "source": "tasks: EvalPlus HumanEval+ v0.1.10 and MBPP+ v0.2.0 (Apache-2.0), cut to a few inputs; "
        "verdicts: evalplus 0.3.1 with HumanEval/32 repaired",
        "records": records,
        "verdicts": rows,
    }
    lines = json.dumps(content, indent=0).splitlines()
    VERDICTS.write_text(" ".join(lines).replace('{ "', '\n{"') + "\n", encoding="utf-8")
    print(f"{VERDICTS}: {len(rows)} verdicts on {len(records)} tasks")


if __name__ == "__main__":
    main()
