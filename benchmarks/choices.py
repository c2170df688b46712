"""The choices of questions scored by ours and by lm-eval's HFLM on one model, labels and running text."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from benchmarks.rounds import Size, in_turn, load, paired, timed
from evaluation import sets
from harness.data.load import load_records
from harness.engine import tree
from harness.evaluate.answers import continued_choices, stated_choices
from harness.evaluate.lm_eval_check import same_tokens_lm
from harness.experiment.runs import load_experiment
from harness.records.bench import Row
from harness.source_files import ROOT

#: lm-eval's batch, and ours.
BATCH_SIZE = 8
ROWS = 48
#: Largest difference of a log-likelihood in nats where the tokens are the same, in float32.
AGREEMENT = 1e-4
GOALS = {"label": 0.6, "continuation": 0.3}


def measure(size: Size) -> Iterator[Row]:
    """A row for each form. Both sides tokenise, and score the same tokens.

    Raises:
        RuntimeError: the two sides' log-likelihoods differ, or the choice that they prefer.
    """
    from lm_eval.api.instance import Instance

    model, tokenizer = load(size)
    lm = same_tokens_lm(model, tokenizer, batch_size=BATCH_SIZE)
    kind = "piqa" if size.smoke else "arc_easy"
    examples = sets.examples(kind, [_piqa(row) for row in range(2)] if size.smoke else _arc_easy(size))
    state = sets.get(kind).statement
    assert state is not None
    forms = {
        "label": stated_choices(examples, state, prompt_template="commonsense"),
        "continuation": continued_choices(examples),
    }
    for form, offered in forms.items():
        scores: dict[str, list[float]] = {}

        def theirs(offered: list[list[tuple[str, str]]], scores: dict[str, list[float]]) -> None:
            requests = [Instance("loglikelihood", {}, offer, number) for number, own in enumerate(offered) for offer in own]
            scores["theirs"] = [float(nats) for nats, _ in lm.loglikelihood(requests, disable_tqdm=True)]

        def ours(offered: list[list[tuple[str, str]]], scores: dict[str, list[float]]) -> None:
            asked = [[tree.response(tokenizer, *offer, ended=False) for offer in own] for own in offered]
            scores["ours"] = [nats for own in tree.loglikelihoods(model, asked, batch_size=BATCH_SIZE) for nats in own]

        sides = {
            "theirs": partial(timed, partial(theirs, offered, scores)),
            "ours": partial(timed, partial(ours, offered, scores)),
        }
        costs = in_turn(sides, size.rounds)
        _require_agreement(form, scores["ours"], scores["theirs"], [len(own) for own in offered])
        yield Row(
            name=f"choices, {form}",
            ours="scoring: tree",
            peer="lm-eval HFLM",
            goal=GOALS[form],
            rounds=paired(costs["ours"], costs["theirs"]),
        )


def _piqa(row: int) -> dict[str, str]:
    """A row of PIQA's form, of which each choice can be read as running text."""
    instruction = (
        f"Please choose the correct solution to the question: boil {row} litres\n\nSolution1: heat them\n\n"
        "Solution2: leave them alone\n\nAnswer format: solution1/solution2"
    )
    return {"instruction": instruction, "input": "", "output": "the correct answer is solution1", "answer": "solution1"}


def _arc_easy(size: Size) -> list[dict[str, Any]]:
    """Its first rows."""
    asked = load_experiment([ROOT / "config/small.yaml"], {}).base_evaluation
    assert asked is not None
    return load_records(asked.evaluation("sound").tasks["arc_easy"].source, data_dir=size.data_dir, limit=ROWS)


def _require_agreement(form: str, ours: list[float], theirs: list[float], choices: list[int]) -> None:
    worst = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
    start, other = 0, 0
    for many in choices:
        own, their = ours[start : start + many], theirs[start : start + many]
        other += max(range(many), key=own.__getitem__) != max(range(many), key=their.__getitem__)
        start += many
    if worst > AGREEMENT or other:
        raise RuntimeError(
            f"choices, {form}: found log-likelihoods up to {worst:.1e} nats apart and {other} other picks, expected at most "
            f"{AGREEMENT:.0e} and none"
        )
