"""A run's results in Every Eval Ever's files: ``python -m harness.export.every_eval_ever RUN_DIR [RUN_DIR ...]``.

Every Eval Ever is the EvalEval coalition's common form of evaluation results, with a public store of them (schema 0.3.0:
``every_eval_ever/schemas/`` of the Python package every-eval-ever 0.3.0). ``RUN_DIR/every_eval_ever`` gets the store's own
layout, ``data/beamlora-harness/<developer>/<model>/<uuid>.json`` with one result for each test set and grader, and beside it
``<uuid>_samples.jsonl`` with one line for each verdict. They are made from the run's records alone: the same record gives
the same bytes under the same name. Stand-in models and generated questions are called that in every file.

What lm-eval itself evaluated is left to Every Eval Ever's own converter, which reads what ``harness.export.lm_eval`` writes.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation import sets
from evaluation.graders.choices import CHOICE_GRADERS
from evaluation.graders.labels import LOGLIKELIHOOD
from evaluation.sets.prompts import TEMPLATES
from harness import cli
from harness.errors import ConfigError
from harness.export import evaluated
from harness.export.evaluated import Evaluated
from harness.export.model_card_text import dataset_name
from harness.files import json_text, write_json, write_text
from harness.schema.base_models import HubModel
from harness.schema.data import FileData, GeneratedData, which_rows
from harness.schema.evaluation import TaskSpec
from harness.statistics.stats import CONFIDENCE, wilson_interval

SCHEMA_VERSION = "0.3.0"
COLLECTION = "beamlora-harness"
UNKNOWN = "unknown"
#: Our metrics by their ids in the coalition's registry, and the family of each.
_METRICS = {"accuracy": ("accuracy", "accuracy"), "pass@1": ("pass-at-1", "pass_rate")}
_NLL = "gold_nll"
_FIELDS = ("id", "prompt", "completion", "extracted", "gold", "verdicts", "truncated", "unparseable")


def _strings(details: Mapping[str, Any]) -> dict[str, str]:
    """``additional_details`` hold strings alone; what is not known is left out."""
    return {
        key: value if isinstance(value, str) else json_text(value)
        for key, value in details.items()
        if value is not None and value != ""
    }


def _readable(text: str) -> str:
    """A model's broken bytes are lone surrogates, which many readers of JSON refuse."""
    return text.encode("utf-8", errors="backslashreplace").decode("utf-8")


def _model_id(run: Evaluated) -> str:
    """developer/model: the base model's on the hub, or else a name of ours."""
    hub, experiment, spec = evaluated.hub_id(run.model), run.metrics["experiment"], run.spec
    if spec is not None:
        return f"{COLLECTION}/{experiment}-{spec.model_key}-{spec.domain}-{spec.method.key}-seed{spec.seed}"
    if hub is not None and "/" in hub:
        return hub
    return f"{COLLECTION}/{experiment}-{run.metrics['run_id'].split('/')[1]}"


def _timestamp(run: Evaluated) -> str:
    """Seconds since 1970."""
    return str(int(run.created.timestamp()))


def _evaluation_id(run: Evaluated) -> str:
    return f"{COLLECTION}/{run.metrics['experiment']}/{run.metrics['run_id']}/{_timestamp(run)}"


# ------------------------------------------------------------------------------------------------------ model and source


def _model_info(run: Evaluated) -> dict[str, Any]:
    source, hub = run.model.source, evaluated.hub_id(run.model)
    details: dict[str, Any] = {
        "deployment_type": "self_deployed",
        "model_availability": "open_weights" if run.train is None and hub is not None else UNKNOWN,
        "stand_in": run.stand_in,
        "base_model": hub or run.model.label,
        "base_model_revision": source.model_revision if isinstance(source, HubModel) else None,
        "base_model_hash": run.metrics.get("base_model_hash"),
        "dtype": run.metrics["evaluation"]["dtype"],
    }
    name = f"{run.model.label}, not fine-tuned"
    if run.spec is not None and run.train is not None:
        spec, train, data = run.spec, run.train, run.spec.data.source
        name = f"{spec.method.label} on {run.model.label}: {spec.domain}, seed {spec.seed}"
        details |= {
            "base_model_hash": train["base_model_hash"],
            "method": spec.method.name,
            "method_settings": spec.method.settings,
            "seed": spec.seed,
            "training_data": f"generated in the format of {spec.data.format}"
            if isinstance(data, GeneratedData)
            else data.title,
            "training_data_sha256": train["data"]["sha256"],
            "training_hash": train["training_hash"],
            "trainable_parameters": train["trainable_parameters"],
            "base_parameters": train["base_parameters"],
            "artefact_sha256": train.get("artefact"),
        }
    # Records of before there was a choice have transformers' release alone.
    before = {"name": "transformers", "version": run.metrics["versions"].get("transformers", UNKNOWN)}
    return {
        "name": name,
        "id": _model_id(run),
        "inference_engine": run.metrics.get("engine", before),
        "additional_details": _strings(details),
    }


def _source_data(task: TaskSpec, metrics: Mapping[str, Any]) -> dict[str, Any]:
    source = task.source
    details = {"rows": which_rows(source, limit=task.limit), "rows_sha256": metrics.get("data_sha256")}
    if not isinstance(source, FileData):
        stand_in = evaluated.GENERATED_NOTICE if isinstance(source, GeneratedData) else None
        name = dataset_name(source, format=task.format, limit=task.limit)
        return {"dataset_name": name, "source_type": "other", "additional_details": _strings({**details, "stand_in": stand_in})}
    config = source.hub_config if isinstance(source.hub_config, str | None) else list(source.hub_config)
    return {
        "dataset_name": sets.get(task.format).label,
        "source_type": "hf_dataset",
        "hf_repo": source.hub_id,
        "hf_split": source.split,
        **({} if source.rows is None else {"samples_number": source.rows}),
        "additional_details": _strings({**details, "hf_config": config, "hf_revision": source.revision}),
    }


# --------------------------------------------------------------------------------------------------------------- results


def _evaluation_name(task: TaskSpec, name: str, what: str) -> str:
    """Dotted, as the store's are; not that of a public set where the questions are others."""
    kind = {"files": "", "local": "own.", "generated": "generated."}[task.source.kind]
    return f"{kind}{name}.{what}"


def _generation(run: Evaluated, task: TaskSpec, *, scores_choices: bool, sandbox: Mapping[str, Any] | None) -> dict[str, Any]:
    template, evaluation = TEMPLATES.get(task.prompt_template), run.metrics["evaluation"]
    arguments: dict[str, Any] = {} if template is None else {"prompt_template": template("{question}")}
    details: dict[str, Any] = {
        "prompt_template": task.prompt_template,
        "num_fewshot": 0,
        "protocol": evaluation.get("protocol"),
    }
    if scores_choices or not task.max_new_tokens:
        details |= {"output": "log-likelihoods; nothing is generated"}
    else:
        arguments |= {"temperature": 0.0, "max_tokens": task.max_new_tokens}
        decoding = "greedy" if task.num_beams == 1 else f"beam search, {task.num_beams} beams"
        details |= {"decoding": decoding, "stop_strings": list(task.stop_strings)}
    if sandbox is not None:
        arguments |= {"sandbox": {"type": sandbox["level"]}}
        details |= {"sandbox_limits": {key: value for key, value in sandbox.items() if key != "level"}}
    return {"generation_args": arguments, "additional_details": _strings(details)}


def _graded_by(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Which code graded and averaged, so that numbers under different graders are told apart."""
    sources = metrics.get("sources")
    return {"graded_by": "not recorded"} if sources is None else {f"graded_by_{part}": what for part, what in sources.items()}


def _by_grader(run: Evaluated, name: str, grader: str, worth: Sequence[float]) -> dict[str, Any]:
    task, metrics = run.tasks[name], run.metrics["tasks"][name]
    n, score, metric = metrics["n"], metrics["graders"][grader], sets.get(task.format).metric
    scores_choices = grader in CHOICE_GRADERS
    identity, family = _METRICS[metric]
    low, high = wilson_interval(score * n, n)
    error = math.sqrt(math.fsum((one - score) ** 2 for one in worth)) / n
    what = "the likeliest choice" if scores_choices else "the answer"
    return {
        "evaluation_result_id": f"{name}/{grader}",
        "evaluation_name": _evaluation_name(task, name, grader),
        "source_data": _source_data(task, metrics),
        "metric_config": {
            "evaluation_description": f"{metric}: the share of questions of which {what} is right by the grader {grader}",
            "metric_id": identity,
            "metric_name": metric,
            "metric_kind": family,
            "metric_unit": "proportion",
            **({"metric_parameters": {"k": 1}} if metric == "pass@1" else {}),
            "lower_is_better": False,
            "score_type": "continuous",
            "min_score": 0,
            "max_score": 1,
            "additional_details": _strings({"grader": grader, "headline": grader == task.grader, **_graded_by(metrics)}),
        },
        "score_details": {
            "score": score,
            "details": _strings({key: metrics.get(key) for key in ("floor", "truncated", "unparseable", "timed_out")}),
            "uncertainty": {
                "standard_error": {"value": error, "method": "analytic"},
                "confidence_interval": {
                    "lower": low,
                    "upper": high,
                    "confidence_level": CONFIDENCE,
                    "method": "Wilson; over questions, without the spread between training seeds",
                },
                "num_samples": n,
            },
        },
        "generation_config": _generation(
            run, task, scores_choices=scores_choices, sandbox=None if scores_choices else metrics.get("sandbox")
        ),
    }


def _by_nll(run: Evaluated, name: str) -> dict[str, Any]:
    task, metrics = run.tasks[name], run.metrics["tasks"][name]
    error = metrics.get("gold_nll_stderr")
    return {
        "evaluation_result_id": f"{name}/{_NLL}",
        "evaluation_name": _evaluation_name(task, name, _NLL),
        "source_data": _source_data(task, metrics),
        "metric_config": {
            "evaluation_description": "mean over questions of the negative log-likelihood of the reference response, per token",
            "metric_id": f"{COLLECTION}.{_NLL}",
            "metric_name": "NLL of the gold answer",
            "metric_kind": "negative_log_likelihood",
            "metric_unit": "nats per token",
            "lower_is_better": True,
            "score_type": "continuous",
            "min_score": 0,
            "max_score": "Infinity",
            "additional_details": _strings({"headline": task.grader is None, **_graded_by(metrics)}),
        },
        "score_details": {
            "score": metrics[_NLL],
            "uncertainty": {
                **({} if error is None else {"standard_error": {"value": error, "method": "analytic"}}),
                "num_samples": metrics["n"],
            },
        },
        "generation_config": _generation(run, task, scores_choices=True, sandbox=None),
    }


# --------------------------------------------------------------------------------------------------------------- samples


def _likeliest(row: Mapping[str, Any], grader: str) -> list[str]:
    """The labels that score best. Records of before there was more than one such grader have the scores alone."""
    scores = row["choice_loglikelihoods"]
    best = max(scores.values())
    return list(row["best_choices"][grader]) if "best_choices" in row else [label for label in scores if scores[label] == best]


def _sample(run: Evaluated, name: str, grader: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """One verdict. Where choices are scored, the output is the likeliest one, several where they tie."""
    task, worth = run.tasks[name], float(row["verdicts"][grader])
    stand_ins = (("model", run.model.is_stand_in), ("questions", isinstance(task.source, GeneratedData)))
    metadata = {"stand_in": ", ".join(what for what, is_one in stand_ins if is_one), _NLL: row.get(_NLL)}
    asked: dict[str, Any] = {"raw": _readable(row["prompt"]), "reference": [] if row["gold"] is None else [str(row["gold"])]}
    # The store's recipe, so that hashes agree between harnesses.
    sample_hash = hashlib.sha256(json.dumps(asked, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    if grader in CHOICE_GRADERS:
        asked["choices"] = list(row["choice_loglikelihoods"])
        output = _likeliest(row, grader)
        extracted = output[0] if len(output) == 1 else None
    else:
        output = [_readable(row["completion"])]
        # The record has what the headline's grader took for the answer, of no other one.
        extracted = row["extracted"] if grader == task.grader else None
        metadata |= {key: row.get(key) for key in ("truncated", "unparseable", "outcome", "tokens")}
    attribution = {
        "turn_idx": 0,
        "source": "output.raw",
        "extracted_value": None if extracted is None else _readable(str(extracted)),
        "extraction_method": grader,
        "is_terminal": True,
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": _evaluation_id(run),
        "model_id": _model_id(run),
        "evaluation_name": _evaluation_name(task, name, grader),
        "evaluation_result_id": f"{name}/{grader}",
        "sample_id": str(row["id"]),
        "sample_hash": sample_hash,
        "interaction_type": "single_turn",
        "input": asked,
        "output": {"raw": output},
        "answer_attribution": [] if extracted is None else [attribution],
        "evaluation": {"score": worth, "is_correct": worth == 1},
        "metadata": _strings(metadata),
    }


def _task(run: Evaluated, name: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The results of one test set and their samples. Of an NLL, which is right or wrong of no question, each sample has its
    own in the metadata."""
    metrics = run.metrics["tasks"][name]
    scored = [grader for grader in metrics["graders"] if grader in CHOICE_GRADERS]
    more = (*(["choice_loglikelihoods"] if scored else []), *(["best_choices"] if set(scored) - {LOGLIKELIHOOD} else []))
    rows = run.rows(name, fields=(*_FIELDS, *more))
    results, samples = [], []
    for grader, score in metrics["graders"].items():
        worth = [float(row["verdicts"][grader]) for row in rows]
        if not math.isclose(math.fsum(worth) / len(worth), score, abs_tol=1e-9):
            path, mean = run.folder / "predictions" / f"{name}.jsonl", math.fsum(worth) / len(worth)
            raise ConfigError(f"{path}: verdicts.{grader}: found a mean of {mean:g}, expected {score:g}")
        results.append(_by_grader(run, name, grader, worth))
        samples += [_sample(run, name, grader, row) for row in rows]
    return [*results, _by_nll(run, name)], samples


def write(run_dir: Path) -> list[Path]:
    """Write ``RUN_DIR/every_eval_ever/``, in place of what an earlier record left there: the results, then the samples, if
    anything was answered. A diverged run has no numbers and gives no files.

    Raises:
        ConfigError: the run is not finished, or its record is broken, contradicts its predictions or has no date.
    """
    run = Evaluated(run_dir)
    _ = run.model  # which the records must say, also of a run that diverged
    status = run.metrics["status"]
    if run.train is not None and status != run.train["status"]:
        found = f"found {status!r}, train.json says {run.train['status']!r}"
        raise ConfigError(f"{run_dir / 'metrics.json'}: status: {found}; evaluate the run again")
    if status == "diverged":
        return []
    by_task = [_task(run, name) for name in run.tasks]
    samples = [sample for _, own in by_task for sample in own]
    stand_in, git, versions = run.stand_in, run.metrics["git"], run.metrics["versions"]
    aggregate: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": _evaluation_id(run),
        "evaluation_timestamp": _timestamp(run),
        "retrieved_timestamp": _timestamp(run),
        "source_metadata": {
            "source_name": COLLECTION,
            "source_type": "evaluation_run",
            # Of whoever trained and evaluated no record says who it is.
            "source_organization_name": UNKNOWN,
            "evaluator_relationship": "third_party" if run.train is None else "first_party",
            "additional_details": _strings({"experiment": run.metrics["experiment"], "stand_in": stand_in}),
        },
        "eval_library": {
            "name": COLLECTION,
            "version": git["commit"] or UNKNOWN,
            "additional_details": _strings({"uncommitted_changes": git["dirty"], "packages": versions}),
        },
        "model_info": _model_info(run),
        "evaluation_results": [result for results, _ in by_task for result in results],
    }
    # The store asks for random names (version 4); drawn from the content, the same record has the same one.
    digest = hashlib.sha256(json_text([aggregate, samples]).encode()).digest()
    name = str(uuid.UUID(bytes=digest[:16], version=4))
    base = run_dir / "every_eval_ever"
    shutil.rmtree(base, ignore_errors=True)
    developer, model = _model_id(run).split("/")
    folder = base / "data" / COLLECTION / developer / model
    written = [folder / f"{name}.json"]
    if samples:
        written.append(folder / f"{name}_samples.jsonl")
        text = "".join(json_text(sample) + "\n" for sample in samples)
        write_text(written[1], text)
        aggregate["detailed_evaluation_results"] = {
            "format": "jsonl",
            "file_path": str(written[1].relative_to(base)),
            "hash_algorithm": "sha256",
            "checksum": hashlib.sha256(text.encode()).hexdigest(),
            "total_rows": len(samples),
        }
    write_json(written[0], aggregate)
    return written


main = evaluated.command("harness.export.every_eval_ever", __doc__, write).main

if __name__ == "__main__":
    cli.run(main)
