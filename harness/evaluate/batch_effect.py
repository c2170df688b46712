"""How many answers change with the batch that they are asked in.

A float32 model answers alike in any batch. A bfloat16 model does not, on any device: which kernel multiplies two matrices, and
so in which order sums are rounded, depends on the shape of the batch. Nobody knows beforehand how often that turns an answer:
the first rows of each task are asked again in smaller batches, and the record says what became of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from evaluation.example import Example
from evaluation.graders.choices import judge
from harness.evaluate.answers import Answers
from harness.schema.evaluation import TaskSpec


def other_batch_size(batch_size: int) -> int:
    """A quarter; two of one."""
    return max(1, batch_size // 4) if batch_size > 1 else 2


def batch_effect(
    task: TaskSpec,
    asked: Sequence[Example],
    answers: Answers,
    ask: Callable[[Sequence[Example], int, str], Answers],
    *,
    graders: Sequence[str],
    dtype: str,
) -> dict[str, Any] | None:
    """What changes where the task's first ``batch_effect_rows`` examples are asked again; None in float32, which has nothing
    to measure, and where no rows are to be asked again.

    Args:
        ask: answers examples in batches of a size; the text begins what progress says.
        graders: those that pick choices.

    Returns:
        ``rows`` and ``batch_size`` of the second time; the shares of rows with another completion (null where none is
        generated) and, for each grader, with another pick; the largest difference, in nats, of the log-likelihood of a
        reference or a choice.
    """
    if dtype == "float32" or not task.batch_effect_rows:
        return None
    rows = asked[: task.batch_effect_rows]
    n, batch_size = len(rows), other_batch_size(task.batch_size)
    again = ask(rows, batch_size, "again, in other batches: ")
    texts = zip(answers.completions[:n], again.completions, strict=True)
    losses = zip(answers.losses[:n], again.losses, strict=True)
    choices = list(zip(answers.choices[:n], again.choices, strict=True))
    differences = [abs(first - second) for (first, _), (second, _) in losses]
    differences += [abs(first[x].loglikelihood - second[x].loglikelihood) for first, second in choices for x in first]
    picks = {grader: [[judge(scores, None, grader=grader).best for scores in pair] for pair in choices] for grader in graders}
    return {
        "rows": n,
        "batch_size": batch_size,
        "changed_completions": sum(a.text != b.text for a, b in texts) / n if task.max_new_tokens else None,
        "changed_picks": {grader: sum(a != b for a, b in pairs) / n for grader, pairs in picks.items()},
        "largest_difference_nats": max(differences),
    }
