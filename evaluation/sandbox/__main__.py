"""``python -m evaluation.sandbox FILE.py --tests TESTS.json``: run one program that a model wrote, and print how it ended."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evaluation.sandbox.isolation import SandboxUnavailable
from evaluation.sandbox.run import Job, Limits, run

_Kind = type | tuple[type, ...]
_REQUIRED: dict[str, _Kind] = {"entry_point": str, "inputs": list, "expected": list}
_OPTIONAL: dict[str, _Kind] = {"atol": (int, float), "timeout_s": (int, float), "memory_mb": int}
_NAMES: dict[_Kind, str] = {str: "a string", list: "a list", int: "a whole number", (int, float): "a number"}
#: Below this the interpreter itself does not start.
_MIN_MEMORY_MB = 32


def _job_from_files(source: Path, tests: Path) -> Job:
    """The job that FILE.py and TESTS.json ask for.

    Raises:
        ValueError, OSError: a file cannot be read, or a key is missing or wrong.
    """
    spec = json.loads(tests.read_text(encoding="utf-8"))
    if not isinstance(spec, dict) or set(_REQUIRED) - set(spec) or set(spec) - set(_REQUIRED | _OPTIONAL):
        given = f"keys {', '.join(sorted(spec)) or 'none'}" if isinstance(spec, dict) else type(spec).__name__
        raise ValueError(f"found {given}, expected {', '.join(_REQUIRED)} and optionally {', '.join(_OPTIONAL)}")
    for key, kind in (_REQUIRED | _OPTIONAL).items():
        if key in spec and (not isinstance(spec[key], kind) or isinstance(spec[key], bool)):
            raise ValueError(f"{key}: found {json.dumps(spec[key])[:60]}, expected {_NAMES[kind]}")
    for row, arguments in enumerate(spec["inputs"]):
        if not isinstance(arguments, list):
            raise ValueError(f"inputs[{row}]: found {json.dumps(arguments)[:60]}, expected a list of arguments")
    for key, least in (("atol", 0), ("timeout_s", 1e-3), ("memory_mb", _MIN_MEMORY_MB)):
        if key in spec and not least <= spec[key] < math.inf:
            raise ValueError(f"{key}: found {spec[key]}, expected at least {least}")
    limits: dict[str, Any] = {"timeout_s": Limits.timeout_s, "memory_mb": Limits.memory_mb}
    return Job(**limits | spec, source=_read_program(source))


def _read_program(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="surrogateescape")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one JSON object with ``outcome`` on the last line.

    Returns:
        The exit status: 0 whatever the outcome, 1 if programs cannot be run safely here, 2 on bad arguments.
    """
    parser = argparse.ArgumentParser(prog="python -m evaluation.sandbox", description="Run an untrusted Python program.")
    parser.add_argument("file", type=Path, metavar="FILE.py")
    parser.add_argument(
        "--tests",
        type=Path,
        required=True,
        metavar="TESTS.json",
        help="entry_point, inputs, expected; optional atol, timeout_s, memory_mb",
    )
    parser.add_argument(
        "--allow-unsafe", action="store_true", help="where isolation does not work, run it with resource limits only"
    )
    args = parser.parse_args(arguments)
    try:
        job = _job_from_files(args.file, args.tests)
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except (ValueError, RecursionError) as error:
        print(f"error: {args.tests}: {error}", file=sys.stderr)
        return 2
    try:
        result = run(job, allow_unsafe=args.allow_unsafe)
    except SandboxUnavailable as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    record = asdict(result)
    del record["outputs"], record["right"]
    limits = Limits(timeout_s=job.timeout_s or Limits.timeout_s, memory_mb=job.memory_mb or Limits.memory_mb)
    print(json.dumps(record | limits.as_dict()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
