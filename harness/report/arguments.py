"""The arguments of the commands about a report: its page, its check, one number of it. Light: shown by ``--help``."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness import cli, reported

PAGE = "report.html"
REPORT = "Write an experiment's report: one HTML page that opens from disk."
CHECK = "Recompute every number of an experiment's report from the raw files."
TRACE = "Show everything behind one number."


def add_page_arguments(parser: argparse.ArgumentParser) -> None:
    """Which page, and what it is made of."""
    cli.add_config_arguments(parser)
    parser.add_argument("--results-dir", type=Path, default=cli.RESULTS, help="default: %(default)s")
    parser.add_argument("--figures-dir", type=Path, metavar="DIR", help=f"default: {cli.FIGURES}/{{experiment}}")
    parser.add_argument("--output", type=Path, metavar="FILE", help=f"default: {{results-dir}}/{{experiment}}/{PAGE}")


def add_report_arguments(parser: argparse.ArgumentParser) -> None:
    """To write a page or to check it."""
    add_page_arguments(parser)
    parser.add_argument("--allow-missing", action="store_true", help="render what is there and say what is not")
    parser.add_argument(
        "--check", action="store_true", help="write nothing: recompute every number of the page from the raw files"
    )


def add_check_arguments(parser: argparse.ArgumentParser) -> None:
    """To check a page: as ``add_report_arguments`` with ``--check``."""
    add_page_arguments(parser)
    parser.set_defaults(check=True)


def add_trace_arguments(parser: argparse.ArgumentParser) -> None:
    """Which number."""
    parser.add_argument("table", help="a table of the experiment, such as table1")
    parser.add_argument("model", help=f"key, label, or what it stands for: {', '.join(reported.MODEL_LABELS)}")
    parser.add_argument("method", help="key or label, such as BeamLoRA")
    parser.add_argument("task", help="test set, such as gsm8k or math/gsm8k; avg: the average")
    cli.add_config_arguments(parser)
    parser.add_argument("--results-dir", type=Path, default=cli.RESULTS, help="default: %(default)s")
