"""``beamlora doctor``: what stands in the way of a run on this machine, and for each fault the command that mends it."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from harness import cli


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def execute(args: argparse.Namespace) -> int:
    """Print what was found. Exit status 1: there is a fault."""
    from harness.command.checks import examine

    findings = examine()
    faults = sum(one.status == "fault" for one in findings)
    if args.json:
        print(json.dumps({"ready": faults == 0, "findings": [asdict(one) for one in findings]}, indent=2))
        return int(faults > 0)
    for one in findings:
        print(f"{one.status:5}  {one.name:12}  {one.found}")
        if one.mend is not None:
            print(f"{'':21}mend: {one.mend}")
    print("ready" if faults == 0 else f"{faults} fault{'s' if faults > 1 else ''}: mend, and look again")
    return int(faults > 0)


DESCRIPTION = "What stands in the way of a run on this machine, and what mends it. Exit status 1: something does."
#: The checkout is one of the things that it looks for.
COMMAND = cli.Command("harness.command.doctor", DESCRIPTION, add_arguments, execute, in_checkout=False)
main = COMMAND.main

if __name__ == "__main__":
    cli.run(main)
