"""A set is one file: found by itself, refused where it is none, and named nowhere else."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from evaluation import sets
from evaluation.example import Example
from evaluation.grading import grade, graders_of
from evaluation.sets.base import EvaluationSet
from evaluation.sets.llm_adapters import COMMONSENSE
from tests import own_set, readme
from tests.paths import ROOT

SOUND = {"prompt_template": "alpaca", "max_new_tokens": 8, "grader": "same"}


def a_set(**changes: object) -> EvaluationSet:
    fields = {"name": "mine", "label": "Mine", "read": None, "graders": {"same": None}, "protocols": {"sound": SOUND}}
    return EvaluationSet(**fields | changes)


@pytest.fixture
def stray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A further module in the folder of the sets, to be written."""
    monkeypatch.setattr(sets, "__path__", [*sets.__path__, str(tmp_path)])
    sets._by_name.cache_clear()
    yield tmp_path / "stray.py"
    sets._by_name.cache_clear()
    sys.modules.pop("evaluation.sets.stray", None)


def test_the_sets_of_this_folder() -> None:
    ours = {name for name in sets.registry() if sets.module_of(name).startswith("evaluation.sets.")}
    assert ours == {"gsm8k", "svamp", "math", "humaneval", "mbpp", *COMMONSENSE}
    assert all(name == one.name and name in sets.registry() for name, one in sets.registry().items())
    assert sets.module_of("svamp") == "evaluation.sets.svamp" and sets.module_of("boolq") == "evaluation.sets.commonsense"


def test_svamp_is_one_file() -> None:
    """Beside the experiment that uses it; of the program, no other file knows that there is such a set."""
    folders = ("beamlora", "evaluation", "harness", "methods")
    sources = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    sources = [path for path in sources if path.suffix != ".pyc"]
    assert len(sources) > 100
    named = [path for path in sources if b"svamp" in path.read_bytes().lower() or "svamp" in path.name.lower()]
    assert named == [ROOT / "evaluation/sets/svamp.py"]


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(KeyError, match=re.escape("unknown evaluation set 'svmap'; did you mean 'svamp'?")):
        sets.get("svmap")
    with pytest.raises(KeyError, match="unknown evaluation set 'xyz'; expected one of .*gsm8k"):
        sets.module_of("xyz")


def test_a_module_that_defines_no_set_is_refused(stray: Path) -> None:
    stray.write_text("VALUE = 3\n")
    with pytest.raises(ValueError, match=r"evaluation\.sets\.stray: found no SETS, expected a tuple of the evaluation sets"):
        sets.registry()


def test_something_else_than_a_set_is_refused(stray: Path) -> None:
    stray.write_text("SETS = ('gsm8k',)\n")
    with pytest.raises(ValueError, match=r"evaluation\.sets\.stray: found str as an evaluation set, expected EvaluationSet"):
        sets.registry()


def test_two_sets_of_one_name_are_refused(tmp_path: Path) -> None:
    text = readme.example("set").replace('name="multiarith"', 'name="gsm8k"')
    with own_set.installed(tmp_path, text):
        with pytest.raises(ValueError, match=r"set name 'gsm8k' is claimed by evaluation\.sets\.gsm8k and my_sets"):
            sets.registry()
    assert sets.get("gsm8k").label == "GSM8K"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocols": {}}, "set 'mine': protocols: found none, expected sound"),
        ({"protocols": {"paper": SOUND}}, "set 'mine': protocols: found paper, expected sound"),
        (
            {"protocols": {"sound": SOUND | {"grader": "sane"}}},
            "set 'mine': protocols.sound.grader: found 'sane', expected one of same",
        ),
        (
            {"protocols": {"sound": SOUND, "paper": SOUND | {"prompt_template": "alpacca"}}},
            "set 'mine': protocols.paper.prompt_template: found 'alpacca', expected one of alpaca, alpaca-cot",
        ),
    ],
)
def test_a_protocol_that_cannot_be_asked_or_graded_is_refused(changes: dict, message: str) -> None:
    assert a_set().default_grader == "same"
    with pytest.raises(ValueError, match=re.escape(message)):
        a_set(**changes)


def test_a_set_of_another_package_is_read_and_graded(tmp_path: Path) -> None:
    with own_set.installed(tmp_path):
        assert sets.module_of("multiarith") == "my_sets"
        asked = sets.examples("multiarith", own_set.RECORDS)
        assert [example.gold for example in asked] == ["6", "8", "10", "12", "14", "16"]
        by_grader = grade("multiarith", asked, [asked[0].reference] * 2 + ["I do not know."] * 4).verdicts
        assert tuple(by_grader) == graders_of("multiarith") == ("sound", "metamath", "paper", "math_verify")
        for verdicts in by_grader.values():
            assert [verdict.correct for verdict in verdicts] == [True] + [False] * 5
    assert "multiarith" not in sets.registry()


def test_a_set_may_have_both_kinds_of_graders() -> None:
    """Programs run in the sandbox and answers that are compared, in the order of the names asked for."""
    both = a_set(graders={**sets.get("gsm8k").graders, **sets.get("mbpp").graders}, protocols=sets.get("mbpp").protocols)
    record = {"task_id": 1, "text": "Write f.", "code": "def f(x):\n    return x", "test_list": ["assert f(1) == 1"]}
    asked = sets.examples("mbpp", [record])
    sets._by_name()["mine"] = both, __name__
    try:
        names = ["code_tests", "sound", "pissa_code_tests"]
        grading = grade("mine", asked, ["def f(x):\n    return x"], graders=names)
    finally:
        sets._by_name.cache_clear()
    assert [(name, verdicts[0].correct) for name, verdicts in grading.verdicts.items()] == [
        ("code_tests", True),
        ("sound", False),
        ("pissa_code_tests", True),
    ]
    assert grading.sandbox_level is not None and "timeout_s" in grading.limits


def test_the_registry_imports_neither_torch_nor_the_algebra_nor_the_sandbox() -> None:
    heavy = ("torch", "pydantic", "transformers", "sympy", "math_verify", "evaluation.sandbox")
    code = f"import sys\nfrom evaluation import sets\nsets.registry()\nprint([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_what_training_data_is_searched_for_is_the_whole_query_unless_a_set_says_more() -> None:
    example = Example(id="x", query="Please answer: yes?", gold="1", reference="")
    assert sets.get("svamp").core(example) == "Please answer: yes?"
