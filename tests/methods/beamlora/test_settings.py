"""BeamLoRA's settings in a run's spec: those of the adapter, resolved and refused by name, and the variants."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest
from pydantic import ValidationError

import methods
from beamlora.settings import FLAVORS, BeamSettings
from methods.base import AdapterSettings
from methods.beamlora import BeamLoRASettings


@pytest.mark.parametrize("flavor", FLAVORS)
def test_they_are_those_of_the_adapter_and_of_every_low_rank_method(flavor: str) -> None:
    values = BeamLoRASettings(flavor=flavor).model_dump()
    expected = dataclasses.asdict(BeamSettings(flavor=flavor)) | AdapterSettings().model_dump()
    assert values == expected | {"adapter_dtype": "float32"}
    assert BeamLoRASettings(flavor="released", topp_scope="module").topp_scope == "module"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"delta_t": 5}, "delta_t\n.*found 5, expected an even number"),
        ({"delta_t": 2}, "delta_t: found 2 with snapshot_step_offset 1, expected an even number from 4 on"),
        ({"p_init": 1.1}, "p_init\n.*found 1.1, expected a number above 0, at most 1"),
        ({"p_init": "much"}, "p_init\n"),
        ({"flavor": "other"}, "flavor\n"),
        ({"flavor": ["paper"]}, "flavor\n"),
        ({"topp_scope": None}, "topp_scope\n"),
        ({"unknown": 1}, "unknown\n"),
        ({"r": 1}, "max_prune_fraction: found 0.5 with r 1"),
        ({"dead_ranks": "masked"}, "dead_ranks: found 'masked' with expansion true"),
    ],
)
def test_impossible_settings_are_refused_by_name(values: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        BeamLoRASettings(**values)


def test_variants_change_exactly_their_own_setting() -> None:
    expected = {
        "beamlora": {},
        "beamlora-no-expansion": {"expansion": False},
        "beamlora-no-expansion-masked": {"expansion": False, "dead_ranks": "masked"},
        "beamlora-no-assessment": {"assessment": False},
        "beamlora-no-dynamic-p": {"dynamic_p": False},
        "beamlora-released": {"flavor": "released", **FLAVORS["released"]},
        "beamlora-gate-only": {"operations": False},
        "beamlora-copy-current": {"source": "current"},
    }
    default = BeamLoRASettings().model_dump()
    variants = {name: entry for name, entry in methods.registry().items() if name.startswith("beamlora")}
    assert variants.keys() == expected.keys() and len({entry.label for entry in variants.values()}) == len(variants)
    for name, entry in variants.items():
        values = entry.cls.Settings(**entry.preset).model_dump()
        assert {key: values[key] for key in values if values[key] != default[key]} == expected[name]


def test_the_registry_imports_no_torch() -> None:
    code = "import sys, methods; methods.registry(); print('torch' in sys.modules or 'peft' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
