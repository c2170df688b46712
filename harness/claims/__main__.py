"""``python -m harness.claims`` writes ``results/{experiment}/claims.md`` and ``claims.json``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import cli
from harness.claims import text
from harness.claims.catalogue import all_claims
from harness.claims.evidence import Evidence
from harness.claims.verdicts import Claim, judged
from harness.config import Experiment
from harness.experiment.runs import all_runs, load_experiment, pruning_runs
from harness.files import write_json, write_text
from harness.records import pruning, timing
from harness.records.read import DEFAULT_RESULTS, MissingRecord, load_records, run_folder, snakemake_command


def load_claims(
    configfiles: Sequence[Path], overrides: Mapping[str, Any], *, results: Path = DEFAULT_RESULTS, allow_missing: bool = False
) -> tuple[Experiment, list[Claim]]:
    """The claims of an experiment with their verdicts.

    Args:
        allow_missing: claims without their runs are untested, not an error.

    Raises:
        ConfigError: bad experiment, broken records, or runs or measurements that are missing.
    """
    experiment = load_experiment(configfiles, overrides)
    command = snakemake_command(configfiles, overrides)
    if not allow_missing:
        load_records(all_runs(experiment), results=results, command=command)
        measurements = [run_folder(run, results=results) / pruning.FILE for run in pruning_runs(experiment)]
        measurements += [results / experiment.name / timing.FILE] if experiment.timing else []
        for path in measurements:
            if not path.exists():
                raise MissingRecord(f"{path}: found no such file; make it: {command} -- {path}")
    claims = judged(all_claims(Evidence(experiment, results=results, command=command)))
    return experiment, claims


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.claims", description="Hold the paper's claims against the records."
    )
    cli.add_config_arguments(parser)
    parser.add_argument("--results-dir", type=Path, default=DEFAULT_RESULTS, help="default: %(default)s")
    parser.add_argument("--allow-missing", action="store_true", help="show claims without their runs as untested")
    args = parser.parse_args(argv)
    configfiles, overrides = cli.parse_config(args)
    experiment, claims = load_claims(configfiles, overrides, results=args.results_dir, allow_missing=args.allow_missing)
    folder = args.results_dir / experiment.name
    write_text(folder / "claims.md", text.markdown(experiment, claims))
    write_json(folder / "claims.json", text.record(experiment, claims))
    print(f"{folder / 'claims.md'}: {len(claims)} claims: {text.tally(claims)}")
    return 0


if __name__ == "__main__":
    cli.run(main)
