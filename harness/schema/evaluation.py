"""Evaluation: tasks, how they are asked, and how answers are computed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from harness import protocols
from harness.schema.data import DataSource, EvaluationFormat
from harness.schema.fields import BatchSize, Frozen, Name, Names, distinct

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

    def inference(self) -> dict[str, Any]:
        """These settings, of a specification that has more."""
        return self.model_dump(include=set(InferenceSpec.model_fields))


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


class BaseEvaluationSpec(InferenceSpec):
    """Evaluation of the base models as they are, without fine-tuning."""

    models: Names
    protocols: Annotated[tuple[Protocol, ...], Field(min_length=1), AfterValidator(distinct)] = ("sound",)
    tasks: dict[Name, dict[str, Any]] = Field(min_length=1, description="as in a domain; completed from each protocol")

    def asked(self, protocol: Protocol) -> dict[str, dict[str, Any]]:
        """The tasks under one protocol as the file has them, without those whose set does not have the protocol."""
        return {name: task for name, task in self.tasks.items() if protocols.has(protocol, task)}

    def evaluation(self, protocol: Protocol) -> EvaluationSpec:
        """The tasks under one protocol.

        Raises:
            pydantic.ValidationError: a task is not one, or none is left.
        """
        return EvaluationSpec.model_validate({**self.inference(), "protocol": protocol, "tasks": self.asked(protocol)})
