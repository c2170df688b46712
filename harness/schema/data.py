"""Data sets: where their rows come from, and how they are trained on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag

from evaluation import sets
from evaluation.sets import training
from evaluation.sets.columns import Columns
from harness.did_you_mean import hint
from harness.schema.base_models import BRANCH
from harness.schema.fields import Frozen, Generated, Seed


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
