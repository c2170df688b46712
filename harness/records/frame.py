"""All records of an experiment as one table, and as Parquet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from harness.files import replacing
from harness.records.read import RunRecord

_SCHEMA = pa.schema([
    *((name, pa.string()) for name in ("experiment", "domain", "model_key", "model", "stands_for")),
    ("is_stand_in", pa.bool_()),
    *((name, pa.string()) for name in ("method_key", "method", "method_name")),
    ("seed", pa.int64()),
    ("status", pa.string()),
    *((name, pa.int64()) for name in ("trainable_parameters", "base_parameters", "peak_memory_bytes")),
    *((name, pa.float64()) for name in ("train_wall_time_s", "evaluate_wall_time_s")),
    *((name, pa.string()) for name in ("task", "split", "grader")),
    ("n", pa.int64()),
    *((name, pa.float64()) for name in (
        "accuracy", "stderr", "unparseable", "truncated", "timed_out", "gold_nll", "gold_nll_stderr")),
])  # fmt: skip


def to_frame(records: Sequence[RunRecord]) -> pd.DataFrame:
    """One row per run and task, in the order given; metrics of diverged runs are missing values."""
    rows = []
    for record in records:
        run, train = record.run, record.train
        common = {
            "experiment": run.experiment,
            "domain": run.domain,
            "model_key": run.model_key,
            "model": run.model.label,
            "stands_for": run.model.stands_for,
            "is_stand_in": run.model.is_stand_in,
            "method_key": run.method.key,
            "method": run.method.label,
            "method_name": run.method.name,
            "seed": run.seed,
            "status": train.status,
            "trainable_parameters": train.trainable_parameters,
            "base_parameters": train.base_parameters,
            "peak_memory_bytes": train.peak_memory_bytes,
            "train_wall_time_s": train.wall_time_s,
            "evaluate_wall_time_s": record.metrics.wall_time_s,
        }
        for task, spec in run.evaluation.tasks.items():
            metrics = record.metrics.tasks.get(task)
            asked = {"task": task, "split": spec.split, "grader": spec.grader}
            rows.append(common | asked | (metrics.model_dump() if metrics else {}))
    return pa.Table.from_pylist(rows, schema=_SCHEMA).to_pandas()


def write_parquet(records: Sequence[RunRecord], path: Path) -> None:
    """Write ``to_frame`` as Parquet: the same records give the same bytes."""
    table = pa.Table.from_pandas(to_frame(records), schema=_SCHEMA, preserve_index=False).replace_schema_metadata(None)
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
