"""``python -m harness.report`` writes ``results/{experiment}/report.html``; ``--check`` recomputes its numbers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from harness import cli
from harness.report.arguments import PAGE, REPORT, add_report_arguments

if TYPE_CHECKING:
    from harness.report.sources import Source


def execute(args: argparse.Namespace) -> int:
    """Write the page, or check it. Of a check, exit status 1 means that the page does not say what the records say."""
    from harness.report.sources import open_source

    source = open_source(cli.parse_config(args), results=args.results_dir, figures=args.figures_dir)
    path = args.output or source.folder / PAGE
    return _check(source, path) if args.check else _write(source, path, allow_missing=args.allow_missing)


def _check(source: Source, path: Path) -> int:
    from harness.report.check import check

    checked = check(source, path)
    for mismatch in checked.mismatches:
        print(mismatch)
    recomputed = f"{checked.words} printed numbers, {checked.cells} cells and {checked.runs} runs recomputed"
    print(f"{path}: {recomputed}: {'NOT ' if checked.mismatches else ''}as in the records")
    return 1 if checked.mismatches else 0


def _write(source: Source, path: Path, *, allow_missing: bool) -> int:
    from harness.files import require_writable, write_text
    from harness.report.page import render_page

    require_writable(path)
    page = render_page(source, allow_missing=allow_missing)
    write_text(path, page)
    print(f"{path}: {len(page.encode()) / 1e6:.2f} MB, opens in a browser without a server")
    return 0


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m harness.report", description=REPORT)
    add_report_arguments(parser)
    return execute(parser.parse_args(argv))


if __name__ == "__main__":
    cli.run(main)
