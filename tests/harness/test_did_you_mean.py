"""The nearest name."""

from __future__ import annotations

from harness.did_you_mean import hint, suggestion

KNOWN = {"lora": 1, "dora": 2, "beamlora": 3}


def test_the_nearest_name_is_suggested() -> None:
    assert hint("lroa", KNOWN) == "did you mean 'lora'?"
    assert hint("beam_lora", iter(KNOWN)) == "did you mean 'beamlora'?"


def test_without_a_near_name_all_are_listed_in_their_order() -> None:
    assert hint("prefix", iter(KNOWN)) == "expected one of lora, dora, beamlora"
    assert suggestion("prefix", KNOWN) == ""


def test_several_are_suggested_the_nearest_first() -> None:
    assert suggestion("loras", KNOWN, most=2) == "did you mean 'lora' or 'dora'?"


def test_what_is_compared_is_not_always_what_is_shown() -> None:
    assert suggestion("beamlroa", ["beamlora"], shown=lambda name: name.upper()) == "did you mean 'BEAMLORA'?"
