"""An explanation says what a trace says, in rows, words and colours, and its text never overlaps."""

from __future__ import annotations

import io
import re
import warnings
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import rc_context, rcParams
from matplotlib.text import Text
from PIL import Image

from saccade import models
from saccade.core.layout import Layout
from saccade.core.shapes import ModelShape
from saccade.core.stages import Grid, Rewrite
from saccade.engine import apply
from saccade.engine.trace import Trace
from saccade.plans.plan import Plan
from saccade.report import style
from saccade.report.explain import explain, figure, of_trace
from saccade.report.explain.marks import marks, slot_colours
from saccade.report.explain.sheet import measure, wrap
from saccade.report.explain.stages import caption
from support.models import BIG, FACTORIES, SQUARE, WIDE

DEPTH, SIDE, PREFIX, FIRST = 6, 4, 3, 3
SHAPE = ModelShape("toy", DEPTH, 64, 4, 4, 16, 128, 100, SIDE**2)
LAYOUT = Layout.single(SIDE**2, 8, PREFIX)
RED = Image.new("RGB", (40, 40), (250, 60, 40))
ANSWERS = {"dense": "three", "planned": "three"}


def grid_of(places: list, rows: int = LAYOUT.rows, first: int = FIRST) -> Grid:
    """A grid from (plane, line, column, lines, columns) of each visual row, or None for a newline row."""
    plane, line, column = (torch.full((1, rows), -1) for _ in range(3))
    box = torch.zeros(1, rows, 4)
    for row, place in enumerate(places, start=first):
        if place is not None:
            plane[0, row], line[0, row], column[0, row], lines, columns = place
            x, y = place[2] / columns, place[1] / lines
            box[0, row] = torch.tensor([x, y, x + 1 / columns, y + 1 / lines])
    return Grid(line, column, plane, box)


def square(side: int = SIDE, plane: int = 0) -> list:
    return [(plane, i, j, side, side) for i in range(side) for j in range(side)]


def rows_mask(rows, layout: Layout = LAYOUT) -> torch.Tensor:
    mask = torch.zeros_like(layout.visual_BN)
    mask[0, list(rows)] = True
    return mask


def merge(into: dict[int, dict[int, float]], layout: Layout = LAYOUT) -> Rewrite:
    """New contents of rows: for each the rows it is made of."""
    weights = torch.zeros(1, len(into), layout.rows)
    for slot, parts in enumerate(into.values()):
        for row, weight in parts.items():
            weights[0, slot, row] = weight
    return Rewrite(torch.tensor([list(into)]), torch.zeros(1, len(into), 4), weights)


def told(spec: str, *cuts, layout: Layout = LAYOUT, places: list | None = None, pictures=(RED,), **more):
    """An explanation of a forward that took these decisions, each the rows left and a rewrite or None."""
    plan = Plan.of(spec)
    program = plan.program(layout, DEPTH)
    trace = Trace(program.route, grid_of(square() if places is None else places, layout.rows))
    for stage, (left, rewrite) in zip(program.stages, cuts, strict=False):
        trace.cut(stage, rows_mask(left, layout), rewrite, False, None)
    answers = more.pop("answers", ANSWERS)
    return of_trace(trace, plan, list(pictures), SHAPE, more.pop("question", "how many?"), answers, **more)


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=int)


@pytest.fixture(scope="module")
def merged():
    """Rows 3 and 4 hold what was 3, 4, 5 and 6, 7; row 8 is itself; then only row 3 and 8 stay."""
    first = merge({3: {3: 0.5, 4: 0.25, 5: 0.25}, 4: {6: 0.3, 7: 0.7}})
    spec = "visionzip(dominant=1,contextual=2)+fastv(layer=2,keep=0.7)"
    return told(spec, ((3, 4, 8), first), ((3, 8), None))


class TestStages:
    def test_what_is_kept_is_counted_and_said(self):
        shown = told("fastv(layer=2,keep=0.5)", (range(3, 11), None))
        saw, cut = shown.moments
        assert (saw.where, caption(saw, saw.images[0])) == ("what the model saw", "16 patches")
        assert cut.where == "before layer 2"
        assert caption(cut, cut.images[0]) == f"8 of 16 patches kept by {cut.method}"
        assert cut.images[0].kept == tuple(range(3, 11)) and cut.images[0].dropped == tuple(range(11, 19))
        assert shown.alive == (16, 16, 8, 8, 8, 8)

    def test_what_went_before_is_told_from_what_goes_now(self):
        spec = "random(keep=0.5)+fastv(layer=2,keep=0.5)"
        shown = told(spec, (range(3, 11), None), (range(3, 7), None))
        first, second = (moment.images[0] for moment in shown.moments[1:])
        assert first.gone == () and first.dropped == second.gone == tuple(range(11, 19))
        assert second.dropped == tuple(range(7, 11))
        assert [moment.where for moment in shown.moments[1:]] == ["before the decoder", "before layer 2"]

    def test_merged_patches_know_their_row_and_its_centre(self, merged):
        left = merged.moments[1].images[0]
        assert left.kept == (8,) and left.dropped == (*range(9, 19),)
        assert left.into == {3: 3, 4: 3, 5: 3, 6: 4, 7: 4}
        assert left.centres == {3: 3, 4: 7}
        text = caption(merged.moments[1], left)
        assert "3 of 16 rows left by visionzip(" in text
        assert "1 patch kept, 5 patches merged into 2 rows, 10 patches dropped" in text

    def test_what_was_merged_is_dropped_together(self, merged):
        left = merged.moments[2].images[0]
        assert left.into == {3: 3, 4: 3, 5: 3} and left.dropped == (6, 7)
        assert "2 of 3 rows left by fastv(" in caption(merged.moments[2], left)

    def test_contents_that_moved_keep_their_place_in_the_picture(self):
        packed = merge({3: {9: 1.0}, 4: {12: 1.0}})
        shown = told("random(keep=2)", ((3, 4), packed))
        left = shown.moments[1].images[0]
        assert left.kept == (9, 12) and not left.into
        entry = shown.to_dict()["stages"][0]["images"][0]
        view = shown.views[0]
        assert entry["kept"] == [3, 4] and entry["boxes"] == [view.boxes[9], view.boxes[12]]

    def test_a_patch_in_two_rows_goes_with_the_one_that_holds_most_of_it(self):
        shown = told(
            "random(keep=2)", ((3, 4), merge({3: {3: 0.6, 5: 0.4, 6: 0.1}, 4: {4: 0.5, 5: 0.1, 6: 0.4}}))
        )
        assert shown.moments[1].images[0].into == {3: 3, 4: 4, 5: 3, 6: 4}

    def test_rows_without_a_patch_are_counted_apart(self):
        places = [*square(3), None, None, None, *square(2), None]
        made_of_nothing = merge({5: {}})
        shown = told("random(keep=3)", ((3, 5, 12), made_of_nothing), places=places)
        saw, cut = shown.moments
        assert caption(saw, saw.images[0]) == "13 patches and 3 newline or other rows"
        assert cut.images[0].kept == (3,) and cut.images[0].others == 2
        assert caption(cut, cut.images[0]).endswith("; 2 of 3 newline or other rows kept")
        assert [box is None for box in shown.to_dict()["stages"][0]["images"][0]["boxes"]] == [
            False,
            True,
            True,
        ]

    def test_rows_without_a_patch_are_counted_beside_merged_ones_too(self):
        places = [*square(3), None, None, None, *square(2)]
        shown = told("random(keep=3)", ((3, 8, 12), merge({3: {3: 0.5, 4: 0.5}})), places=places)
        text = caption(shown.moments[1], shown.moments[1].images[0])
        assert "3 of 16 rows left by" in text and ": 1 patch kept, 2 patches merged into 1 row, 10" in text
        assert text.endswith("10 patches dropped, 1 of 3 newline or other rows kept")

    def test_a_method_that_drops_without_looking_is_a_stage(self):
        shown = told("fastv(layer=2,keep=0.5)+vtw(layer=4)", (range(3, 11), None))
        assert [(m.before, m.method.split("(")[0]) for m in shown.moments[1:]] == [(2, "fastv"), (4, "vtw")]
        assert caption(shown.moments[2], shown.moments[2].images[0]) == "0 of 8 patches kept by vtw(layer=4)"
        assert shown.alive[4:] == (0, 0)

    def test_a_stage_that_keeps_all_is_shown_too(self):
        shown = told("fastv(layer=2,keep=1)")
        assert caption(shown.moments[1], shown.moments[1].images[0]).startswith("16 of 16 patches kept by")

    @pytest.mark.parametrize("spec", ["dense", "vskip(layers=1-3)"])
    def test_a_plan_that_drops_nothing_shows_what_was_seen(self, spec):
        shown = told(spec)
        assert len(shown.moments) == 1 and shown.alive == (16,) * DEPTH
        skips = spec != "dense"
        assert shown.active["attention"] == (1, *((0, 0, 0) if skips else (1, 1, 1)), 1, 1)
        assert shown.active["ffn"] == (1,) * DEPTH
        assert ("skip attention in layers 1-3" in shown.html()) is skips

    def test_several_images_each_have_their_own(self):
        mask = torch.zeros(1, 12, dtype=torch.bool)
        mask[0, 1:5] = mask[0, 6:10] = True
        layout = Layout.from_mask(mask)
        places = [*square(2), None, *square(2)]
        trace = Trace(Plan().route(layout, DEPTH), grid_of(places, 12, 1))
        plan = Plan.of("random(keep=0.5)")
        trace.cut(plan.program(layout, DEPTH).stages[0], rows_mask((1, 2, 3, 9), layout), None, False, None)
        shown = of_trace(trace, plan, [RED, RED], SHAPE, "?", ANSWERS)
        assert [left.kept for left in shown.moments[1].images] == [(1, 2, 3), (9,)]
        assert [list(view.boxes) for view in shown.views] == [[1, 2, 3, 4], [6, 7, 8, 9]]
        assert "image 2" in shown.html()

    @settings(max_examples=25)
    @given(st.integers(0, 2**31))
    def test_rows_are_made_of_what_the_trace_says(self, seed):
        draw = torch.Generator().manual_seed(seed)
        spec = "random(keep=0.9)+fastv(layer=2,keep=0.9)+pyramiddrop(layers=4,keep=0.9)"
        cuts, alive = [], list(range(3, 19))
        for _ in range(3):
            alive = [row for row in alive if torch.rand(1, generator=draw) > 0.3] or alive[:1]
            slots = alive[: int(torch.randint(len(alive), (1,), generator=draw))]
            parts = {
                row: {
                    int(r): float(torch.rand(1, generator=draw))
                    for r in torch.randint(3, 19, (4,), generator=draw)
                }
                for row in slots
            }
            cuts.append((tuple(alive), merge(parts) if parts else None))
        plan = Plan.of(spec)
        program = plan.program(LAYOUT, DEPTH)
        trace = Trace(program.route, grid_of(square()))
        for stage, (left, rewrite) in zip(program.stages, cuts, strict=True):
            trace.cut(stage, rows_mask(left), rewrite, False, None)
        shown = of_trace(trace, plan, [RED], SHAPE, "?", ANSWERS)
        for moment in shown.moments[1:]:
            made, sources = moment.images[0].made, trace.sources(moment.before)[0]
            assert sorted(made) == trace.kept(moment.before)[0]
            for row, weights in made.items():
                dense = torch.zeros(LAYOUT.rows)
                for patch, weight in weights.items():
                    dense[patch] = weight
                assert torch.allclose(dense, sources[row], atol=1e-5)


class TestErrors:
    def test_a_trace_of_several_samples_is_refused(self):
        layout = Layout.from_mask(torch.ones(2, 4, dtype=torch.bool))
        with pytest.raises(ValueError, match="one sample is explained at a time"):
            of_trace(Trace(Plan().route(layout, DEPTH)), Plan(), [RED], SHAPE, "?", ANSWERS)

    def test_a_trace_that_knows_no_places_is_refused(self):
        with pytest.raises(ValueError, match="where its visual rows lie"):
            of_trace(Trace(Plan().route(LAYOUT, DEPTH)), Plan(), [RED], SHAPE, "?", ANSWERS)

    def test_other_pictures_than_the_prompt_has_are_refused(self):
        with pytest.raises(ValueError, match="rows of 1 images, but 2 pictures"):
            told("dense", pictures=(RED, RED))

    def test_a_text_only_call_is_refused(self, llava):
        with pytest.raises(ValueError, match="without an image"):
            explain(models.wrap(llava.model, None), [], "how many?", "vskip(layers=1)")

    def test_only_folders_pngs_and_pages_are_written(self, tmp_path):
        with pytest.raises(ValueError, match=r"ends in \.png or \.html"):
            told("dense").save(tmp_path / "explain.jpg")
        assert list(tmp_path.iterdir()) == []


class TestEngine:
    """Traces of real forwards of tiny models."""

    @pytest.mark.parametrize(
        ("name", "sample", "sizes"),
        [
            ("llava-llama", [3, SQUARE, 5], [(32, 32)]),
            ("llava_next-llama", [3, BIG, 5, WIDE, 2], [BIG[::-1], WIDE[::-1]]),
            ("qwen2_5_vl", [3, WIDE, 5], [WIDE[::-1]]),
        ],
    )
    def test_every_family_is_explained(self, name, sample, sizes):
        tiny = FACTORIES[name](layers=4)
        batch = tiny.batch([sample])
        with (
            apply(tiny.model, "fastv(layer=2,keep=0.5)+vskip(layers=3)") as handle,
            handle.tracing() as traces,
        ):
            tiny.model(**batch)
        trace, shape = traces[0], handle.family.shape(tiny.model.config)
        pictures = [Image.new("RGB", size, (90, 120, 200)) for size in sizes]
        shown = of_trace(trace, handle.plan, pictures, shape, "how many?", ANSWERS)
        kept = [row for left in shown.moments[1].images for row in left.made]
        assert kept == trace.kept(2)[0]
        total = int(tiny.visual(batch).sum())
        assert sum(len(view.boxes) for view in shown.views) == total == shown.alive[0]
        planes = {plane for view in shown.views for plane in view.planes.values()}
        assert planes == ({0, 1} if "next" in name else {0})
        assert ("(tiles)" in shown.html()) is ("next" in name)
        assert pixels(shown.png()).shape[1] == pytest.approx(9.2 * style.DPI, abs=2)


class TestFigure:
    def test_kept_patches_are_clear_dropped_ones_dimmed_merged_ones_tinted(self, merged):
        view, left = merged.views[0], merged.moments[2].images[0]
        found = {mark.kind: mark for mark in marks(view, left, 0, merged.colours)}
        assert set(found) == {"gone", "dropped", "merged"}
        painted = {box for mark in found.values() for box in mark.boxes}
        assert view.boxes[8] not in painted and len(painted) == 15
        assert set(found["dropped"].boxes) == {view.boxes[6], view.boxes[7]}
        assert set(found["merged"].boxes) == {view.boxes[row] for row in (3, 4, 5)}
        assert found["merged"].centre == view.boxes[3]
        colour = [int(found["merged"].colour[i : i + 2], 16) for i in (1, 3, 5)]
        tint = np.mean([colour, [250, 60, 40]], axis=0)
        image = pixels(merged.png())
        assert (abs(image - tint).sum(-1) <= 12).sum() > 1000
        assert (abs(image - [250, 60, 40]).sum(-1) <= 12).sum() > 1000

    def test_less_is_clear_where_less_is_kept(self):
        def clear(rows: int) -> int:
            png = told("fastv(layer=2,keep=0.5)", (range(3, 3 + rows), None)).png()
            return int((abs(pixels(png) - [250, 60, 40]).sum(-1) <= 12).sum())

        # All 16 patches of the first panel, and those that are kept in the second.
        assert clear(12) / clear(4) == pytest.approx(28 / 20, rel=0.02)

    def test_a_row_keeps_its_colour_when_it_is_packed_elsewhere(self):
        first = merge({6: {6: 0.5, 7: 0.5}, 9: {9: 0.5, 10: 0.5}})
        second = merge({3: {9: 1.0}})
        spec = "random(keep=0.9)+fastv(layer=2,keep=0.9)"
        shown = told(spec, ((6, 9), first), ((3,), second))
        before, after = (moment.images[0] for moment in shown.moments[1:])
        colours = slot_colours(shown.moments)
        assert len(set(colours.values())) == len(colours) == 2
        old = {m.centre: m.colour for m in marks(shown.views[0], before, 0, colours) if m.kind == "merged"}
        (new,) = (m for m in marks(shown.views[0], after, 0, colours) if m.kind == "merged")
        assert old[new.centre] == new.colour

    def test_what_no_patch_covers_is_veiled(self):
        places = [(0, i, j, 5, 4) for i in range(4) for j in range(4)]
        shown = told("dense", places=places)
        (mark,) = marks(shown.views[0], shown.moments[0].images[0], 0, {})
        assert mark.kind == "outside" and mark.boxes == ((0, pytest.approx(0.8), 1, 1),)

    @pytest.mark.parametrize(
        ("stages", "size"), [(1, (24, 160)), (2, (160, 24)), (3, (40, 40)), (5, (40, 60))]
    )
    def test_no_text_touches_other_text_or_leaves_the_figure(self, stages, size):
        spec = "+".join(f"fastv(layer={n},keep=0.9,position_policy=keep)" for n in range(1, stages + 1))
        cuts = [(range(3, 18 - n), None) for n in range(stages)]
        answers = {"dense": "a long answer, " * 30, "planned": "$5 or $6"}
        shown = told(spec, *cuts, pictures=[RED.resize(size)], question="who is this? " * 20, answers=answers)
        with rc_context(style.RC):
            drawn = figure.draw.__wrapped__(shown)
            drawn.canvas.draw()
            texts = [t for t in drawn.findobj(Text) if t.get_visible() and t.get_text().strip()]
            places = [(t.get_text(), t.get_window_extent()) for t in texts]
        # Ticks at the ends of an axis are drawn twice, over themselves.
        places = list({(text, *box.bounds): (text, box) for text, box in places}.values())
        paper = drawn.bbox
        assert len(places) > 10
        for at, (text, box) in enumerate(places):
            assert paper.x0 <= box.x0 and box.x1 <= paper.x1 and paper.y0 <= box.y0 and box.y1 <= paper.y1, (
                text
            )
            for other, beside in places[:at]:
                apart = box.x1 <= beside.x0 or beside.x1 <= box.x0
                assert apart or box.y1 <= beside.y0 + 2 or beside.y1 <= box.y0 + 2, (text, other)

    def test_the_figure_repeats_and_leaves_no_trace(self, merged):
        before = dict(rcParams)
        assert merged.png() == merged.png()
        assert dict(rcParams) == before

    def test_scripts_without_a_glyph_do_not_warn(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert told("dense", question="图中有多少个红色物体").png().startswith(b"\x89PNG")

    @settings(max_examples=40)
    @given(st.text(st.characters(codec="latin-1"), max_size=120), st.floats(0.5, 8), st.sampled_from([8, 13]))
    def test_wrapped_lines_fit_and_lose_nothing(self, text, width, size):
        lines = wrap(text, width, size, 10**6)
        assert all(measure(line, size) <= width + 1e-6 or len(line) == 1 for line in lines)
        printed = [c for c in text if c.isprintable() and not c.isspace()]
        assert "".join("".join(lines).split()) == "".join(printed)
        short = wrap(text, width, size, 2)
        assert len(short) <= 2 and (short == lines or short[-1].endswith("…"))


class Reader(HTMLParser):
    """Checks that tags close in order and notes what could be fetched, labels and choices."""

    def __init__(self):
        super().__init__()
        self.open, self.sources, self.labels, self.inputs, self.tags = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append(tag)
        if tag not in {"meta", "input"}:
            self.open.append(tag)
        self.sources += [given[key] for key in ("src", "href", "srcset", "data") if key in given]
        if given.get("role") == "img":
            self.labels.append(given["aria-label"])
        if tag == "input":
            self.inputs.append(given)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return reader


class TestPage:
    def test_it_is_one_file_that_fetches_nothing(self, merged):
        page = merged.html()
        reader = read(page)
        pictures = [source for source in reader.sources if not source.startswith("#")]
        assert len(pictures) == 1 and pictures[0].startswith("data:image/png;base64,")
        assert set(reader.sources) - set(pictures) == {"#picture-0"}
        assert "script" not in reader.tags and "@import" not in page and "url(" not in page

    def test_labels_say_the_numbers(self, merged):
        labels = read(merged.html()).labels
        assert labels[0] == "what the model saw: 16 patches"
        assert labels[1].startswith("before the decoder: 3 of 16 rows left by visionzip(")
        assert "1 patch kept, 3 patches merged into 1 row, 2 patches dropped" in labels[2]
        assert labels[3] == (
            "Visual rows alive: 3 from layer 0, 2 from layer 2. "
            "the image's rows that are alive attend and pass the FFN in every layer."
        )

    def test_one_choice_for_every_stage_and_the_last_is_made(self, merged):
        page = merged.html()
        inputs = read(page).inputs
        assert [choice["type"] for choice in inputs] == ["radio"] * 3
        assert [("checked" in choice) for choice in inputs] == [False, False, True]
        for choice in inputs:
            assert f'<label for="{choice["id"]}">' in page
            assert f"#{choice['id']}:checked ~ .{choice['id']}" in page

    def test_what_people_wrote_is_escaped(self):
        page = told(
            "dense", question="<b>why & how</b>", answers={"dense": "<i>", "planned": "</main>"}
        ).html()
        read(page)
        assert "<b>why" not in page and "&lt;b&gt;why &amp; how&lt;/b&gt;" in page
        assert "“&lt;/main&gt;”" in page and "the answers differ" in page

    def test_light_and_dark_are_provided_for(self, merged):
        page = merged.html()
        assert "color-scheme: light dark" in page and "prefers-color-scheme: dark" in page

    def test_the_numbers_are_those_of_the_route(self, merged):
        text = re.sub(r"<[^>]+>", " ", merged.html().split("<main>")[1])
        assert f"{100 * merged.cost['ratio']:.1f} %" in text
        assert f"{100 * merged.cost['kv_ratio']:.1f} %" in text
        assert merged.alive == (3, 3, 2, 2, 2, 2) and "2.3" in text

    def test_a_large_photo_is_carried_smaller(self):
        noise = np.random.default_rng(0).integers(0, 255, (1500, 1500, 3), dtype=np.uint8)
        page = told("dense", pictures=[Image.fromarray(noise)]).html()
        assert "data:image/jpeg;base64," in page and len(page) < 3_000_000


def test_both_files_are_written_whole(merged, tmp_path):
    paths = merged.save(tmp_path / "new" / "folder")
    assert [path.name for path in paths] == ["explain.png", "explain.html"]
    assert sorted(p.name for p in paths[0].parent.iterdir()) == ["explain.html", "explain.png"]
    assert paths[1].read_text(encoding="utf-8") == merged.html()
    (one,) = merged.save(tmp_path / "page.HTML")
    assert one.read_bytes() == paths[1].read_bytes()


def test_the_data_say_what_every_row_holds(merged):
    data = merged.to_dict()
    assert [stage["before"] for stage in data["stages"]] == [0, 2]
    assert data["stages"][0]["method"].startswith("visionzip(")
    first, second = (stage["images"][0] for stage in data["stages"])
    assert first["kept"] == [3, 4, 8] and second["kept"] == [3, 8]
    assert dict(first["merged"]["4"]) == pytest.approx({6: 0.3, 7: 0.7})
    assert list(second["merged"]) == ["3"]
    assert (
        second["counts"] | {"found": 3, "left": 2, "patches_dropped": 2, "patches_gone_before": 10}
        == second["counts"]
    )
    places = dict(zip(data["images"][0]["rows"], data["images"][0]["boxes"], strict=True))
    assert first["boxes"] == [places[3], places[7], places[8]]
    assert data["alive"] == [3, 3, 2, 2, 2, 2] and data["answers"] == ANSWERS
