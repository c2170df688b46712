# From an experiment file to its tables. Every rule is one command line that can be pasted into a shell.
# The default experiment is config/tiny.yaml; choose another with --configfile, change a key with --config KEY=VALUE.
import os
import sys

sys.path.insert(0, workflow.basedir)

from snakemake.exceptions import WorkflowError

from harness.config import ConfigError, canonical_json
from harness.dag import (
    CACHE, EVALUATE_CODE, MODELS, PRETRAIN_CODE, RECORD_CODE, SCRATCH, TABLE_CODE, TRAIN_CODE, Dag, hold_lock, method_code,
)


container: "docker://python:3.11-slim-bookworm"


shell.prefix(f"set -euo pipefail; export PATH={os.path.dirname(sys.executable)}:$PATH; ")

try:
    DAG = Dag(workflow.configfiles, workflow.config_settings.config)
    if workflow.is_main_process and not workflow.dryrun:
        LOCK = hold_lock(DAG.experiment.name)
        DAG.watch()
except ConfigError as error:
    raise WorkflowError(str(error)) from None

E = DAG.folder
RUN = f"{E}/{{domain}}/{{model}}/{{method}}/seed{{seed}}"
GPU = int(DAG.experiment.gpu)


wildcard_constraints:
    domain="[^/]+",
    model="[^/]+",
    method="[^/]+",
    seed=r"\d+",


rule reproduce_table1:
    """Table 1 (math and code): every run behind it, and the table."""
    input:
        f"{E}/tables/table1.md",
    default_target: True


rule reproduce_all:
    """Every table of the experiment and the records behind them."""
    input:
        expand("{e}/tables/{table}.md", e=E, table=DAG.experiment.tables),
        f"{E}/runs.parquet",


rule preflight:
    """Check models, data, ranks and disk space before any training."""
    input:
        models=[str(MODELS / name) for name in DAG.base_models],
    output:
        f"{E}/preflight.json",
    params:
        specs=canonical_json({run.run_id: run.training_hash() for run in DAG.runs.values()}),
        evaluation=canonical_json({run.domain: run.evaluation for run in DAG.runs.values()}),
    log:
        f"{E}/logs/preflight.log",
    shell:
        "python -m harness.preflight {DAG.arguments} --models-dir {MODELS} --output {output} 2> {log}"


rule base_model:
    """Train a stand-in base model from scratch."""
    input:
        code=PRETRAIN_CODE,
    output:
        directory(f"{MODELS}/{{name}}"),
    params:
        key=lambda wildcards: DAG.base_models[wildcards.name][0],
        recipe=lambda wildcards: canonical_json(DAG.base_models[wildcards.name][1]),
    log:
        f"{E}/logs/base_model/{{name}}.log",
    shell:
        "python -m harness.pretrain {DAG.arguments} --model {params.key} --output {output}"
        " --scratch {SCRATCH}/{wildcards.name} 2> {log}"


rule train:
    """Fine-tune one base model with one method and one seed."""
    input:
        preflight=ancient(f"{E}/preflight.json"),
        base=lambda wildcards: DAG.base_model(DAG.run(wildcards)),
        data=lambda wildcards: DAG.training_files(DAG.run(wildcards)),
        code=TRAIN_CODE,
        method=lambda wildcards: method_code(DAG.run(wildcards).method.name),
    output:
        adapter=directory(f"{RUN}/adapter"),
        record=f"{RUN}/train.json",
    params:
        run=lambda wildcards: DAG.run(wildcards).run_id,
        spec=lambda wildcards: DAG.run(wildcards).training_json(),
        hash=lambda wildcards: DAG.run(wildcards).training_hash(),
    log:
        f"{E}/logs/train/{{domain}}/{{model}}/{{method}}/seed{{seed}}.log",
    resources:
        gpu=GPU,
    shell:
        "python -m harness.gpu_slot python -m harness.train {DAG.arguments} --run {params.run} --run-dir $(dirname {output.record})"
        " --scratch {SCRATCH} --models-dir {MODELS} --cache-dir {CACHE} --training-hash {params.hash} 2> {log}"


rule evaluate:
    """Evaluate one trained run on every task of its domain."""
    input:
        record=f"{RUN}/train.json",
        adapter=f"{RUN}/adapter",
        base=lambda wildcards: DAG.base_model(DAG.run(wildcards)),
        data=lambda wildcards: DAG.evaluation_files(DAG.run(wildcards)),
        code=EVALUATE_CODE,
    output:
        metrics=f"{RUN}/metrics.json",
        predictions=directory(f"{RUN}/predictions"),
    params:
        run=lambda wildcards: DAG.run(wildcards).run_id,
        spec=lambda wildcards: DAG.run(wildcards).evaluation_json(),
    log:
        f"{E}/logs/evaluate/{{domain}}/{{model}}/{{method}}/seed{{seed}}.log",
    resources:
        gpu=GPU,
    shell:
        "python -m harness.gpu_slot python -m harness.evaluate {DAG.arguments} --run {params.run}"
        " --run-dir $(dirname {output.metrics}) --models-dir {MODELS} 2> {log}"


rule records:
    """All records of the experiment as one Parquet file."""
    input:
        records=[f"{E}/{run}/{name}" for run in DAG.runs for name in ("train.json", "metrics.json")],
        code=RECORD_CODE,
    output:
        f"{E}/runs.parquet",
    log:
        f"{E}/logs/records.log",
    shell:
        "python -m harness.records {DAG.arguments} --output {output} 2> {log}"


rule table:
    """Render one table from the records."""
    input:
        train=lambda wildcards: DAG.table_files(wildcards.table, "train.json"),
        metrics=lambda wildcards: DAG.table_files(wildcards.table, "metrics.json"),
        code=TABLE_CODE,
    output:
        multiext(f"{E}/tables/{{table}}", ".md", ".tex", ".csv"),
    params:
        seeds=canonical_json(DAG.experiment.seeds),
    log:
        f"{E}/logs/table/{{table}}.log",
    shell:
        "python -m harness.tables {wildcards.table} {DAG.arguments} 2> {log}"


onsuccess:
    if not workflow.dryrun and os.path.exists(f"{E}/tables/table1.md"):
        shell("python -m harness.summary table1 {DAG.arguments}")
