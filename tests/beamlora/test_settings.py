"""The adapter's settings: resolved defaults, refusals by name, and the same fields in its configuration."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
import torch
from peft import LoraConfig

import beamlora.settings
from beamlora import BeamLoraConfig
from beamlora.operation import rank_scores
from beamlora.settings import FLAVORS, SETTINGS, BeamSettings
from tests.paths import ROOT


def values_of(settings: BeamSettings) -> dict[str, Any]:
    return dataclasses.asdict(settings)


def test_flavors_differ_where_paper_and_released_code_do_and_every_value_is_resolved() -> None:
    paper, released = (values_of(BeamSettings(flavor=flavor)) for flavor in ("paper", "released"))
    assert {key for key in paper if paper[key] != released[key]} == {"flavor", *FLAVORS["paper"]}
    assert (paper["topp_scope"], paper["moment_transfer"], paper["max_prune_fraction"]) == ("module", "history", 0.5)
    assert (released["topp_scope"], released["moment_transfer"], released["max_prune_fraction"]) == ("global", "keep", 1)
    assert paper["gate_temperature"] == released["gate_temperature"] == 0.05
    assert BeamSettings() == BeamSettings(flavor="paper") == BeamSettings(**paper)


def test_what_is_said_of_the_flavors_is_what_they_change() -> None:
    """The settings named in the README's clause and in the module's docstring; the rest of ``paper`` is the released code's."""
    clause = (ROOT / "packages/beamlora/README.md").read_text().partition("`paper` follows")[2].partition("is the code")[0]
    assert set(re.findall(r"`(\w+)`", clause)) == set(FLAVORS["paper"])
    docstring = beamlora.settings.__doc__.partition("``paper`` follows")[2].partition("In all else")
    assert set(re.findall(r"``(\w+)``", docstring[0])) == set(FLAVORS["paper"])
    others = re.findall(r"``(\w+)``", docstring[2].partition("| setting")[0])
    paper, released = (values_of(BeamSettings(flavor=flavor)) for flavor in FLAVORS)
    assert len(others) == 5 and all(paper[name] == released[name] for name in others)
    scores = rank_scores(torch.zeros(1, 8), temperature=paper["gate_temperature"], times_r=paper["gate_times_r"])
    assert torch.equal(scores, torch.ones(8)), "not the softmax's 1/8"
    assert (paper["gate_temperature"], paper["threshold_step_offset"], paper["snapshot_step_offset"]) == (0.05, -1, 1)


def test_an_explicit_value_wins_over_the_flavor() -> None:
    assert BeamSettings(flavor="released", topp_scope="module").topp_scope == "module"
    assert BeamSettings(flavor="released", topp_scope="module").moment_transfer == "keep"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"delta_t": 5}, "delta_t: found 5, expected an even number from 2 on"),
        ({"delta_t": 0}, "delta_t: found 0, expected an even number from 2 on"),
        ({"delta_t": 2}, "delta_t: found 2 with snapshot_step_offset 1, expected an even number from 4 on"),
        ({"delta_t": 6.0}, "delta_t: found 6.0"),
        ({"p_init": 0}, "p_init: found 0, expected a number above 0, at most 1"),
        ({"p_init": 1.1}, "p_init: found 1.1"),
        ({"p_init": True}, "p_init: found True"),
        ({"p_init": float("nan")}, "p_init: found nan"),
        ({"gate_temperature": 0}, "gate_temperature: found 0, expected a number from 1e-6 to 1e6"),
        ({"gate_temperature": float("inf")}, "gate_temperature: found inf"),
        ({"horizon_steps": 0}, "horizon_steps: found 0, expected a number from 1 on"),
        ({"operations": 1}, "operations: found 1, expected true or false"),
        ({"snapshot_step_offset": True}, "snapshot_step_offset: found True, expected 0 or 1"),
        ({"flavor": "other"}, "flavor: found 'other', expected 'paper' or 'released'"),
        ({"max_prune_fraction": 0}, "max_prune_fraction: found 0, expected a number above 0, at most 1"),
        ({"dead_ranks": "masked"}, "dead_ranks: found 'masked' with expansion true"),
        ({"dead_ranks": "masked", "expansion": False, "max_prune_fraction": 1}, "and max_prune_fraction 1, expected"),
    ],
)
def test_impossible_values_are_refused_by_name(values: dict, message: str) -> None:
    for made in (BeamSettings, BeamLoraConfig):
        with pytest.raises(ValueError, match=message) as refused:
            made(**values)
        assert str(refused.value).startswith("BeamLoraConfig: ") == (made is BeamLoraConfig)


@pytest.mark.parametrize(
    "changes", [{"snapshot_step_offset": 0}, {"source": "current"}, {"expansion": False}, {"operations": False}], ids=str
)
def test_an_interval_of_two_steps_is_possible_where_its_snapshot_lies_before_or_there_is_none(changes: dict) -> None:
    assert BeamSettings(delta_t=2, **changes).delta_t == BeamLoraConfig(delta_t=2, **changes).delta_t == 2


def test_a_rank_of_which_nothing_can_be_pruned_is_refused() -> None:
    with pytest.raises(ValueError, match="BeamLoraConfig: max_prune_fraction: found 0.5 with r 1"):
        BeamLoraConfig(r=1)
    assert BeamLoraConfig(r=1, operations=False).operations is False


def test_config_has_the_fields_and_defaults_of_the_settings_and_says_what_each_is() -> None:
    added = {f.name: f for f in dataclasses.fields(BeamLoraConfig)}
    for lora in dataclasses.fields(LoraConfig):
        del added[lora.name]
    assert tuple(added) == SETTINGS
    assert all(f.metadata["help"] for f in added.values())
    for flavor in FLAVORS:
        assert BeamLoraConfig(flavor=flavor).beam_settings == BeamSettings(flavor=flavor)
    assert BeamLoraConfig(flavor="released", topp_scope="module").topp_scope == "module"
