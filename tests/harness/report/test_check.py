"""The check of a report: it passes what was written from the records, and names every number that they do not say."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.cli import Config
from harness.errors import ConfigError
from harness.experiment.runs import all_runs, sweep_runs
from harness.report import __main__ as command
from harness.report import page, sources
from harness.report.check import _check_figures, agrees, check, read_page
from harness.report.recompute import Raw, rate_words
from harness.report.sources import Source
from tests.harness import fake_runs
from tests.harness.figures import fake_figures
from tests.harness.report import fake_report


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    report = fake_report.write(tmp_path_factory.mktemp("check"), picture=fake_report.picture())
    fake_report.draw(report, "time_memory")
    (report.folder / "report.html").write_text(page.render_page(report))
    return report


def copied(source: Source, folder: Path) -> Source:
    """Records and page in a folder that a test may spoil."""
    shutil.copytree(source.results, folder / "results")
    return sources.open_source(source.config, results=folder / "results", figures=source.figures)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """The page of six runs, two of which have collapsed."""
    folder = tmp_path_factory.mktemp("few")
    made, _ = fake_runs.collapsed(folder / "results")
    path = folder / "fake.yaml"
    path.write_text(yaml.safe_dump(made.model_dump(mode="json"), sort_keys=False))
    report = sources.open_source(Config(files=(path,)), results=folder / "results", figures=folder / "figures")
    (report.folder / "report.html").write_text(page.render_page(report, allow_missing=True))
    return report


def mismatches(source: Source) -> list[str]:
    return list(check(source, source.folder / "report.html").mismatches)


def test_a_page_of_these_records_passes(source: Source) -> None:
    checked = check(source, source.folder / "report.html")
    assert checked.mismatches == ()
    assert checked.words > 500 and checked.cells > 60 and checked.runs > 50


def test_a_page_of_runs_that_answered_nothing_passes(tmp_path: Path) -> None:
    made = fake_runs.without_answers(fake_runs.experiment(methods={"llama-tiny": ("lora", "beamlora")}, seeds=range(5)))
    path, results = tmp_path / "fake.yaml", tmp_path / "results"
    path.write_text(yaml.safe_dump(made.model_dump(mode="json"), sort_keys=False))
    fake_runs.populate(all_runs(made), results, effects={"beamlora": 2.0})
    report = sources.open_source(Config(files=(path,)), results=results, figures=tmp_path / "figures")
    html = page.render_page(report, allow_missing=True)
    (report.folder / "report.html").write_text(html)
    checked = check(report, report.folder / "report.html")
    assert checked.mismatches == () and checked.words > 50
    assert "|accuracy|" not in html and "|gold_nll|" in html


def test_a_plot_of_other_data_than_the_records_is_named(source: Source, tmp_path: Path) -> None:
    figures = shutil.copytree(source.figures, tmp_path / "figures")
    other = dataclasses.replace(source, figures=figures)
    path = figures / "time_memory.csv"
    path.write_text(path.read_text().replace("time,lora,LoRA,median,1,", "time,lora,LoRA,median,1.5,"))
    assert list(_check_figures(source, page.plots(source))) == []
    assert list(_check_figures(other, page.plots(source))) == [f"time_memory: the page's plots are not those of {path}"]
    (found,) = _check_figures(other, page.plots(other))
    assert f"{path} is not what the records say; draw it again: " in found and found.endswith(
        f"--force -- {path.with_suffix('.png')}"
    )


def edit(source: Source, change: Callable[[str], str]) -> None:
    path = source.folder / "report.html"
    before = path.read_text()
    after = change(before)
    assert after != before
    path.write_text(after)


PRINTED = [
    "table1|llama-tiny|beamlora|accuracy|math/gsm8k|mean", "table1|llama-tiny|beamlora|accuracy|avg|difference",
    "table1|mistral-tiny|beamlora|gold_nll|math/math|difference_low", "table1|llama-tiny|full-ft|accuracy|math/avg|p",
    "table1|llama-tiny|beamlora|accuracy|code/avg|dof", "table1|llama-tiny|dora|accuracy|math/avg|verdict",
    "table3|llama-tiny|beamlora-no-expansion|accuracy|math/gsm8k|parent_difference", "table1|llama-tiny|dora|||seconds",
    "table1|llama-tiny|full-ft|accuracy|math/avg|sentence", "table1|mistral-tiny|beamlora|accuracy|code/avg|sentence",
    "table1|tally", "table1|margin", "timing|beamlora|time", "bench|1|quartiles", "base/llama-tiny/sound|gsm8k|n",
    "learning_rate|math|llama-tiny|lora|validation", "learning_rate|math|llama-tiny|beamlora|minus|lora",
    "table4|math/llama-tiny/beamlora/seed0|method.delta_t", "contamination|math/llama-tiny/full-ft/seed0|gsm8k|near",
    "table1|llama-tiny|full-ft|accuracy|math/gsm8k|paper", "table1|mistral-tiny|lora|accuracy|avg|paper",
    "made|Runs", "claim|better_than_lora/math/llama-tiny|0", "claim|better_than_lora/math/llama-tiny|0|p",
    "learning_rate|math|llama-tiny|lora|shared_rate", "learning_rate|math|llama-tiny|beamlora|best_rank",
    "learning_rate|note|1",
]  # fmt: skip


def renumber(text: str, key: str) -> str:
    """The page with another first digit at a key."""
    mark = f'data-number="{key}">'
    assert mark in text, key
    digit = re.compile(r"\d").search(text, text.index(mark) + len(mark))
    assert digit is not None
    return text[: digit.start()] + str((int(digit[0]) + 3) % 10) + text[digit.end() :]


#: Key of a printed word or sentence -> what is printed there, and what a wrong page might say.
WORDS = {
    "table1|llama-tiny|adalora|accuracy|math/avg|verdict": ("worse<", "better<"),
    "table1|llama-tiny|adalora|accuracy|math/avg|sentence": (", worse, 5 seeds", ", equivalent, 5 seeds"),
    "table1|llama-tiny|dora|accuracy|math/avg|sentence": (", not decided (4 of 5 seeds)", ", better, 4 seeds"),
    "claim|better_than_lora/math/llama-tiny|verdict": ("undecided", "supported"),
    "claim|better_than_lora/math/llama-tiny|0|verdict": ("undecided", "equivalent"),
    "claim|better_than_lora/code/llama-tiny|statement": ("more accurate", "less accurate"),
    "table3|llama-tiny|beamlora-no-expansion|accuracy|avg|parent_sentence": (", 5 seeds", ", 4 seeds"),
}
#: Printed only where something is decided.
MADE_UP = "table1|llama-tiny|beamlora|accuracy|math/gsm8k|verdict"
#: A printed number under a key that says another set.
LEFT_OUT = "table1|llama-tiny|lora|accuracy|math/gsm8k|mean"
ELSEWHERE = LEFT_OUT.replace("gsm8k", "nothing")


def reword(text: str, key: str, said: str, wrong: str) -> str:
    start = text.index(said, text.index(f'data-number="{key}">'))
    return text[:start] + wrong + text[start + len(said) :]


def repack(source: Source, change: Callable[[dict[str, Any]], None]) -> None:
    def edited(text: str) -> str:
        packed = re.search(r'id="page-data">([^<]+)<', text)
        assert packed is not None
        data = page.unpack(packed[1])
        change(data)
        return text.replace(packed[1], page.pack(data))

    edit(source, edited)


def run(data: dict[str, Any]) -> dict[str, Any]:
    return next(entry for entry in data["runs"] if entry["id"] == "math/llama-tiny/beamlora/seed0")


def answers(data: dict[str, Any]) -> dict[str, Any]:
    return data["answers"]["runs"]["math/llama-tiny/beamlora/seed0"]["gsm8k"]


CHANGES: dict[str, Callable[[dict[str, Any]], None]] = {
    "accuracy: ": lambda data: run(data)["tasks"]["gsm8k"].update(accuracy=0.123),
    "graders: ": lambda data: run(data)["tasks"]["gsm8k"]["graders"].update(paper=0.123),
    "loss curve": lambda data: run(data)["loss"][3].__setitem__(1, 9.0),
    "operations": lambda data: run(data)["operations"]["rows"][0]["ranks"].__setitem__(0, 99),
    "after pruning": lambda data: run(data)["pruning"]["gsm8k"]["means"].__setitem__(2, 0.99),
    "something else than train.json": lambda data: run(data)["train"].update(wall_time_s=1.0),
    "other examples were solved": lambda data: answers(data).update(bits="0" * 40),
    "another completion": lambda data: answers(data)["answers"][1].__setitem__(0, "something else"),
    "|ours: ": lambda data: data["numbers"][0]["ours"].update(mean=0.1),
    "|paper: ": lambda data: [n for n in data["numbers"] if n["paper"]][-1]["paper"].update(value=0.9),
    "|versus: ": lambda data: next(n for n in data["numbers"] if n["versus"])["versus"].update(p_adjusted=0.001),
}


@pytest.fixture(scope="module")
def said(source: Source, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What one check says of a page with every fault of the lists above."""
    copy = copied(source, tmp_path_factory.mktemp("spoiled"))

    def spoil(text: str) -> str:
        text = reduce(renumber, PRINTED, text)
        for key, (right, wrong) in WORDS.items():
            text = reword(text, key, right, wrong)
        text = text.replace(f'data-number="{LEFT_OUT}"', f'data-number="{ELSEWHERE}"')
        return text.replace("<tbody>", f'<tbody><span data-number="{MADE_UP}">better</span>', 1)

    edit(copy, spoil)
    for change in CHANGES.values():
        repack(copy, change)
    return mismatches(copy)


def test_every_wrong_number_word_and_datum_is_named_and_nothing_else(said: list[str]) -> None:
    on_the_page = {*PRINTED, *WORDS, MADE_UP, LEFT_OUT, ELSEWHERE}
    printed = [line for line in said if line.partition(": ")[0] in on_the_page]
    behind = [line for line in said if line not in printed]
    assert sorted(line.partition(": ")[0] for line in printed) == sorted(on_the_page)
    assert {words: [words in line for line in behind].count(True) for words in CHANGES} == dict.fromkeys(CHANGES, 1)
    assert [line for line in behind if not any(words in line for words in CHANGES)] == []


def test_the_page_and_the_records_are_quoted(said: list[str]) -> None:
    named = {line.partition(": ")[0]: line.partition(": ")[2] for line in said}
    assert all(named[key].startswith("the page says ") for key in (*WORDS, MADE_UP))
    assert named["table1|llama-tiny|adalora|accuracy|math/avg|verdict"].startswith(
        "the page says 'better', the records say worse"
    )
    assert "the page says 'supported', the records say undecided" in named["claim|better_than_lora/math/llama-tiny|verdict"]
    assert "the page says 'better', the records have no such number" in named[MADE_UP]
    assert "the page has no such number" in named[LEFT_OUT]
    assert "the records have no such number" in named[ELSEWHERE]


def test_a_collapsed_run_is_shown_and_a_page_that_hides_it_fails(few: Source, tmp_path: Path) -> None:
    report = copied(few, tmp_path)
    assert mismatches(report) == []
    key = "table1|llama-tiny|lora|accuracy|commonsense/piqa|collapsed"
    open_answers = key.replace("piqa", "gsm8k")
    for number in (key, open_answers):
        edit(report, lambda text, number=number: reword(text, number, "1 of 3 collapsed", "2 of 3 collapsed"))
    names = [f"commonsense/llama-tiny/lora/seed{seed}" for seed in (1, 2)]
    repack(report, lambda data: [run.update(collapsed=[]) for run in data["runs"] if run["id"] in names])
    assert sorted(line.partition(": ")[0] for line in mismatches(report)) == sorted([key, open_answers, *names])
    edit(report, lambda text: text.replace(f'data-number="{key}"', ""))
    assert f"{key}: the records say (1, 3), the page has no such number" in mismatches(report)


def test_claims_that_the_records_do_not_say_are_named_in_the_file_and_on_the_page(source: Source, tmp_path: Path) -> None:
    """A page that is written from a changed claims.json says what that file says."""
    report = copied(source, tmp_path)
    path = report.folder / "claims.json"
    content = json.loads(path.read_text())
    claim = content["claims"][0]
    part, key = claim["parts"][0], f"claim|{claim['key']}"
    right = {"p_adjusted": part["comparison"]["p_adjusted"], "above": 0.0, "verdict": "undecided", "paper": claim["paper"]}
    part["comparison"]["p_adjusted"], part["quantity"]["detectable"] = 0.97, 1.234
    part["expected"]["above"], part["verdict"], part["runs"] = 0.5, "contradicted", part["runs"][1:]
    claim["paper"] = "LLaMA2: +99 points"
    fake_runs.write_json(path, content)
    (report.folder / "report.html").write_text(page.render_page(report))
    lines = mismatches(report)
    found = {line.partition(": found ")[0].removeprefix(f"{path}: "): line for line in lines if line.startswith(str(path))}
    at = "claims[0].parts[0]"
    assert set(found) == {
        "claims[0].paper", f"{at}.comparison.p_adjusted", f"{at}.quantity.detectable", f"{at}.expected.above", f"{at}.verdict",
        f"{at}.runs",
    }  # fmt: skip
    assert f"found 0.97, the records say {right['p_adjusted']!r}; make it again: " in found[f"{at}.comparison.p_adjusted"]
    assert f"found 'contradicted', the records say {right['verdict']!r}; " in found[f"{at}.verdict"]
    printed = {line.partition(": ")[0]: line for line in lines if not line.startswith(str(path))}
    ends = ("paper", "0|p", "0|detectable", "0|expected", "0|verdict")
    assert set(printed) == {f"{key}|{end}" for end in ends}
    assert f"the page says 'LLaMA2: +99 points', the records say {right['paper']}" in printed[f"{key}|paper"]
    assert f"the page says '> 0.5', the records say > {right['above']:g}" in printed[f"{key}|0|expected"]


def test_a_claim_that_is_left_out_is_named(source: Source, tmp_path: Path) -> None:
    report = copied(source, tmp_path)
    path = report.folder / "claims.json"
    content = json.loads(path.read_text())
    lost = content["claims"].pop()
    fake_runs.write_json(path, content)
    (report.folder / "report.html").write_text(page.render_page(report))
    lines = mismatches(report)
    assert any(line.startswith(f"{path}: claims: found ") for line in lines)
    assert f"claim|{lost['key']}|statement: the records say {lost['statement']}, the page has no such number" in lines


def write_sweep(folder: Path) -> Source:
    """A learning-rate sweep of two seeds, of 40 answers each: LoRA's best rate is lost with a seed, so its second is chosen;
    BeamLoRA's three are equally accurate, and the last has the lowest NLL."""
    made = fake_figures.experiment(seeds=[0, 1], sweeps={"learning_rate": fake_figures.SWEEPS["learning_rate"]},
                                   pruning=None, timing=None)  # fmt: skip
    path, results = folder / "fake.yaml", folder / "results"
    path.write_text(yaml.safe_dump(made.model_dump(mode="json"), sort_keys=False))
    solved = {"lora": {0.001: 10, 0.003: 20, 0.01: 30}, "beamlora": {0.001: 20, 0.003: 20, 0.01: 20}}
    nll = {0.001: 1.0, 0.003: 1.1, 0.01: 0.9}
    tested = {"lora": {0.001: 9, 0.003: 20, 0.01: 9}, "beamlora": {0.001: 9, 0.003: 16, 0.01: 24}}
    for point in sweep_runs(made, "learning_rate"):
        rate = point.run.training.learning_rate
        if (point.method, rate, point.run.seed) == ("lora", 0.01, 1):
            fake_runs.write_run(point.run, results)
            continue
        correct, losses = {}, {}
        for task, spec in point.run.evaluation.tasks.items():
            right = (solved if spec.split == "validation" else tested)[point.method][rate]
            correct[task], losses[task] = [i < right for i in range(40)], [nll[rate]] * 40
        fake_runs.write_run(point.run, results, correct=correct, gold_nll=losses)
    report = sources.open_source(Config(files=(path,)), results=results, figures=folder / "figures")
    (report.folder / "report.html").write_text(page.render_page(report, allow_missing=True))
    return report


def test_the_choice_of_rates_is_made_again(tmp_path: Path) -> None:
    report = write_sweep(tmp_path)
    at = "learning_rate|math|llama-tiny"
    right = {
        f"{at}|lora|best": "best", f"{at}|lora|edge": "",
        f"{at}|lora|shared_rate": "0.003", f"{at}|lora|shared_rank": "1",
        f"{at}|lora|best_rate": "0.003", f"{at}|lora|best_rank": "2",
        f"{at}|beamlora.learning_rate=0.01|best": "best", f"{at}|beamlora|edge": "highest",
        f"{at}|beamlora|shared_rate": "0.003", f"{at}|beamlora|shared_rank": "2",
        f"{at}|beamlora|best_rate": "0.01", f"{at}|beamlora|best_rank": "1",
    }  # fmt: skip
    assert rate_words(Raw(report)) == right
    printed, _ = read_page(report.folder / "report.html")
    assert {key: words for key, words in printed if key in right} == right
    assert mismatches(report) == []

    worst = f"{at}|lora.learning_rate=0.001|best"
    edit(report, lambda text: text.replace(f'data-number="{at}|lora|best"', f'data-number="{worst}"'))
    wrong = {f"{at}|beamlora|edge": "lowest", f"{at}|lora|edge": "highest", f"{at}|lora|best_rank": "1",
             f"{at}|beamlora|best_rate": "0.001"}  # fmt: skip
    for key, words in wrong.items():
        edit(report, lambda text, key=key, words=words: text.replace(f'"{key}">{right[key]}<', f'"{key}">{words}<'))
    assert {line.partition(": ")[0] for line in mismatches(report)} == {worst, f"{at}|lora|best", *wrong}


def test_a_method_none_of_whose_rates_can_win_has_no_best_and_no_rank(tmp_path: Path) -> None:
    report = write_sweep(tmp_path)
    for point in sweep_runs(report.experiment, "learning_rate"):
        if point.method == "beamlora" and point.run.seed == 0:
            fake_runs.write_run(point.run, report.results)
    (report.folder / "report.html").write_text(page.render_page(report, allow_missing=True))
    assert mismatches(report) == []
    words, at = rate_words(Raw(report)), "learning_rate|math|llama-tiny|beamlora"
    assert [words[f"{at}|{name}"] for name in ("best_rate", "best_rank", "edge", "shared_rank")] == ["—", "—", "", "2"]
    assert [key for key in words if key.endswith("|best")] == ["learning_rate|math|llama-tiny|lora|best"]


def all_right(path: Path) -> None:
    """The predictions of a file, all of them right."""
    rows = [json.loads(line) | {"correct": True} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_page_older_than_its_records_fails(few: Source, tmp_path: Path) -> None:
    """A run answered otherwise after the page was written: the file and the numbers that changed are named."""
    report = copied(few, tmp_path)
    folder = report.folder / "commonsense/llama-tiny/beamlora/seed0"
    all_right(folder / "predictions/piqa.jsonl")
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["tasks"]["piqa"]["accuracy"] = 1.0
    fake_runs.write_json(folder / "metrics.json", metrics)
    lines = mismatches(report)
    assert "commonsense/llama-tiny/beamlora/seed0/predictions/piqa.jsonl: has changed since the page was written" in lines
    assert any(line.startswith("table1|llama-tiny|beamlora|accuracy|commonsense/piqa|mean: the page says") for line in lines)


def test_a_record_that_contradicts_itself_is_gone_or_new_is_named(source: Source, tmp_path: Path) -> None:
    report = copied(source, tmp_path)
    all_right(report.folder / "math/llama-tiny/beamlora/seed0/predictions/gsm8k.jsonl")
    (report.folder / "timing.json").rename(report.folder / "elsewhere.json")
    (report.folder / "math/llama-tiny/adalora/seed0/pruning.json").write_text("{}")
    lines = mismatches(report)
    assert any("gsm8k.jsonl: found accuracy 1" in line for line in lines)
    assert "timing.json: the page was written from it, and it is gone" in lines
    assert any(line.startswith("math/llama-tiny/adalora/seed0/pruning.json: is newer than the page") for line in lines)


def test_the_command_exits_with_1(few: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = copied(few, tmp_path)
    arguments = ["--configfile", str(report.config.files[0]), "--results-dir", str(report.results), "--check"]
    arguments += ["--figures-dir", str(report.figures)]
    assert command.main(arguments) == 0
    key = "table1|llama-tiny|lora|accuracy|commonsense/piqa|mean"
    edit(report, lambda text: renumber(text, key))
    assert command.main(arguments) == 1
    assert f"{key}: the page says" in capsys.readouterr().out
    (report.folder / "report.html").write_text("<p>nothing</p>")
    with pytest.raises(ConfigError, match="found no report"):
        command.main(arguments)
    (report.folder / "report.html").unlink()
    with pytest.raises(ConfigError, match="python -m harness.report"):
        command.main(arguments)


@pytest.mark.parametrize(
    ("words", "expected", "answer"),
    [
        ("68.7", (68.66,), True), ("68.7", (68.64,), False), ("−0.4", (-0.41,), True), ("+0.4", (-0.41,), False),
        ("<0.001", "<0.001", True), ("[+1.0, −2.0]", (1.04, -1.96), True), ("[+1.0]", (1.0, 2.0), False),
        ("0.003", (0.003,), True),
    ],
)  # fmt: skip
def test_a_text_agrees_with_numbers_to_its_own_precision(words: str, expected: Any, answer: bool) -> None:
    assert agrees(words, expected) is answer
