"""Evaluate a base model as it is: ``python -m harness.evaluate.base --model KEY --protocol NAME --run-dir DIR``.

What fine-tuning starts from, asked and graded like every run. Writes ``predictions/<task>.jsonl`` and ``metrics.json``.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any, get_args

from harness.cli import add_config_arguments, add_models_argument, parse_config, run
from harness.errors import ConfigError, within
from harness.evaluate.finished_tasks import FinishedTasks
from harness.evaluate.run import UNFINISHED, evaluate_tasks
from harness.evaluate.task import check_task
from harness.experiment.runs import load_experiment
from harness.export import lm_eval
from harness.files import require_writable, write_json
from harness.schema.evaluation import Protocol
from harness.schema.experiment import Experiment
from harness.schema.fields import SCHEMA_VERSION


def evaluate_base(
    experiment: Experiment, *, model_key: str, protocol: Protocol, run_dir: Path, models_dir: Path
) -> dict[str, Any]:
    """Evaluate one base model on the tasks of ``experiment.base_evaluation`` under one protocol.

    Returns:
        What was written to metrics.json.

    Raises:
        ConfigError: the experiment asks for no such evaluation, or bad input of a task.
        harness.evaluate.run.TaskError: a task failed otherwise; finished ones are kept for the next attempt.
    """
    from harness.models.load import base_model_hash, load_base_for_evaluation

    asked = experiment.base_evaluation
    if asked is None or model_key not in asked.models or protocol not in asked.protocols:
        stated = "nothing" if asked is None else f"models {list(asked.models)} and protocols {list(asked.protocols)}"
        raise ConfigError(f"base_evaluation: found {stated}, expected model {model_key!r} under protocol {protocol!r}")
    evaluation = asked.evaluation(protocol)
    for name, task in evaluation.tasks.items():
        with within("evaluation", "tasks", name):
            check_task(task)
    model = experiment.models[model_key]
    start, processor = time.perf_counter(), time.process_time()
    weights = base_model_hash(model_key, model, models_dir=models_dir)
    record = {
        "schema_version": SCHEMA_VERSION,
        "run_id": f"base/{model_key}/{protocol}",
        "experiment": experiment.name,
        "status": "success",
        "model": model.model_dump(mode="json"),
        "base_model_hash": weights,
        "evaluation": evaluation.model_dump(mode="json"),
    }
    record |= evaluate_tasks(
        evaluation,
        load=lambda: load_base_for_evaluation(model_key, model, models_dir=models_dir, dtype=evaluation.dtype),
        weights=weights,
        folder=run_dir,
        data_dir=experiment.data_dir,
        title=f"evaluate {model_key} ({protocol})",
    )
    record |= {"wall_time_s": time.perf_counter() - start, "cpu_time_s": time.process_time() - processor}
    write_json(run_dir / "metrics.json", record)
    FinishedTasks(run_dir / UNFINISHED).clear()
    return record


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
    for name, task in record["tasks"].items():
        accuracy = "" if task["accuracy"] is None else f"accuracy {100 * task['accuracy']:.1f} % ({task['grader']}), "
        print(f"{record['run_id']} {name}: {accuracy}gold NLL {task['gold_nll']:.3f} of {task['n']} examples")
    return 0


if __name__ == "__main__":
    run(main)
