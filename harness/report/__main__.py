"""``python -m harness.report`` writes ``results/{experiment}/report.html``; ``--check`` recomputes its numbers."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness import cli
from harness.files import write_text
from harness.records.read import DEFAULT_RESULTS
from harness.report.sources import PAGE, open_source


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m harness.report", description="Write an experiment's report: one HTML page that opens from disk."
    )
    cli.add_config_arguments(parser)
    parser.add_argument("--results-dir", type=Path, default=DEFAULT_RESULTS, help="default: %(default)s")
    parser.add_argument("--figures-dir", type=Path, metavar="DIR", help=f"default: {cli.FIGURES}/{{experiment}}")
    parser.add_argument("--output", type=Path, metavar="FILE", help=f"default: {{results-dir}}/{{experiment}}/{PAGE}")
    parser.add_argument("--allow-missing", action="store_true", help="render what is there and say what is not")
    parser.add_argument(
        "--check", action="store_true", help="write nothing: recompute every number of the page from the raw files"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """The command line. With ``--check``, exit status 1 means that the page does not say what the records say."""
    args = _parser().parse_args(argv)
    configfiles, overrides = cli.parse_config(args)
    source = open_source(configfiles, overrides, results=args.results_dir, figures=args.figures_dir)
    path = args.output or source.folder / PAGE
    if args.check:
        from harness.report.check import check

        checked = check(source, path)
        for mismatch in checked.mismatches:
            print(mismatch)
        recomputed = f"{checked.words} printed numbers, {checked.cells} cells and {checked.runs} runs recomputed"
        print(f"{path}: {recomputed}: {'NOT ' if checked.mismatches else ''}as in the records")
        return 1 if checked.mismatches else 0
    from harness.report.page import render

    page = render(source, allow_missing=args.allow_missing)
    write_text(path, page)
    print(f"{path}: {len(page.encode()) / 1e6:.2f} MB, opens in a browser without a server")
    return 0


if __name__ == "__main__":
    cli.run(main)
