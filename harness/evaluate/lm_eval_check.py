"""lm-evaluation-harness against our own evaluator, on one model: ``python -m harness.evaluate.lm_eval_check --data-dir DIR``.

Both get the same rows, prompts, choices, stops and limits, from the tasks in ``evaluation/tasks/``; each reads, tokenises,
batches, scores and counts by itself. Exit status 1 where a log-likelihood task's accuracies differ by more than 1e-3.

The model is that of a record (``--run``), or of the experiment's base evaluations, in its dtype; each task asks as many rows,
in batches as large. In bfloat16 both ask one row at a time, since scores depend on the batch there.

Two things are made equal. Both sides take logits in float32. And lm-eval tokenises context and continuation as one text and
splits the tokens afterwards, which moves the boundary for most tokenizers; training tokenises prompt and response apart: of
labels the check scores the tokens of training. The ``lm_eval`` command on the same YAML files scores lm-eval's, and so another
number. Choices as running text (``beamlora_*_continuation``) have lm-eval's tokens on both sides.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.graders.choices import PER_CHARACTER, ChoiceScore
from evaluation.graders.labels import LOGLIKELIHOOD, likeliest
from evaluation.sets.prompts import CONTINUATION
from harness import cli
from harness.errors import ConfigError
from harness.evaluate.lm_eval_documents import task_spec
from harness.files import require_writable, write_json
from harness.provenance import versions
from harness.records.read import read_metrics, recorded_evaluation
from harness.records.training import read_training
from harness.schema.base_models import BaseModelSpec
from harness.schema.evaluation import EvaluationSpec, LmEvalSpec, TaskSpec
from harness.schema.experiment import Experiment
from harness.schema.run import RunSpec
from harness.threads import limit_threads

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.models.huggingface import HFLM
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: The folder with the lm-eval tasks of the twelve sets.
TASKS = Path(__file__).resolve().parents[2] / "evaluation/tasks"
#: Accuracies of a log-likelihood task may differ by this much: nothing, but for ties on very large sets.
TOLERANCE = 1e-3
#: Where no record says how large batches are.
BATCH_SIZE = 8
#: lm-eval's metric of a grader of choices. It has none of log-likelihoods per token.
_METRICS = {LOGLIKELIHOOD: "acc", PER_CHARACTER: "acc_norm"}


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
    if config.dataset_kwargs.get("protocol") == CONTINUATION:
        return task_spec(**config.dataset_kwargs)
    if task.OUTPUT_TYPE == "multiple_choice":
        return task_spec(**config.dataset_kwargs, max_new_tokens=1, grader=LOGLIKELIHOOD)
    generation = config.generation_kwargs
    limits = {"max_new_tokens": generation["max_gen_toks"], "stop_strings": generation["until"]}
    return task_spec(**config.dataset_kwargs, **limits, score_choices=False)


def _chosen(row: Mapping[str, Any], scores: Sequence[float], grader: str) -> Answer:
    """The answer that a row's scores give by lm-eval's rule, which takes the first of equals."""
    texts = row.get("choice_texts") or {}
    values = {}
    for label, score in zip(row["choice_loglikelihoods"], scores, strict=True):
        _, text, tokens = texts.get(label, ("", "", 1))
        length = len(text.removeprefix(" "))
        values[label] = ChoiceScore(loglikelihood=score, characters=length, tokens=tokens).under(grader)
    answer = likeliest(values)
    return Answer(answer=answer, correct=answer == row["gold"], scores=tuple(scores))


def _ours(rows: Sequence[Mapping[str, Any]], *, choices: bool, grader: str) -> list[Answer]:
    """Our answers from the predictions of a task."""
    if not choices:
        return [Answer(answer=row["completion"], correct=row["correct"]) for row in rows]
    return [_chosen(row, tuple(row["choice_loglikelihoods"].values()), grader) for row in rows]


def _theirs(
    samples: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], *, choices: bool, grader: str
) -> list[Answer]:
    """lm-eval's answers from its logged samples; the verdicts are its own metrics."""
    if not choices:
        return [Answer(answer=sample["filtered_resps"][0], correct=bool(sample["exact_match"])) for sample in samples]
    answers = []
    for sample, row in zip(samples, rows, strict=True):
        scores = [float(response[0]) for response in sample["filtered_resps"]]
        answers.append(replace(_chosen(row, scores, grader), correct=bool(sample[_METRICS[grader]])))
    return answers


def _compare(
    name: str, samples: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], *, choices: bool, grader: str
) -> Agreement:
    samples = sorted(samples, key=lambda sample: sample["doc_id"])
    asked = [sample["arguments"][0][0] for sample in samples]
    if asked != [row["prompt"] for row in rows]:
        raise RuntimeError(f"{name}: lm-eval asked other prompts than ours, or in another order; nothing to compare")
    ours = _ours(rows, choices=choices, grader=grader)
    theirs = _theirs(samples, rows, choices=choices, grader=grader)
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
    limit: int | None = None,
    batch_size: int | None = None,
    recorded: EvaluationSpec | None = None,
) -> dict[str, Agreement]:
    """Evaluate loaded tasks of ``evaluation/tasks/`` on both sides. The model's train mode is restored.

    Args:
        tasks: what ``harness.evaluate.lm_eval.load_tasks`` gave.
        limit: rows per task; None for those of ``recorded``, or all.
        batch_size: None for that of ``recorded``, or 1 where the model is not float32.
        recorded: the evaluation whose rows and batches are taken.

    Raises:
        ConfigError: the records cannot be had.
        RuntimeError: lm-eval asked other rows or prompts than ours.
    """
    from lm_eval.models.huggingface import HFLM

    from harness.data.load import load_records
    from harness.evaluate.lm_eval import evaluate
    from harness.evaluate.task import evaluate_task
    from harness.models.output_layer import evaluation_mode

    by_format = {task.format: task for task in recorded.tasks.values()} if recorded is not None else {}
    one_by_one = str(model.dtype) != "torch.float32"
    agreements = {}
    for name, task in tasks["tasks"].items():
        spec = settings(task)
        own = by_format.get(spec.format)
        rows_asked = limit or (own.limit if own is not None else None)
        size = batch_size or (1 if one_by_one else own.batch_size if own is not None else BATCH_SIZE)
        spec = spec.model_copy(update={"batch_size": size, "batch_effect_rows": 0})
        with evaluation_mode(model):
            lm = (
                HFLM(pretrained=model, tokenizer=tokenizer, batch_size=size)
                if spec.prompt_template == CONTINUATION
                else same_tokens_lm(model, tokenizer, batch_size=size)
            )
            results = evaluate(lm, {**tasks, "tasks": {name: task}}, limit=rows_asked)
        records = load_records(spec.source, data_dir=data_dir, limit=rows_asked)
        rows = evaluate_task(model, tokenizer, name, spec, records, how=recorded).predictions
        choices = task.OUTPUT_TYPE == "multiple_choice"
        assert spec.grader is not None  # those of our lm-eval tasks have one
        agreements[name] = _compare(name, results["samples"][name], rows, choices=choices, grader=spec.grader)
    return agreements


# -------------------------------------------------------------------------------------------------------------- command


@dataclass(frozen=True, kw_only=True)
class _Subject:
    """What is checked: a model, the evaluation that is on record or planned, and how it is loaded."""

    about: dict[str, str]
    output: Path
    evaluation: EvaluationSpec | None
    dtype: str
    load: Callable[[str], tuple[PreTrainedModel, PreTrainedTokenizerBase]]


def _recorded(run_dir: Path, models_dir: Path) -> _Subject:
    """A trained run, or a base model's evaluation, as its record says that it was evaluated."""
    from harness.models.load import load_base_for_evaluation, load_for_evaluation

    metrics = read_metrics(run_dir)
    training = read_training(run_dir) if (run_dir / "train.json").is_file() else None
    evaluation = recorded_evaluation(run_dir / "metrics.json", metrics.get("evaluation"))
    try:
        about = {"run": f"{metrics['experiment']}/{metrics['run_id']}"}
        if training is not None:
            spec = RunSpec.model_validate(training["spec"])
        else:
            base, key = BaseModelSpec.model_validate(metrics["model"]), metrics["run_id"].split("/")[1]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        stated = " ".join(str(error).split())[:200]
        raise ConfigError(f"{run_dir}: found no readable record ({stated}), expected an evaluated run") from None

    def load(dtype: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        if training is None:
            return load_base_for_evaluation(key, base, models_dir=models_dir, dtype=dtype)
        evaluated = spec.model_copy(update={"evaluation": evaluation.model_copy(update={"dtype": dtype})})
        return load_for_evaluation(evaluated, adapter_dir=run_dir / "adapter", models_dir=models_dir)

    output = run_dir / "lm_eval_check.json"
    return _Subject(about=about, output=output, evaluation=evaluation, dtype=evaluation.dtype, load=load)


def _base(experiment: Experiment, key: str | None, models_dir: Path) -> _Subject:
    """A base model of the experiment, as its base evaluations ask it."""
    from harness.models.load import load_base_for_evaluation

    key = key or next(iter(experiment.models))
    if key not in experiment.models:
        raise ConfigError(f"--model: found {key!r}, expected one of {', '.join(experiment.models)}")
    asked = experiment.base_evaluation
    evaluation = asked.evaluation(asked.protocols[0]) if asked is not None and key in asked.models else None
    return _Subject(
        about={"model": key},
        output=cli.RESULTS / experiment.name / "lm_eval_check" / f"{key}.json",
        evaluation=evaluation,
        dtype=evaluation.dtype if evaluation is not None else "float32",
        load=lambda dtype: load_base_for_evaluation(key, experiment.models[key], models_dir=models_dir, dtype=dtype),
    )


def default_tasks(evaluation: EvaluationSpec | None) -> str:
    """The group of lm-eval tasks that asks as an evaluation asked: choices as running text, or by their labels."""
    return f"beamlora_{CONTINUATION if evaluation is not None and evaluation.protocol == CONTINUATION else 'choices'}"


def _load_tasks(args: argparse.Namespace, data_dir: str | None, evaluation: EvaluationSpec | None) -> dict[str, Any]:
    from harness.evaluate.lm_eval import load_tasks

    names = LmEvalSpec(tasks=tuple(args.tasks or [default_tasks(evaluation)]), include_path=str(TASKS))
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
    which.add_argument("--run", type=Path, metavar="RUN_DIR", help="an evaluated run or base model: metrics.json")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: the record's or the base evaluations'")
    parser.add_argument("--data-dir", metavar="DIR", help="local copies of the sets (default: the experiment's data_dir)")
    parser.add_argument(
        "--tasks",
        nargs="+",
        metavar="NAME",
        help="default: beamlora_choices, or beamlora_continuation if so recorded",
    )
    parser.add_argument("--limit", type=_positive, metavar="N", help="the first rows of each task only (default: as above)")
    parser.add_argument("--batch-size", type=_positive, metavar="N", help="default: as above; 1 in bfloat16")
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
    limit_threads()
    subject = _recorded(args.run, args.models_dir) if args.run is not None else _base(experiment, args.model, args.models_dir)
    output = args.output or subject.output
    require_writable(output)
    tasks = _load_tasks(args, data_dir, subject.evaluation)
    dtype = args.dtype or subject.dtype
    model, tokenizer = subject.load(dtype)
    agreements = compare(
        model,
        tokenizer,
        tasks,
        data_dir=data_dir,
        limit=args.limit,
        batch_size=args.batch_size,
        recorded=subject.evaluation,
    )
    releases = versions() | {"lm_eval": version("lm_eval")}
    write_json(output, _record(agreements, **subject.about, dtype=dtype, limit=args.limit, versions=releases))
    print(f"{agreement_text(agreements)}\n{output}")
    return int(any(not item.agrees for item in agreements.values() if item.kind == "loglikelihood"))


if __name__ == "__main__":
    cli.run(main)
