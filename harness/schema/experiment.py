"""One experiment file (``config/*.yaml``); ``harness.experiment.runs`` expands it to one ``RunSpec`` per run."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from harness.did_you_mean import hint
from harness.schema.base_models import BaseModelSpec
from harness.schema.comparisons import ComparisonsSpec
from harness.schema.data import TrainingData
from harness.schema.evaluation import BaseEvaluationSpec, EvaluationSpec, Protocol, TaskSpec
from harness.schema.fields import (
    BASELINE,
    DomainName,
    Frozen,
    MethodName,
    Name,
    Names,
    Seeds,
    TableName,
    distinct,
    usable_in_paths,
)

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
            usable_in_paths(f"{self.setting}={name}")
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
    fractions: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], AfterValidator(distinct)] = Field(
        (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0), min_length=2, description="shares of ranks to prune"
    )
    limit: int | None = Field(None, ge=1, description="evaluate the first rows only; null: the task's own limit")

    def tasks_of(self, evaluation: EvaluationSpec) -> dict[str, TaskSpec]:
        """The tasks that a pruned run is asked, with the number of rows to ask."""
        limit = {} if self.limit is None else {"limit": self.limit}
        return {name: evaluation.tasks[name].model_copy(update=limit) for name in self.tasks or evaluation.on("test")}


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


class Experiment(Frozen):
    """One YAML file. tiny, small and paper differ only in what it says."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    title: str
    notes: tuple[str, ...] = Field((), description="sentences printed under every table")
    seeds: Seeds
    gpu: bool = Field(description="whether runs need a GPU")
    gpus: Gpus = Field(1, description="processes that train one run together, each on its own GPU where runs need one")
    report_to: Annotated[tuple[Literal["tensorboard", "trackio", "wandb"], ...], AfterValidator(distinct)] = Field(
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
