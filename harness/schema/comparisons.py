"""What is decided between methods, fixed before results."""

from __future__ import annotations

from pydantic import Field, model_validator

from harness.schema.evaluation import Metric
from harness.schema.fields import BASELINE, MAX_SEEDS, Frozen


class MarginSpec(Frozen):
    """The smallest difference of interest: one that is shown to lie within plus and minus it counts as none."""

    accuracy: float | None = Field(None, gt=0, lt=1, description="a fraction; null: nothing is called equivalent")
    gold_nll: float | None = Field(None, gt=0, description="nats per token; null: nothing is called equivalent")


class FamilySpec(Frozen):
    """Comparisons that are decided together: on each model and domain of a table, the average over the domain's test sets.
    Holm's correction runs within a family of a table."""

    tables: tuple[str, ...] = Field(min_length=1)
    methods: tuple[str, ...] | None = Field(
        None, min_length=1, description="rows; null: each that the table compares with ``against`` and no other family names"
    )
    against: str = Field(BASELINE, description="the row that they are compared with: the baseline, or a variant's full method")
    metric: Metric = "accuracy"


class ComparisonsSpec(Frozen):
    """What is decided, fixed before results. A comparison in no family gets an interval and no word."""

    margin: MarginSpec = MarginSpec()
    min_seeds: int = Field(5, ge=5, le=MAX_SEEDS, description="with fewer, no comparison gets a word")
    families: dict[str, FamilySpec] = {}

    @model_validator(mode="after")
    def _each_comparison_once(self) -> ComparisonsSpec:
        owners: dict[tuple[str, str, str | None], str] = {}
        for name, family in self.families.items():
            if family.methods is not None and family.against in family.methods:
                raise ValueError(f"families: {name}: methods: found {family.against!r}, expected rows other than against")
            for key in [(t, family.against, m) for t in family.tables for m in family.methods or (None,)]:
                if key in owners:
                    what = "the rest of the rows" if key[2] is None else repr(key[2])
                    raise ValueError(
                        f"families: found {what} against {key[1]!r} on {key[0]} in {owners[key]!r} and in {name!r}, "
                        "expected each comparison in one family: it is decided once"
                    )
                owners[key] = name
        return self
