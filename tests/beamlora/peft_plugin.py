"""A pytest plugin under which PEFT's own tests of ``LoraConfig`` are tests of ``BeamLoraConfig``."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import peft
import pytest

from beamlora import BeamLoraConfig
from tests.beamlora.test_peft_suite import ONLINE, REPEATED, refusal

#: What PEFT's helpers import for tests that are not ours.
diffusers = ModuleType("diffusers")
diffusers.__spec__ = ModuleSpec("diffusers", None)
diffusers.StableDiffusionPipeline = type("StableDiffusionPipeline", (), {})
sys.modules.setdefault("diffusers", diffusers)

peft.LoraConfig = BeamLoraConfig  # before the tests import it

#: Of PEFT's cases that BeamLoRA refuses when the adapter is made, these two tests are enough: they take a case as it stands.
TESTS_OF_REFUSED = ("test_attributes_parametrized[", "test_adapter_name[")


def is_wanted(item: pytest.Item) -> bool:
    """Whether a test concerns our configuration. FSDP is refused by ``BeamLora``."""
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    if BeamLoraConfig not in parameters or "fsdp" in item.name or item.name.startswith(ONLINE):
        return False
    if any(case in item.name for case in REPEATED):
        return False
    repeated = "-config_kwargs" in item.name and refusal(item.name) is not None
    return not repeated or item.name.startswith(TESTS_OF_REFUSED) or "_active_adapters" in item.name


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [item for item in items if is_wanted(item)]
