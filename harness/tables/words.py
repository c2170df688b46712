"""The words and rounded numbers of a table's cells and notes, the same in every format."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from harness.schema.data import StoredData, which_rows
from harness.schema.evaluation import Metric
from harness.statistics import stats
from harness.statistics.comparison import ALPHA, NOT_DECIDED, OUTCOMES, Comparison, Family, count_seeds, not_decided, out_of
from harness.tables.against_paper import MARGIN, Gap, PaperCheck
from harness.tables.cells import METRICS, Cell, Column, Decision, Row, Section, Table

#: What stands where nothing has run, or the paper has no number.
NOTHING = "—"
MINUS = "−"


# ------------------------------------------------------------------------------------------------------------- numbers


def percent(value: float) -> str:
    """A fraction in per cent with one decimal: the precision that a few hundred examples can carry."""
    return f"{100 * value:.1f}"


def signed(value: float, metric: Metric) -> str:
    """A difference with its sign, which rounding to zero leaves, in percentage points or nats; the sign of zero is +. Nats with
    a decimal more than the levels: margins are a few thousandths."""
    text = f"{100 * value:+.1f}" if metric == "accuracy" else f"{value:+.4f}"
    return text.replace("-", MINUS) if abs(value) > stats.ZERO else text.replace("-", "+")


def level(value: float, metric: Metric) -> str:
    return percent(value) if metric == "accuracy" else f"{value:.3f}"


def interval(low: float, high: float, metric: Metric, *, with_sign: bool = False) -> str:
    show = signed if with_sign else level
    return f"[{show(low, metric)}, {show(high, metric)}]"


def dof(estimate: stats.Estimate) -> str:
    """Degrees of freedom of an interval; one seed has none for what varies with the seed."""
    if estimate.dof is None:
        return "one seed"
    return f"{estimate.dof:.1f}" if estimate.dof < 100 else f"{estimate.dof:.0f}"


def p_value(value: float | None) -> str:
    if value is None:
        return NOTHING
    decimals = next((n for n in range(3, 9) if round(value, n) != ALPHA), 3)  # no rounding to the level itself
    return "<0.001" if value < 0.001 else f"{value:.{decimals}f}"


def count(value: int | None) -> str:
    """A number of parameters, such as 61.4 k or 160 M."""
    if value is None:
        return NOTHING
    for size, unit in ((10**9, " G"), (10**6, " M"), (10**3, " k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return str(value)


def memory(size: int | None) -> str:
    """Bytes in GiB."""
    return NOTHING if size is None else f"{size / 2**30:.2f} GiB"


def setting(value: Any) -> str:
    """The value of a setting."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return NOTHING if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """Such as 42 s, 3 min 05 s, 2 h 14 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


# --------------------------------------------------------------------------------------------------------------- words


def seeds(cell: Cell) -> str:
    """How many seeds are behind ours, and of how many if not all; a base model has none."""
    done, planned = len(cell.seeds), cell.n_seeds_planned
    return out_of(done, planned) if planned else NOTHING


def ours(cell: Cell, metric: Metric) -> str:
    """Mean and standard error, or why there is none; a dash where the runs did not measure this metric.

    At 0 or all of n no variance shows, and "± 0" would claim certainty where there is none: there the interval takes its place.
    """
    failed = [f"diverged ({cell.n_diverged} of {cell.n_seeds_planned})"] if cell.n_diverged else []
    if cell.ours is None:
        return "".join(failed) or ("not run" if cell.n_missing else NOTHING)
    failed += [collapsed(cell)] if cell.n_collapsed else []
    text = level(cell.ours.mean, metric)
    if cell.ours.stderr > 0:
        text += f" ± {level(cell.ours.stderr, metric)}"
    else:
        text += f" {interval(cell.ours.low, cell.ours.high, metric)}"
    return "; ".join([text, *failed])


def collapsed(cell: Cell) -> str:
    """How many of the seeds behind ours have collapsed; empty if none has."""
    return f"{cell.n_collapsed} of {len(cell.seeds)} collapsed" if cell.n_collapsed else ""


def comparison(compared: Comparison | None, metric: Metric) -> list[str]:
    """Difference, 95 % interval and its degrees of freedom."""
    if compared is None:
        return [NOTHING] * 3
    d = compared.difference
    return [signed(d.mean, metric), interval(d.low, d.high, metric, with_sign=True), dof(d)]


def decision(decision: Decision) -> list[str]:
    """Pairs of runs behind a comparison; its adjusted p-values of no difference and of a difference beyond the margin, that of
    flipping the signs of the seeds' differences, and the word."""
    compared = decision.comparison
    if compared is None:
        return [NOTHING] * 4 + [ending(decision)]
    d = compared.difference
    flipped = d.p_sign_flip if compared.outcome else None
    tests = map(p_value, (compared.p_adjusted, compared.p_equivalent, flipped))
    return [out_of(d.n_seeds, d.n_planned), *tests, compared.word or NOTHING]


def difference(compared: Comparison | None, metric: Metric) -> str:
    """A difference with its interval."""
    return NOTHING if compared is None else " ".join(comparison(compared, metric)[:2])


def paper_word(word: str | None, check: PaperCheck) -> str:
    """A verdict against the paper."""
    if word is None:
        return NOTHING
    return not_decided(check.n_seeds) if word == NOT_DECIDED else word


def gap(to_paper: Gap | None) -> str:
    """Ours minus the paper's in points, with its interval."""
    if to_paper is None:
        return NOTHING
    return f"{signed(to_paper.mean, 'accuracy')} {interval(to_paper.low, to_paper.high, 'accuracy', with_sign=True)}"


def settle(needed: stats.SeedsNeeded | None) -> str:
    """How many seeds would settle a comparison."""
    if needed is None:
        return NOTHING
    words = {
        "more": f"more than {stats.MOST_SEEDS}",
        "too few examples": "none: too few examples",
        "unknown": "unknown from 1 seed",
    }
    return words[needed] if isinstance(needed, str) else str(needed)


def file_title(table: Table) -> str:
    rates = ", best-tuned learning rates" if table.rates == "tuned" else ""
    return f"{table.name}{rates} · {table.experiment.name}: {table.experiment.title}"


def heading(column: Column) -> str:
    return f"{column.label}†" if column.generated else column.label


def gradings(found: Iterable[tuple[str, str]]) -> list[str]:
    """One sentence for each way of grading that is not this code's, over (name of a test set, how it was graded)."""
    by_way: dict[str, list[str]] = {}
    for name, how in found:
        by_way.setdefault(how, []).append(name)
    return [f"Graded {how}; shown as recorded: {', '.join(names)}." for how, names in by_way.items()]


def baseline_label(section: Section) -> str | None:
    return next((row.label for row in section.rows if row.is_baseline), None)


def metrics_shown(table: Table) -> list[Metric]:
    """That by which the rows are judged, and then the other where some run measured it."""
    cells = [(key[0], cell) for s in table.sections for row in s.rows for key, cell in row.cells.items()]
    return [table.metric, *(m for m in METRICS if m != table.metric and any(k == m and c.ours for k, c in cells))]


def levels_of(table: Table, label: str, *, unit: str) -> str:
    """What the levels of a model are; ``unit``: how a percent sign is joined."""
    if table.metric == "accuracy":
        return f"Accuracy of {label}{unit} %."
    return f"NLL of the gold answer of {label} in nats per token, less is better."


def notes(table: Table) -> list[str]:
    """The sentences under the table: what was measured, on what, how sure it is, what it took."""
    return [*context(table), *_uncertainty(table), *_against_paper(table), *limits(table)]


def tallies(table: Table) -> list[str]:
    """How the comparisons of each family ended."""
    sentences = []
    for family in table.families:
        ended = Counter(ending(one) for one in table.decisions() if one.family == family)
        counts = ", ".join(f"{ended[word]} {word}" for word in (*OUTCOMES, NOT_DECIDED, "not run"))
        sentences.append(f"{family.name}, {_comparisons(family)}: {counts}.")
    return sentences or ["No family of comparisons is fixed for this table: 0 are decided."]


def ending(decision: Decision) -> str:
    """better, worse, equivalent, undecided, not decided or not run."""
    if decision.comparison is None and any(row.cells[decision.metric, decision.column.key].n_missing for row in decision.rows):
        return "not run"
    return (decision.comparison and decision.comparison.outcome) or NOT_DECIDED


def _comparisons(family: Family) -> str:
    return f"{family.size} comparison{'' if family.size == 1 else 's'}"


def decides_nothing(table: Table) -> list[str]:
    """A sentence, where no comparison of the table has a word."""
    spec = table.experiment.comparisons
    if not table.families:
        return [
            "This table decides nothing: the experiment fixes no family of comparisons for it (comparisons: families). Its "
            "differences are described by their intervals."
        ]
    if any(one.comparison and one.comparison.outcome for one in table.decisions()):
        return []
    compared = [one.comparison.difference for one in table.decisions() if one.comparison]
    most = max(((d.n_seeds, d.n_planned) for d in compared), default=(0, len(table.seeds)))
    needed = spec.min_seeds if most[1] < spec.min_seeds else "all of them"
    return [f"This table decides nothing: {not_decided(*most)}, and a word needs {needed}."]


def context(table: Table) -> list[str]:
    """What was measured, on what, and what is not in the table."""
    lines = [*decides_nothing(table), *table.experiment.notes]
    stand_ins = [s for s in table.sections if s.model.replaces_the_papers]
    if stand_ins:
        pairs = "; ".join(f"{s.model.label} in the place of {s.paper_label}" for s in stand_ins)
        lines.append(
            f"Stand-ins: {pairs}. The paper's numbers are of the real models on the public test sets and cannot be compared "
            "with a stand-in's."
        )
    lines += [_test_sets(table), *_rates(table)]
    if table.cost.diverged:
        lines.append(
            "Diverged runs are shown as such and are in no mean, difference or interval; a comparison that lost one is not "
            "decided."
        )
    if any(cell.n_collapsed for s in table.sections for row in s.rows for cell in row.cells.values()):
        lines.append(
            "Collapsed: a seed whose accuracy on a set is at most one binomial standard error above what the best constant "
            "answer scores there; on open answers, if its base model scores significantly more; in an average, on one of its "
            "sets or more. Collapsed runs are in every mean, difference and interval: leaving them out would flatter a method."
        )
    lines += gradings((heading(column), how) for column, how in table.gradings)
    return [*lines, *partial("table", table.missing, table.stale)]


def partial(what: str, missing: Sequence[str], stale: Sequence[str]) -> list[str]:
    """Sentences about the planned runs that a table or sweep (``what``) leaves out."""
    return [
        f"Partial {what}: {len(names)} planned runs {why}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}."
        for why, names in (("have no record", missing), ("have a record of other settings, left out", stale))
        if names
    ]


def _test_sets(table: Table) -> str:
    parts = []
    for column in table.columns:
        if column.spec is None:
            continue
        n = table.n_examples.get(column.key)
        what = f"n = {n}" if n is not None else "not run"
        source = column.spec.source
        if isinstance(source, StoredData) and source.skip:
            what += f" ({which_rows(source, limit=column.spec.limit)} of {source.title})"
        elif isinstance(source, StoredData) and column.spec.limit is not None:
            what += f" (the first of {source.title})"
        parts.append(f"{heading(column)} {what}")
    dagger = " †: generated records in the format of that set, not the public set." if _any_generated(table) else ""
    beside = ", ".join(heading(column) for column in table.columns if not column.counts)
    secondary = f" In no average and no decision: {beside}." if beside else ""
    return f"Test sets: {', '.join(parts)}.{dagger}{secondary} Planned seeds: {', '.join(map(str, table.seeds))}."


def _rates(table: Table) -> list[str]:
    if table.rates == "tuned":
        first = "Learning rates: each method's best of a shared grid, chosen on validation examples that are in no table."
    else:
        first = f"Learning rates: as the experiment sets them ({', '.join(f'{rate:g}' for rate in table.learning_rates)})."
    return [first, *table.rate_notes]


def _any_generated(table: Table) -> bool:
    return any(column.generated for column in table.columns)


def _uncertainty(table: Table) -> list[str]:
    if len(table.seeds) > 1:
        lines = [
            "± is one standard error over seeds and test examples together; [..] is a 95 % interval for a new seed and new "
            "examples of the same kind (accuracy: Wilson with the effective sample size; NLL: t).",
            "Differences are paired by seed and example. Their interval adds the variance over seeds and that over examples, "
            "each with its own t quantile (Banerjee 1960); df: the degrees of freedom of the t interval that is as wide. For "
            "NLL less is better.",
        ]
    else:
        lines = [
            "± is one standard error over test examples, [..] a 95 % interval (accuracy: Wilson; NLL: stratified bootstrap). "
            "One seed: neither contains the noise of training, so neither is about the methods. For NLL less is better."
        ]
    if any(section.base for section in table.sections):
        lines.append("Of a base model ± and [..] are over test examples alone: it has no seeds, and is compared with no row.")
    return [*lines, *_rules(table)]


def _rules(table: Table) -> list[str]:
    """What is decided, and when a word is said."""
    if not table.families:
        return []
    families = []
    for family in table.families:
        others = ", ".join(dict.fromkeys(one.other or "" for one in table.decisions() if one.family == family))
        margin = "" if family.margin is None else f", margin ±{amount(family.margin, family.metric)}"
        measure = "accuracy" if family.metric == "accuracy" else "NLL"
        families.append(f"{family.name} ({_comparisons(family)} with {others} by {measure}{margin})")
    spec = table.experiment.comparisons
    return [
        "Decided, as the experiment fixed before results, are averages over a domain's test sets: "
        f"{'; '.join(families)}. Holm's correction runs within a family; all else is described by its interval.",
        f"better, worse: the corrected p of no difference is below {ALPHA}; equivalent: it is not, but that of a difference "
        "beyond the margin is (two one-sided tests); else undecided. Decided is what has all of its planned seeds, and at "
        f"least {spec.min_seeds}. p (signs): of no difference, by flipping the signs of the seeds' differences (beside it).",
    ]


def amount(value: float, metric: Metric) -> str:
    """A size without a sign, with its unit."""
    return f"{100 * value:.1f} points" if metric == "accuracy" else f"{value:.2g} nats"


def paper_checks(section: Section) -> list[tuple[Row, str, PaperCheck]]:
    """(row, column key, check) of every accuracy that the paper has a number for."""
    pairs = [(row, key[1], cell) for row in section.rows for key, cell in row.cells.items() if key[0] == "accuracy"]
    return [(row, column, cell.paper) for row, column, cell in pairs if cell.paper is not None]


def _against_paper(table: Table) -> list[str]:
    """What the verdicts against the paper mean."""
    checks = [check for section in table.sections for _, _, check in paper_checks(section)]
    if not checks:
        return []
    lines = []
    if any(check.comparable for check in checks):
        lines.append(
            "Against the paper, score: not reproduced if the 95 % interval of ours minus the paper's excludes zero, reproduced "
            f"if it lies within {100 * MARGIN:.0f} points of zero, else within noise. Difference: not reproduced if that "
            "interval excludes zero, reproduced if ours is decided and goes the paper's way, else within noise. The noise is "
            "that of training runs on one test set: ours from the seeds (one seed: binomial), the paper's binomial for the "
            "runs and examples that its numbers are multiples of (config/paper_samples.csv), since it reports no spread."
        )
    if any(not check.comparable for check in checks):
        lines.append(
            "A stand-in, or another test set, says nothing about the paper's absolute numbers; shown is only whether a decided "
            "difference goes the same direction as the paper's."
        )
    lines.append(
        "Seeds to settle: the smallest number at which a true difference as large as the paper's would be found four times in "
        f"five (one comparison at level {ALPHA}), from the variance over seeds and examples measured here."
    )
    if any(column.domain and column.spec is None for column in table.columns):
        lines.append("Where the paper prints no average over one domain, it is the mean of the numbers that it prints.")
    return lines


def detectable(table: Table, family: Family, *, alpha: float) -> float | None:
    """Median over a family's comparisons of the difference that they would find with 80 % power; None without several seeds."""
    sizes = [stats.minimum_detectable_difference(d, alpha=alpha) for d in _differences(table, family)]
    return statistics.median(sizes) if sizes else None


def _differences(table: Table, family: Family) -> list[stats.Difference]:
    """Of the comparisons that show how much seeds differ."""
    compared = [one.comparison for one in table.decisions() if one.family == family]
    return [one.difference for one in compared if one is not None and one.difference.n_seeds > 1]


def limits(table: Table) -> list[str]:
    """What the table cannot tell, and what it took."""
    lines = []
    for family in table.families:
        alone, first = (detectable(table, family, alpha=alpha) for alpha in (ALPHA, ALPHA / family.size))
        if alone is None or first is None:
            continue
        line = (
            f"{family.name}: a true difference of {_reachable(alone, family)} would be found four times in five with the seeds "
            f"that ran (median over comparisons), of {_reachable(first, family)} as the first of all after correction"
        )
        if family.margin is not None:
            needed = _seeds_for_margin(table, family)
            line += f"; seeds to find one as large as the margin: {needed}"
        lines.append(f"{line}. Undecided is not equivalent.")
    return [*lines, cost(table)]


def _seeds_for_margin(table: Table, family: Family) -> str:
    """Median over a family's comparisons."""
    margin, order = family.margin or 0.0, {"more": stats.MOST_SEEDS + 1, "too few examples": stats.MOST_SEEDS + 2}
    counts = [stats.seeds_to_detect(d, margin, fewest=family.min_seeds) for d in _differences(table, family)]
    return settle(sorted(counts, key=lambda needed: order.get(str(needed), needed))[len(counts) // 2])


def _reachable(value: float, family: Family) -> str:
    return "more than 100 points" if family.metric == "accuracy" and value > 1 else amount(value, family.metric)


def cost(table: Table) -> str:
    """What the runs took, as one sentence."""
    cpu = f", {duration(table.cost.cpu_s)} of CPU time" if table.cost.cpu_s is not None else ""
    diverged = f" ({table.cost.diverged} diverged)" if table.cost.diverged else ""
    return f"Cost: {table.cost.runs} runs{diverged}, {duration(table.cost.wall_s)} of wall time summed over runs{cpu}."


def reported(cell: Cell) -> str:
    """The paper's number in per cent, with the two decimals of its Table 1."""
    return NOTHING if cell.reported is None else f"{100 * cell.reported:.2f}"


def sentence(decision: Decision) -> str:
    """A comparison in words: BeamLoRA − LoRA on Math average: +0.4 [−1.1, +1.9], df 6.3, undecided, 5 seeds."""
    cell, metric, compared = decision.cell, decision.metric, decision.comparison
    unit = "" if metric == "accuracy" else ", NLL"
    subject = f"{decision.row.label} {MINUS} {decision.other} on {heading(decision.column)}{unit}"
    if compared is None:
        return f"{subject}: {ours(cell, metric) if cell.ours is None else NOTHING}"
    d = compared.difference
    shown = f"{signed(d.mean, metric)} {interval(d.low, d.high, metric, with_sign=True)}, "
    shown += f"df {dof(d)}" if d.dof is not None else "of one seed's examples"
    count = count_seeds(d.n_seeds)
    if compared.outcome is None:
        return f"{subject}: {shown}, {compared.word or count}"
    remark = ""
    # An interval beside zero seems to decide: it knows one comparison, the word the whole family.
    if compared.outcome not in ("better", "worse") and (d.low > 0 or d.high < 0):
        remark = f" (p = {p_value(compared.p_adjusted)} after correction)"
    return f"{subject}: {shown}, {compared.word}{remark}, {count}"
