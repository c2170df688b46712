"""What all figures share: colours, layout, and files that are the same for the same records."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
from pathlib import Path

import matplotlib.text
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from harness.figures import catalogue, style
from harness.figures.catalogue import figures
from tests.harness import fake_runs
from tests.harness.figures import fake_figures
from tests.paths import ROOT

NINE = tuple(fake_runs.LABELS)

# --------------------------------------------------------------------------------------------------------------- colours

#: Linear RGB as seen with dichromacy [Machado, Oliveira, Fernandes, IEEE TVCG 15 (2009), severity 1].
SEEN = {
    "normal": np.eye(3),
    "deuteranopia": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]),
    "protanopia": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(colour: str) -> np.ndarray:
    c = np.array(to_rgb(colour))
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    xyz = TO_XYZ @ np.clip(rgb, 0, 1) / np.array([0.9505, 1, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(first: str, second: str) -> float:
    low, high = sorted(float(TO_XYZ[1] @ linear(c)) for c in (first, second))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("method", style.METHOD_LOOKS)
def test_colours_stand_out_on_paper_and_on_a_dark_page(method: str):
    colour = style.colour_of(method)
    assert contrast(colour, "#FFFFFF") > 2.7
    assert contrast(colour, "#15171C") > 2.2


@pytest.mark.parametrize("eyes", SEEN)
def test_the_papers_methods_can_be_told_apart(eyes: str):
    seen = {method: lab(SEEN[eyes] @ linear(style.colour_of(method))) for method in NINE}
    for first, second in itertools.combinations(NINE, 2):
        assert np.linalg.norm(seen[first] - seen[second]) > 9, (first, second)


def test_markers_differ_for_grey_print():
    assert len({marker for _, marker in style.METHOD_LOOKS.values()}) == len(style.METHOD_LOOKS)


def test_every_registered_method_has_its_own_colour():
    import methods

    own = {name for name, method in methods.registry().items() if method.cls.__module__.startswith("methods.")}
    assert own <= set(style.METHOD_LOOKS)
    assert len({colour for colour, _ in style.METHOD_LOOKS.values()}) == len(style.METHOD_LOOKS)


def test_a_point_of_a_sweep_has_its_methods_colour_and_others_keep_theirs():
    assert style.colour_of("lora.r=8") == style.colour_of("lora") != style.colour_of("beamlora.r=8")
    assert style.marker_of("beamlora.delta_t=16") == style.marker_of("beamlora")
    assert style.colour_of("someones-method") == style.colour_of("someones-method")
    assert len({style.colour_of(f"plug-in-{i}") for i in range(20)}) > 3


# ---------------------------------------------------------------------------------------------------------------- layout


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=9), st.floats(0.01, 1))
def test_labels_are_moved_apart_in_their_order(values: list[float], gap: float):
    ordered = sorted(values, reverse=True)
    placed = np.array(style.spread(ordered, gap))
    assert (placed[:-1] - placed[1:] >= gap * (1 - 1e-5)).all()
    if all(a - b >= gap for a, b in itertools.pairwise(ordered)):
        assert placed.tolist() == ordered


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory):
    """All nine methods on two models, in every figure that can show them."""
    where = {"domains": ["math"], "models": ["llama-tiny"], "methods": NINE}
    rates = {"setting": "learning_rate", "points": [{"learning_rate": x} for x in (1e-3, 3e-3)], **where}
    made = fake_figures.experiment(
        methods={"llama-tiny": NINE, "mistral-tiny": fake_runs.MISTRAL},
        seeds=[0, 1],
        sweeps={**fake_figures.SWEEPS, "learning_rate": rates},
        timing={"domain": "math", "model": "llama-tiny", "methods": NINE, "rounds": 3},
    )
    results = tmp_path_factory.mktemp("results")
    fake_figures.write_all(made, results)
    return fake_figures.inputs(made, results)


def ticks_beyond_their_axis(figure: Figure) -> list[matplotlib.text.Text]:
    """Labels that matplotlib keeps but does not draw."""
    labels = []
    for axis in (line for axes in figure.axes for line in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        slack = 1e-9 * (high - low)
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
            if not low - slack <= tick.get_loc() <= high + slack:
                labels += [tick.label1, tick.label2]
    return labels


@pytest.mark.parametrize("name", figures())
def test_nothing_is_clipped_and_no_text_lies_on_another(crowded, name: str):
    with style.theme():
        figure = catalogue.build(name, crowded).figure
        figure.set_dpi(60)
        FigureCanvasAgg(figure).draw()
        renderer = figure.canvas.get_renderer()
        page = figure.bbox
        hidden = {id(text) for text in ticks_beyond_their_axis(figure)}
        texts = (t for t in figure.findobj(matplotlib.text.Text) if t.get_visible() and id(t) not in hidden)
        shown = [t for t in texts if t.get_text().strip()]
        # Of an annotation its words alone, without the line that leads to its point.
        boxes = [(t.get_text(), matplotlib.text.Text.get_window_extent(t, renderer)) for t in shown]
        for text, box in boxes:
            assert page.x0 - 1 <= box.x0 and box.x1 <= page.x1 + 1, f"{text!r} leaves the page sideways"
            assert page.y0 - 1 <= box.y0 and box.y1 <= page.y1 + 1, f"{text!r} leaves the page"
        for (first, a), (second, b) in itertools.combinations(boxes, 2):
            width = min(a.x1, b.x1) - max(a.x0, b.x0)
            height = min(a.y1, b.y1) - max(a.y0, b.y0)
            assert width <= 1.5 or height <= 2.5, f"{first!r} lies on {second!r}"


# ----------------------------------------------------------------------------------------------------------------- bytes


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_the_same_records_give_the_same_bytes(crowded, tmp_path: Path):
    for folder in ("first", "second"):
        with style.theme():
            style.save(catalogue.build("p_init", crowded), tmp_path / folder, "p_init")
    assert digests(tmp_path / "first") == digests(tmp_path / "second")
    assert len(digests(tmp_path / "first")) == 3


def test_files_hold_no_date_and_no_version(crowded, tmp_path: Path):
    with style.theme():
        png, pdf, _ = style.save(catalogue.build("time_memory", crowded), tmp_path, "time_memory")
    for word in (b"Software", b"CreationDate", b"Producer", b"Matplotlib"):
        assert word not in png.read_bytes()[:2000]
        assert word not in pdf.read_bytes()


def test_the_font_is_the_one_that_matplotlib_ships():
    import matplotlib
    from matplotlib import font_manager

    with style.theme():
        for weight in ("normal", "bold"):
            path = font_manager.findfont(font_manager.FontProperties(weight=weight))
            assert Path(path).resolve().is_relative_to(Path(matplotlib.get_data_path()).resolve())


def test_the_users_settings_have_no_effect_and_come_back():
    with matplotlib.rc_context({"font.size": 33.0}):
        with style.theme():
            assert matplotlib.rcParams["font.size"] == 9.0
        assert matplotlib.rcParams["font.size"] == 33.0


_DRAW = """
import sys
from pathlib import Path
from harness.figures import __main__ as command
for name in sys.argv[4:]:
    command.main([name, "--configfile", sys.argv[1], "--results-dir", sys.argv[2], "--output-dir", sys.argv[3]])
assert "torch" not in sys.modules
"""


@pytest.mark.slow
def test_another_process_draws_the_same_bytes_without_torch(crowded, tmp_path: Path):
    path = tmp_path / "fake.yaml"
    path.write_text(crowded.experiment.model_dump_json())
    for seed in ("1", "2"):
        arguments = [str(path), str(crowded.results), str(tmp_path / seed), *figures()]
        environment = {**os.environ, "PYTHONHASHSEED": seed, "TZ": "UTC" if seed == "1" else "Asia/Tokyo"}
        subprocess.run([sys.executable, "-c", _DRAW, *arguments], cwd=ROOT, env=environment, check=True)
    assert digests(tmp_path / "1") == digests(tmp_path / "2")
    assert len(digests(tmp_path / "1")) == 3 * len(figures())
