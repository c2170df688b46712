"""What an experiment reads, held against its limits, batches, schedules and the positions of its models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import ConfigError, KeyPath, within
from harness.experiment.runs import all_asked, pruning_runs, settings_named
from harness.schema.data import LocalData, TrainingData
from harness.schema.evaluation import TaskSpec
from harness.schema.experiment import Experiment
from harness.schema.fields import canonical_json
from harness.schema.run import RunSpec
from harness.train.steps import length_key, method_schedule, step_counts
from harness.workflow.preflight.models import positions_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from evaluation.example import Example


class Sets:
    """The sets of an experiment, each read once. What is wrong with one is raised under the keys of what it is for."""

    def __init__(self, data_dir: str | None) -> None:
        self.data_dir = data_dir
        #: Dotted key of each source, the first that names it -> number of its rows.
        self.rows: dict[str, int] = {}
        self._read: dict[str, Sequence[Any]] = {}

    def training(self, keys: KeyPath, data: TrainingData) -> int:
        """How many rows are trained on.

        Raises:
            ConfigError: they are missing, malformed, or fewer than the limit.
        """
        from evaluation.sets.training import training_example

        def read(records: list[dict[str, Any]]) -> Sequence[Any]:
            for row, record in enumerate(records):
                training_example(data.format, record, row=row)
            return range(len(records))

        return len(self._limited(keys, data, read))

    def examples(self, keys: KeyPath, task: TaskSpec) -> Sequence[Example]:
        """What a task asks.

        Raises:
            ConfigError: the same.
        """
        from evaluation.sets import examples

        def read(records: list[dict[str, Any]]) -> Sequence[Example]:
            asked = examples(task.format, records)
            if isinstance(task.source, LocalData):
                check_distinct(asked)
            return asked

        return self._limited(keys, task, read)

    def _limited(
        self, keys: KeyPath, data: TrainingData | TaskSpec, read: Callable[[list[dict[str, Any]]], Sequence[Any]]
    ) -> Sequence[Any]:
        from harness.data.load import load_records, rows_named

        identity = canonical_json([type(data).__name__, data.source, data.format])
        with within(*keys):
            if identity not in self._read:
                with rows_named(data.source):
                    records = load_records(data.source, data_dir=self.data_dir)
                    if not records:
                        raise ConfigError("found no rows, expected at least one")
                    self._read[identity] = read(records)
                self.rows[".".join(map(str, (*keys, "source")))] = len(records)
            rows = self._read[identity]
            check_limit(data.limit, len(rows))
        return rows[: data.limit]


def check_limit(limit: int | None, rows: int) -> None:
    """Refuse a limit above the rows of its set.

    Raises:
        ConfigError: by the key ``limit``.
    """
    if limit is not None and limit > rows:
        raise ConfigError(f"found {limit}, expected at most {rows}, the rows of the set", keys=("limit",))


def check_distinct(asked: Iterable[Example]) -> None:
    """Hold the rows of a test set of one's own against each other.

    Raises:
        ValueError: a question stands there twice, and would count twice, or has two answers.
    """
    rows: dict[str, int] = {}
    for row, example in enumerate(asked):
        if rows.setdefault(example.query, row) != row:
            raise ValueError(f"row {row}: found the question of row {rows[example.query]} again, expected each once")


def check_data(experiment: Experiment, runs: Sequence[RunSpec], sets: Sets) -> None:
    """Read every set and convert its records; hold limits, batches and schedules against their number.

    Args:
        runs: those that are timed included.

    Raises:
        ConfigError: names the key of what is missing, malformed, or larger than the set.
    """
    from harness.evaluate.task import check_examples, check_task

    for spec in runs:
        examples = sets.training(("domains", spec.domain, "train"), spec.data)
        with settings_named(experiment, spec):
            check_length(spec, examples=examples)
    for asked in all_asked(experiment, runs):
        with within(*asked.keys):
            check_task(asked.task)
        examples_of_task = sets.examples(asked.keys, asked.task)
        with within(*asked.keys):
            check_examples(asked.task, examples_of_task)
    for run in pruning_runs(experiment)[:1]:
        assert experiment.pruning is not None
        for name in experiment.pruning.tasks_of(run.evaluation):
            task = run.evaluation.tasks[name].model_copy(update={"limit": None})
            rows = sets.examples(("domains", run.domain, "evaluation", "tasks", name), task)
            with within("pruning"):
                check_limit(experiment.pruning.limit, len(rows))


def check_length(spec: RunSpec, *, examples: int) -> None:
    """Hold a run's batch, warm-up and method's schedule against its training examples.

    Raises:
        ConfigError: a micro-batch of more examples than there are; a warm-up, or a schedule, that does not fit into the run.
    """
    size = spec.training.per_device_train_batch_size
    if size > examples:
        raise ConfigError(
            f"found {size}, expected at most {examples}, the training examples of domains.{spec.domain}",
            keys=("training", "per_device_train_batch_size"),
            beside=[("domains", spec.domain, "train", "limit")],
        )
    steps, per_epoch = step_counts(spec.training, examples=examples, world_size=1)
    method_schedule(spec, total_steps=steps, steps_per_epoch=per_epoch)
    warmup = spec.training.warmup_steps
    if warmup is not None and warmup > steps:
        found = f"found {warmup}, expected at most {steps}, the steps of the run"
        raise ConfigError(found, keys=("training", "warmup_steps"), beside=[length_key(spec.training)])


#: What a tokenizer adds to a prompt at most. Otherwise a token is a byte or more, so that the bytes of a prompt say without a
#: tokenizer that it is short enough: that of a GGUF file takes 8 s to load.
_MARKS = 4


def _short(prompt: str, tokens: int) -> bool:
    """Whether a prompt has no more than so many tokens, whatever the tokenizer."""
    return len(prompt.encode()) + _MARKS <= tokens


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
        if any(_short(prompt, data.max_length - 1) for prompt in prompts):
            continue
        for key in (key for own, key in asked if own == domain):
            if all(len(encode_prompt(tokenizer(key), prompt)) >= data.max_length for prompt in prompts):
                shortest = min(len(encode_prompt(tokenizer(key), prompt)) for prompt in prompts)
                raise ConfigError(
                    f"found {data.max_length} tokens, which cut the answer off in 100 % of {len(records):,} rows, expected "
                    f"more than {shortest}, the shortest prompt for {key}",
                    keys=("domains", domain, "train", "max_length"),
                )


def check_prompts(
    experiment: Experiment, runs: Iterable[RunSpec], sets: Sets, configs: Mapping[str, PretrainedConfig], *, models_dir: Path
) -> None:
    """Hold the prompts of tasks, and what is generated after them, against the positions of the models.

    Raises:
        ConfigError: the longest prompt leaves too few, by the key ``max_new_tokens``.
    """
    from evaluation.sets.prompts import TEMPLATES
    from harness.data.check import planned_tokenizer
    from harness.data.tokens import encode_prompt

    tokenizers = cache(lambda key: planned_tokenizer(key, experiment.models[key], models_dir=models_dir))
    for asked in all_asked(experiment, runs):
        task, positions = asked.task, positions_of(configs[asked.model_key])
        if not task.max_new_tokens or positions is None:
            continue
        prompts = [TEMPLATES[task.prompt_template](example.query) for example in sets.examples(asked.keys, task)]
        left = positions - task.max_new_tokens
        tokens = [len(encode_prompt(tokenizers(asked.model_key), prompt)) for prompt in prompts if not _short(prompt, left)]
        longest = max(tokens, default=0)
        if longest > left:
            raise ConfigError(
                f"found {task.max_new_tokens}, expected at most {max(0, positions - longest)}: {asked.model_key} has "
                f"{positions} positions, and the longest prompt {longest} tokens",
                keys=(*asked.keys, "max_new_tokens"),
            )
