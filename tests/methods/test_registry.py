"""A method is registered by being defined: one module in methods/, or an entry point of someone else's package."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import methods
from harness.errors import ConfigError

IMPORTS = """
from abc import abstractmethod

from methods.base import AdapterSettings, Method
from methods.lora import Lora
"""
COMPLETE = """
class Whole(Method[AdapterSettings]):
    name, label, Settings = "whole", "Whole", AdapterSettings

    def wrap(self, model, context):
        return model

    def finalize(self, model, output_dir):
        pass
"""


@pytest.fixture
def add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Writes a file of a folder that is searched beside methods/."""
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    known = set(sys.modules)

    def write(name: str, source: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(IMPORTS + source)
        methods.registry.cache_clear()

    yield write
    for name in set(sys.modules) - known:
        if name.startswith("methods.added_"):
            del sys.modules[name]
    methods.registry.cache_clear()


def test_a_method_needs_nothing_but_its_module(add: Callable[[str, str], None]) -> None:
    known = set(methods.registry())
    add("added_module.py", COMPLETE)
    assert set(methods.registry()) - known == {"whole"}
    assert methods.get("whole").label == "Whole" and methods.get("whole").cls.__module__ == "methods.added_module"


def test_neither_imported_classes_nor_abstract_bases_are_methods(add: Callable[[str, str], None]) -> None:
    known = set(methods.registry())
    add("added_base.py", "class Base(Lora):\n    @property\n    @abstractmethod\n    def kind(self): ...\n")
    assert set(methods.registry()) == known


def test_variants_belong_to_the_class_that_names_them(add: Callable[[str, str], None]) -> None:
    add("added_wider.py", "from methods.beamlora import BeamLoRA\nclass Wider(BeamLoRA):\n    name, label = 'wider', 'Wider'\n")
    assert methods.get("wider").label == "Wider"
    assert methods.get("beamlora-gate-only").cls.name == "beamlora"


def test_a_folder_gives_the_class_that_its_head_imports(add: Callable[[str, str], None]) -> None:
    add("added_folder/method.py", COMPLETE)
    add("added_folder/__init__.py", "from methods.added_folder.method import Whole\n")
    assert methods.get("whole").cls.__module__ == "methods.added_folder.method"


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("added_copy.py", "class Copy(Lora):\n    prunable = False\n", "Copy: name: found none of its own"),
        ("added_copy.py", "class Copy(Lora):\n    name = 'copy'\n", "Copy: label: found none of its own"),
        ("added_copy.py", "class Copy(Lora):\n    name, label = 'dora', 'Copy'\n", "'dora' is claimed by"),
        ("added_half.py", COMPLETE.replace("Settings =", "Other ="), "Whole: Settings: found none"),
        ("added_half.py", COMPLETE.partition("    def finalize")[0], "Whole: found no finalize"),
        ("added_folder/__init__.py", "", "methods.added_folder: found no method"),
    ],
)
def test_what_is_no_complete_method_is_refused(add: Callable[[str, str], None], name: str, source: str, message: str) -> None:
    add(name, source)
    with pytest.raises(ConfigError, match=message):
        methods.registry()


def test_an_entry_point_is_held_to_the_same(add: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint(name="svd", value="methods.svd:SvdInitialisedLora", group=methods.ENTRY_POINT_GROUP)
    monkeypatch.setattr(methods, "entry_points", lambda *, group: [point] if group == methods.ENTRY_POINT_GROUP else [])
    methods.registry.cache_clear()
    with pytest.raises(ConfigError, match="SvdInitialisedLora: name: found none of its own"):
        methods.registry()
