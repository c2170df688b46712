"""Progress that a person can read: which run of how many, which step, how much time is left.

The Snakefile names the runs of the current invocation in a JSON file and passes its path in ``BEAMLORA_PROGRESS``; a job
counts the finished ones from the files on disk. Without it a job reports on itself alone.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

ENVIRONMENT_VARIABLE = "BEAMLORA_PROGRESS"


def duration(seconds: float) -> str:
    """``75.2`` -> ``1 min 15 s``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def write_plan(path: Path, files: list[Path]) -> None:
    """Remember the files that this invocation is to make, and when it began."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"started": time.time(), "files": [str(f) for f in files]}))


def _made_at(file: str) -> float | None:
    """None without the file, which Snakemake may remove at any moment to make it again."""
    try:
        return os.path.getmtime(file)
    except FileNotFoundError:
        return None


def overall() -> str:
    """``12 of 90 runs done, about 14 min left in all``; empty without a plan. The pace is that of the runs since the first
    one that this invocation finished: what came before it, base models among it, is not repeated."""
    path = os.environ.get(ENVIRONMENT_VARIABLE)
    if not path or not Path(path).exists():
        return ""
    plan = json.loads(Path(path).read_text())
    total = len(plan["files"])
    finished = sorted(when for file in plan["files"] if (when := _made_at(file)) is not None)
    text = f"{len(finished)} of {total} runs done"
    made = [when for when in finished if when >= plan["started"]]
    if len(made) > 1:
        left = (time.time() - made[0]) / (len(made) - 1) * (total - len(finished))
        text += f", about {duration(left)} left in all"
    return text


class Progress:
    """Prints a line at the first update, at the last, and at most every ``interval`` seconds between them."""

    def __init__(self, title: str, *, interval: float = 5.0) -> None:
        self.title = title
        self.interval = interval
        self.started = time.monotonic()
        self._printed = -interval

    def update(self, done: int, total: int, note: str = "") -> None:
        """Report that ``done`` of ``total`` units (optimizer steps, prompts) are finished."""
        now = time.monotonic() - self.started
        if done < total and now - self._printed < self.interval:
            return
        self._printed = now
        left = f"{duration(now / done * (total - done))} left" if 0 < done < total else ""
        parts = [self.title, f"{done}/{total}", note, left, overall()]
        print(" · ".join(part for part in parts if part), flush=True)
