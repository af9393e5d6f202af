"""Figures are drawn from data alone, the same each time, and show what they are given."""

import io

import matplotlib.pyplot
import numpy as np
import pytest
from matplotlib import rcParams
from matplotlib.figure import Figure
from PIL import Image

from saccade.core.layout import Layout
from saccade.plans.plan import Plan
from saccade.report import figures, route_map, style
from saccade.report.markdown import markdown


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=int)


def has_colour(image: np.ndarray, colour: str, tolerance: int = 12) -> bool:
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return bool((abs(image - wanted).sum(-1) <= tolerance).any())


@pytest.mark.parametrize("name", ["layers", "retention", "flops", "measured", "question-1"])
def test_every_figure_is_a_png_of_readable_size(pictures, name):
    image = pixels(pictures[name])
    assert image.shape[1] == pytest.approx(9.2 * style.DPI, abs=2)
    assert image.shape[0] >= 500


def test_figures_leave_no_trace_and_repeat(study):
    before = dict(rcParams)
    first = figures.retention_by_budget(study["plans"], 4, 20)
    assert figures.retention_by_budget(study["plans"], 4, 20) == first
    assert dict(rcParams) == before
    assert matplotlib.pyplot.get_fignums() == []


def test_every_method_is_drawn_in_its_own_colour(pictures):
    for name in ("retention", "flops", "measured"):
        image = pixels(pictures[name])
        for method in ("vskip", "ffn_skip", "shortv", "vtw"):
            assert has_colour(image, style.PALETTE[method]), (name, method)


@pytest.mark.e2e
def test_the_family_has_a_panel_for_every_method_that_ran(family, monkeypatch):
    monkeypatch.setattr(style, "DPI", 80)
    args = (family["dense"], 0.3, family["rows"], 20)
    png = figures.accuracy_by_family(*args)
    assert figures.accuracy_by_family(*args) == png
    image = pixels(png)
    assert image.shape[1] == pytest.approx(9.2 * style.DPI, abs=2)
    for kind in {row["kind"] for row in family["rows"]}:
        assert has_colour(image, style.KIND_COLORS[kind]), kind
    few = [row for row in family["rows"] if row["method"] in ("random", "fastv")]
    assert pixels(figures.accuracy_by_family(family["dense"], None, few, 20)).shape[0] < image.shape[0] / 2


def test_names_with_dollar_signs_are_names(study):
    plans = [dict(e, title="$x^$ and $\\frac$", method="$_$") for e in study["plans"]]
    assert figures.retention_by_budget(plans, 4, 20).startswith(b"\x89PNG")


def test_a_cell_of_a_table_stays_one_cell():
    told = markdown(("task", "a|b"), [["x|y", "1\n2"]])
    assert told.split("\n") == ["| task | a\\|b |", "| --- | ---: |", "| x\\|y | 1 2 |"]


def test_a_method_without_a_colour_gets_a_steady_one():
    assert style.color("fastv") == style.color("fastv")
    assert style.color("fastv") in style.SPARE and style.marker("fastv")


def test_retention_that_is_undefined_is_left_out(study):
    plans = [dict(e, mean=dict(e["mean"])) for e in study["plans"]]
    for key in ("retention_above_blind", "retention_above_blind_low", "retention_above_blind_high"):
        plans[0]["mean"][key] = None
    assert figures.retention_by_budget(plans, 4, 20).startswith(b"\x89PNG")


def test_the_map_says_what_each_plan_skips():
    layout = Layout.single(16, 8, 3)
    skipped = route_map.route_map(Plan.of("vskip(layers=1)+ffn_skip(layers=2)").route(layout, 4))
    assert skipped["image"]["rows"] == [16] and skipped["text before"]["rows"] == [3]
    assert skipped["image"]["attention"] == [1, 0, 1, 1]
    assert skipped["image"]["ffn"] == [1, 1, 0, 1]
    assert skipped["image"]["alive"] == [1, 1, 1, 1]
    gone = route_map.route_map(Plan.of("vtw(layer=2)").route(layout, 4))
    assert gone["image"]["alive"] == [1, 1, 0, 0]
    for found in (skipped, gone):
        assert found["question"]["attention"] == found["question"]["ffn"] == [1, 1, 1, 1]


def test_rows_of_padding_belong_to_no_group():
    visual = [[False, False, False, True, True, False]]
    real = [[False, True, True, True, True, True]]
    import torch

    layout = Layout.from_mask(torch.tensor(visual), torch.tensor(real))
    assert route_map.row_groups(layout) == {"text before": [1, 2], "image": [3, 4], "question": [5]}


def test_a_drawing_has_the_colours_of_a_palette_and_a_picture_all_of_its_own():
    shades = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)

    def shown() -> Figure:
        figure = Figure(figsize=(3, 2))
        axes = figure.subplots()
        axes.plot([0, 59], [0, 59], color=style.PALETTE["vskip"])
        axes.imshow(shades)
        return figure

    few, full = style.styled(shown)(), style.pictured(shown)()
    with Image.open(io.BytesIO(few)) as drawing, Image.open(io.BytesIO(full)) as picture:
        assert drawing.mode == "P" and drawing.size == picture.size
        assert drawing.info["dpi"] == picture.info["dpi"]
        assert len(picture.convert("RGB").getcolors(10**6)) > 256
    assert len(few) < len(full)
    assert np.abs(pixels(few) - pixels(full)).mean() < 6
