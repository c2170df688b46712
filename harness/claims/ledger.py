"""All claims of an experiment, with their verdicts."""

from __future__ import annotations

from pathlib import Path

from harness.claims.catalogue import all_claims
from harness.claims.evidence import Evidence
from harness.claims.verdicts import Claim, judged
from harness.cli import Config
from harness.experiment.runs import all_runs, load_experiment, pruning_runs
from harness.records import pruning, timing
from harness.records.read import DEFAULT_RESULTS, run_folder
from harness.records.versioned import Recipe
from harness.schema.experiment import Experiment


def load_claims(
    config: Config, *, results: Path = DEFAULT_RESULTS, allow_missing: bool = False
) -> tuple[Experiment, list[Claim]]:
    """The claims of an experiment with their verdicts.

    Args:
        allow_missing: claims without their runs are untested, not an error.

    Raises:
        ConfigError: bad experiment, broken records, or runs or measurements that are missing.
    """
    experiment = load_experiment(config.files, config.overrides)
    evidence = Evidence(experiment, results=results, command=config.snakemake)
    if not allow_missing:
        evidence.records(all_runs(experiment), allow_missing=False)
        measurements = [run_folder(run, results=results) / pruning.FILE for run in pruning_runs(experiment)]
        measurements += [results / experiment.name / timing.FILE] if experiment.timing else []
        for path in measurements:
            if not path.exists():
                raise Recipe.workflow(config.snakemake, path).missing(path)
    rules = experiment.comparisons
    return experiment, judged(all_claims(evidence), margin=rules.margin, min_seeds=rules.min_seeds)
