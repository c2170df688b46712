"""results/evidence/README.md, and README.md where it speaks of them, say what the committed tables and records say."""

from __future__ import annotations

import json
import re

import pytest

from tests.paths import ROOT

EVIDENCE = ROOT / "results/evidence"
PAGE = (EVIDENCE / "README.md").read_text(encoding="utf-8")
ANSWERS, COST = PAGE.split("## What it cost")
INTRODUCTION = (ROOT / "README.md").read_text(encoding="utf-8").split("**On a real model")[1].split("\n\n")[0]
NUMBER = re.compile(r"[+−]?\d+\.\d+")


@pytest.mark.parametrize(("text", "least"), [(ANSWERS, 30), (INTRODUCTION, 3)], ids=["page", "README"])
def test_every_number_stands_in_a_table_or_in_the_registration(text: str, least: int) -> None:
    """With its sign, where the page gives one."""
    sources = [*(EVIDENCE / "tables").glob("*.md"), EVIDENCE / "registration.md", *EVIDENCE.glob("claims.md")]
    known = {number for source in sources for number in NUMBER.findall(source.read_text(encoding="utf-8").replace("-", "−"))}
    unsigned = {number.lstrip("+−") for number in known}
    said = NUMBER.findall(re.sub(r"`[^`]*`|!\[|\]\([^)]*\)", "", text))
    assert len(said) >= least
    assert [number for number in said if number not in (unsigned if number[0].isdigit() else known)] == []


def test_costs_are_the_sums_of_the_records() -> None:
    """Of training and evaluation together."""
    rows = re.findall(r"^\| \d.*? \| (\d+) \| `(\S+)` \| (\d+\.\d) \|$", COST, flags=re.MULTILINE)
    assert rows
    for runs, pattern, hours in rows:
        records = [path for path in EVIDENCE.glob(f"{pattern}/metrics.json")]
        seconds = [json.loads(path.read_text())["cpu_time_s"] for own in records for path in (own, own.with_name("train.json"))]
        assert (len(records), f"{sum(seconds) / 3600:.1f}") == (int(runs), hours), pattern
