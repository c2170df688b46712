"""Claims in words, as Markdown and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, get_args

from harness.claims.verdicts import METRICS, Claim, Part, Quantity, Range, Support
from harness.schema.experiment import Experiment
from harness.schema.fields import SCHEMA_VERSION
from harness.statistics.comparison import count_seeds
from harness.tables.markup import markdown_grid
from harness.tables.words import NOTHING, amount, p_value, signed


def _number(value: float | None, quantity: Quantity) -> str:
    if value is None:
        return "?"
    if quantity.unit in METRICS:
        return signed(value, METRICS[quantity.unit])
    return f"{100 * value:.0f} %" if quantity.unit == "share" else f"{value:.3g}"


def measured(quantity: Quantity) -> str:
    """Such as "-0.4 [-3.1, +2.3] points, df 4.6, 5 seeds"."""
    unit = {"points": " points", "nats": " nats", "ratio": "x"}.get(quantity.unit, "")
    interval = f"[{_number(quantity.low, quantity)}, {_number(quantity.high, quantity)}]"
    if quantity.low is None:
        interval = "(one seed: no interval)"
    dof = "" if quantity.dof is None else f", df {quantity.dof:.1f}"
    seeds = "" if quantity.n_seeds is None else f", {count_seeds(quantity.n_seeds)}"
    return f"{_number(quantity.mean, quantity)} {interval}{unit}{dof}{seeds}"


def expected(where: Range, quantity: Quantity | None) -> str:
    """The range that the claim puts the number in."""
    percent = quantity is not None and quantity.unit == "share"
    show = (lambda v: f"{100 * v:.0f} %") if percent else (lambda v: f"{v:.3g}")
    if where.above is not None and where.below is not None:
        return f"{show(where.above)} to {show(where.below)}"
    return f"> {show(where.above)}" if where.above is not None else f"< {show(where.below or 0)}"


def ours(part: Part) -> str:
    """The number of a part, or why there is none."""
    return measured(part.quantity) if part.quantity is not None else f"untested: {part.reason}"


def detectable(part: Part) -> str:
    """The difference that could have been detected."""
    quantity = part.quantity
    if quantity is None or quantity.detectable is None:
        return NOTHING
    return amount(quantity.detectable, METRICS[quantity.unit])


def word(claim: Claim) -> str:
    """The verdict; where too few seeds ran, how many."""
    parts = [part for part in claim.parts if part.verdict == claim.verdict and part.quantity is not None]
    fewest = min(parts, key=lambda part: part.quantity.n_seeds or 0 if part.quantity else 0, default=None)
    return claim.verdict if fewest is None else fewest.word


def tally(claims: Sequence[Claim]) -> str:
    """How the verdicts are spread."""
    counts = Counter(claim.verdict for claim in claims)
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in get_args(Support))


def markdown(experiment: Experiment, claims: Sequence[Claim]) -> str:
    """The page ``claims.md``."""
    lines = [
        f"# The paper's claims, tested: {experiment.title}",
        "",
        *(f"> {note}" for note in experiment.notes),
        *([""] if experiment.notes else []),
        f"{len(claims)} claims: {tally(claims)}. The tests were fixed in harness/claims before any result, and so was, in the "
        "experiment's file, the margin, the smallest difference of interest; intervals are 95 %; a verdict is about the "
        "models named here, which are stand-ins where they say so. "
        f"Decided is what has all of its planned seeds, and at least {experiment.comparisons.min_seeds}.",
        "",
        *markdown_grid(
            ["Claim", "Paper", "Ours", "Verdict"],
            [
                [
                    _marked(experiment, claim),
                    f"{claim.paper} ({claim.source})",
                    "; ".join(f"{part.label}: {ours(part)}" for part in claim.parts),
                    word(claim),
                ]
                for claim in claims
            ],
        ),
    ]
    for claim in claims:
        lines += ["", f"## {_marked(experiment, claim)}", "", f"**{word(claim)}** · {claim.source}", ""]
        lines += [f"Paper: {claim.paper}.", "", f"Test: {claim.test}", ""]
        rows = [
            [
                part.label,
                expected(part.expected, part.quantity),
                ours(part),
                p_value(part.comparison.p_adjusted if part.comparison else None),
                p_value(part.comparison.p_equivalent if part.comparison else None),
                detectable(part),
                part.word,
            ]
            for part in claim.parts
        ]
        lines += markdown_grid(["Number", "Expected", "Ours", "p (Holm)", "p beyond margin", "Detectable", "Verdict"], rows)
    return "\n".join(lines) + "\n"


def _is_of_a_stand_in(experiment: Experiment, claim: Claim) -> bool:
    return claim.model is not None and experiment.models[claim.model].replaces_the_papers


def _marked(experiment: Experiment, claim: Claim) -> str:
    return claim.statement + (" [stand-in]" if _is_of_a_stand_in(experiment, claim) else "")


def record(experiment: Experiment, claims: Sequence[Claim]) -> dict[str, Any]:
    """What ``claims.json`` holds."""
    return {
        "schema_version": SCHEMA_VERSION,
        "experiment": experiment.name,
        "claims": [asdict(claim) | {"word": word(claim), "stand_in": _is_of_a_stand_in(experiment, claim)} for claim in claims],
    }
