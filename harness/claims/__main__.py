"""``python -m harness.claims`` writes ``results/{experiment}/claims.md`` and ``claims.json``."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness import cli
from harness.files import write_json, write_text


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.claims", description="Hold the paper's claims against the records."
    )
    cli.add_config_arguments(parser)
    parser.add_argument("--results-dir", type=Path, default=cli.RESULTS, help="default: %(default)s")
    parser.add_argument("--allow-missing", action="store_true", help="show claims without their runs as untested")
    args = parser.parse_args(argv)
    from harness.claims import text
    from harness.claims.ledger import load_claims

    experiment, claims = load_claims(cli.parse_config(args), results=args.results_dir, allow_missing=args.allow_missing)
    folder = args.results_dir / experiment.name
    write_text(folder / "claims.md", text.markdown(experiment, claims))
    write_json(folder / "claims.json", text.record(experiment, claims))
    print(f"{folder / 'claims.md'}: {len(claims)} claims: {text.tally(claims)}")
    return 0


if __name__ == "__main__":
    cli.run(main)
