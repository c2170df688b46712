# From an experiment file to its tables. Every rule is one command line that can be pasted into a shell.
# snakemake --cores all TARGET --config experiment=NAME KEY=VALUE: an experiment of config/ (default: tiny), and what to change
# in it; for a file of one's own --configfile FILE after the target.
import os
import sys
from pathlib import Path
from subprocess import CalledProcessError

sys.path.insert(0, workflow.basedir)

from snakemake.logging import logger

from harness.cli import MODELS, SCRATCH
from harness.errors import ConfigError
from harness.figures.catalogue import figures
from harness.schema.fields import canonical_json
from harness.workflow.checkout import adapter_if_needed, even_dates, without_weights
from harness.workflow.damage import set_aside_damaged
from harness.workflow.dag import Dag, code_of, figure_code, hold_lock, method_code, read_config, set_code
from harness.workflow.ending import Failures, end_when_interrupted, last_words, leave_interrupts_to_snakemake, or_refuse, refuse
from harness.workflow.jobs import Jobs
from harness.workflow.stamp import stamp
from harness.workflow.targets import TABLE_TARGETS, check_targets
from harness.workflow.watch import runs_at_once, watch


# The image of the Dockerfile, built here and used with --sdm apptainer alone (docs/clusters.md).
container: "beamlora.sif"


JOBS = Jobs()
shell.prefix(JOBS.prefix())

try:
    DAMAGED = set()
    PLAN = Dag(read_config(workflow.config_settings.configfiles, workflow.config_settings.config_args))
    # Written before the graph is built: Snakemake lists a folder once, and what comes later is not there for it.
    METHOD_CODE = {name: stamp("method", method_code(name)) for name in PLAN.method_names}
    SET_CODE = {place: stamp("sets", set_code(evaluation)) for place, evaluation in PLAN.evaluations.items()}
    EVALUATE_CODE, PRUNE_CODE = (stamp(rule, code_of(rule)) for rule in ("evaluate", "prune"))
    FIGURE_CODE = {name: stamp("figure", figure_code(name)) for name in figures()}
    # workflow.dryrun knows it only when the Snakefile has been read.
    DRY_RUN = workflow.output_settings.dryrun
    if workflow.is_main_process:
        if not DRY_RUN:
            end_when_interrupted()
            LOCK = hold_lock(PLAN.experiment.name)
            CLOCK = PLAN.lead()
        for run in PLAN.runs:
            even_dates(PLAN.folder / run)
        DAMAGED = set_aside_damaged(PLAN, dry_run=DRY_RUN)
except ConfigError as error:
    refuse(error)

FOLDER = PLAN.folder
RUN_FOLDER = f"{FOLDER}/{{domain}}/{{model}}/{{method}}/seed{{seed}}"
GPUS = int(PLAN.experiment.gpu)


# As a resource, since a changed parameter would rerun every job: what a run depends on is in its params.spec.
def OVERRIDES(wildcards):
    return PLAN.override_arguments


def ADAPTER(name, code):
    """The adapter as an input of a run's file of that name, which is made by this code. Where weights are needed and were not
    committed with the record, the run is trained again."""

    def needed(wildcards):
        run = PLAN.run(wildcards)
        folder = PLAN.folder / run.run_id
        adapter = adapter_if_needed(folder / name, [code, SET_CODE[run.domain]])
        if without_weights(folder):
            workflow.dag.forcefiles.update(adapter)
        return adapter

    return needed


def BASE(wildcards):
    """Every job behind a number asks for it while the graph is built: the place to say what has to be made again."""
    workflow.dag.forcefiles.update(DAMAGED)
    return PLAN.base_model(wildcards.model)


wildcard_constraints:
    domain="[^/]+",
    model="[^/]+",
    method="[^/]+",
    seed=r"\d+",


# One target per table. An experiment that does not plan it says so.
for TARGET in TABLE_TARGETS:

    rule:
        name:
            TARGET
        input:
            or_refuse(PLAN.table_of, TARGET),

    workflow.get_rule(TARGET).docstring = TABLE_TARGETS[TARGET]


# One target per figure, under the figure's own name.
for FIGURE in figures():

    rule:
        name:
            FIGURE
        input:
            or_refuse(PLAN.figure_of, FIGURE),

    workflow.get_rule(FIGURE).docstring = f"Figure: {figures()[FIGURE].shows}."


rule base_evaluations:
    """The base models as they are, without fine-tuning, under each protocol that the experiment names."""
    input:
        or_refuse(PLAN.planned_base_metrics),


rule reproduce_all:
    """Every table, figure and claim of the experiment, the records behind them, and the report."""
    input:
        PLAN.tables,
        PLAN.drawn,
        PLAN.base_metrics,
        f"{FOLDER}/claims.md",
        f"{FOLDER}/report.html",
        f"{FOLDER}/runs.parquet",


rule base_model:
    """Train a stand-in base model from scratch. Before anything else, since everything waits for it."""
    input:
        config=ancient(PLAN.configfiles),
        code=stamp("base_model", code_of("base_model")),
    output:
        directory(f"{MODELS}/{{name}}"),
    params:
        key=lambda wildcards: PLAN.base_models[wildcards.name][0],
        recipe=lambda wildcards: canonical_json(PLAN.base_models[wildcards.name][1]),
        scratch=lambda wildcards: SCRATCH / wildcards.name,
    log:
        f"{FOLDER}/logs/base_model/{{name}}.log",
    priority: 1
    resources:
        overrides=OVERRIDES,
    message:
        "Train the stand-in base model {wildcards.name}"
    shell:
        "python -m harness.models.pretrain --configfile {input.config} {resources.overrides} --model {params.key} --output {output}"
        " --scratch {params.scratch}"
        " 2> {log}"


rule train:
    """Fine-tune one base model with one method and one seed."""
    input:
        config=ancient(PLAN.configfiles),
        base=BASE,
        data=lambda wildcards: PLAN.training_files(PLAN.run(wildcards)),
        code=stamp("train", code_of("train")),
        method=lambda wildcards: METHOD_CODE[PLAN.run(wildcards).method.name],
    output:
        adapter=directory(f"{RUN_FOLDER}/adapter"),
        record=f"{RUN_FOLDER}/train.json",
    params:
        run=lambda wildcards: PLAN.run(wildcards).run_id,
        spec=lambda wildcards: PLAN.run(wildcards).training_json(),
        hash=lambda wildcards: PLAN.run(wildcards).training_hash(),
    log:
        f"{FOLDER}/logs/train/{{domain}}/{{model}}/{{method}}/seed{{seed}}.log",
    threads: PLAN.gpus
    resources:
        gpu=lambda wildcards: GPUS * PLAN.gpus(wildcards),
        processes=PLAN.gpus,
        overrides=OVERRIDES,
    message:
        "Train {params.run}"
    shell:
        "python -m harness.workflow.gpu_slot --gpus {resources.processes} python -m harness.train --configfile {input.config} {resources.overrides} --run {params.run} --run-dir $(dirname {output.record})"
        " --training-hash {params.hash} 2> {log}"


rule evaluate:
    """Evaluate one trained run on every task of its domain."""
    input:
        config=ancient(PLAN.configfiles),
        record=f"{RUN_FOLDER}/train.json",
        adapter=ADAPTER("metrics.json", EVALUATE_CODE),
        base=BASE,
        data=lambda wildcards: PLAN.evaluation_files(PLAN.run(wildcards).evaluation),
        code=EVALUATE_CODE,
        sets=lambda wildcards: SET_CODE[PLAN.run(wildcards).domain],
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
        "python -m harness.workflow.gpu_slot python -m harness.evaluate --configfile {input.config} {resources.overrides} --run {params.run}"
        " --run-dir $(dirname {output.metrics}) 2> {log}"


rule prune:
    """Evaluate one trained run after pruning growing shares of its ranks."""
    input:
        config=ancient(PLAN.configfiles),
        record=f"{RUN_FOLDER}/train.json",
        metrics=f"{RUN_FOLDER}/metrics.json",
        adapter=ADAPTER("pruning.json", PRUNE_CODE),
        base=BASE,
        data=lambda wildcards: PLAN.evaluation_files(PLAN.run(wildcards).evaluation),
        code=PRUNE_CODE,
        sets=lambda wildcards: SET_CODE[PLAN.run(wildcards).domain],
    output:
        f"{RUN_FOLDER}/pruning.json",
    params:
        run=lambda wildcards: PLAN.run(wildcards).run_id,
        spec=canonical_json(PLAN.experiment.pruning),
    log:
        f"{FOLDER}/logs/prune/{{domain}}/{{model}}/{{method}}/seed{{seed}}.log",
    resources:
        gpu=GPUS,
        overrides=OVERRIDES,
    message:
        "Prune {params.run}"
    shell:
        "python -m harness.workflow.gpu_slot python -m harness.measure.pruning --configfile {input.config} {resources.overrides} --run {params.run}"
        " --run-dir $(dirname {output}) 2> {log}"


rule timing:
    """Measure the training time and memory of methods side by side, with the machine to itself."""
    input:
        config=ancient(PLAN.configfiles),
        base=lambda wildcards: PLAN.base_model(PLAN.experiment.timing.model),
        data=lambda wildcards: PLAN.timing_files(),
        code=stamp("timing", code_of("timing")),
        methods=[METHOD_CODE[name] for name in PLAN.timed_methods],
    output:
        f"{FOLDER}/timing.json",
    params:
        spec=canonical_json(PLAN.experiment.timing),
    log:
        f"{FOLDER}/logs/timing.log",
    threads: workflow.resource_settings.cores or 1  # workflow.cores refuses commands without --cores, such as --report
    resources:
        gpu=GPUS,
        overrides=OVERRIDES,
    message:
        "Measure time and memory"
    shell:
        "OMP_NUM_THREADS=1 python -m harness.workflow.gpu_slot python -m harness.measure.timing --configfile {input.config} {resources.overrides}"
        " --output {output} 2> {log}"


rule evaluate_base:
    """Evaluate a base model without fine-tuning."""
    input:
        config=ancient(PLAN.configfiles),
        base=BASE,
        data=lambda wildcards: PLAN.evaluation_files(PLAN.base_evaluation(wildcards)),
        code=stamp("evaluate_base", code_of("evaluate_base")),
        sets=lambda wildcards: SET_CODE[f"base/{wildcards.model}/{wildcards.protocol}"],
    output:
        metrics=f"{FOLDER}/base/{{model}}/{{protocol}}/metrics.json",
        predictions=directory(f"{FOLDER}/base/{{model}}/{{protocol}}/predictions"),
    params:
        spec=lambda wildcards: canonical_json(PLAN.base_evaluation(wildcards)),
    log:
        f"{FOLDER}/logs/base/{{model}}/{{protocol}}.log",
    resources:
        gpu=GPUS,
        overrides=OVERRIDES,
    message:
        "Evaluate the base model {wildcards.model} ({wildcards.protocol})"
    shell:
        "python -m harness.workflow.gpu_slot python -m harness.evaluate.base --configfile {input.config} {resources.overrides}"
        " --model {wildcards.model} --protocol {wildcards.protocol} --run-dir $(dirname {output.metrics}) 2> {log}"


rule records:
    """All records of the experiment as one Parquet file."""
    input:
        config=ancient(PLAN.configfiles),
        records=PLAN.records(PLAN.runs.values(), "train.json", "metrics.json"),
        code=stamp("records", code_of("records")),
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
        records=lambda wildcards: PLAN.target_records(f"reproduce_{wildcards.table}", "train.json", "metrics.json"),
        base=lambda wildcards: PLAN.table_base_records(wildcards.table),
        code=stamp("table", code_of("table")),
    output:
        multiext(f"{FOLDER}/tables/{{table}}", ".md", ".tex"),
        report(f"{FOLDER}/tables/{{table}}.csv", category="Tables", labels={"table": "{table}"}),
    params:
        seeds=lambda wildcards: canonical_json(PLAN.seeds_of(wildcards.table)),
        comparisons=canonical_json(PLAN.experiment.comparisons),
    log:
        f"{FOLDER}/logs/table/{{table}}.log",
    resources:
        overrides=OVERRIDES,
    message:
        "Render {wildcards.table}"
    shell:
        "python -m harness.tables {wildcards.table} --configfile {input.config} {resources.overrides} 2> {log}"


rule figure:
    """Draw one figure from the records."""
    input:
        config=ancient(PLAN.configfiles),
        records=lambda wildcards: PLAN.figure_files(wildcards.figure),
        code=lambda wildcards: FIGURE_CODE[wildcards.figure],
    output:
        multiext(f"{PLAN.figures}/{{figure}}", ".pdf", ".csv"),
        report(f"{PLAN.figures}/{{figure}}.png", category="Figures", labels={"figure": "{figure}"}),
    log:
        f"{FOLDER}/logs/figure/{{figure}}.log",
    resources:
        overrides=OVERRIDES,
    message:
        "Draw {wildcards.figure}"
    shell:
        "python -m harness.figures {wildcards.figure} --configfile {input.config} {resources.overrides} 2> {log}"


rule claims:
    """Hold the paper's claims against the records."""
    input:
        config=ancient(PLAN.configfiles),
        records=PLAN.records(PLAN.runs.values(), "train.json", "metrics.json"),
        measurements=[*PLAN.pruned, *PLAN.timing],
        code=stamp("claims", code_of("claims")),
    output:
        multiext(f"{FOLDER}/claims", ".md", ".json"),
    params:
        comparisons=canonical_json(PLAN.experiment.comparisons),
    log:
        f"{FOLDER}/logs/claims.log",
    resources:
        overrides=OVERRIDES,
    message:
        "Test the paper's claims"
    shell:
        "python -m harness.claims --configfile {input.config} {resources.overrides} 2> {log}"


rule report:
    """One HTML page with everything, to be opened from disk."""
    input:
        config=ancient(PLAN.configfiles),
        tables=PLAN.tables,
        figures=PLAN.drawn,
        base=PLAN.base_metrics,
        bench=PLAN.bench,
        claims=f"{FOLDER}/claims.json",
        code=stamp("report", code_of("report")),
    output:
        report(f"{FOLDER}/report.html", category="Report"),
    log:
        f"{FOLDER}/logs/report.log",
    resources:
        overrides=OVERRIDES,
    message:
        "Write the report"
    shell:
        "python -m harness.report --configfile {input.config} {resources.overrides} 2> {log}"


if workflow.is_main_process:
    try:
        check_targets(sys.argv[1:], workflow.rules, PLAN.experiment, PLAN.check)
    except ConfigError as error:
        refuse(error)


onstart:
    # Snakemake allows 100 job starts a second and no option lifts that limit. While it holds and jobs wait, every job that ends
    # sets off a timer that wakes the scheduler each second from then on: after 90 jobs, 90 passes over all waiting jobs each
    # second, 15 to 25 % of a core. Jobs on this machine are limited by its cores.
    if workflow.local_exec:
        or_refuse(PLAN.check_devices)(None)
        workflow.scheduler.job_rate_limiter = None
        JOBS.preload(PLAN.folder / "logs/preloaded.log", gpu=PLAN.experiment.gpu)
        # Ctrl-C is for this process alone: jobs end with it, and none fails before it has heard of it.
        shell.prefix(f"trap '' INT; {JOBS.prefix()}")
    else:
        leave_interrupts_to_snakemake()
    JOBS_RUN = f"--at-once {runs_at_once(workflow)}" + ("" if workflow.local_exec else " --jobs-elsewhere")
    watch(PLAN, workflow)
    logger.addHandler(Failures(Path(f"{FOLDER}/logs")))
    # Not a rule: its output would be newer than finished runs, and a setting that changes would rerun all of them.
    try:
        shell(
            "mkdir -p {FOLDER}/logs; unset BEAMLORA_PROGRESS; "  # else it says on stdout too what is refused below
            "python -m harness.workflow.preflight {PLAN.arguments} {JOBS_RUN} --output {FOLDER}/preflight.json"
            " 2> {FOLDER}/logs/preflight.log"
        )
    except CalledProcessError:
        refuse(last_words(Path(f"{FOLDER}/logs/preflight.log")))


onsuccess:
    if not workflow.dryrun and workflow.local_exec:
        CLOCK.stop(preloading_s=JOBS.stop())
    if not workflow.dryrun and os.path.exists(f"{FOLDER}/tables/table1.md"):
        shell("python -m harness.tables.summary table1 {PLAN.arguments}")
