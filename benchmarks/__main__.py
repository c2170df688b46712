"""Our time and memory beside other programs' on this machine: ``make bench``, or ``python -m benchmarks``.

Each side is measured in turn, in one process and on one thread; a row is the median over rounds of the ratio of CPU times,
which a busy machine changes less than wall-clock ones.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from benchmarks import choices, generation, training, workflow
from benchmarks.rounds import Size
from harness import cli, files
from harness.provenance import git_state, hardware, versions
from harness.records.bench import FILE, TOLERANCE, BenchRecord, Row
from harness.source_files import ROOT

MEASURES: dict[str, Callable[[Size], Iterator[Row]]] = {
    "training": training.measure,
    "smollm2": training.measure_smollm2,
    "scaling": training.measure_scaling,
    "choices": choices.measure,
    "generation": generation.measure,
    "workflow": workflow.measure,
    "table1": workflow.measure_table1,
}
OUTPUT = ROOT / "results" / FILE


def as_line(row: Row) -> str:
    """A row of the printed table."""
    low, high = row.spread
    unit = "" if row.peer else " s"
    wall = "" if row.of == "memory" else f"  wall {statistics.median(row.values(wall=True)):.2f}{unit}"
    verdict = "" if row.goal is None else f"  goal {row.goal:g}: {'met' if row.value <= row.goal else 'missed'}"
    return f"{row.name:44} {row.value:6.2f}{unit} [{low:.2f}, {high:.2f}]{wall}{verdict}"


def main(arguments: list[str] | None = None) -> int:
    """The command line. Exit status 1: with ``--check``, a goal is missed by more than the tolerance."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split("\n")[0])
    parser.add_argument("measures", nargs="*", metavar="MEASURE", help=f"of {', '.join(MEASURES)} (default: all)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="of each measure (default: %(default)s)")
    parser.add_argument("--smoke", action="store_true", help="as little as runs through: its numbers mean nothing")
    parser.add_argument(
        "--check", action="store_true", help=f"fail where a goal is missed by more than {100 * TOLERANCE:.0f} %% of it"
    )
    parser.add_argument("--data-dir", metavar="DIR", help="folder with local copies of the public sets (default: the hub)")
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="FILE", help="the record (default: %(default)s)")
    args = parser.parse_args(arguments)
    unknown = [name for name in args.measures if name not in MEASURES]
    if unknown:
        parser.error(f"found measures {', '.join(unknown)}, expected some of {', '.join(MEASURES)}")
    files.require_writable(args.output)
    torch.set_num_threads(1)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        size = Size(smoke=args.smoke, rounds=1 if args.smoke else args.rounds, scratch=Path(scratch), data_dir=args.data_dir)
        for name in args.measures or MEASURES:
            for row in MEASURES[name](size):
                rows.append(row)
                print(as_line(row), flush=True)
    record = BenchRecord(
        created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        smoke=args.smoke,
        versions=versions(),
        hardware=hardware(),
        git=git_state(ROOT),
        rows=tuple(rows),
    )
    files.write_json(args.output, record.model_dump(mode="json"))
    print(", ".join(f"{package} {release}" for package, release in record.versions.items()))
    return int(args.check and any(row.missed for row in rows))


if __name__ == "__main__":
    cli.run(main)
