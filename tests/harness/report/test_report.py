"""The report as a file: complete, bounded, the same each time, and safe whatever a model wrote."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from base64 import b64encode
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from harness.cli import Config
from harness.errors import ConfigError
from harness.experiment.runs import all_runs
from harness.figures import catalogue, style
from harness.figures.inputs import Inputs
from harness.figures.style import colour_of
from harness.records.read import Loaded, load_record, load_records
from harness.records.versioned import Recipe, RecordError
from harness.report import __main__ as command
from harness.report import numbers, others, page, runs, sources
from harness.report.sources import Source
from harness.statistics import stats
from harness.statistics.comparison import Comparison
from harness.tables.build import load_table
from tests.harness import fake_runs
from tests.harness.report import accessibility, fake_report
from tests.paths import ROOT


class Tags(HTMLParser):
    """Every tag of a page, and the text of its data."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._data = False
        self.packed = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._data = dict(attrs).get("id") == "page-data"

    def handle_data(self, data: str) -> None:
        self.packed += data if self._data else ""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    report = fake_report.write(tmp_path_factory.mktemp("report"), picture=fake_report.picture())
    fake_report.draw(report, "time_memory")
    return report


@pytest.fixture(scope="module")
def text(source: Source) -> str:
    return page.render_page(source)


@pytest.fixture(scope="module")
def tags(text: str) -> Tags:
    return Tags(text)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """The same of eight runs."""
    report = fake_report.write(tmp_path_factory.mktemp("few"), fake_report.small(), picture=fake_report.picture())
    fake_report.draw(report, "time_memory")
    return report


@pytest.fixture(scope="module")
def text_of_few(few: Source) -> str:
    return page.render_page(few)


@pytest.fixture
def copy(few: Source, tmp_path: Path) -> Source:
    """These records in a folder that a test may spoil."""
    shutil.copytree(few.results, tmp_path / "results")
    shutil.copytree(few.figures, tmp_path / "figures")
    return sources.open_source(few.config, results=tmp_path / "results", figures=tmp_path / "figures")


# ------------------------------------------------------------------------------------------------------------- content


def test_the_sound_grader_stands_beside_math_verify(source: Source) -> None:
    loaded = load_records(all_runs(source.experiment), results=source.results, command=source.command, allow_missing=True)
    block = others.grader_block(source, loaded)
    assert block is not None
    label = source.experiment.models["mistral-tiny"].label
    by_set = {row[2].text: row for row in block.rows if row[1].text == label}
    rows = [
        json.loads(line)["verdicts"]
        for record in loaded.records
        if (record.run.model_key, record.run.domain) == ("mistral-tiny", "math")
        for line in (record.folder / "predictions/gsm8k.jsonl").read_text().splitlines()
    ]
    only = sum(row["math_verify"] and not row["sound"] for row in rows)  # fake_report: on one example of each wrong run
    assert only > 0
    said = [cell.text for cell in by_set["GSM8K"][3:]]
    assert said == [f"{100 * (1 - only / len(rows)):.1f}", "0", str(only), str(len(rows))]


def test_the_page_of_a_run_says_where_it_was_graded_otherwise(source: Source) -> None:
    run = all_runs(source.experiment)[0]
    loaded = Loaded(records=[load_record(run, results=source.results)], missing=[], stale=[])
    path = source.run_folder(run) / "metrics.json"
    before = path.read_text()
    tasks = json.loads(before)["tasks"]
    changed, same = list(tasks)[:2]
    tasks[changed]["sources"]["grader"] = "0" * 64
    fake_runs.edit_json(path, tasks=tasks)
    entries = runs.run_entries(source, loaded)
    path.write_text(before)
    scores = entries[0]["tasks"]
    assert (scores[changed]["graded"], scores[same]["graded"]) == ("by other sources than this code's (grader)", "")


def test_opens_with_the_verdicts_in_words(text: str) -> None:
    first = text.index("BeamLoRA − LoRA on Math average†: ")
    said = r"[+−]\d+\.\d \[[+−]\d+\.\d, [+−]\d+\.\d\], df \d+\.\d, (undecided|better|worse|equivalent).*, 5 seeds"
    assert re.match(rf"BeamLoRA − LoRA on Math average†: {said}", text[first:])
    assert first < text.index('id="tables"') < text.index('id="figures"') < text.index('id="claims"') < text.index('id="made"')


def test_the_forest_plot_shows_the_numbers_beside_it(source: Source, text: str) -> None:
    whole = load_table("table1", source.config, results=source.results, allow_missing=False)
    view = numbers.table_view(whole)
    first = view.answers[0].panels[0]
    assert (first.column, first.other) == ("Math average†", "LoRA")
    labels = [row.label for row in whole.sections[0].rows if not row.is_baseline]
    assert [row.label for row in first.rows] == labels == ["Full-FT", "DoRA", "AdaLoRA", "BeamLoRA"]
    assert [row.colour for row in first.rows] == list(map(colour_of, ("full-ft", "dora", "adalora", "beamlora")))
    reach = float(view.axis.ends[1])
    assert view.axis.ends[0] == view.axis.ends[1].replace("+", "−") and view.axis.margin is not None
    assert view.axis.margin[:2] == pytest.approx((50 - 50 * 5 / reach, 50 + 50 * 5 / reach), abs=0.01)
    for row in first.rows:
        for place, shown in ((row.versus.bar.low, row.versus.low), (row.versus.bar.high, row.versus.high)):
            assert place == pytest.approx(50 + 50 * float(shown.text.replace("−", "-")) / reach, abs=0.1)
    verdicts = text[text.index('<section id="verdicts"') : text.index('<section id="tables"')]
    assert verdicts.index("<caption>Math average†, minus LoRA</caption>") < verdicts.index("BeamLoRA − LoRA on Math average†: ")
    for shown in (first.rows[0].versus.mean, first.rows[0].versus.low, view.axis.margin[2]):
        assert f'data-number="{shown.key}">{shown.text}</span>' in verdicts


def test_an_extreme_interval_is_cut_and_says_so() -> None:
    def bar(low: float, mean: float, high: float) -> numbers.Bar:
        spread = dict.fromkeys(("stderr", "seed_stderr", "example_stderr"), 0.1)
        difference = stats.Difference(mean=mean, low=low, high=high, n_seeds=5, n_planned=5, n_examples=9, **spread)
        versus = numbers._versus("key", Comparison(difference=difference), "LoRA", "accuracy", 0.1, "")
        assert versus is not None
        return versus.bar

    within, half, beyond = bar(-0.05, 0.0, 0.1), bar(-0.2, -0.1, 0.0), bar(-0.9, -0.6, -0.3)
    assert (within.low, within.middle, within.high, within.cut) == (25, 50, 100, (False, False))
    assert (half.low, half.middle, half.cut) == (0, 0, (True, False))
    assert (beyond.low, beyond.middle, beyond.high, beyond.cut) == (0, None, 0, (True, False))


@pytest.mark.parametrize(
    ("reaches", "half"), [([0.09, 0.1], 0.1), ([0.095, 0.96], 0.4), ([0.1, 0.11, 0.9], 0.5), ([0.001], 0.015), ([], 0.015)]
)
def test_one_wide_interval_does_not_hide_the_others_nor_the_margin(reaches: list[float], half: float) -> None:
    assert numbers.half_axis(reaches, 0.01) == pytest.approx(half)


def test_what_tells_nothing_apart_folds_away(text: str) -> None:
    verdicts = text[text.index('<section id="verdicts"') : text.index('<section id="tables"')]
    (folded,) = re.findall(r'<details class="printed"><summary>(.*?)</summary>(.*?)</details>', verdicts, re.DOTALL)
    endings = re.findall(r'<li class="(\w+)">', folded[1])
    assert folded[0] == "4 more that tell nothing apart: 3 undecided, 1 not decided"
    assert sorted(endings) == ["family", "not", "undecided", "undecided", "undecided"]
    shown = verdicts.replace(folded[1], "")
    assert "BeamLoRA − LoRA on Math average†: " in shown and 'class="worse"' in shown


def test_a_table_of_three_seeds_says_that_it_decides_nothing(tmp_path: Path) -> None:
    source = fake_report.write(tmp_path, fake_report.small(seeds=[0, 1, 2]), picture=fake_report.picture())
    text = page.render_page(source)
    verdicts = text[text.index('<section id="verdicts"') : text.index('<section id="claims"')]
    assert '<p class="note warn">This table decides nothing: not decided (3 seeds), and a word needs 5.</p>' in verdicts
    assert ", not decided (3 seeds)</a>" in verdicts
    assert not re.search(r'class="(verdict )?(better|worse|equivalent|undecided|tie)', verdicts)
    assert not re.search(r", (better|worse|equivalent|undecided),", verdicts)


def test_says_what_is_a_stand_in_and_what_the_experiment_notes(text: str) -> None:
    assert "Nothing here was trained." in text
    assert "in the place of LLaMA2-7B: no number here is one of LLaMA2-7B" in text


def test_a_failed_run_is_shown_as_failed(text: str, tags: Tags) -> None:
    lost = fake_report.LOST
    assert "1 of 5 diverged" in text and f'<a href="#run/{lost}">' in text
    entry = next(run for run in page.unpack(tags.packed)["runs"] if run["id"] == lost)
    assert entry["status"] == "diverged" and entry["tasks"] == {}


def test_every_link_leads_to_something(text: str, tags: Tags) -> None:
    data = page.unpack(tags.packed)
    known = {f"#run/{run['id']}" for run in data["runs"]}
    sides = {"/".join(run["id"].split("/")[:3]) for run in data["runs"]}
    known |= {f"#pair/{side}" for side in sides}
    known |= {"#number/" + number["key"].replace("|", "/") for number in data["numbers"]}
    known |= {f"#{attributes['id']}" for _, attributes in tags.tags if "id" in attributes}
    links = {attributes["href"] for tag, attributes in tags.tags if tag == "a"}
    assert len(links) > 50 and links <= known


def test_ids_are_unique(tags: Tags) -> None:
    ids = [attributes["id"] for _, attributes in tags.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_every_number_names_its_runs_and_commands(source: Source, tags: Tags) -> None:
    data = page.unpack(tags.packed)
    ids = {run["id"] for run in data["runs"]}
    for number in data["numbers"]:
        assert number["runs"] and set(number["runs"]) <= ids
        assert number["trace"].startswith("python -m harness.report.trace ") and str(source.config.files[0]) in number["trace"]
    assert all("--force -- " in run["commands"]["again"] for run in data["runs"])


def test_one_colour_for_each_method(text: str) -> None:
    for method in ("lora", "beamlora", "full-ft"):
        assert f"--method: {colour_of(method)}" in text


def test_runs_hold_what_their_pages_show(tags: Tags) -> None:
    data = page.unpack(tags.packed)
    run = next(run for run in data["runs"] if run["id"] == "math/llama-tiny/beamlora/seed0")
    assert len(run["loss"]) > 10 and run["operations"]["rows"] and run["pruning"]["gsm8k"]["means"][0] > 0
    assert run["train"]["spec"]["method"]["settings"]["delta_t"] == 16 and run["contamination"]["gsm8k"]["near"] == 1
    answers = data["answers"]["runs"][run["id"]]["gsm8k"]
    group = data["answers"]["groups"][answers["group"]]
    assert group["gold"][3] == "6" and answers["answers"][3][0].startswith("3 + 3 = ") and len(answers["bits"]) == 40
    lora = data["answers"]["runs"]["math/llama-tiny/lora/seed0"]["gsm8k"]
    assert lora["group"] == answers["group"], "both were asked the same, so that flips can be shown"


# ------------------------------------------------------------------------------------------------------------- one file


def test_nothing_is_loaded_from_anywhere(text: str, tags: Tags) -> None:
    for tag, attributes in tags.tags:
        assert tag not in ("link", "iframe", "object", "embed"), tag
        if tag in ("script", "img"):
            assert (attributes.get("src") or "data:").startswith("data:")
        assert not any(name.startswith("on") for name in attributes), attributes
    policy = next(a["content"] for t, a in tags.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'")
    script = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)[-1]
    assert f"'sha256-{b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy


def test_what_a_model_wrote_is_never_part_of_the_page(text: str, tags: Tags) -> None:
    assert fake_report.HOSTILE not in text and "hacked" not in text
    assert fake_report.HOSTILE in json.dumps(page.unpack(tags.packed)).replace('\\"', '"')
    assert [tag for tag, _ in tags.tags].count("script") == 3


def test_hostile_names_are_escaped(few: Source, tmp_path: Path) -> None:
    hostile = "<img src=x onerror=alert(1)>"
    made = few.experiment.model_copy(update={"title": hostile, "notes": (hostile,)})
    file = tmp_path / "fake.yaml"
    file.write_text(yaml.safe_dump(made.model_dump(mode="json"), sort_keys=False))
    text = page.render_page(sources.open_source(Config(files=(file,)), results=few.results, figures=few.figures))
    assert hostile not in text and "&lt;img src=x" in text


def test_fewer_predictions_are_embedded_where_all_would_be_too_large(few: Source, text_of_few: str) -> None:
    limit = len(text_of_few.encode()) - 500
    smaller = page.render_page(few, max_bytes=limit)
    assert len(smaller.encode()) <= limit
    groups = page.unpack(Tags(smaller).packed)["answers"]["groups"].values()
    assert max(len(group["shown"]) for group in groups) == 25 < max(len(group["ids"]) for group in groups)
    assert "all examples" in text_of_few and "25 evenly spread examples" in smaller
    with pytest.raises(ConfigError, match="expected at most"):
        page.render_page(few, max_bytes=limit // 10)


def test_a_sample_is_spread_over_the_test_set() -> None:
    assert runs.sample(5, 10) == [0, 1, 2, 3, 4]
    ten, four = runs.sample(100, 10), runs.sample(100, 4)
    assert len(ten) == 10 and set(four) < set(ten)
    assert max(b - a for a, b in pairwise([*ten, 100])) < 25


def test_predictions_that_do_not_fit_in_memory_are_not_read_whole(few: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "MAX_TEXT", 20_000)
    groups = page.unpack(Tags(page.render_page(few)).packed)["answers"]["groups"].values()
    assert 0 < max(len(group["shown"]) for group in groups) < 40


@pytest.mark.parametrize("library", ["dataTables.min.js", "vega.min.js"])
def test_the_libraries_are_the_files_that_their_page_names(library: str) -> None:
    folder = ROOT / "harness/report/assets/vendor"
    digest = hashlib.sha256((folder / library).read_bytes()).hexdigest()
    assert digest in (folder / "README.md").read_text()


# --------------------------------------------------------------------------------------------------------------- plots


def test_a_figure_with_data_is_plotted_from_them(source: Source, tags: Tags) -> None:
    plots = page.unpack(tags.packed)["plots"]
    assert plots.keys() == {"time_memory"}, "the other figures of this report are pictures without data"
    columns = plots["time_memory"]["panels"][0]["columns"]
    data = pd.read_csv(source.figures / "time_memory.csv")
    assert columns["ratio"] == pytest.approx(data.loc[data["measure"] == "time", "ratio"].tolist(), rel=1e-5)


def test_data_of_an_older_figure_are_refused_by_name(copy: Source) -> None:
    path = copy.figures / "time_memory.csv"
    path.write_text(path.read_text().replace("ratio", "quotient", 1))
    with pytest.raises(ConfigError, match=r"time_memory.csv: found no column 'ratio', .*--force -- \S+/time_memory\.csv$"):
        page.plots(copy)


@pytest.fixture
def drawn(copy: Source) -> Source:
    """With a figure that is drawn, and not only its data."""
    where = {"configfiles": copy.config.files, "results": copy.results, "command": copy.command}
    with style.theme():
        plot = catalogue.build("time_memory", Inputs(experiment=copy.experiment, **where))
        style.save(plot, copy.figures, "time_memory")
    return copy


#: What is done to the files of a figure -> what is said of which of them.
DAMAGED_FIGURES = {
    "an empty picture": ("png", lambda whole: b"", "found an empty file"),
    "half a picture": ("png", lambda whole: whole[: len(whole) // 2], "found {half} bytes, which end within the file"),
    "a picture with a hole": ("png", lambda whole: whole[:200] + bytes(len(whole) - 400) + whole[-200:], "found no picture ("),
    "empty data": ("csv", lambda whole: b"", "found an empty file"),
    "half the data": ("csv", lambda whole: whole[: len(whole) // 2], "found other data than time_memory.png was drawn from"),
    "a line less": ("csv", lambda whole: b"".join(whole.splitlines(True)[:-1]), "found other data than time_memory.png was dr"),
}


@pytest.mark.parametrize("damage", DAMAGED_FIGURES)
def test_a_damaged_figure_is_refused_by_name(drawn: Source, damage: str) -> None:
    suffix, spoil, said = DAMAGED_FIGURES[damage]
    path = drawn.figures / f"time_memory.{suffix}"
    whole = path.read_bytes()
    page.render_page(drawn)
    path.write_bytes(spoil(whole))
    try:
        with pytest.raises(RecordError) as error:
            page.render_page(drawn)
    finally:
        path.write_bytes(whole)
    message = str(error.value)
    assert message.startswith(f"{path}: {said.format(half=len(whole) // 2)}") and f"--force -- {drawn.figures}/time" in message


def test_figures_of_earlier_releases_do_not_say_what_they_were_drawn_from(copy: Source) -> None:
    path = copy.figures / "time_memory.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    assert page.plots(copy).keys() == {"time_memory"}


def test_a_figure_is_plotted_on_a_phone_and_axe_finds_nothing_there(browser: Any, text: str, tmp_path: Path) -> None:
    """The whole page, other views, devices and themes: test_browser.py."""
    path = tmp_path / "report.html"
    path.write_text(text)
    context = browser.new_context(viewport={"width": 390, "height": 800}, is_mobile=True)
    opened = context.new_page()
    opened.goto(path.as_uri())
    opened.wait_for_selector("html[data-ready]")
    opened.locator("nav a", has_text="Figures").click()
    opened.locator("#figure-time_memory .plot svg").last.wait_for()
    assert accessibility.faults(opened, "#figure-time_memory") == []
    context.close()


# ------------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("results/fake/math/llama-tiny/lora/seed0/metrics.json", "reproduce_all"),
        ("results/fake/math/llama-tiny/lora/seed0/pruning.json", "pruning.json"),
        ("results/fake/claims.json", "claims.json"),
        ("results/fake/timing.json", "timing.json"),
        ("figures/pareto.png", "pareto.png"),
    ],
)
def test_what_is_missing_is_one_error_with_the_command(copy: Source, path: str, said: str, tmp_path: Path) -> None:
    (tmp_path / path).unlink()
    with pytest.raises(ConfigError) as error:
        page.render_page(copy)
    assert said in str(error.value) and "-- reproduce_all" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("path", "changes", "said"),
    [
        ("math/llama-tiny/lora/seed0/pruning.json", {"training_hash": "0" * 64}, "training_hash: found 0+, expected .* stale"),
        ("timing.json", {"settings": {}}, "settings: found others than the experiment's; the record is stale"),
    ],
)
@pytest.mark.parametrize("allow_missing", [False, True])
def test_measurements_of_other_settings_are_on_no_page(
    copy: Source, path: str, changes: dict[str, Any], said: str, allow_missing: bool
) -> None:
    fake_runs.edit_json(copy.folder / path, **changes)
    with pytest.raises(ConfigError, match=f"{path}: {said}; make it again: .*--force -- "):
        page.render_page(copy, allow_missing=allow_missing)


def test_allow_missing_says_what_is_missing(copy: Source, tmp_path: Path) -> None:
    (tmp_path / "results/fake/math/llama-tiny/lora/seed0/metrics.json").unlink()
    (tmp_path / "results/fake/claims.json").unlink()
    (tmp_path / "figures/pareto.png").unlink()
    text = page.render_page(copy, allow_missing=True)
    said = re.sub("<[^>]+>", "", text[text.index("Partial report.") :][:2000])
    assert re.match(r"Partial report. Missing: 1 of \d+ planned runs, the tests of the claims, 1 of \d+ figures. Make", said)
    assert "Which runsmath/llama-tiny/lora/seed0" in said
    assert "Not drawn: found no" in text and "Not tested: make them" in text
    entry = next(run for run in page.unpack(Tags(text).packed)["runs"] if run["id"] == "math/llama-tiny/lora/seed0")
    assert entry["status"] == "missing"


def test_a_record_of_other_settings_is_not_shown_as_this_experiments(copy: Source) -> None:
    path = copy.folder / "math/llama-tiny/lora/seed0/train.json"
    spec = json.loads(path.read_text())["spec"]
    spec["training"]["learning_rate"] = 1.0
    fake_runs.edit_json(path, spec=spec)
    with pytest.raises(ConfigError, match="stale"):
        page.render_page(copy)
    text = page.render_page(copy, allow_missing=True)
    assert re.search(r"Missing: <span[^>]*>1 of \d+ planned runs</span>\. Make", text)


def test_the_command_writes_the_page_and_the_same_records_give_the_same_bytes(
    few: Source, text_of_few: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--configfile", str(few.config.files[0]), "--results-dir", str(few.results)]
    arguments += ["--figures-dir", str(few.figures)]
    assert command.main(arguments) == 0
    assert (few.folder / "report.html").read_text() == text_of_few
    assert "MB, opens in a browser" in capsys.readouterr().out


def test_events_of_other_methods_are_no_beam_operations(tmp_path: Path) -> None:
    """AdaLoRA, IncreLoRA and ReLoRA log their own events in the file of that name."""
    path, recipe = tmp_path / "operations.jsonl", Recipe.command("train again")
    path.write_text('{"operation": "allocate", "ranks": {"model.layers.0.mlp.up_proj": 4}, "step": 8}\n')
    assert runs._operations(path, recipe) is None
    path.write_text('{"step": 8, "p": 0.9, "modules": [{"name": "base_model.model.up_proj", "K": 2}]}\n{"step": 1')
    with pytest.raises(RecordError, match="incomplete or foreign line .*make it again: train again"):
        runs._operations(path, recipe)
    path.write_text(path.read_text().splitlines()[0])
    assert runs._operations(path, recipe)["rows"][0]["ranks"] == [2]
