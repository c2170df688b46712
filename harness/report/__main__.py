"""``python -m harness.report`` writes ``results/{experiment}/report.html``; ``--check`` recomputes its numbers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from harness import cli

if TYPE_CHECKING:
    from harness.report.sources import Source

PAGE = "report.html"


def _add_page_arguments(parser: argparse.ArgumentParser) -> None:
    cli.add_config_arguments(parser)
    parser.add_argument("--results-dir", type=Path, default=cli.RESULTS, help="default: %(default)s")
    parser.add_argument("--figures-dir", type=Path, metavar="DIR", help=f"default: {cli.FIGURES}/{{experiment}}")
    parser.add_argument("--output", type=Path, metavar="FILE", help=f"default: {{results-dir}}/{{experiment}}/{PAGE}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """To write a page or to check it."""
    _add_page_arguments(parser)
    parser.add_argument("--allow-missing", action="store_true", help="render what is there and say what is not")
    parser.add_argument(
        "--check", action="store_true", help="write nothing: recompute every number of the page from the raw files"
    )


def add_check_arguments(parser: argparse.ArgumentParser) -> None:
    """To check a page: as ``add_arguments`` with ``--check``."""
    _add_page_arguments(parser)
    parser.set_defaults(check=True)


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


COMMAND = cli.Command(
    "harness.report", "Write an experiment's report: one HTML page that opens from disk.", add_arguments, execute
)
CHECK = cli.Command(
    "harness.report", "Recompute every number of an experiment's report from the raw files.", add_check_arguments, execute
)
main = COMMAND.main

if __name__ == "__main__":
    cli.run(main)
