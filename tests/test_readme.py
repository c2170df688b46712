"""The README's examples run as printed, and what it names exists."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from datasets import Dataset
from peft import LoraModel, PeftModel
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, PreTrainedModel, Trainer, TrainingArguments
from trl import SFTConfig

from evaluation.graders.verdicts import Answered
from harness import cli
from harness.command import __main__ as beamlora
from harness.figures import check_drawn
from harness.records.versioned import Recipe
from tests import preloaded, readme, tiny_models
from tests.methods import toy
from tests.paths import ROOT
from tests.rounding import assert_equal_but_for_rounding, sums_of

#: 32 rows in batches of 4 for two epochs: 16 steps, with operations after steps 4, 8 and 12.
ARGUMENTS = {
    "per_device_train_batch_size": 4,
    "num_train_epochs": 2,
    "learning_rate": 1e-2,
    "use_cpu": True,
    "report_to": [],
    "save_strategy": "no",
    "logging_steps": 2,
    "disable_tqdm": True,
}
IDS = torch.tensor([[1 + (5 * row + column) % 250 for column in range(12)] for row in range(32)])


def run(name: str, names: dict[str, Any]) -> dict[str, Any]:
    """Execute an example with the names that it takes as given. Its delta_t is for a real run, which has 9,000 steps."""
    text = readme.example(name)
    assert text.count("delta_t=1200") == 1
    exec(compile(text.replace("delta_t=1200", "delta_t=4"), f"README.md: {name}", "exec"), names)
    return names


def operated_ranks(folder: Path) -> dict[int, int]:
    """Step -> ranks that were pruned, of the operations that the log in ``folder`` lists."""
    log = [json.loads(line) for line in (folder / "operations.jsonl").read_text().splitlines()]
    return {record["step"]: sum(module["K"] for module in record["modules"]) for record in log}


def logits(model: PreTrainedModel | PeftModel) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS[:2]).logits


@pytest.mark.numeric
@pytest.mark.parametrize("example", ["script", "package"])
def test_script_example(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    dataset = [{"input_ids": ids, "labels": ids} for ids in IDS]
    names = run(
        example,
        {"model": tiny_models.llama(), "args": TrainingArguments("out", **ARGUMENTS), "dataset": dataset, "Trainer": Trainer},
    )
    operated = operated_ranks(tmp_path / "out")
    assert list(operated) == [4, 8, 12] and operated[4] > 0 and operated[8] > 0
    loaded = PeftModel.from_pretrained(tiny_models.llama(), "adapter/lora")
    assert type(loaded.base_model) is LoraModel
    assert_equal_but_for_rounding(logits(loaded), logits(names["model"]), **sums_of(loaded))
    assert (logits(loaded) - logits(tiny_models.llama())).abs().max() > 0.01, "the adapter learned something"


def test_trl_example(tmp_path: Path) -> None:
    tiny_models.llama().save_pretrained(tmp_path / "base")
    tiny_models.byte_tokenizer().save_pretrained(tmp_path / "base")
    dataset = Dataset.from_dict({"text": [f"{row} and {row + 1} make {2 * row + 1}" for row in range(32)]})
    run(
        "trl",
        {
            "model": AutoModelForCausalLM.from_pretrained(tmp_path / "base"),
            "dataset": dataset,
            "args": SFTConfig(str(tmp_path / "out"), **ARGUMENTS, max_length=32),
        },
    )
    operated = operated_ranks(tmp_path / "out")
    assert list(operated) == [4, 8, 12] and operated[4] > 0


def test_loop_example() -> None:
    loader = DataLoader([{"input_ids": ids, "labels": ids} for ids in IDS], batch_size=4)
    names = run("loop", {"model": tiny_models.llama(), "loader": loader, "epochs": 2, "torch": torch})
    operated = {record["step"]: sum(module["K"] for module in record["modules"]) for record in names["beam"].records}
    assert list(operated) == [4, 8, 12] and operated[4] > 0 and operated[8] > 0


def test_method_example(tmp_path: Path) -> None:
    """It trains with two learning rates, and what it saves is what it trained."""
    names: dict[str, Any] = {"__name__": "my_package"}
    exec(compile(readme.example("method"), "README.md: method", "exec"), names)
    cls = names["LoraPlus"]
    method = cls(cls.Settings(r=4, lora_alpha=8, lora_dropout=0, ratio=8))
    loop = toy.Loop(method, toy.base_model(), toy.context(tmp_path))
    for _ in range(3):
        loop.step()
        a, b = (group["lr"] for group in loop.optimizer.param_groups)
        assert b == pytest.approx(8 * a) and b > 0
    groups = [{id(p) for p in group["params"]} for group in loop.optimizer.param_groups]
    assert [len(group) for group in groups] == [toy.MODULES, toy.MODULES]
    assert set.union(*groups) == {id(p) for p in loop.model.parameters() if p.requires_grad}
    method.finalize(loop.model, tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(toy.base_model(), tmp_path / "adapter")
    assert torch.equal(toy.logits(loaded), toy.logits(loop.model))


def test_method_example_is_short_and_quick_to_import(tmp_path: Path) -> None:
    text = readme.example("method")
    assert len(text.splitlines()) <= 40
    (tmp_path / "my_package.py").write_text(text)
    code = "import sys, my_package; print(sorted({'torch', 'peft', 'transformers'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


def test_set_example() -> None:
    """It reads a record of MultiArith, names a malformed one, and its reference is right by every one of its graders."""
    names: dict[str, Any] = {"__name__": "my_sets"}
    exec(compile(readme.example("set"), "README.md: set", "exec"), names)
    known = names["MULTIARITH"]
    (example,) = known.examples([{"question": " Ann has 3 pens and buys 4. How many? ", "final_ans": "7"}])
    assert (example.id, example.query, example.gold) == ("multiarith/0", "Ann has 3 pens and buys 4. How many?", "7")
    assert {
        name: grade(Answered(gold="7", completion=example.reference)).correct for name, grade in known.graders.items()
    } == dict.fromkeys(("sound", "metamath", "paper", "math_verify"), True)
    wrong = Answered(gold="7", completion="The answer is: 8")
    assert not any(grade(wrong).correct for grade in known.graders.values())
    with pytest.raises(ValueError, match="multiarith row 0: field 'final_ans' is missing, found question"):
        known.examples([{"question": "How many?"}])


# ---------------------------------------------------------------------------------------------------------- what it shows


@pytest.mark.parametrize(("page", "picture"), readme.PICTURES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_pictures_are_what_their_commands_draw_from_the_committed_records(
    page: Path, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By their data, whose hash is in the picture: its own bytes depend on the release of FreeType."""
    command = readme.draws(picture)
    assert f"`{command}`" in page.read_text(encoding="utf-8")
    monkeypatch.chdir(ROOT)
    beamlora.main([*shlex.split(command)[1:-1], str(tmp_path)])
    shutil.copy(picture, tmp_path)
    check_drawn(tmp_path / picture.name, Recipe.command(command))
    assert hashlib.sha256((tmp_path / f"{picture.stem}.csv").read_bytes()).hexdigest().encode() in picture.read_bytes()


def test_the_page_of_results_has_pictures() -> None:
    shown = [page.relative_to(ROOT).as_posix() for page, _ in readme.PICTURES]
    assert shown.count("README.md") == 1 and shown.count("results/evidence/README.md") >= 2


def test_the_badges_are_true() -> None:
    badges = dict(re.findall(r"!\[([^]]+)\]\(([^)]+badge[^)]+)\)", readme.TEXT))
    assert len(badges) == 3 and all(
        url.startswith(("../../actions/workflows/", "https://img.shields.io/badge/")) for url in badges.values()
    )
    workflow = yaml.safe_load(
        (ROOT / ".github" / badges["tests"].removeprefix("../../actions/").removesuffix("/badge.svg")).read_text()
    )
    versions = workflow["jobs"]["tests"]["strategy"]["matrix"]["python"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert [one.rpartition(" ")[2] for one in project["classifiers"]] == versions
    assert badges[f"Python {', '.join(versions)}"].endswith(f"/Python-{'%20%7C%20'.join(versions)}-blue")
    assert badges[f"Licence: {project['license']}"].endswith(f"/licence-{project['license'].replace('-', '--')}-blue")


# ---------------------------------------------------------------------------------------------------------- what it names


def inline_code() -> list[str]:
    """Everything in single backticks, and the lines of the shell blocks without their comments."""
    text = re.sub(r"^```.*?^```$", "", readme.TEXT, flags=re.DOTALL | re.MULTILINE)
    lines = [line.split(" # ")[0].strip() for block in readme.blocks("bash") for line in block.splitlines()]
    return re.findall(r"`([^`\n]+)`", text) + [line for line in lines if line]


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = {words[1] for words in map(str.split, inline_code()) if words[0] == "make" and words[1:] and words[1] != "-C"}
    assert {"demo", "table1", "test", "setup"} <= named <= targets


def test_files_and_modules_exist() -> None:
    configs = set(re.findall(r"config/\w+\.yaml", readme.TEXT))
    assert {"config/tiny.yaml", "config/small.yaml", "config/paper.yaml"} <= configs
    modules = re.findall(r"python -m ([\w.]+)", readme.TEXT)
    files = {
        *configs,
        *(
            code
            for code in inline_code()
            if re.fullmatch(r"(methods|config|harness|evaluation|packages|examples)/[\w/]+\.\w+", code)
        ),
    }
    assert "methods/base.py" in files
    assert [file for file in sorted(files) if not (ROOT / file).is_file()] == []
    assert len(modules) >= 8
    for module in modules:
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module


def test_anchors_exist() -> None:
    headings = re.findall(
        r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", readme.TEXT, flags=re.DOTALL | re.MULTILINE), flags=re.MULTILINE
    )
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", readme.TEXT)) <= anchors


def snakemake(arguments: list[str]) -> dict[str, int]:
    """Rule -> number of jobs in a dry run."""
    program = Path(sys.executable).with_name("snakemake")
    command = [preloaded.python(), program, "--quiet", "rules", "--dry-run", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    return {rule: int(n) for rule, n in re.findall(r"^(\w+) +(\d+)$", output, flags=re.MULTILINE)}


#: Experiment -> the runs that its command makes, or where a page says how many.
RUNS = {"paper": r"--experiment paper`: its (\d+) runs", "small": 2, "evidence": r"all (\d+) runs again"}
COMMANDS = [code for code in dict.fromkeys(inline_code()) if code.startswith("snakemake ")]


def test_there_are_commands() -> None:
    assert {re.search(r"experiment=(\w+)", command)[1] for command in COMMANDS} == RUNS.keys()


@pytest.mark.parametrize("command", COMMANDS)
def test_workflow_commands_plan_their_runs(command: str, tmp_path: Path) -> None:
    """With fresh results, where none of them can be done already: the plan is read from the experiment."""
    if "/path/to/data" in command:
        for local in re.findall(r"local: (\S+)", (ROOT / "config/small.yaml").read_text()):
            (tmp_path / local).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / local).touch()
        command = command.replace("/path/to/data", str(tmp_path))
    planned = snakemake(["--forceall", *shlex.split(command)[1:]])
    promised = RUNS[re.search(r"experiment=(\w+)", command)[1]]
    expected = int(re.search(promised, readme.TEXT)[1]) if isinstance(promised, str) else promised
    assert planned["train"] == planned["evaluate"] == expected


def test_workflow_options_are_accepted() -> None:
    """The examples after "Change anything with --config", all at once, on the experiment that has what they name."""
    changes = list(dict.fromkeys(shlex.split(code)[0] for code in inline_code() if re.match(r"'?[a-z_]+=", code)))
    assert len(changes) >= 3 and all(yaml.safe_load(change.partition("=")[2]) is not None for change in changes)
    options = [code for code in inline_code() if code.startswith("--resources")]
    assert options
    seeds = next(int(change.removeprefix("seeds=")) for change in changes if change.startswith("seeds="))
    planned = snakemake(["--forceall", *shlex.split(options[0]), "--config", "experiment=small", *changes])
    assert planned["train"] == 2 * seeds


def test_beamlora_commands_are_read() -> None:
    """Each as its own parser reads it, and its experiment exists."""
    commands = [shlex.split(code)[1:] for code in inline_code() if code.startswith("beamlora ")]
    assert {words[0] for words in commands} >= {"plan", "figure", "trace", "check", "table", "doctor"}
    for words in commands:
        if words != ["--help"]:
            args = beamlora.parser().parse_args(words)
            assert args.command == words[0]
            if hasattr(args, "experiment"):
                assert all((ROOT / file).is_file() for file in cli.parse_config(args).files)


@pytest.mark.parametrize("file", sorted((ROOT / "config").glob("*.yaml")), ids=lambda file: file.stem)
def test_commands_in_the_experiment_files_plan_jobs(file: Path) -> None:
    for command in re.findall(r"^#   snakemake (.+)$", file.read_text(), flags=re.MULTILINE):
        planned = snakemake(["--forceall", *shlex.split(command)])
        assert planned["total"] > 1
