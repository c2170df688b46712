"""Where graders disagree on the same predictions: ``python -m harness.answers.audit RUN_DIR [RUN_DIR ...]``.

Every completion of a run was graded by every grader of its task. A result that changes with the grader is a result about
graders; this lists the items behind the difference, so that a reader can decide who is right.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness import cli
from harness.errors import ConfigError
from harness.records.read import read_metrics, read_predictions

#: Characters of the end of a completion that are shown.
TAIL_CHARACTERS = 160
#: Our strictest grader of mathematics, and the public one that readers will hold it against.
REFERENCE = ("sound", "math_verify")
_FIELDS = ("id", "completion", "verdicts", "correct")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two graders on the same predictions: how many each accepts alone. ``share`` is of all predictions."""

    first: str
    second: str
    first_only: int
    second_only: int
    share: float


@dataclass(frozen=True, kw_only=True)
class Item:
    """A prediction on which the graders do not agree. ``extracted`` is what the headline grader took from it."""

    id: str
    gold: str | None
    extracted: str | None
    #: What each grader gives: true, false, or 1/k of a tie.
    verdicts: dict[str, bool | float]
    #: How the program's run ended under the headline grader (code tasks).
    outcome: str | None
    truncated: bool
    tail: str


@dataclass(frozen=True, kw_only=True)
class TaskAudit:
    """One task of one run. ``accuracy`` has every grader's; ``unparseable`` and ``truncated`` are shares of n."""

    run: str
    task: str
    headline: str | None
    n: int
    accuracy: dict[str, float]
    unparseable: float
    truncated: float
    pairs: list[Pair]
    items: list[Item]

    @property
    def disputed(self) -> float:
        """The share of predictions on which at least two graders disagree."""
        return len(self.items) / self.n

    @property
    def against_reference(self) -> Pair | None:
        """The sound grader beside the public one, Math-Verify; None where the task lacks one of them."""
        return next((pair for pair in self.pairs if {pair.first, pair.second} == set(REFERENCE)), None)

    @property
    def agreement(self) -> float | None:
        """The share of predictions on which the sound grader and Math-Verify agree; None where the task lacks one of them."""
        return None if self.against_reference is None else 1 - self.against_reference.share


def _is_verdict(value: Any) -> bool:
    return isinstance(value, bool | float) and 0 <= value <= 1


def _verdicts(row: Mapping[str, Any], where: str) -> dict[str, bool | float]:
    verdicts = row["verdicts"]
    if not isinstance(verdicts, dict) or not verdicts or not all(map(_is_verdict, verdicts.values())):
        raise ConfigError(f"{where}: verdicts: found {verdicts!r}, expected true, false or a share for each grader")
    return verdicts


def _tail(completion: str) -> str:
    """The end of a completion on one line, without characters that would move a terminal's cursor or colour it."""
    text = completion if len(completion) <= TAIL_CHARACTERS else "..." + completion[-TAIL_CHARACTERS:]
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _item(row: Mapping[str, Any]) -> Item:
    return Item(
        id=str(row["id"]),
        gold=row.get("gold"),
        extracted=row.get("extracted"),
        verdicts=row["verdicts"],
        outcome=row.get("outcome"),
        truncated=bool(row.get("truncated", False)),
        tail=_tail(row["completion"]),
    )


def pair(first: str, second: str, verdicts: Sequence[Mapping[str, bool | float]]) -> Pair:
    """Two graders by the verdicts of each prediction, of which there is at least one."""
    first_only = sum(judged[first] > judged[second] for judged in verdicts)
    second_only = sum(judged[second] > judged[first] for judged in verdicts)
    share = (first_only + second_only) / len(verdicts)
    return Pair(first=first, second=second, first_only=first_only, second_only=second_only, share=share)


def audit_rows(rows: Sequence[Mapping[str, Any]], *, run: str, task: str, headline: str | None = None) -> TaskAudit:
    """Compare the graders on one task's predictions. Pairs come with the most disputed first.

    Raises:
        ConfigError: no rows, a row without a verdict of each grader, or rows that differ in their graders.
    """
    where = f"{run}: {task}"
    if not rows:
        raise ConfigError(f"{where}: found no predictions, expected at least one")
    verdicts = [_verdicts(row, f"{where} {row['id']}") for row in rows]
    graders = list(verdicts[0])
    for row, judged in zip(rows, verdicts, strict=True):
        if set(judged) != set(graders):
            raise ConfigError(f"{where} {row['id']}: found graders {', '.join(judged)}, expected {', '.join(graders)}")
    n = len(rows)
    pairs = [pair(first, second, verdicts) for first, second in itertools.combinations(graders, 2)]
    return TaskAudit(
        run=run,
        task=task,
        headline=headline,
        n=n,
        accuracy={grader: sum(judged[grader] for judged in verdicts) / n for grader in graders},
        unparseable=sum(bool(row.get("unparseable")) for row in rows) / n,
        truncated=sum(bool(row.get("truncated")) for row in rows) / n,
        pairs=sorted(pairs, key=lambda one: -one.share),
        items=[_item(row) for row, judged in zip(rows, verdicts, strict=True) if len(set(judged.values())) > 1],
    )


def audit_run(run_dir: Path, *, task: str | None = None) -> list[TaskAudit]:
    """Audit one run's tasks, or one of them.

    Raises:
        ConfigError: the folder holds no evaluated run, no such task, or a broken record.
    """
    tasks = read_metrics(run_dir)["tasks"]
    if task is not None and task not in tasks:
        raise ConfigError(f"{run_dir}: --task: found {task!r}, expected one of {', '.join(tasks) or 'none: the run diverged'}")
    return [
        audit_rows(read_predictions(run_dir, name, fields=_FIELDS), run=str(run_dir), task=name, headline=metrics.get("grader"))
        for name, metrics in tasks.items()
        if task in (None, name)
    ]


# -------------------------------------------------------------------------------------------------------------- showing


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _item_lines(item: Item) -> list[str]:
    accept = ", ".join(name for name, correct in item.verdicts.items() if correct)
    reject = ", ".join(name for name, correct in item.verdicts.items() if not correct)
    notes = [note for note in (item.outcome, "truncated" if item.truncated else None) if note]
    lines = [f"  {item.id}: accepted by {accept}; rejected by {reject}" + (f"  ({', '.join(notes)})" if notes else "")]
    if item.gold is not None:
        lines.append(f"    gold {item.gold!r}, extracted {item.extracted!r}")
    return [*lines, f"    {item.tail}"]


def audit_text(audit: TaskAudit) -> str:
    """One task's audit as text for a terminal."""
    graders = ", ".join(
        f"{name} {_percent(share)}{' (headline)' if name == audit.headline else ''}" for name, share in audit.accuracy.items()
    )
    lines = [
        f"{audit.run}  {audit.task}  n = {audit.n}",
        f"  accuracy: {graders}",
        f"  unparseable {_percent(audit.unparseable)}, truncated {_percent(audit.truncated)}, "
        f"graders disagree on {len(audit.items)} ({_percent(audit.disputed)})",
    ]
    if (reference := audit.against_reference) is not None:
        lines.append(f"  {' and '.join(REFERENCE)} agree on {_percent(1 - reference.share)}")
    lines += [
        f"  {pair.first} / {pair.second}: {_percent(pair.share)} disputed; only {pair.first} accepts {pair.first_only}, "
        f"only {pair.second} accepts {pair.second_only}"
        for pair in audit.pairs
        if pair.share
    ]
    for item in audit.items:
        lines += _item_lines(item)
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m harness.answers.audit", description=(__doc__ or "").split("\n")[0])
    cli.add_run_dirs(parser)
    parser.add_argument("--task", metavar="NAME", help="this task only")
    parser.add_argument("--json", action="store_true", help="one JSON array instead of text")
    args = parser.parse_args(arguments)
    audits = [audit for run_dir in args.run_dirs for audit in audit_run(run_dir, task=args.task)]
    if args.json:
        json.dump(
            [asdict(audit) | {"disputed": audit.disputed, "agreement": audit.agreement} for audit in audits],
            sys.stdout,
            indent=2,
        )
        print()
    else:
        # Completions may hold what the terminal's encoding does not: shown escaped rather than failing.
        text = "\n\n".join(map(audit_text, audits)) or "no task was evaluated: every run diverged"
        encoding = sys.stdout.encoding or "utf-8"
        print(text.encode(encoding, errors="backslashreplace").decode(encoding))
    return 0


if __name__ == "__main__":
    cli.run(main)
