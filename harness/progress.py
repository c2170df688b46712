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
    """Remember the files that this invocation is to make, and how many stood there before it began."""
    path.parent.mkdir(parents=True, exist_ok=True)
    done = sum(file.exists() for file in files)
    path.write_text(json.dumps({"started": time.time(), "done_before": done, "files": [str(f) for f in files]}))


def overall() -> str:
    """``runs 12 of 90, about 14 min left``; empty without a plan."""
    path = os.environ.get(ENVIRONMENT_VARIABLE)
    if not path or not Path(path).exists():
        return ""
    plan = json.loads(Path(path).read_text())
    total = len(plan["files"])
    done = sum(os.path.exists(file) for file in plan["files"])
    text = f"{done} of {total} runs done"
    made = done - plan["done_before"]
    if made > 0:
        left = (time.time() - plan["started"]) / made * (total - done)
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
