"""lm-evaluation-harness against our own evaluator, on one model: ``python -m harness.evaluate.lm_eval_check --data-dir DIR``.

Both get the same rows, prompts, choices, stops and limits, from the tasks in ``evaluation/tasks/``; each reads, tokenises,
batches, scores and counts by itself. Exit status 1 where a log-likelihood task's accuracies differ by more than 1e-3.

One thing is made equal: lm-eval tokenises context and continuation as one text and splits the tokens afterwards, which
moves the boundary for most tokenizers; training tokenises prompt and response apart. The check scores the tokens of
training. The ``lm_eval`` command on the same YAML files scores lm-eval's, and so another number.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.graders.labels import LOGLIKELIHOOD, likeliest
from harness import cli
from harness.config import ConfigError, EvaluationSpec, Experiment, LmEvalSpec, RunSpec, TaskSpec
from harness.evaluate.lm_eval_documents import task_spec
from harness.files import write_json
from harness.provenance import versions
from harness.threads import limit_threads

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.models.huggingface import HFLM
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: The folder with the lm-eval tasks of the twelve sets.
TASKS = Path(__file__).resolve().parents[2] / "evaluation/tasks"
#: Accuracies of a log-likelihood task may differ by this much: nothing, but for ties on very large sets.
TOLERANCE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one side found for one row: the label or completion, and whether it counts as correct."""

    answer: str
    correct: bool
    #: Log-likelihood of each choice in nats (choice tasks).
    scores: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """A row on which the two sides differ."""

    id: str
    gold: str | None
    ours: Answer
    lm_eval: Answer


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """One task on both sides. ``score_difference`` is the largest difference of a choice's log-likelihood, in nats; None for
    generation, whose disagreements are other verdicts or other completions."""

    kind: str
    n: int
    ours: float
    lm_eval: float
    score_difference: float | None
    disagreements: list[Disagreement]

    @property
    def difference(self) -> float:
        """Ours minus lm-eval's accuracy."""
        return self.ours - self.lm_eval

    @property
    def agrees(self) -> bool:
        """Whether the accuracies are equal within the tolerance."""
        return abs(self.difference) <= TOLERANCE


# ---------------------------------------------------------------------------------------------------------- both sides


def same_tokens_lm(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, batch_size: int) -> HFLM:
    """lm-eval's model, but for the boundary between context and continuation: prompt and response are tokenised apart."""
    from lm_eval.models.huggingface import HFLM

    from harness.data.tokens import encode_prompt, encode_response

    class SameTokens(HFLM):
        def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
            head = encode_prompt(self.tokenizer, context)
            return head, encode_response(self.tokenizer, prompt=context, head=head, response=continuation)

    return SameTokens(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)


def settings(task: ConfigurableTask) -> TaskSpec:
    """Our task of an lm-eval task of ``evaluation/tasks/``. Where choices are scored, the completion is not compared."""
    config = task.config
    if task.OUTPUT_TYPE == "multiple_choice":
        return task_spec(**config.dataset_kwargs, max_new_tokens=1)
    generation = config.generation_kwargs
    limits = {"max_new_tokens": generation["max_gen_toks"], "stop_strings": generation["until"]}
    return task_spec(**config.dataset_kwargs, **limits, score_choices=False)


def _ours(rows: Sequence[Mapping[str, Any]], *, choices: bool) -> list[Answer]:
    """Our answers from the predictions of a task."""
    if not choices:
        return [Answer(answer=row["completion"], correct=row["correct"]) for row in rows]
    return [
        Answer(
            answer=likeliest(row["choice_loglikelihoods"]),
            correct=row["verdicts"][LOGLIKELIHOOD],
            scores=tuple(row["choice_loglikelihoods"].values()),
        )
        for row in rows
    ]


def _theirs(samples: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], *, choices: bool) -> list[Answer]:
    """lm-eval's answers from its logged samples; the verdicts are its own metrics."""
    if not choices:
        return [Answer(answer=sample["filtered_resps"][0], correct=bool(sample["exact_match"])) for sample in samples]
    answers = []
    for sample, row in zip(samples, rows, strict=True):
        scores = [float(response[0]) for response in sample["filtered_resps"]]
        answer = likeliest(dict(zip(row["choice_loglikelihoods"], scores, strict=True)))
        answers.append(Answer(answer=answer, correct=bool(sample["acc"]), scores=tuple(scores)))
    return answers


def _compare(name: str, samples: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], *, choices: bool) -> Agreement:
    samples = sorted(samples, key=lambda sample: sample["doc_id"])
    asked = [sample["arguments"][0][0] for sample in samples]
    if asked != [row["prompt"] for row in rows]:
        raise RuntimeError(f"{name}: lm-eval asked other prompts than ours, or in another order; nothing to compare")
    ours, theirs = _ours(rows, choices=choices), _theirs(samples, rows, choices=choices)
    differences = [
        abs(a - b) for own, other in zip(ours, theirs, strict=True) for a, b in zip(own.scores, other.scores, strict=True)
    ]
    return Agreement(
        kind="loglikelihood" if choices else "generation",
        n=len(rows),
        ours=sum(answer.correct for answer in ours) / len(rows),
        lm_eval=sum(answer.correct for answer in theirs) / len(rows),
        score_difference=max(differences) if choices else None,
        disagreements=[
            Disagreement(id=row["id"], gold=row["gold"], ours=own, lm_eval=other)
            for row, own, other in zip(rows, ours, theirs, strict=True)
            if (own.answer, own.correct) != (other.answer, other.correct)
        ],
    )


def compare(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Mapping[str, Any],
    *,
    data_dir: str | None,
    limit: int | None,
    batch_size: int,
) -> dict[str, Agreement]:
    """Evaluate loaded tasks of ``evaluation/tasks/`` on both sides. The model's train mode is restored.

    Args:
        tasks: what ``harness.evaluate.lm_eval.load_tasks`` gave.
        limit: rows per task; None for all.

    Raises:
        ConfigError: the records cannot be had.
        RuntimeError: lm-eval asked other rows or prompts than ours.
    """
    from harness.data.load import load_records
    from harness.evaluate.lm_eval import evaluate, kept_mode
    from harness.evaluate.task import evaluate_task

    with kept_mode(model):
        results = evaluate(same_tokens_lm(model, tokenizer, batch_size=batch_size), tasks, limit=limit)
    agreements = {}
    for name, task in tasks["tasks"].items():
        spec = settings(task).model_copy(update={"batch_size": batch_size})
        records = load_records(spec.source, data_dir=data_dir, limit=limit)
        rows = evaluate_task(model, tokenizer, name, spec, records).predictions
        agreements[name] = _compare(name, results["samples"][name], rows, choices=task.OUTPUT_TYPE == "multiple_choice")
    return agreements


# -------------------------------------------------------------------------------------------------------------- command


def _spec_of(run_dir: Path) -> RunSpec:
    """The settings that a run was made with."""
    path = run_dir / "train.json"
    try:
        return RunSpec.model_validate(json.loads(path.read_text(encoding="utf-8"))["spec"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: found no readable spec ({' '.join(str(error).split())[:200]}), expected a run") from None


def _model_key(experiment: Experiment, key: str | None) -> str:
    key = key or next(iter(experiment.models))
    if key not in experiment.models:
        raise ConfigError(f"--model: found {key!r}, expected one of {', '.join(experiment.models)}")
    return key


def _load(
    experiment: Experiment, args: argparse.Namespace, tasks: Mapping[str, Any]
) -> tuple[dict[str, str], Path, PreTrainedModel, PreTrainedTokenizerBase]:
    """(what the model is, where its comparison goes by default, model, tokenizer)."""
    if args.run is not None:
        from harness.models.load import load_for_evaluation

        spec = _spec_of(args.run)
        loaded = load_for_evaluation(spec, adapter_dir=args.run / "adapter", models_dir=args.models_dir)
        return {"run": f"{spec.experiment}/{spec.run_id}"}, args.run / "lm_eval_check.json", *loaded
    from harness.models.load import load_base_for_evaluation

    key = _model_key(experiment, args.model)
    evaluation = EvaluationSpec(tasks={name: settings(task) for name, task in tasks["tasks"].items()})
    loaded = load_base_for_evaluation(key, experiment.models[key], models_dir=args.models_dir, dtype=evaluation.dtype)
    return {"model": key}, cli.RESULTS / experiment.name / "lm_eval_check" / f"{key}.json", *loaded


def _load_tasks(args: argparse.Namespace, data_dir: str | None) -> dict[str, Any]:
    from harness.evaluate.lm_eval import load_tasks

    names = LmEvalSpec(tasks=tuple(args.tasks), include_path=str(TASKS))
    tasks = load_tasks(names, include_defaults=False, metadata={"data_dir": data_dir})
    for task in tasks["tasks"].values():
        if args.max_new_tokens is not None and task.OUTPUT_TYPE == "generate_until":
            task.set_config("generation_kwargs", {"max_gen_toks": args.max_new_tokens}, update=True)
    return tasks


def agreement_text(agreements: Mapping[str, Agreement]) -> str:
    """The comparison as a table for a terminal, and the rows behind each difference."""
    lines = [f"{'task':<32} {'n':>6} {'ours':>8} {'lm-eval':>8} {'difference':>11}  {'scores differ by':<17} rows"]
    for name, item in agreements.items():
        scores = "" if item.score_difference is None else f"{item.score_difference:.1e} nats"
        lines.append(
            f"{name:<32} {item.n:>6} {item.ours:>8.4f} {item.lm_eval:>8.4f} {item.difference:>+11.4f}  {scores:<17} "
            f"{len(item.disagreements)}{'' if item.agrees else '  DIFFERS'}"
        )
    for name, item in agreements.items():
        lines += [
            f"{name} {row.id}: gold {row.gold!r}; ours {row.ours.answer!r}, lm-eval {row.lm_eval.answer!r}"
            for row in item.disagreements
        ]
    return "\n".join(lines)


def _record(agreements: Mapping[str, Agreement], **about: Any) -> dict[str, Any]:
    tasks = {
        name: asdict(item) | {"difference": item.difference, "agrees": item.agrees, "tolerance": TOLERANCE}
        for name, item in agreements.items()
    }
    return about | {"tasks": tasks}


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"found {value}, expected at least 1")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m harness.evaluate.lm_eval_check", description=(__doc__ or "").split("\n")[0]
    )
    cli.add_config_arguments(parser)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--model", metavar="KEY", help="a base model of the experiment (default: its first)")
    which.add_argument("--run", type=Path, metavar="RUN_DIR", help="a trained run: train.json and adapter/")
    parser.add_argument("--data-dir", metavar="DIR", help="local copies of the sets (default: the experiment's data_dir)")
    parser.add_argument("--tasks", nargs="+", default=["beamlora_choices"], metavar="NAME", help="default: %(default)s")
    parser.add_argument("--limit", type=_positive, metavar="N", help="the first rows of each task only")
    parser.add_argument("--batch-size", type=_positive, default=8, metavar="N", help="default: %(default)s")
    parser.add_argument("--max-new-tokens", type=_positive, metavar="N", help="another limit for generation, on both sides")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: in the results folder of the model or run")
    cli.add_models_argument(parser)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """The command line. Exit status 1 where a log-likelihood task differs."""

    from harness.experiment.runs import load_experiment

    args = _parser().parse_args(arguments)
    config = cli.parse_config(args)
    experiment = load_experiment(config.files, config.overrides)
    data_dir = args.data_dir or experiment.data_dir
    tasks = _load_tasks(args, data_dir)
    limit_threads()
    about, default, model, tokenizer = _load(experiment, args, tasks)
    agreements = compare(model, tokenizer, tasks, data_dir=data_dir, limit=args.limit, batch_size=args.batch_size)
    releases = versions() | {"lm_eval": version("lm_eval")}
    output = args.output or default
    write_json(output, _record(agreements, **about, limit=args.limit, versions=releases))
    print(f"{agreement_text(agreements)}\n{output}")
    return int(any(not item.agrees for item in agreements.values() if item.kind == "loglikelihood"))


if __name__ == "__main__":
    cli.run(main)
