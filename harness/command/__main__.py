"""``beamlora``, or ``python -m harness.command``: the commands that one uses most, under one name.

Every command has the arguments of its module. What a command needs beyond them is imported once they are read, so that
``--help`` is there at once.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from harness import cli
from harness.command import demo, doctor
from harness.compare import __main__ as compare
from harness.errors import ConfigError
from harness.fetch import __main__ as fetch
from harness.figures import __main__ as figure
from harness.plan import __main__ as plan
from harness.report import __main__ as report
from harness.report import trace
from harness.tables import __main__ as table

COMMANDS = {
    "demo": demo.COMMAND,
    "table": table.COMMAND,
    "figure": figure.COMMAND,
    "fetch": fetch.COMMAND,
    "plan": plan.COMMAND,
    "trace": trace.COMMAND,
    "report": report.COMMAND,
    "check": report.CHECK,
    "compare": compare.COMMAND,
    "doctor": doctor.COMMAND,
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
    return command.execute(args)


def entry() -> None:
    """The console script."""
    cli.run(main)


if __name__ == "__main__":
    entry()
