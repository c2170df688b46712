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
import importlib.util
import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import methods
from evaluation.sets.columns import Format
from harness.cli import Config, add_cache_argument, add_config_arguments, add_models_argument, parse_config, run
from harness.config import (
    ConfigError,
    DataSource,
    Experiment,
    HubModel,
    LocalData,
    LocalModel,
    RunSpec,
    TaskSpec,
    TrainingData,
    canonical_json,
)
from harness.engine import process
from harness.experiment.gpus import gpus_of
from harness.experiment.hub_sources import hub_sources
from harness.experiment.lock import lock_file, read_lock
from harness.experiment.runs import all_runs, base_evaluations, load_experiment
from harness.figures.catalogue import check_sweeps
from harness.plan.cost import disk_bytes
from harness.plan.peaks import Peaks, check_memory, smallest_gpu
from harness.train import reporting
from harness.train.steps import method_schedule, step_counts

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from evaluation.example import Example


def check_data(experiment: Experiment, runs: Iterable[RunSpec]) -> dict[str, int]:
    """Read every set once and convert its records; hold limits, batches and schedules against their number.

    Returns:
        The number of rows of each set.

    Raises:
        ConfigError: names the key of what is missing, malformed, or larger than the set.
    """
    from evaluation.sets import examples
    from evaluation.sets.training import training_example
    from harness.data.load import load_records
    from harness.evaluate.task import check_task

    rows: dict[str, int] = {}
    counts: dict[tuple[str, Format], int] = {}

    def read(key: str, source: DataSource, format_: Format, *, training: bool) -> int:
        try:
            records = load_records(source, data_dir=experiment.data_dir)
            if not records:
                raise ConfigError("found no rows, expected at least one")
        except ConfigError as error:
            raise ConfigError(f"{key}.source: {error}") from error
        own = f"{source.path}: " if isinstance(source, LocalData) else ""
        try:
            if training:
                for row, record in enumerate(records):
                    training_example(format_, record, row=row)
            else:
                asked = examples(format_, records)
                if own:
                    check_distinct(asked)
        except ValueError as error:
            raise ConfigError(f"{key}.source: {own}{error}") from error
        rows[f"{key}.source"] = len(records)
        return len(records)

    def check(key: str, data: TrainingData | TaskSpec, *, training: bool = False) -> int:
        """How many rows are used."""
        identity = (canonical_json(data.source), data.format)
        if identity not in counts:
            counts[identity] = read(key, data.source, data.format, training=training)
        there = counts[identity]
        if data.limit is not None and data.limit > there:
            raise ConfigError(f"{key}.limit: found {data.limit}, expected at most {there}, the rows of the set")
        return data.limit or there

    for spec in runs:
        check_length(spec, examples=check(f"domains.{spec.domain}.train", spec.data, training=True))
        for name, task in spec.evaluation.tasks.items():
            check_task(name, task, within=f"domains.{spec.domain}.evaluation.tasks")
            check(f"domains.{spec.domain}.evaluation.tasks.{name}", task)
    base = experiment.base_evaluation
    evaluations = [base.evaluation(protocol) for protocol in base.protocols] if base else []
    for evaluation in evaluations:
        for name, task in evaluation.tasks.items():
            check_task(name, task, within="base_evaluation.tasks")
            check(f"base_evaluation.tasks.{name}", task)
    return rows


#: What a tokenizer adds to a prompt at most. Otherwise a token is a byte or more, so that the bytes of a prompt say without a
#: tokenizer that it is short enough: that of a GGUF file takes 8 s to load.
_MARKS = 4


def check_answers(experiment: Experiment, runs: Iterable[RunSpec], *, models_dir: Path) -> None:
    """Hold the length of training examples against their prompts.

    Raises:
        ConfigError: a limit that cuts every answer off.
    """
    from evaluation.sets.prompts import TEMPLATES
    from evaluation.sets.training import training_example
    from harness.data.check import planned_tokenizer
    from harness.data.load import load_records
    from harness.data.tokens import encode_prompt

    @cache
    def tokenizer(key: str) -> PreTrainedTokenizerBase:
        return planned_tokenizer(key, experiment.models[key], models_dir=models_dir)

    asked = {(spec.domain, spec.model_key): None for spec in runs}  # in the order of the runs
    for domain in dict.fromkeys(domain for domain, _ in asked):
        data = experiment.domains[domain].train
        records = load_records(data.source, data_dir=experiment.data_dir, limit=data.limit)
        prompts = [TEMPLATES[data.prompt_template](training_example(data.format, record)[0]) for record in records]
        if min(len(prompt.encode()) for prompt in prompts) + _MARKS < data.max_length:
            continue
        for key in (key for own, key in asked if own == domain):
            if all(len(encode_prompt(tokenizer(key), prompt)) >= data.max_length for prompt in prompts):
                shortest = min(len(encode_prompt(tokenizer(key), prompt)) for prompt in prompts)
                raise ConfigError(
                    f"domains.{domain}.train.max_length: found {data.max_length} tokens, which cut the answer off in 100 % of "
                    f"{len(records):,} rows, expected more than {shortest}, the shortest prompt for {key}"
                )


def check_distinct(asked: Iterable[Example]) -> None:
    """Hold the rows of a test set of one's own against each other.

    Raises:
        ConfigError: a question stands there twice, and would count twice, or has two answers.
    """
    rows: dict[str, int] = {}
    for row, example in enumerate(asked):
        if rows.setdefault(example.query, row) != row:
            raise ConfigError(f"row {row}: found the question of row {rows[example.query]} again, expected each once")


def check_gpu() -> None:
    """Refuse to train on the CPU what is meant for a GPU.

    Raises:
        ConfigError: torch sees none.
    """
    import torch

    if not torch.cuda.is_available():
        raise ConfigError(
            "gpu: found true, but torch sees no GPU, expected one: 'beamlora doctor' says what is missing; gpu=false after "
            "--config or --set trains on the CPU"
        )


def check_engine(experiment: Experiment, runs: Iterable[RunSpec]) -> None:
    """Hold the engines of the evaluations against what is installed.

    Raises:
        ConfigError: one generates with vLLM, and there is none that this version can use.
    """
    evaluations = [run.evaluation for run in runs] + [base.evaluation for base in base_evaluations(experiment)]
    if any(evaluation.engine == "vllm" for evaluation in evaluations):
        process.version()


def check_hub(experiment: Experiment, config: Config, *, jobs_elsewhere: bool) -> None:
    """Hold what comes from the hub against the locks, and against the local cache where that may be all there is: offline, and
    on the compute nodes of a cluster.

    Raises:
        ConfigError: names the key of a revision that may move, of a file that is not the locked one, or of missing weights;
            or the hub is needed and does not answer.
    """
    from harness.hub import repositories as hub
    from harness.hub.network import offline, require_answer

    sources, lock = hub_sources(experiment), read_lock(config.files)
    fetch = f"beamlora fetch {shlex.join(config.short_arguments)}".rstrip()
    for source in sources:
        if not hub.is_commit(source.revision):
            raise ConfigError(
                f"{source.at}: found {source.revision!r}, which may move, expected a commit of {source.name}: "
                f"'{fetch}' finds and keeps it in {lock_file(config.files)}"
            )
        locked = lock.find(source.kind, source.name, source.revision)
        for name, expected in (locked.files if locked else {}).items():
            there = hub.cached(source.kind, source.name, source.revision, name)
            if there is not None and there.stat().st_size != expected.size:
                raise ConfigError(
                    f"{source.at}: found {there.stat().st_size} bytes in {there}, expected the {expected.size} of the lock; "
                    f"'{fetch}' mends it"
                )
        without_network = "HF_HUB_OFFLINE is set" if offline() else "jobs run on other nodes" if jobs_elsewhere else None
        if source.kind == "model" and without_network and (missing := hub.missing_weights(source.name, source.revision)):
            raise ConfigError(
                f"{source.at}: found no {', '.join(missing)} of {source.name} in the local cache, and {without_network}; "
                f"'{fetch}' downloads them where there is network"
            )
    if sources:
        require_answer()


def check_length(spec: RunSpec, *, examples: int) -> None:
    """Hold a run's batch and its method's schedule against its training examples.

    Raises:
        ConfigError: a micro-batch of more examples than there are, or a schedule that does not fit into the run.
    """
    size = spec.training.per_device_train_batch_size
    if size > examples:
        raise ConfigError(
            f"training.per_device_train_batch_size: found {size}, expected at most {examples}, the training examples of "
            f"domains.{spec.domain}"
        )
    steps, per_epoch = step_counts(spec.training, examples=examples, world_size=1)
    method_schedule(spec, total_steps=steps, steps_per_epoch=per_epoch)


def check_attention(spec: RunSpec, config: PretrainedConfig) -> None:
    """Hold a run's lengths against the positions of its model, and its attention against what is installed.

    Raises:
        ConfigError: what does not fit, by its key.
    """
    positions = getattr(config, "max_position_embeddings", None)
    lengths = {"train.max_length": spec.data.max_length}
    lengths |= {f"evaluation.tasks.{name}.max_new_tokens": task.max_new_tokens for name, task in spec.evaluation.tasks.items()}
    for key, length in lengths.items():
        if positions is not None and length > positions:
            raise ConfigError(
                f"domains.{spec.domain}.{key}: found {length}, expected at most {positions}, the positions of {spec.model_key}"
            )
    if spec.training.attn_implementation == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
        raise ConfigError(
            "training.attn_implementation: found 'flash_attention_2', but the package flash-attn is not installed; expected "
            "packed_sdpa, which computes the same, or the package"
        )


def linear_sizes(config: PretrainedConfig) -> dict[str, tuple[int, int]]:
    """Name -> (inputs, outputs) of every linear layer of the model, built without memory."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return {
        name: (module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }


def check_adapter(key: str, settings: Any, layers: Mapping[str, tuple[int, int]]) -> int:
    """Hold a low-rank method's settings against the model's layers.

    Returns:
        The number of parameters of one rank-r adapter on all targets, or 0 for a method without ``target_modules``.

    Raises:
        ConfigError: a target that the model lacks, or a rank larger than a target module.
    """
    targets = getattr(settings, "target_modules", None)
    if targets is None:
        return 0
    parameters = 0
    for target in targets:
        matching = {name: size for name, size in layers.items() if name.split(".")[-1] == target}
        if not matching:
            known = sorted({name.split(".")[-1] for name in layers})
            raise ConfigError(f"methods.{key}: target_modules: found {target!r}, expected names among {', '.join(known)}")
        for name, (inputs, outputs) in matching.items():
            rank = settings.largest_rank
            if rank > min(inputs, outputs):
                raise ConfigError(
                    f"methods.{key}: rank: found {rank}, expected at most {min(inputs, outputs)}: module {name} is "
                    f"{outputs} x {inputs}"
                )
            parameters += rank * (inputs + outputs)
    return parameters


def check_models(runs: Iterable[RunSpec], *, models_dir: Path, at_once: int = 1) -> int:
    """Check every model and every method on it.

    Args:
        at_once: how many runs train, or answer, at a time.

    Returns:
        Bytes of disk that the runs need at most.

    Raises:
        ConfigError: what is wrong, by its key.
    """
    from harness.models.load import check_folder, load_config, load_tokenizer

    layers: dict[str, dict[str, tuple[int, int]]] = {}
    configs: dict[str, PretrainedConfig] = {}
    total = {}
    written: list[tuple[int, int]] = []
    merged = 0  # bytes of the weights that an engine loads
    for spec in runs:
        if spec.model_key not in layers:
            if isinstance(spec.model.source, LocalModel):
                check_folder(spec.model_key, Path(spec.model.source.path))
            config = load_config(spec.model_key, spec.model, models_dir=models_dir)
            if isinstance(spec.model.source, HubModel):
                load_tokenizer(spec.model_key, spec.model, models_dir=models_dir)
            layers[spec.model_key] = linear_sizes(config)
            total[spec.model_key] = sum(i * o for i, o in layers[spec.model_key].values())
            configs[spec.model_key] = config
        check_attention(spec, configs[spec.model_key])
        method, base = methods.of(spec.method), total[spec.model_key]
        adapter = check_adapter(spec.method.key, method.settings, layers[spec.model_key]) or base
        written.append(method.disk_parameters(adapter=adapter, base=base))
        if spec.evaluation.engine == "vllm":
            merged = max(merged, base * (4 if spec.evaluation.dtype == "float32" else 2))
    return disk_bytes(written, at_once=at_once) + at_once * merged


def check_disk(folder: Path, needed: int) -> None:
    """Refuse to begin what the disk cannot hold.

    Raises:
        ConfigError: less free space than ``needed`` bytes.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ConfigError(
            f"{folder.resolve()}: found {_size(free)} of free disk space, expected at least {_size(needed)} for the adapters "
            "and checkpoints of these runs"
        )


def _size(count: int) -> str:
    """Bytes for a person, in the unit that gives them a digit before the point."""
    unit = 2 if count >= 2**30 else 1 if count >= 2**20 else 0
    return f"{count / 2 ** (10 * (unit + 1)):.1f} {('KiB', 'MiB', 'GiB')[unit]}"


def check_memories(
    experiment: Experiment, runs: Iterable[RunSpec], *, models_dir: Path, cache_dir: Path, jobs_elsewhere: bool
) -> None:
    """Hold the predicted peak of every run against the smallest GPU that torch finds. Where jobs run elsewhere only predict it:
    each run is held against its own GPU when it starts.

    Raises:
        ConfigError: names the first run that does not fit, and the setting with which it does.
    """
    device = None if jobs_elsewhere else smallest_gpu()
    on = "" if device is None else f" on {device.name}"
    print(f"preflight · memory{on}: seconds for each kind of run, kept in {cache_dir}", flush=True)
    peaks = Peaks(cache_dir, gpu=True)
    for spec in runs:
        check_memory(spec, peaks, device, models_dir=models_dir, gpus=gpus_of(experiment, spec))


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
    args.output.parent.mkdir(parents=True, exist_ok=True)
    try:
        if experiment.gpu and not args.jobs_elsewhere:
            check_gpu()
        if not args.jobs_elsewhere:
            check_engine(experiment, runs)
        check_hub(experiment, config, jobs_elsewhere=args.jobs_elsewhere)
        reporting.check(experiment.report_to)
        needed = check_models(runs, models_dir=args.models_dir, at_once=args.at_once)
        check_disk(args.output.parent, needed)
        rows = check_data(experiment, runs)
        check_answers(experiment, runs, models_dir=args.models_dir)
        if experiment.gpu:
            folders = {"models_dir": args.models_dir, "cache_dir": args.cache_dir}
            check_memories(experiment, runs, **folders, jobs_elsewhere=args.jobs_elsewhere)
    except ConfigError as error:
        raise ConfigError(f"{config.files[-1]}: {error}") from error
    args.output.write_text(canonical_json({"runs": len(runs), "rows": rows, "disk_bytes": needed}) + "\n")
    print(
        f"preflight · {len(runs)} runs · {len(rows)} data sets · up to {needed / 2**20:.0f} MiB of disk · all checks passed",
        flush=True,
    )
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
