"""The claims of the paper, each with the test that decides it. Thresholds are ours, and were chosen before any result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from harness import importance, plan, reported, stats
from harness.claims.evidence import Evidence, Missing
from harness.claims.verdicts import Claim, Part, Quantity, Range, of_difference, over_seeds
from harness.config import RunSpec

POSITIVE = Range(above=0)
NEGATIVE = Range(below=0)
#: Costs within this factor of LoRA's count as "about the same", the usual margin of equivalence tests.
ABOUT_THE_SAME = Range(above=0.8, below=1.25)
#: The most important tenth of a module's ranks against the least important one.
DIFFERENT = Range(above=2)
#: Share of the accuracy that is left after pruning: "limited change", and "drops sharply".
LIMITED_CHANGE, SHARP_DROP = Range(above=0.9), Range(below=0.5)
FEW, MANY = 0.3, 0.9
#: Growth of the differences in the last third of training over all growth; a third would be a straight line.
SETTLED = Range(below=1 / 3)

_PAIRED = (
    "Difference of the mean accuracy over the domain's test sets, paired over seeds and examples; Holm's correction over {}."
)


def _part(label: str, expected: Range, runs: Sequence[RunSpec], measure: Callable[[], Quantity]) -> Part:
    names = tuple(run.run_id for run in runs)
    try:
        return Part(label=label, expected=expected, quantity=measure(), runs=names)
    except Missing as error:
        return Part(label=label, expected=expected, quantity=None, reason=str(error), runs=names)


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
            for task, (_, home) in reported.TASKS.items()
            if home == domain
        ]
        known = [value for value in values if value is not None]
        if not known:
            return f"no number for {key} on {reported.MODEL_LABELS[stands_for]}"
        averages.append(100 * sum(known) / len(known))
    gap = averages[0] - averages[1]
    return f"{reported.MODEL_LABELS[stands_for]}: {averages[0]:.2f} against {averages[1]:.2f} ({gap:+.2f} points)"


def _difference_part(
    evidence: Evidence, runs: Sequence[RunSpec], *, domain: str, model: str, method: str, other: str, expected: Range
) -> Part:
    first, second = (_of(runs, domain=domain, model=model, method=key) for key in (method, other))
    return _part(
        f"{method} - {other}",
        expected,
        [*first, *second],
        lambda: of_difference(evidence.difference(first, second, of=method, and_of=other)),
    )


# ------------------------------------------------------------------------------------------------------------ accuracy


def _better_than(evidence: Evidence, other: str, title: str) -> Iterator[Claim]:
    """BeamLoRA against one method on each model and domain of Tables 1 and 2."""
    for table, source in (("table1", "section 4.2, Table 1"), ("table2", "section 4.3, Table 2")):
        runs = evidence.table(table)
        for domain, model in dict.fromkeys((run.domain, run.model_key) for run in runs):
            if not _of(runs, domain=domain, model=model, method=other):
                continue
            where = dict(domain=domain, model=model, method="beamlora", other=other)
            yield Claim(
                key=f"better_than_{other}/{domain}/{model}",
                statement=f"BeamLoRA is more accurate than {title}: {domain}, {evidence.experiment.models[model].label}",
                source=source,
                paper=_paper_difference(evidence, table=table, **where),
                test=_PAIRED.format("models and domains"),
                model=model,
                parts=(_difference_part(evidence, runs, expected=POSITIVE, **where),),
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
        for key, name in names.items():
            where = dict(domain=domain, model=model, method="beamlora", other=key)
            yield Claim(
                key=f"needed/{key}/{domain}/{model}",
                statement=f"BeamLoRA needs {name}: without it accuracy falls ({evidence.experiment.models[model].label})",
                source="section 4.4, Table 3",
                paper=_paper_difference(evidence, table="table3", **where),
                test=_PAIRED.format("the three mechanisms"),
                model=model,
                parts=(_difference_part(evidence, runs, expected=POSITIVE, **where),),
                family="needed",
            )


def _weak_on_commonsense(evidence: Evidence) -> Iterator[Claim]:
    runs = evidence.table("table2")
    for domain, model in dict.fromkeys((run.domain, run.model_key) for run in runs):
        for key in ("adalora", "increlora"):
            if not _of(runs, domain=domain, model=model, method=key):
                continue
            where = dict(domain=domain, model=model, method=key, other="lora")
            label = next(run.method.label for run in runs if run.method.key == key)
            yield Claim(
                key=f"weak_on_commonsense/{key}/{model}",
                statement=f"{label} is weaker than LoRA on commonsense ({evidence.experiment.models[model].label})",
                source="section 4.3, Table 2",
                paper=_paper_difference(evidence, table="table2", **where),
                test=_PAIRED.format("methods and models"),
                model=model,
                parts=(_difference_part(evidence, runs, expected=NEGATIVE, **where),),
                family="weak_on_commonsense",
            )


# -------------------------------------------------------------------------------------------------------------- sweeps


def _by_value(points: Sequence[plan.SweepRun], method: str) -> dict[float, list[RunSpec]]:
    """Value of the setting -> the runs of a method, one for each seed."""
    found: dict[float, list[RunSpec]] = {}
    for point in sorted(points, key=lambda point: point.value):
        if point.method == method:
            found.setdefault(point.value, []).append(point.run)
    return found


def _gain_at_every_rank(evidence: Evidence) -> Iterator[Claim]:
    points = evidence.sweep("rank_sweep")
    beam, lora = _by_value(points, "beamlora"), _by_value(points, "lora")
    ranks = [rank for rank in beam if rank in lora]
    if not ranks:
        return
    model = points[0].run.model_key
    parts = [
        _part(
            f"beamlora - lora at r = {rank}",
            POSITIVE,
            [*beam[rank], *lora[rank]],
            lambda rank=rank: of_difference(
                evidence.difference(beam[rank], lora[rank], of=f"beamlora at r = {rank}", and_of=f"lora at r = {rank}")
            ),
        )
        for rank in ranks
    ]
    yield Claim(
        key="gain_at_every_rank",
        statement="BeamLoRA is more accurate than LoRA at every rank",
        source="section 4.5, Figure 5",
        paper="higher at each rank shown, on GSM8K and MATH (LLaMA2-7B)",
        test=_PAIRED.format("ranks"),
        model=model,
        parts=tuple(parts),
        family="gain_at_every_rank",
    )

    def interaction() -> Quantity:
        gains = []
        for rank in ranks:
            first, second, seeds = evidence.paired(beam[rank], lora[rank], of=f"beamlora at r = {rank}", and_of="lora")
            gains.append(([a - b for a, b in zip(first, second, strict=True)], seeds))
        if len({seeds for _, seeds in gains}) > 1:
            raise Missing("the ranks have different seeds")
        smallest, others = gains[0][0], [gain for gain, _ in gains[1:]]
        rest = [np.mean(task, axis=0) for task in zip(*others, strict=True)]
        return of_difference(stats.paired_difference(smallest, rest, rng=np.random.default_rng(0), binary=False))

    yield Claim(
        key="small_gain_at_the_smallest_rank",
        statement=f"The gain over LoRA is smaller at the smallest rank (r = {ranks[0]}) than at the others",
        source="section 4.5, Figure 5",
        paper="at r = 4 the improvement is relatively limited",
        test="Gain at the smallest rank minus the mean gain at the others, paired over seeds and examples.",
        model=model,
        parts=(
            _part(
                f"gain at r = {ranks[0]} - mean gain at {', '.join(map(str, ranks[1:]))}",
                NEGATIVE,
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

    def measured(end: float) -> Quantity:
        if centre is None:
            raise Missing(f"the experiment's own {sweep} is no inner point of the sweep")
        first, second = f"{sweep} = {centre:g}", f"{sweep} = {end:g}"
        return of_difference(evidence.difference(values[centre], values[end], of=first, and_of=second))

    parts = [
        _part(
            f"{sweep} = {'?' if centre is None else f'{centre:g}'} - {sweep} = {end:g}",
            POSITIVE,
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


# ---------------------------------------------------------------------------------------------------- importance of ranks


def _mean_decile_ratio(history: importance.ImportanceHistory) -> float:
    """Most over least important tenth, geometric mean over modules."""
    ratios = [deciles[-1] / deciles[0] for deciles in map(importance.deciles, history.last.values())]
    return float(np.exp(np.mean(np.log(ratios))))


def _mean_variation(history: importance.ImportanceHistory) -> tuple[np.ndarray, np.ndarray]:
    """(steps, coefficient of variation as the mean over modules) of the snapshots after the first step."""
    later = history.steps > 0
    return history.steps[later], np.mean([importance.variation(values[later]) for values in history.modules.values()], axis=0)


def _share_settling(history: importance.ImportanceHistory) -> float:
    steps, variation = _mean_variation(history)
    two_thirds = float(np.interp(2 / 3 * steps[-1], steps, variation))
    return float((variation[-1] - two_thirds) / (variation[-1] - variation[0]))


def _growth(history: importance.ImportanceHistory) -> float:
    _, variation = _mean_variation(history)
    return float(variation[-1] - variation[0])


def _mean_evenness(history: importance.ImportanceHistory) -> float:
    return float(np.mean([importance.evenness(values) for values in history.last.values()]))


def _left(curve: dict[float, float], share: float) -> float:
    """Share of the accuracy that is left after pruning a share of the ranks."""
    if curve.get(0.0, 0.0) == 0:
        raise Missing("the run solves nothing before pruning")
    shares = sorted(curve)
    return float(np.interp(share, shares, [curve[s] for s in shares]) / curve[0.0])


def _area(curve: dict[float, float]) -> float:
    """Mean share of the accuracy that is left, over all shares of pruned ranks."""
    shares = sorted(curve)
    left = [_left(curve, share) for share in shares]
    return float(np.trapezoid(left, shares) / (shares[-1] - shares[0]))


def _importance(evidence: Evidence) -> Iterator[Claim]:
    runs = plan.pruning_runs(evidence.experiment)
    if not runs:
        return
    model = runs[0].model_key
    lora, beam = ([run for run in runs if run.method.key == key] for key in ("lora", "beamlora"))

    def seedwise(measure: Callable[[importance.ImportanceHistory], float], unit: str) -> Quantity:
        return over_seeds([measure(history) for history in evidence.histories("lora").values()], unit)  # type: ignore[arg-type]

    def left(share: float) -> Quantity:
        return over_seeds([_left(curve, share) for curve in evidence.pruning_curves("lora").values()], "share")

    yield Claim(
        key="ranks_differ",
        statement="After LoRA training, ranks within a module differ in importance, and the less important ones can be pruned",
        source="section 2.2, Figure 1",
        paper="hierarchical deciles; limited change when less important ranks are pruned, a sharp drop for important ones",
        test=f"LoRA, over seeds: the most important tenth at least {DIFFERENT.above:g} times the least important one "
        f"(geometric mean over modules); at least {LIMITED_CHANGE.above:.0%} of the accuracy left with {FEW:.0%} of the ranks "
        f"pruned, less than {SHARP_DROP.below:.0%} with {MANY:.0%} pruned.",
        model=model,
        parts=(
            _part("most over least important tenth", DIFFERENT, lora, lambda: seedwise(_mean_decile_ratio, "ratio")),
            _part(f"accuracy left with {FEW:.0%} pruned", LIMITED_CHANGE, lora, lambda: left(FEW)),
            _part(f"accuracy left with {MANY:.0%} pruned", SHARP_DROP, lora, lambda: left(MANY)),
        ),
        family="ranks_differ",
    )
    yield Claim(
        key="differences_grow_and_settle",
        statement="Differences in importance grow during LoRA training, then settle",
        source="section 2.2, Figure 2",
        paper="differences increase with the steps and tend to stabilize",
        test="Coefficient of variation of a module's importances, mean over modules: it grows from the first snapshot to the "
        "last, and the last third of training has less than a third of the growth. LoRA, over seeds.",
        model=model,
        parts=(
            _part("growth of the variation", POSITIVE, lora, lambda: seedwise(_growth, "number")),
            _part("share of the growth in the last third", SETTLED, lora, lambda: seedwise(_share_settling, "share")),
        ),
        family="differences_grow_and_settle",
    )

    def even() -> Quantity:
        first, second = evidence.histories("beamlora"), evidence.histories("lora")
        shared = sorted(first.keys() & second.keys())
        if not shared:
            raise Missing("beamlora and lora have no seed in common")
        return over_seeds([_mean_evenness(first[s]) - _mean_evenness(second[s]) for s in shared], "number")

    def faster() -> Quantity:
        first, second = evidence.pruning_curves("beamlora"), evidence.pruning_curves("lora")
        shared = sorted(first.keys() & second.keys())
        if not shared:
            raise Missing("beamlora and lora have no seed in common")
        return over_seeds([_area(first[s]) - _area(second[s]) for s in shared], "number")

    yield Claim(
        key="more_even",
        statement="BeamLoRA's importance is spread more evenly over ranks than LoRA's, and its pruning curve falls faster",
        source="section 4.5, Figure 4",
        paper="accuracy decreases more rapidly as ranks are pruned",
        test="BeamLoRA - LoRA, paired over seeds: normalised entropy of a module's importances (mean over modules) is larger; "
        "the mean share of accuracy left, over all shares of pruned ranks, is smaller.",
        model=model,
        parts=(
            _part("evenness of importance", POSITIVE, [*beam, *lora], even),
            _part("area under the pruning curve", NEGATIVE, [*beam, *lora], faster),
        ),
        family="more_even",
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
        found = costs[method].time if of == "time" else costs[method].peak
        return Quantity(mean=found.median, low=found.low, high=found.high, n_seeds=1, unit="ratio")

    def parts(method: str, expected: Range) -> tuple[Part, ...]:
        return tuple(_part(f"{method}, {of}", expected, (), partial(ratio, method, of)) for of in ("time", "memory"))

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
        *_importance(evidence),
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
