"""Evaluate a base model as it is: ``python -m harness.evaluate.base --model KEY --protocol NAME --run-dir DIR``.

What fine-tuning starts from, asked and graded like every run. Writes ``predictions/<task>.jsonl`` and ``metrics.json``.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from harness.cli import add_config_arguments, add_models_argument, parse_config, run
from harness.evaluate.run import evaluate_base
from harness.experiment.runs import load_experiment
from harness.export import lm_eval
from harness.files import require_writable
from harness.schema.evaluation import Protocol


def summary(record: Mapping[str, Any]) -> str:
    """Each task's numbers, as both commands print them."""
    lines = []
    for name, task in record["tasks"].items():
        accuracy = "" if task["accuracy"] is None else f"accuracy {100 * task['accuracy']:.1f} % ({task['grader']}), "
        lines.append(f"{record['run_id']} {name}: {accuracy}gold NLL {task['gold_nll']:.3f} of {task['n']} examples\n")
    return "".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """The command line. Exit status 0 means metrics.json is written."""
    parser = argparse.ArgumentParser(prog="python -m harness.evaluate.base", description=__doc__.split("\n")[0])
    add_config_arguments(parser)
    parser.add_argument("--model", required=True, metavar="KEY", help="a model of the experiment's base_evaluation")
    parser.add_argument("--protocol", required=True, choices=get_args(Protocol))
    parser.add_argument("--run-dir", type=Path, required=True, help="gets metrics.json and predictions/")
    add_models_argument(parser)
    args = parser.parse_args(arguments)
    config = parse_config(args)
    experiment = load_experiment(config.files, config.overrides)
    require_writable(args.run_dir / "metrics.json")
    record = evaluate_base(
        experiment, model_key=args.model, protocol=args.protocol, run_dir=args.run_dir, models_dir=args.models_dir
    )
    lm_eval.write(args.run_dir)
    print(summary(record), end="")
    return 0


if __name__ == "__main__":
    run(main)
