"""Train a stand-in base model: ``python -m harness.models.pretrain --configfile F --model KEY --output DIR --scratch DIR``.

The DAG calls it once per model; the result is cached.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from harness import cli
from harness.errors import ConfigError
from harness.experiment.runs import load_experiment
from harness.models.pretraining import build_base_model
from harness.progress import Progress
from harness.schema.base_models import BuiltModel


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m harness.models.pretrain", description="Train a stand-in base model.")
    cli.add_config_arguments(parser)
    parser.add_argument("--model", required=True, metavar="KEY", help="a key of the experiment's models")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="where the model goes")
    parser.add_argument("--scratch", required=True, type=Path, metavar="DIR", help="where the checkpoint lives meanwhile")
    options = parser.parse_args(arguments)
    config = cli.parse_config(options)
    models = load_experiment(config.files, config.overrides).models
    if options.model not in models:
        raise ConfigError(f"--model: found {options.model!r}, expected one of {', '.join(models)}")
    source = models[options.model].source
    if not isinstance(source, BuiltModel):
        raise ConfigError(f"{config.files[-1]}: models.{options.model}.source: found kind {source.kind!r}, expected 'built'")
    progress = Progress(f"base model {options.model}", whole_job=True)
    record = build_base_model(
        source,
        output_dir=options.output,
        scratch_dir=options.scratch,
        report=lambda done, total, loss: progress.update(done, total, f"loss {loss:.3f}"),
    )
    equations = record["held_out_equations"]
    print(
        f"base model {options.model}: held-out loss {record['held_out_loss']:.3f}, held-out equations "
        f"{equations['exact_match']:.0%} (chance {equations['chance']:.0%}), {record['train_seconds']:.0f} s",
        flush=True,
    )


if __name__ == "__main__":
    cli.run(main)
