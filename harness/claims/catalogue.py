"""The claims of the paper, each with the test that decides it. Thresholds are ours, and were chosen before any result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from harness import reported
from harness.claims.evidence import Evidence, Missing, part_of
from harness.claims.ranks import importance_claims
from harness.claims.verdicts import BETTER, WORSE, Claim, Part, Quantity, Range
from harness.experiment.runs import SweepRun, metric_of
from harness.schema.evaluation import Metric
from harness.schema.run import RunSpec
from harness.statistics.comparison import Comparison

#: Costs within this factor of LoRA's count as "about the same", the usual margin of equivalence tests.
ABOUT_THE_SAME = Range(above=0.8, below=1.25)
_PAIRED = "Difference of the mean {} over the domain's test sets, paired over seeds and examples; {}."
#: Metric -> its name, how "more accurate" is said, and what happens where it gets worse.
_NAMES: dict[Metric, str] = {"accuracy": "accuracy", "gold_nll": "NLL of the gold answer (less is better)"}
_MORE: dict[Metric, str] = {"accuracy": "is more accurate", "gold_nll": "has a lower NLL of the gold answer"}
_WORSENS: dict[Metric, str] = {"accuracy": "accuracy falls", "gold_nll": "the NLL of the gold answer rises"}
_HOLM = "Holm's correction over {}"


def _of(runs: Sequence[RunSpec], *, domain: str, model: str, method: str) -> list[RunSpec]:
    return [run for run in runs if (run.domain, run.model_key, run.method.key) == (domain, model, method)]


def _paper_difference(evidence: Evidence, *, table: str, domain: str, model: str, method: str, other: str) -> str:
    """The paper's two averages over the domain's test sets, if the model stands for one of its."""
    stands_for = evidence.experiment.models[model].stands_for
    if stands_for is None:
        return "no number for this model"
    averages = []
    for key in (method, other):
        values = [
            reported.value(table=table, model=stands_for, method_names=(key,), domain=domain, task=task)
            for task in reported.tests_after(domain)
        ]
        known = [value for value in values if value is not None]
        if not known:
            return f"no number for {key} on {reported.MODEL_LABELS[stands_for]}"
        averages.append(100 * sum(known) / len(known))
    gap = averages[0] - averages[1]
    return f"{reported.MODEL_LABELS[stands_for]}: {averages[0]:.2f} against {averages[1]:.2f} ({gap:+.2f} points)"


def _method_claim(
    evidence: Evidence,
    runs: Sequence[RunSpec],
    *,
    table: str,
    domain: str,
    model: str,
    method: str,
    other: str,
    expected: Mapping[Metric, Range],
    corrected_over: str,
    **described: Any,
) -> Claim:
    """One method against another on one model and domain. ``described``: key, statement, source and family."""
    where = dict(domain=domain, model=model, method=method, other=other)
    first, second = (_of(runs, domain=domain, model=model, method=key) for key in (method, other))
    metric = metric_of([*first, *second])
    family, decided = evidence.decided(table, metric, **where)

    def compared() -> Comparison:
        return decided or evidence.compared(first, second, of=method, and_of=other)

    rule = _HOLM.format(corrected_over) if family is None else f"decided as in {table}, family {family.name}"
    return Claim(
        paper=_paper_difference(evidence, table=table, **where),
        test=_PAIRED.format(_NAMES[metric], rule),
        model=model,
        parts=(part_of(f"{method} - {other}", expected, [*first, *second], compared),),
        **described,
    )


# ------------------------------------------------------------------------------------------------------------- methods


def _better_than(evidence: Evidence, other: str, title: str) -> Iterator[Claim]:
    """BeamLoRA against one method on each model and domain of Tables 1 and 2; where both have it, as in Table 1."""
    done: set[tuple[str, str]] = set()
    for table, source in (("table1", "section 4.2, Table 1"), ("table2", "section 4.3, Table 2")):
        runs = evidence.table(table)
        for domain, model in dict.fromkeys((run.domain, run.model_key) for run in runs):
            others = _of(runs, domain=domain, model=model, method=other)
            if not others or (domain, model) in done:
                continue
            done.add((domain, model))
            more = _MORE[metric_of(others)]
            yield _method_claim(
                evidence,
                runs,
                table=table,
                domain=domain,
                model=model,
                method="beamlora",
                other=other,
                expected=BETTER,
                corrected_over="models and domains",
                key=f"better_than_{other}/{domain}/{model}",
                statement=f"BeamLoRA {more} than {title}: {domain}, {evidence.experiment.models[model].label}",
                source=source,
                family=f"better_than_{other}",
            )


def _mechanisms(evidence: Evidence) -> Iterator[Claim]:
    """Each ablation of Table 3 against BeamLoRA."""
    runs = evidence.table("table3")
    names = {
        "beamlora-no-expansion": "expansion",
        "beamlora-no-assessment": "assessment",
        "beamlora-no-dynamic-p": "the dynamic threshold",
    }
    for domain, model in dict.fromkeys((run.domain, run.model_key) for run in runs):
        worsens = _WORSENS[metric_of(run for run in runs if run.domain == domain)]
        for key, name in names.items():
            yield _method_claim(
                evidence,
                runs,
                table="table3",
                domain=domain,
                model=model,
                method="beamlora",
                other=key,
                expected=BETTER,
                corrected_over="the three mechanisms",
                key=f"needed/{key}/{domain}/{model}",
                statement=f"BeamLoRA needs {name}: without it {worsens} ({evidence.experiment.models[model].label})",
                source="section 4.4, Table 3",
                family="needed",
            )


def _weak_on_commonsense(evidence: Evidence) -> Iterator[Claim]:
    domain = "commonsense"
    runs = [run for run in evidence.table("table2") if run.domain == domain]
    for model in dict.fromkeys(run.model_key for run in runs):
        for key in ("adalora", "increlora"):
            if not _of(runs, domain=domain, model=model, method=key):
                continue
            label = next(run.method.label for run in runs if run.method.key == key)
            yield _method_claim(
                evidence,
                runs,
                table="table2",
                domain=domain,
                model=model,
                method=key,
                other="lora",
                expected=WORSE,
                corrected_over="methods and models",
                key=f"weak_on_commonsense/{key}/{model}",
                statement=f"{label} is weaker than LoRA on commonsense ({evidence.experiment.models[model].label})",
                source="section 4.3, Table 2",
                family="weak_on_commonsense",
            )


# -------------------------------------------------------------------------------------------------------------- sweeps


def _by_value(points: Sequence[SweepRun], method: str) -> dict[float, list[RunSpec]]:
    """Value of the setting -> the runs of a method, one for each seed."""
    runs: dict[float, list[RunSpec]] = {}
    for point in sorted(points, key=lambda point: point.value):
        if point.method == method:
            runs.setdefault(point.value, []).append(point.run)
    return runs


def _gain_at_every_rank(evidence: Evidence) -> Iterator[Claim]:
    points = evidence.sweep("rank_sweep")
    beam, lora = _by_value(points, "beamlora"), _by_value(points, "lora")
    ranks = [rank for rank in beam if rank in lora]
    if not ranks:
        return

    def gain(rank: float) -> Comparison:
        return evidence.compared(beam[rank], lora[rank], of=f"beamlora at r = {rank}", and_of=f"lora at r = {rank}")

    model, metric = points[0].run.model_key, metric_of(point.run for point in points)
    parts = [
        part_of(
            f"beamlora - lora at r = {rank}",
            BETTER,
            [*beam[rank], *lora[rank]],
            partial(gain, rank),
        )
        for rank in ranks
    ]
    yield Claim(
        key="gain_at_every_rank",
        statement=f"BeamLoRA {_MORE[metric]} than LoRA at every rank",
        source="section 4.5, Figure 5",
        paper="higher at each rank shown, on GSM8K and MATH (LLaMA2-7B)",
        test=_PAIRED.format(_NAMES[metric], _HOLM.format("ranks")),
        model=model,
        parts=tuple(parts),
        family="gain_at_every_rank",
    )

    # A gain in accuracy is a positive difference, one in NLL a negative one.
    gained = "gain" if metric == "accuracy" else "difference in NLL"

    def interaction() -> Comparison:
        gains = []
        for rank in ranks:
            first, second, seeds = evidence.paired(beam[rank], lora[rank], of=f"beamlora at r = {rank}", and_of="lora")
            gains.append(([a - b for a, b in zip(first, second, strict=True)], seeds))
        if len({seeds for _, seeds in gains}) > 1:
            raise Missing("the ranks have different seeds")
        smallest, others = gains[0][0], [gain for gain, _ in gains[1:]]
        rest = [np.mean(task, axis=0) for task in zip(*others, strict=True)]
        planned = len({run.seed for run in beam[ranks[0]]})
        return evidence.comparison(smallest, rest, metric, binary=False, planned=planned)

    yield Claim(
        key="small_gain_at_the_smallest_rank",
        statement=f"The gain over LoRA is smaller at the smallest rank (r = {ranks[0]}) than at the others",
        source="section 4.5, Figure 5",
        paper="at r = 4 the improvement is relatively limited",
        test=f"The {gained} at the smallest rank minus the mean {gained} at the others, paired over seeds and examples.",
        model=model,
        parts=(
            part_of(
                f"{gained} at r = {ranks[0]} - mean {gained} at {', '.join(map(str, ranks[1:]))}",
                WORSE,
                [run for rank in ranks for run in [*beam[rank], *lora[rank]]],
                interaction,
            ),
        ),
        family="small_gain_at_the_smallest_rank",
    )


def _interior_optimum(evidence: Evidence, sweep: str, what: str, source: str, paper: str) -> Iterator[Claim]:
    points = evidence.sweep(sweep)
    values = _by_value(points, "beamlora")
    if not values:
        return
    model = points[0].run.model_key
    plain = [value for value, runs in values.items() if runs[0].method.key == "beamlora"]
    ends = min(values), max(values)
    inside = [value for value in plain if value not in ends]
    centre = inside[0] if inside else None

    def measured(end: float) -> Comparison:
        if centre is None:
            raise Missing(f"the experiment's own {sweep} is no inner point of the sweep")
        first, second = f"{sweep} = {centre:g}", f"{sweep} = {end:g}"
        return evidence.compared(values[centre], values[end], of=first, and_of=second)

    parts = [
        part_of(
            f"{sweep} = {'?' if centre is None else f'{centre:g}'} - {sweep} = {end:g}",
            BETTER,
            [*(values[centre] if centre is not None else []), *values[end]],
            partial(measured, end),
        )
        for end in ends
    ]
    yield Claim(
        key=f"interior_optimum/{sweep}",
        statement=f"{what} has an optimum inside its range",
        source=source,
        paper=paper,
        test="The experiment's own setting is better than both ends of the sweep; Holm's correction over both.",
        model=model,
        parts=tuple(parts),
        family=f"interior_optimum/{sweep}",
    )


# --------------------------------------------------------------------------------------------------------------- costs


def _costs(evidence: Evidence) -> Iterator[Claim]:
    spec = evidence.experiment.timing
    if spec is None:
        return

    def ratio(method: str, of: str) -> Quantity:
        costs = evidence.costs()
        if method not in costs:
            raise Missing(f"no measurement of {method}")
        cost = costs[method].time if of == "time" else costs[method].peak
        return Quantity(mean=cost.median, low=cost.low, high=cost.high, n_seeds=None, unit="ratio")

    def parts(method: str, expected: Range) -> tuple[Part, ...]:
        return tuple(part_of(f"{method}, {of}", expected, (), partial(ratio, method, of)) for of in ("time", "memory"))

    measured = "Ratio to LoRA within a round of interleaved runs, median over rounds with its 95 % interval: {}."
    for key, statement, paper, expected in (
        (
            "beamlora",
            "BeamLoRA costs about the time and memory of LoRA",
            "similar time and memory (LLaMA2-7B, r = 64)",
            ABOUT_THE_SAME,
        ),
        ("dora", "DoRA costs more time and memory than LoRA", "1.73 times the time, 1.35 times the memory", Range(above=1)),
        (
            "adalora",
            "AdaLoRA costs more time and memory than LoRA",
            "1.62 times the time, slightly more memory",
            Range(above=1),
        ),
    ):
        if key not in spec.methods:
            continue
        words = "between 0.8 and 1.25" if expected is ABOUT_THE_SAME else "above 1"
        yield Claim(
            key=f"cost/{key}",
            statement=statement,
            source="section B.2, Figures 8 and 9",
            paper=paper,
            test=measured.format(words),
            model=spec.model,
            parts=parts(key, expected),
            family=f"cost/{key}",
        )


def all_claims(evidence: Evidence) -> list[Claim]:
    """Every claim that the experiment's tables, sweeps and measurements speak to, not yet judged."""
    return [
        *_better_than(evidence, "lora", "LoRA"),
        *_better_than(evidence, "full-ft", "full fine-tuning"),
        *importance_claims(evidence),
        *_mechanisms(evidence),
        *_gain_at_every_rank(evidence),
        *_interior_optimum(
            evidence,
            "delta_t",
            "The interval between operations",
            "section B.1, Figure 6",
            "accuracy peaks at 1200 steps between 200 and larger intervals (code, LLaMA2-7B)",
        ),
        *_interior_optimum(
            evidence,
            "p_init",
            "The initial threshold",
            "section B.1, Figure 7",
            "accuracy peaks at 0.95 between 0.93 and larger thresholds (code, LLaMA2-7B)",
        ),
        *_costs(evidence),
        *_weak_on_commonsense(evidence),
    ]
