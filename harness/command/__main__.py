"""``beamlora``, or ``python -m harness.command``: the commands that one uses most, under one name.

Every command has the arguments of its module. What a command needs beyond them is imported once they are read, so that
``--help`` is there at once.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness import cli
from harness.command import demo, doctor
from harness.compare import __main__ as compare
from harness.errors import ConfigError
from harness.fetch import __main__ as fetch
from harness.figures import __main__ as figure
from harness.plan import __main__ as plan
from harness.report import arguments as about
from harness.tables import __main__ as table
from harness.tables.arguments import add_table_arguments


@dataclass(frozen=True, kw_only=True)
class Command:
    """One word after ``beamlora``."""

    description: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    #: Its function ``execute`` takes the parsed arguments and returns the exit status.
    module: str
    #: Whether it reads or writes folders of the checkout, which then must be the current folder.
    in_checkout: bool = True


COMMANDS = {
    "demo": Command(description=demo.DESCRIPTION, add_arguments=demo.add_arguments, module="harness.command.demo"),
    "table": Command(description=table.DESCRIPTION, add_arguments=add_table_arguments, module="harness.tables.__main__"),
    "figure": Command(description=figure.DESCRIPTION, add_arguments=figure.add_arguments, module="harness.figures.__main__"),
    "fetch": Command(description=fetch.DESCRIPTION, add_arguments=fetch.add_arguments, module="harness.fetch.__main__"),
    "plan": Command(description=plan.DESCRIPTION, add_arguments=plan.add_arguments, module="harness.plan.__main__"),
    "trace": Command(description=about.TRACE, add_arguments=about.add_trace_arguments, module="harness.report.trace"),
    "report": Command(description=about.REPORT, add_arguments=about.add_report_arguments, module="harness.report.__main__"),
    "check": Command(description=about.CHECK, add_arguments=about.add_check_arguments, module="harness.report.__main__"),
    "compare": Command(
        description=compare.DESCRIPTION,
        add_arguments=compare.add_arguments,
        module="harness.compare.__main__",
        in_checkout=False,
    ),
    "doctor": Command(
        description=doctor.DESCRIPTION,
        add_arguments=doctor.add_arguments,
        module="harness.command.doctor",
        in_checkout=False,  # which it finds, among other things
    ),
}


def parser() -> argparse.ArgumentParser:
    """All commands and their arguments."""
    made = argparse.ArgumentParser(prog="beamlora", description="Is a LoRA variant better than plain LoRA?")
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        summary = command.description.partition("\n")[0]
        one = commands.add_parser(name, help=summary, description=command.description)
        command.add_arguments(one)
    return made


def require_checkout() -> None:
    """Most commands read and write folders of the checkout, which is the current folder.

    Raises:
        ConfigError: it is not.
    """
    if not Path("Snakefile").is_file():
        from harness.source_files import ROOT

        hint = f": cd {ROOT}" if (ROOT / "Snakefile").is_file() else ""
        raise ConfigError(f"{Path.cwd()}: found no Snakefile, expected a checkout of beamlora-harness{hint}")


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    read = parser()
    args, more = read.parse_known_args(arguments)
    if args.command == "demo":
        args.snakemake = more
    elif more:
        read.error(f"unrecognized arguments: {' '.join(more)}")
    command = COMMANDS[args.command]
    if command.in_checkout:
        require_checkout()
    return importlib.import_module(command.module).execute(args)


def entry() -> None:
    """The console script."""
    cli.run(main)


if __name__ == "__main__":
    entry()
