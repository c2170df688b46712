"""Check everything that could stop an experiment halfway, before the first run trains.

``python -m harness.workflow.preflight --configfile FILE --models-dir DIR --output FILE`` reads every data set, loads every
model's configuration and tokenizer, and holds limits and batches against rows, lengths against positions, ranks against module
sizes, schedules against the lengths of runs, length limits against prompts, and the needed disk space against the free one; for
an experiment on GPUs, the predicted peak of every run against their memory. What comes from the hub is at a commit, and in the
local cache of the size that the lock says; weights must be there where jobs may not download them. They are not loaded.
With ``--jobs-elsewhere``, under a scheduler, no GPU of this machine counts, and weights must be in the cache.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.cli import add_cache_argument, add_config_arguments, add_models_argument, parse_config, run
from harness.experiment.runs import all_runs, load_experiment, timing_runs
from harness.experiment.yaml_file import placed
from harness.figures.catalogue import check_sweeps
from harness.schema.fields import canonical_json
from harness.train import reporting
from harness.workflow.preflight.data import Sets, check_answers, check_data, check_prompts
from harness.workflow.preflight.machine import check_disk, check_engines, check_gpu, check_hub, check_lm_eval, check_memories
from harness.workflow.preflight.models import check_models, read_configs


def main(arguments: list[str] | None = None) -> int:
    """The command line: writes what was found as JSON; exit status 2 and one line for anything wrong."""
    parser = argparse.ArgumentParser(prog="python -m harness.workflow.preflight", description=__doc__.split("\n")[0])
    add_config_arguments(parser)
    add_models_argument(parser)
    add_cache_argument(parser)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--jobs-elsewhere", action="store_true", help="a scheduler runs the jobs: no GPU is needed here")
    parser.add_argument(
        "--at-once", type=int, default=1, metavar="N", help="runs in hand at a time, for their disk (default: %(default)s)"
    )
    args = parser.parse_args(arguments)
    config = parse_config(args)
    experiment = load_experiment(config.files, config.overrides)
    check_sweeps(experiment, config)
    runs = all_runs(experiment)
    trained = [*runs, *timing_runs(experiment).values()]
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with placed(config.files, config.overrides):
        if experiment.gpu and not args.jobs_elsewhere:
            check_gpu()
        if not args.jobs_elsewhere:
            check_engines(experiment, runs)
        check_lm_eval(experiment, runs)
        check_hub(experiment, config, jobs_elsewhere=args.jobs_elsewhere)
        reporting.check(experiment.report_to)
        configs = read_configs(experiment, models_dir=args.models_dir)
        needed = check_models(experiment, runs, configs, at_once=args.at_once)
        check_disk(args.output.parent, needed)
        sets = Sets(experiment.data_dir)
        check_data(experiment, trained, sets)
        check_answers(experiment, trained, models_dir=args.models_dir)
        check_prompts(experiment, runs, sets, configs, models_dir=args.models_dir)
        if experiment.gpu:
            folders = {"models_dir": args.models_dir, "cache_dir": args.cache_dir}
            check_memories(experiment, runs, **folders, jobs_elsewhere=args.jobs_elsewhere)
    args.output.write_text(canonical_json({"runs": len(runs), "rows": sets.rows, "disk_bytes": needed}) + "\n")
    print(
        f"preflight · {len(runs)} runs · {len(sets.rows)} data sets · up to {needed / 2**20:.0f} MiB of disk · all checks "
        "passed",
        flush=True,
    )
    return 0


if __name__ == "__main__":
    run(main)
