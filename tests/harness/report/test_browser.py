"""The report in a real browser: it loads from disk without network or errors, and everything in it can be reached."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.figures.catalogue import figures
from harness.report.page import render_page
from tests.harness.figures import fake_figures
from tests.harness.report import accessibility, fake_report

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install -e '.[test]')")
pytestmark = pytest.mark.slow
READY = "html[data-ready]"
TABLE = "#table1-accuracy"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    page = folder / "report.html"
    source = fake_report.write(folder, fake_report.experiment(sweeps=fake_figures.SWEEPS), picture=fake_report.picture())
    fake_report.draw(source, *figures())
    page.write_text(render_page(source))
    return page


@pytest.fixture
def opened(browser: Any, path: Path) -> Iterator[Any]:
    """The page on a desktop; at its end there was no error and no request but for itself."""
    yield from _open(browser, path, viewport={"width": 1280, "height": 900})


@pytest.fixture
def phone(browser: Any, path: Path) -> Iterator[Any]:
    yield from _open(browser, path, viewport={"width": 390, "height": 800}, is_mobile=True, has_touch=True)


def _open(browser: Any, path: Path, **options: Any) -> Iterator[Any]:
    context = browser.new_context(**options)
    page = context.new_page()
    requests: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None)
    page.goto(path.as_uri())
    page.wait_for_selector(READY)
    yield page
    assert errors == []
    assert {url.partition("#")[0] for url in requests if not url.startswith("data:")} == {path.as_uri()}
    context.close()


def column(page: Any, index: int, table: str = TABLE) -> list[str]:
    return page.locator(f"{table} tbody tr > :nth-child({index})").all_inner_texts()


def headed(page: Any, text: str) -> None:
    """Wait for the view of a number or a run."""
    sync_api.expect(page.locator("#view h1")).to_have_text(text)


def go(page: Any, path: Path, address: str) -> None:
    page.goto(f"{path.as_uri()}{address}")


# --------------------------------------------------------------------------------------------------------------- tables


def sorted_by(page: Any, order: str) -> list[float]:
    """The first numbers of the third column, once it is sorted."""
    sync_api.expect(page.locator(f"{TABLE} thead th").nth(2)).to_have_attribute("aria-sort", order)
    return [float(text.split()[0]) for text in column(page, 3)]


def test_a_click_sorts_by_the_number(opened: Any) -> None:
    header = opened.locator(f"{TABLE} thead th").nth(2)
    header.click()
    up = sorted_by(opened, "ascending")
    assert len(set(up)) > 3 and up == sorted(up)
    header.click()
    assert sorted_by(opened, "descending") == sorted(up, reverse=True)


def test_the_keyboard_sorts_too(opened: Any) -> None:
    opened.get_by_role("button", name="GSM8K†: Activate to sort").first.focus()
    opened.keyboard.press("Enter")
    up = sorted_by(opened, "ascending")
    assert up == sorted(up)


def test_the_filter_leaves_what_matches(opened: Any) -> None:
    search, rows = opened.locator("#tables .dt-search input").first, opened.locator(f"{TABLE} tbody tr")
    search.fill("mistral")
    sync_api.expect(rows).to_have_count(2)
    assert all("Mistral" in text for text in column(opened, 2))
    search.fill("diverged")
    sync_api.expect(rows).to_have_count(1)
    assert column(opened, 1) == ["DoRA"]
    search.fill("no such thing")
    sync_api.expect(rows).to_have_text("Nothing matches")


def test_every_number_is_in_the_long_list(opened: Any) -> None:
    opened.locator("#all-numbers > summary").click()
    assert "of 116 entries" in opened.locator("#all-numbers .dt-info").inner_text()
    opened.locator("#all-numbers .dt-search input").fill("Full-FT")
    rows = opened.locator("#numbers-table tbody tr")
    sync_api.expect(rows).to_have_count(14)
    assert all("Full-FT" in row for row in rows.all_inner_texts())


# ---------------------------------------------------------------------------------------------------------- to the runs


def test_a_number_leads_to_its_runs_and_back(opened: Any) -> None:
    link = opened.locator(f"{TABLE} a.score").first
    shown = link.inner_text()
    link.click()
    headed(opened, "Full-FT on GSM8K†")
    assert opened.evaluate("document.activeElement.tagName") == "H1"
    assert shown in opened.locator("#view").inner_text() and opened.locator("#report").is_hidden()
    assert "python -m harness.report.trace table1 llama-tiny full-ft math/gsm8k" in opened.locator("#view").inner_text()
    opened.locator("#view table a").first.click()
    headed(opened, "Full-FT on Llama 0.8M, seed 0")
    opened.go_back()
    opened.go_back()
    opened.locator("#report").wait_for(state="visible")
    assert opened.locator("#view").is_hidden()


def test_a_run_shows_loss_operations_scores_and_predictions(opened: Any, path: Path) -> None:
    go(opened, path, "#run/math/llama-tiny/beamlora/seed0")
    headed(opened, "BeamLoRA on Llama 0.8M, seed 0")
    assert opened.locator("#view svg.chart polyline").count() == 1
    assert "Training loss from" in (opened.locator("#view svg.chart").get_attribute("aria-label") or "")
    for heading in ("Scores", "Loss", "Operations", "Accuracy after pruning", "Predictions", "Settings"):
        assert opened.locator("#view h2", has_text=heading).count() == 1, heading
    opened.locator("#sample-which").select_option("0")
    marks = opened.locator("#view article.item p.meta .wrong").all_inner_texts()
    assert marks and opened.locator("#view article.item", has_text="✓ solved").count() == 0
    opened.locator("#sample-task").select_option("math")
    assert "predictions/math.jsonl" in opened.locator("#view").inner_text()


def test_back_leads_to_where_the_reader_was(opened: Any) -> None:
    for link in (opened.locator("#runs-table a").nth(20), opened.locator(f"{TABLE} a.score").nth(9)):
        link.scroll_into_view_if_needed()
        place = opened.evaluate("window.scrollY")
        link.click()
        opened.locator("#view h1").wait_for(state="visible")
        opened.go_back()
        opened.locator("#report").wait_for(state="visible")
        assert opened.evaluate("window.scrollY") == place > 900


def test_the_proof_of_a_run_is_in_words(opened: Any, path: Path) -> None:
    go(opened, path, "#run/math/llama-tiny/adalora/seed0")
    proof = opened.locator("#view h2", has_text="Proof that the method acted").locator("xpath=following-sibling::dl[1]")
    assert "{" not in proof.inner_text() and "4, 8" in proof.inner_text()
    proof.locator("summary", has_text="2 modules").click()
    assert proof.locator("table tbody tr").all_inner_texts() == ["0.q_proj\t3", "0.v_proj\t5"]


def test_a_failed_run_says_so(opened: Any, path: Path) -> None:
    go(opened, path, "#run/math/llama-tiny/dora/seed1")
    headed(opened, "DoRA on Llama 0.8M, seed 1")
    text = opened.locator("#view").inner_text()
    assert "This run failed" in text and "Scores" not in text


def test_what_a_model_wrote_is_shown_as_text(opened: Any, path: Path) -> None:
    go(opened, path, "#run/math/llama-tiny/beamlora/seed0")
    headed(opened, "BeamLoRA on Llama 0.8M, seed 0")
    assert fake_report.HOSTILE in opened.locator("#view pre", has_text="</script>").first.inner_text()
    assert opened.evaluate("window.hacked") is None and opened.locator("#view img").count() == 0


def test_an_unknown_address_is_no_dead_end(opened: Any, path: Path) -> None:
    go(opened, path, "#run/nothing/like/that")
    headed(opened, "No such run")
    opened.locator("#view a.back").click()
    opened.locator("#report").wait_for(state="visible")
    assert not opened.locator("#view").is_visible()


# --------------------------------------------------------------------------------------------------------- side by side

PAIR = "#pair/math/llama-tiny/beamlora/seed0~math/llama-tiny/full-ft/seed1"


def rows(page: Any, table: str) -> dict[str, list[str]]:
    """The first column of a table of the view -> the others."""
    found = page.locator(f"#view table[aria-label='{table}'] tbody tr").all()
    return {row.locator("th").text_content(): row.locator("td").all_text_contents() for row in found}


def recorded(path: Path, run: str, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((path.parent / "results/fake" / run / name).read_text())
    return content


def test_two_runs_stand_side_by_side_as_their_records_have_them(opened: Any, path: Path) -> None:
    go(opened, path, PAIR)
    headed(opened, "BeamLoRA, seed 0 beside Full-FT, seed 1")
    ids = ("math/llama-tiny/beamlora/seed0", "math/llama-tiny/full-ft/seed1")
    tasks = [recorded(path, run, "metrics.json")["tasks"]["gsm8k"] for run in ids]
    left, right = (100 * task["accuracy"] for task in tasks)
    sign = "+" if left >= right else "−"
    shown = [f"{left:.1f}", f"{right:.1f}", f"{sign}{abs(left - right):.1f}"]
    assert rows(opened, "Scores side by side")[f"gsm8k, accuracy, %{' ≠' if left != right else ''}"] == shown
    losses = [recorded(path, run, "train.json")["loss_curve"] for run in ids]
    last = [f"{[point['loss'] for point in curve if 'loss' in point][-1]:.4f}" for curve in losses]
    assert rows(opened, "Losses side by side") == {"Last training loss ≠": last}
    assert opened.locator("#view svg.chart polyline").count() == 2
    differ, same = (rows(opened, f"Settings that {name}") for name in ("differ", "are the same"))
    assert differ["method.name ≠"] == ["beamlora", "full-ft"] and differ["seed ≠"] == ["0", "1"]
    assert same["training.learning_rate"] == ["0.003"] * 2 and not any("≠" in name for name in same)
    assert rows(opened, "Facts side by side")["Commit"] == ["0123456789abcdef0123456789abcdef"] * 2
    marked = opened.locator("#view tr.differs").count()
    assert marked == opened.locator("#view tr .mark").count() > len(differ)


def test_two_methods_stand_side_by_side_with_all_their_seeds(opened: Any, path: Path) -> None:
    opened.locator(f"{TABLE} tbody th a", has_text="BeamLoRA").first.click()
    headed(opened, "BeamLoRA, 5 seeds beside LoRA, 5 seeds")
    ids = [f"math/llama-tiny/{method}/seed{seed}" for method in ("beamlora", "lora") for seed in range(5)]
    shares = [recorded(path, run, "metrics.json")["tasks"]["gsm8k"]["accuracy"] for run in ids]
    sides = [shares[:5], shares[5:]]
    shown = [f"{20 * sum(side):.1f} ({', '.join(f'{100 * one:.1f}' for one in side)})" for side in sides]
    found = rows(opened, "Scores side by side")["gsm8k, accuracy, % ≠"]
    assert found[:2] == shown and abs(float(found[2].replace("−", "-")) - 20 * (sum(sides[0]) - sum(sides[1]))) <= 0.0501
    assert opened.locator("#view svg.chart polyline.curve").count() == 10
    assert opened.locator("#view svg.chart polyline.dashed").count() == 5
    assert not any(name.startswith("seed") for name in rows(opened, "Settings that differ")), "both have the same seeds"
    opened.locator("#view a", has_text=re.compile("^gsm8k$")).click()
    sync_api.expect(opened.locator("#flip-a")).to_have_value("beamlora")
    assert opened.locator("#flip-b").input_value() == "lora"


def test_what_stands_on_a_side_is_chosen_without_leaving_it(opened: Any, path: Path) -> None:
    go(opened, path, PAIR)
    headed(opened, "BeamLoRA, seed 0 beside Full-FT, seed 1")
    opened.locator("#pair-1").focus()
    opened.locator("#pair-1").select_option("math/llama-tiny/lora/seed0")
    headed(opened, "BeamLoRA, seed 0 beside LoRA, seed 0")
    assert opened.evaluate("document.activeElement.id") == "pair-1"
    assert opened.url.endswith("#pair/math/llama-tiny/beamlora/seed0~math/llama-tiny/lora/seed0")
    assert opened.title().startswith("BeamLoRA, seed 0 beside LoRA, seed 0")
    opened.locator("#pair-1").select_option("math/llama-tiny/dora/seed1")
    assert rows(opened, "Facts side by side")["Status ≠"] == ["success", "diverged"]
    assert rows(opened, "Scores side by side")["math, accuracy, % ≠"][1:] == ["—", "—"], "a run that failed has no numbers"
    go(opened, path, "#pair/math/llama-tiny/nothing/seed0")
    headed(opened, "No such run")


@pytest.mark.parametrize(
    ("address", "link", "heading"),
    [
        ("#runs", "#runs-table td a[aria-label*='math/llama-tiny/lora/seed3']", "LoRA, seed 3 beside BeamLoRA, seed 3"),
        ("#run/math/mistral-tiny/beamlora/seed2", "#view a[href^='#pair/']", "BeamLoRA, seed 2 beside LoRA, seed 2"),
        ("#number/table1/llama-tiny/full-ft/accuracy/avg", "#view a[href^='#pair/']", "Full-FT, 5 seeds beside LoRA, 5 seeds"),
        ("#tables", f"{TABLE} tr.baseline th a >> nth=0", "LoRA, 5 seeds beside BeamLoRA, 5 seeds"),
    ],
)
def test_a_row_a_run_and_a_number_lead_to_the_one_beside_it(
    opened: Any, path: Path, address: str, link: str, heading: str
) -> None:
    go(opened, path, address)
    opened.locator(link).click()
    headed(opened, heading)


# ---------------------------------------------------------------------------------------------------------------- flips


def test_flips_are_what_only_one_solves(opened: Any, path: Path) -> None:
    go(opened, path, "#flips/math/llama-tiny/gsm8k/full-ft/adalora")
    sync_api.expect(opened.locator("#flip-a")).to_have_value("full-ft")
    assert opened.locator("#flip-b").input_value() == "adalora"
    opened.locator("#flip-seed").select_option("1")
    opened.locator("#flip-kind").select_option("a")
    item = opened.locator("#flips article.item").first
    item.wait_for()
    assert item.locator("p.meta .right").first.inner_text() == "✓ solved"
    assert item.locator("p.meta .wrong").first.inner_text() == "✗ not solved"
    names = item.locator("p.meta strong").all_inner_texts()
    assert names == ["Full-FT, seed 1", "AdaLoRA, seed 1"]
    numbers = [int(part.rpartition(" ")[2]) for part in opened.locator("#flip-summary").inner_text().split(" · ")]
    assert sum(numbers) == 40 and numbers[0] > numbers[1]
    opened.locator("#flip-set").select_option(label="mbpp · code, Mistral 0.8M")
    assert opened.locator("#flip-a").locator("option").all_inner_texts() == ["LoRA", "BeamLoRA"]


def test_a_number_leads_to_its_flips(opened: Any, path: Path) -> None:
    go(opened, path, "#number/table1/llama-tiny/full-ft/accuracy/math/gsm8k")
    opened.locator("#view a", has_text="Examples that only Full-FT").click()
    opened.locator("#flips").wait_for(state="visible")
    assert opened.locator("#flip-a").input_value() == "full-ft"


# --------------------------------------------------------------------------------------------------------------- plots


def plotted(page: Any, name: str) -> Any:
    """A figure, once its plots are drawn."""
    figure = page.locator(f"#figure-{name}")
    figure.scroll_into_view_if_needed()
    figure.locator(".plot svg").last.wait_for()
    return figure


BAR = "path[aria-roledescription=bar]"


def bars(figure: Any) -> list[str]:
    """The outlines of a figure's bars."""
    return figure.locator(BAR).evaluate_all("(all) => all.map((e) => e.getAttribute('d'))")


def test_the_values_of_a_plot_are_reached_by_the_keyboard(opened: Any) -> None:
    """As a table of the rows that the panel is drawn from."""
    figure = plotted(opened, "rank_sweep")
    values = figure.locator("details", has=opened.locator("summary", has_text="Values")).first
    assert values.locator("table").count() == 0, "made when it is asked for"
    values.locator("summary").focus()
    opened.keyboard.press("Enter")
    values.locator("tbody tr").first.wait_for()
    head = values.locator("thead").inner_text()
    assert {"label", "row", "accuracy"} <= set(head.split())
    assert values.locator("[role=region]").get_attribute("tabindex") == "0"
    opened.keyboard.press("Enter")


def test_every_figure_is_plotted_in_the_place_of_its_picture(opened: Any) -> None:
    for name in figures():
        figure = plotted(opened, name)
        assert figure.locator(".plot svg").count() == figure.locator(".panel-title").count() >= 1, name
        marks = figure.locator(".plot svg .role-mark path").evaluate_all(
            "(all) => all.filter((e) => e.getAttribute('d')).length"
        )
        assert marks > 3 and "NaN" not in figure.inner_html(), name
        assert figure.locator("img").is_hidden()
        figure.locator("summary", has_text="As a picture").click()
        assert figure.locator("img").is_visible()


def test_what_one_points_at_says_its_values(opened: Any) -> None:
    figure = plotted(opened, "rank_sweep")
    for place in range(3, 40):  # drawing the figures around it scrolls the page, which ends what is said
        figure.locator(BAR).first.hover(position={"x": place, "y": place})
        if opened.locator("#tip").is_visible():
            break
    said = opened.locator("#tip").inner_text()
    assert re.search(r"Method\s+LoRA\s+Rank r\s+4\s+Accuracy\s+[\d.]+%\s+95 % low\s+[\d.]+%", said), said
    assert re.search(r"Seeds\s+5\s+Examples\s+40", said), said
    opened.mouse.move(5, 5)
    assert opened.locator("#tip").is_hidden()


def test_the_legend_hides_a_method_in_all_panels(opened: Any) -> None:
    figure = plotted(opened, "rank_sweep")
    before = bars(figure)
    entry = figure.locator(".legend button", has_text=re.compile("^LoRA$"))
    entry.focus()
    opened.keyboard.press("Enter")
    sync_api.expect(entry).to_have_attribute("aria-pressed", "false")
    sync_api.expect(figure.locator(BAR)).to_have_count(len(before) // 2)
    entry.click()
    sync_api.expect(figure.locator(BAR)).to_have_count(len(before))


def test_sliders_choose_step_and_layer_of_the_ranks(opened: Any) -> None:
    figure = plotted(opened, "rank_importance")
    shown = [bars(figure)]
    for control, said, text in zip(
        figure.locator("input[type=range]").all(), figure.locator("output").all(), ("100", "0"), strict=True
    ):
        control.focus()
        opened.keyboard.press("ArrowLeft")
        sync_api.expect(said).to_have_text(text)
        sync_api.expect(control).to_have_attribute("aria-valuetext", text)
        sync_api.expect(figure.locator(BAR).first).not_to_have_attribute("d", shown[-1][0])
        shown.append(bars(figure))
    assert [len(one) for one in shown] == [2 * fake_figures.RANKS] * 3


def test_plots_are_as_wide_as_a_phone(phone: Any) -> None:
    phone.locator("nav a", has_text="Figures").click()
    figure = plotted(phone, "pareto")
    widths = figure.locator(".plot svg").evaluate_all("(all) => all.map((e) => e.getBoundingClientRect().right)")
    assert max(widths) <= 390 and phone.evaluate("document.documentElement.scrollWidth <= 390")


# ------------------------------------------------------------------------------------------------------- how it is shown


def test_dark_mode_follows_the_system_and_the_switch(browser: Any, path: Path) -> None:
    for page in _open(browser, path, color_scheme="dark"):
        ground = "getComputedStyle(document.body).backgroundColor"
        dark = page.evaluate(ground)
        page.locator("#theme").click()
        light = page.evaluate(ground)
        assert light == "rgb(255, 255, 255)" != dark
        page.reload()
        page.wait_for_selector(READY)
        assert page.evaluate(ground) == light, "the choice is kept"


CONTRAST = """() => {
  const luminance = (text) => {
    const linear = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = text.match(/[\\d.]+/g).map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (!colour.endsWith(", 0)")) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const low = [];
  for (const element of document.querySelectorAll("main *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.checkVisibility() || element.closest("svg")) continue;
    const [a, b] = [luminance(getComputedStyle(element).color), luminance(ground(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) low.push(`${element.className}: ${element.textContent.trim().slice(0, 30)}: ${ratio.toFixed(2)}`);
  }
  return low;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_enough_contrast(browser: Any, path: Path, scheme: str) -> None:
    """WCAG 2.2, 1.4.3: 4.5 to 1."""
    for page in _open(browser, path, color_scheme=scheme):
        assert page.evaluate(CONTRAST) == []


@pytest.mark.parametrize("width", [1280, 1920])
def test_the_tables_of_scores_show_all_their_columns(browser: Any, path: Path, width: int) -> None:
    for page in _open(browser, path, viewport={"width": width, "height": 900}):
        clipped = (
            "[...document.querySelectorAll('.scores')].filter((e) => e.checkVisibility() && e.scrollWidth > e.clientWidth)"
        )
        assert page.evaluate(f"{clipped}.map((e) => e.getAttribute('aria-label'))") == []
        assert page.evaluate("document.documentElement.scrollWidth") == width


def test_headings_skip_no_level_and_landmarks_have_names_of_their_own(opened: Any) -> None:
    """As axe-core asks: heading-order, landmark-unique."""
    shown = "[...document.querySelectorAll({!r})].filter((e) => e.checkVisibility())"
    levels = opened.evaluate(shown.format("h1, h2, h3, h4") + ".map((e) => Number(e.tagName[1]))")
    assert levels[0] == 1 and all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    names = opened.evaluate(
        shown.format("section[aria-labelledby], [role=region]")
        + ".map((e) => e.getAttribute('aria-label') ?? document.getElementById(e.getAttribute('aria-labelledby')).textContent)"
    )
    assert len(set(names)) == len(names) > 8


def test_every_control_has_a_name(opened: Any) -> None:
    unnamed = opened.evaluate(
        """() => [...document.querySelectorAll("button, input, select, a, img, [role=region]")].filter((e) =>
        !(e.textContent.trim() || e.getAttribute("aria-label") || e.labels?.length || e.alt)).map((e) => e.outerHTML)"""
    )
    assert unnamed == []


def test_the_first_tab_skips_to_the_content(opened: Any) -> None:
    opened.keyboard.press("Tab")
    assert opened.evaluate("document.activeElement.textContent") == "Skip to the content"
    opened.keyboard.press("Enter")
    opened.keyboard.press("Tab")
    assert opened.evaluate("document.getElementById('content').contains(document.activeElement)")


#: What the Tab key stops at, in the order of the document: what has the focus, or is left out.
TABBED = """() => [...document.querySelectorAll("a[href], button, input, select, summary, [tabindex='0']")]
  .filter((e) => e.checkVisibility() && !e.disabled && e.tabIndex >= 0)"""
#: The place of what has the focus among them; -1: it is none of them.
PLACE = f"() => ({TABBED})().indexOf(document.activeElement)"
SEEN = "() => getComputedStyle(document.activeElement).outlineStyle"


@pytest.mark.parametrize("address", ["", PAIR, "#run/math/llama-tiny/beamlora/seed0"])
def test_the_tab_key_stops_at_every_control_in_the_order_of_the_page(opened: Any, path: Path, address: str) -> None:
    """WCAG 2.2, 2.1.1, 2.1.2, 2.4.3 and 2.4.7: all are reached, none holds the focus, in the order in which they are read, and
    one sees where one is."""
    go(opened, path, address)
    opened.evaluate("document.activeElement.blur(); document.querySelector('.skip').focus()")
    stops = opened.evaluate(f"({TABBED})().length")
    visited = []
    for _ in range(stops):
        visited.append(opened.evaluate(PLACE))
        assert opened.evaluate(SEEN) != "none", opened.evaluate("document.activeElement.outerHTML")
        opened.keyboard.press("Tab")
    assert visited == list(range(stops)) and stops > 20


ADDRESSES = ("", "#number/table1/llama-tiny/beamlora/accuracy/avg", "#run/math/llama-tiny/beamlora/seed0", PAIR)


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_phone_does_not_scroll_sideways(phone: Any, path: Path, address: str) -> None:
    go(phone, path, address)
    assert phone.evaluate("document.documentElement.scrollWidth <= 390")


def test_a_phone_opens_with_the_verdicts_and_closed_chapters(phone: Any) -> None:
    assert phone.evaluate("document.documentElement.scrollHeight") < 4500
    chapters = phone.locator("details.chapter")
    assert chapters.count() == 6 and phone.locator("details.chapter[open]").count() == 0
    assert phone.locator("#verdicts table.forest").first.is_visible() and phone.locator(TABLE).is_hidden()
    phone.locator("nav a", has_text="Tables").click()
    sync_api.expect(phone.locator(TABLE)).to_be_visible()
    assert phone.locator("details.chapter[open]").count() == 1
    phone.locator("#tables summary", has=phone.locator("h2")).click()
    phone.locator("nav a", has_text="Tables").click()
    sync_api.expect(phone.locator(TABLE)).to_be_visible()


def test_the_axes_of_a_forest_plot_lie_below_each_other(opened: Any) -> None:
    plots = "[...document.querySelectorAll('svg.forest-bar')].map((e) => e.getBoundingClientRect())"
    edges = opened.evaluate(f"{plots}.map((box) => [box.left, box.width, box.height])")
    assert len(edges) > 8 and len({tuple(round(value) for value in edge) for edge in edges}) == 1 and edges[0][1] > 150


def test_print_hides_what_only_works_on_a_screen(opened: Any) -> None:
    plotted(opened, "pareto")
    opened.emulate_media(media="print")
    assert opened.locator("header").is_hidden() and opened.locator("#flips").is_hidden()
    assert opened.locator("#verdicts svg.forest-bar").first.is_visible() and opened.locator(TABLE).is_visible()
    assert opened.locator("#figure-pareto .plots").is_hidden()
    opened.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert opened.get_by_text("± is one standard error over seeds").first.is_visible()
    assert opened.locator("#figure-pareto img").is_visible()


def test_without_javascript_the_numbers_are_there(browser: Any, path: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(path.as_uri())
    assert page.locator(TABLE).is_visible() and "BeamLoRA − LoRA" in page.locator("#verdicts").inner_text()
    assert page.locator("#verdicts svg.forest-bar").first.is_visible()
    assert page.locator("#figures img").count() == len(figures()) and page.locator("#figures img").first.is_visible()
    context.close()


# -------------------------------------------------------------------------------------------------------- accessibility

LOOKS: dict[str, dict[str, Any]] = {
    "light desktop": {"color_scheme": "light", "viewport": {"width": 1280, "height": 900}},
    "dark phone": {"color_scheme": "dark", "viewport": {"width": 390, "height": 800}, "is_mobile": True, "has_touch": True},
}


@pytest.mark.parametrize("look", LOOKS)
def test_axe_finds_nothing_on_the_whole_page(browser: Any, path: Path, look: str) -> None:
    for page in _open(browser, path, **LOOKS[look]):
        page.evaluate("document.querySelectorAll('details.chapter').forEach((e) => { e.open = true; })")
        for name in figures():
            plotted(page, name)
        assert accessibility.faults(page) == []


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("address", [*ADDRESSES[1:], "#flips/math/llama-tiny/gsm8k/full-ft/adalora"])
def test_axe_finds_nothing_on_what_is_opened(browser: Any, path: Path, look: str, address: str) -> None:
    for page in _open(browser, path, **LOOKS[look]):
        go(page, path, address)
        part = "#flips" if "flips" in address else "#view"
        page.locator(part).wait_for()
        page.evaluate("document.querySelectorAll('#view details').forEach((e) => { e.open = true; })")
        assert accessibility.faults(page, part) == []
