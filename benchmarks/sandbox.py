"""What running a program in the sandbox costs: ``python benchmarks/sandbox.py [--tasks 542] [--workers N]``.

Prints milliseconds per trivial task at each level, warm, beside the named baseline: a bare interpreter that does nothing
(``python -I -S -c pass``), measured between the tasks so that both see the same load. ``added`` is the sandbox's own cost.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from evaluation.sandbox.bubblewrap import interpreter
from evaluation.sandbox.run import Job, Limits, Sandbox, SandboxUnavailable

JOB = Job(source="def f(x): return x + 1", entry_point="f", inputs=((41,), (-1,)), expected=(42, 0))
ROUNDS = 60


def bare_ms() -> float:
    """One start of a bare interpreter."""
    start = time.perf_counter()
    subprocess.run([interpreter(), "-I", "-S", "-c", "pass"], check=True)
    return 1e3 * (time.perf_counter() - start)


def task_ms(sandbox: Sandbox) -> float:
    """One trivial task, alone."""
    start = time.perf_counter()
    (result,) = sandbox.run_all([JOB])
    if result.outcome != "passed":
        raise RuntimeError(f"found {result.outcome} ({result.detail}), expected passed")
    return 1e3 * (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description="The sandbox's cost per task.")
    parser.add_argument("--tasks", type=int, default=542, help="size of the batch (default: HumanEval and MBPP+)")
    parser.add_argument("--workers", type=int, default=None, help="programs at once (default: all processors)")
    args = parser.parse_args()
    print(f"{'level':48}{'bare ms':>9}{'task ms':>9}{'added':>9}{'least':>9}{f'{args.tasks} tasks':>12}")
    for isolation in ("bubblewrap", "landlock", "unsafe"):
        try:
            with Sandbox(limits=Limits(workers=args.workers, timeout_s=30), isolation=isolation) as sandbox:
                sandbox.run_all([JOB] * 8)
                pairs = [(bare_ms(), task_ms(sandbox)) for _ in range(ROUNDS)]
                start = time.perf_counter()
                passed = sum(result.outcome == "passed" for result in sandbox.run_all([JOB] * args.tasks))
                batch_s = time.perf_counter() - start
        except SandboxUnavailable as error:
            print(f"{isolation:48}{error}")
            continue
        if passed != args.tasks:
            raise RuntimeError(f"found {passed} passed, expected {args.tasks}")
        bare, task = (statistics.median(column) for column in zip(*pairs, strict=True))
        added, least = statistics.median(right - left for left, right in pairs), min(right for _, right in pairs)
        print(f"{sandbox.level:48}{bare:9.1f}{task:9.1f}{added:9.1f}{least:9.1f}{batch_s:10.1f} s")


if __name__ == "__main__":
    main()
