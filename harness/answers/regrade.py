"""Grade the answers that a run keeps again: ``python -m harness.answers.regrade RUN_DIR [RUN_DIR ...]``.

Where graders have changed, earlier records have the numbers of other graders, and tables say so. The completions and the
choices' log-likelihoods are kept with the predictions, so that nothing has to be generated again. What lm-eval graded is left.
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from evaluation import sets
from evaluation.graders.choices import ChoiceScore
from harness import cli
from harness.data.load import load_records, source_fingerprint
from harness.errors import ConfigError
from harness.evaluate.finished_tasks import TaskResult
from harness.evaluate.task import grade_answers
from harness.export import lm_eval, model_card
from harness.files import write_json, write_jsonl
from harness.provenance import git_state
from harness.records.read import read_metrics, read_predictions, recorded_evaluation
from harness.records.training import has_weights
from harness.schema.evaluation import TaskSpec

#: What a prediction has beside its verdicts; the choices where some are scored.
_ANSWER = ("id", "prompt", "completion", "gold", "truncated", "tokens", "gold_nll", "gold_tokens")
_CHOICES = ("choice_loglikelihoods", "choice_texts")


def regrade(run_dir: Path, *, data_dir: str | None) -> dict[str, tuple[float | None, float | None]]:
    """Grade the answers of every task again, and write predictions, ``metrics.json`` and the exports.

    Args:
        run_dir: of a run or a base evaluation, with ``metrics.json`` and ``predictions/``.
        data_dir: local copies of the sets; None: the hub.

    Returns:
        Task -> accuracy before and after.

    Raises:
        ConfigError: no record, one that does not say how it was evaluated, or other rows of a set than were answered.
    """
    metrics = read_metrics(run_dir)
    at = run_dir / "metrics.json"
    tasks = recorded_evaluation(at, metrics.get("evaluation")).tasks
    results = {name: _regraded(run_dir, name, tasks[name], old, data_dir) for name, old in metrics["tasks"].items()}
    before = metrics["tasks"]
    after = {}
    for name, result in results.items():
        predictions = run_dir / "predictions" / f"{name}.jsonl"
        write_jsonl(predictions, result.predictions)
        after[name] = before[name] | result.metrics | {"predictions_bytes": predictions.stat().st_size}
    if results:  # a diverged run has answered nothing
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        write_json(at, metrics | {"tasks": after, "regraded": {"created_at": now, "git": git_state(Path(__file__).parent)}})
        lm_eval.write(run_dir)
        if has_weights(run_dir):
            model_card.write(run_dir)
    return {name: (before[name]["accuracy"], after[name]["accuracy"]) for name in results}


def _regraded(run_dir: Path, name: str, task: TaskSpec, old: Mapping[str, Any], data_dir: str | None) -> TaskResult:
    records = load_records(task.source, data_dir=data_dir, limit=task.limit)
    asked = sets.examples(task.format, records)
    rows = read_predictions(run_dir, name, fields=(*_ANSWER, *(_CHOICES[:1] if task.score_choices else ())))
    if source_fingerprint(records) != old["data_sha256"] or [row["id"] for row in rows] != [one.id for one in asked]:
        raise ConfigError(f"{run_dir}: {name}: found other rows in the set than were answered, expected the same ones")
    answered = [{field: row[field] for field in (*_ANSWER, *_CHOICES) if field in row} for row in rows]
    choices = list(map(_choices, rows)) if task.score_choices else []
    seconds = {part: value for part, value in old["seconds"].items() if part != "grading"}
    return grade_answers(task, asked, answered, choices, seconds)


def _choices(row: Mapping[str, Any]) -> dict[str, ChoiceScore]:
    """The scores of a prediction's choices. A label's statement has no length: its only grader asks for none."""
    texts = row.get("choice_texts", {})
    scores = {}
    for label, nats in row["choice_loglikelihoods"].items():
        _, text, tokens = texts.get(label, ("", "", 0))
        scores[label] = ChoiceScore(loglikelihood=nats, tokens=tokens, characters=len(text.removeprefix(" ")))
    return scores


def _text(run_dir: Path, changes: Mapping[str, tuple[float | None, float | None]]) -> Iterable[str]:
    for name, (before, after) in changes.items():
        if before is not None and after is not None:
            yield f"{run_dir} {name}: accuracy {100 * before:.2f} % -> {100 * after:.2f} %"


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m harness.answers.regrade", description=(__doc__ or "").split("\n")[0])
    cli.add_run_dirs(parser)
    parser.add_argument("--data-dir", metavar="DIR", help="folder with local copies of the sets (default: the hub)")
    args = parser.parse_args(arguments)
    for run_dir in args.run_dirs:
        print("\n".join(_text(run_dir, regrade(run_dir, data_dir=args.data_dir))))
    return 0


if __name__ == "__main__":
    cli.run(main)
