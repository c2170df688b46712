# From an experiment file to its tables. Every rule is one command line that can be pasted into a shell.
# The default experiment is config/tiny.yaml; choose another with --configfile, change a key with --config KEY=VALUE.
import os
import sys

sys.path.insert(0, workflow.basedir)

from snakemake.exceptions import WorkflowError

from harness.cli import MODELS, SCRATCH
from harness.config import ConfigError, canonical_json
from harness.dag import (
    EVALUATE_CODE, PRETRAIN_CODE, RECORD_CODE, TABLE_CODE, TRAIN_CODE, Dag, hold_lock, method_code,
)


container: "docker://python:3.11-slim-bookworm"


shell.prefix(f"set -euo pipefail; export PATH={os.path.dirname(sys.executable)}:$PATH; ")

try:
    PLAN = Dag(workflow.configfiles, workflow.config_settings.config)
    if workflow.is_main_process and not workflow.dryrun:
        LOCK = hold_lock(PLAN.experiment.name)
        PLAN.watch()
except ConfigError as error:
    raise WorkflowError(str(error)) from None

FOLDER = PLAN.folder
RUN_FOLDER = f"{FOLDER}/{{domain}}/{{model}}/{{method}}/seed{{seed}}"
GPUS = int(PLAN.experiment.gpu)


# As a resource, since a changed parameter would rerun every job: what a run depends on is in its params.spec.
def OVERRIDES(wildcards):
    return PLAN.override_arguments


wildcard_constraints:
    domain="[^/]+",
    model="[^/]+",
    method="[^/]+",
    seed=r"\d+",


rule reproduce_table1:
    """Table 1 (math and code): every run behind it, and the table."""
    input:
        f"{FOLDER}/tables/table1.md",
    default_target: PLAN.target == "reproduce_table1"


rule reproduce_all:
    """Every table of the experiment and the records behind them."""
    input:
        expand("{e}/tables/{table}.md", e=FOLDER, table=PLAN.experiment.tables),
        f"{FOLDER}/runs.parquet",
    default_target: PLAN.target == "reproduce_all"


rule base_model:
    """Train a stand-in base model from scratch."""
    input:
        config=ancient(PLAN.configfiles),
        code=PRETRAIN_CODE,
    output:
        directory(f"{MODELS}/{{name}}"),
    params:
        key=lambda wildcards: PLAN.base_models[wildcards.name][0],
        recipe=lambda wildcards: canonical_json(PLAN.base_models[wildcards.name][1]),
        scratch=lambda wildcards: SCRATCH / wildcards.name,
    log:
        f"{FOLDER}/logs/base_model/{{name}}.log",
    resources:
        overrides=OVERRIDES,
    message:
        "Train the stand-in base model {wildcards.name}"
    shell:
        "python -m harness.pretrain --configfile {input.config} {resources.overrides} --model {params.key} --output {output}"
        " --scratch {params.scratch}"
        " 2> {log}"


rule train:
    """Fine-tune one base model with one method and one seed."""
    input:
        config=ancient(PLAN.configfiles),
        base=lambda wildcards: PLAN.base_model(PLAN.run(wildcards)),
        data=lambda wildcards: PLAN.training_files(PLAN.run(wildcards)),
        code=TRAIN_CODE,
        method=lambda wildcards: method_code(PLAN.run(wildcards).method.name),
    output:
        adapter=directory(f"{RUN_FOLDER}/adapter"),
        record=f"{RUN_FOLDER}/train.json",
    params:
        run=lambda wildcards: PLAN.run(wildcards).run_id,
        spec=lambda wildcards: PLAN.run(wildcards).training_json(),
        hash=lambda wildcards: PLAN.run(wildcards).training_hash(),
    log:
        f"{FOLDER}/logs/train/{{domain}}/{{model}}/{{method}}/seed{{seed}}.log",
    resources:
        gpu=GPUS,
        overrides=OVERRIDES,
    message:
        "Train {params.run}"
    shell:
        "python -m harness.gpu_slot python -m harness.train --configfile {input.config} {resources.overrides} --run {params.run} --run-dir $(dirname {output.record})"
        " --training-hash {params.hash} 2> {log}"


rule evaluate:
    """Evaluate one trained run on every task of its domain."""
    input:
        config=ancient(PLAN.configfiles),
        record=f"{RUN_FOLDER}/train.json",
        adapter=f"{RUN_FOLDER}/adapter",
        base=lambda wildcards: PLAN.base_model(PLAN.run(wildcards)),
        data=lambda wildcards: PLAN.evaluation_files(PLAN.run(wildcards)),
        code=EVALUATE_CODE,
    output:
        metrics=f"{RUN_FOLDER}/metrics.json",
        predictions=directory(f"{RUN_FOLDER}/predictions"),
    params:
        run=lambda wildcards: PLAN.run(wildcards).run_id,
        spec=lambda wildcards: PLAN.run(wildcards).evaluation_json(),
    log:
        f"{FOLDER}/logs/evaluate/{{domain}}/{{model}}/{{method}}/seed{{seed}}.log",
    resources:
        gpu=GPUS,
        overrides=OVERRIDES,
    message:
        "Evaluate {params.run}"
    shell:
        "python -m harness.gpu_slot python -m harness.evaluate --configfile {input.config} {resources.overrides} --run {params.run}"
        " --run-dir $(dirname {output.metrics}) 2> {log}"


rule records:
    """All records of the experiment as one Parquet file."""
    input:
        config=ancient(PLAN.configfiles),
        records=[f"{FOLDER}/{run}/{name}" for run in PLAN.runs for name in ("train.json", "metrics.json")],
        code=RECORD_CODE,
    output:
        f"{FOLDER}/runs.parquet",
    log:
        f"{FOLDER}/logs/records.log",
    resources:
        overrides=OVERRIDES,
    message:
        "Collect the records"
    shell:
        "python -m harness.records --configfile {input.config} {resources.overrides} --output {output} 2> {log}"


rule table:
    """Render one table from the records."""
    input:
        config=ancient(PLAN.configfiles),
        train=lambda wildcards: PLAN.table_files(wildcards.table, "train.json"),
        metrics=lambda wildcards: PLAN.table_files(wildcards.table, "metrics.json"),
        code=TABLE_CODE,
    output:
        multiext(f"{FOLDER}/tables/{{table}}", ".md", ".tex", ".csv"),
    params:
        seeds=canonical_json(PLAN.experiment.seeds),
    log:
        f"{FOLDER}/logs/table/{{table}}.log",
    resources:
        overrides=OVERRIDES,
    message:
        "Render {wildcards.table}"
    shell:
        "python -m harness.tables {wildcards.table} --configfile {input.config} {resources.overrides} 2> {log}"


onstart:
    # Not a rule: its output would be newer than finished runs, and a setting that changes would rerun all of them.
    shell(
        "mkdir -p {FOLDER}/logs; "
        "python -m harness.preflight {PLAN.arguments} --output {FOLDER}/preflight.json 2> {FOLDER}/logs/preflight.log"
    )


onsuccess:
    if not workflow.dryrun and os.path.exists(f"{FOLDER}/tables/table1.md"):
        shell("python -m harness.summary table1 {PLAN.arguments}")
