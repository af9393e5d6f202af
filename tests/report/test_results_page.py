"""The page of result files: whole, self-contained, and with the numbers of its files."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade.cli import main
from saccade.core.layout import Layout
from saccade.plans.plan import Plan
from saccade.report.results import read, render
from saccade.report.results.frontier import frontier
from saccade.report.results.kinds import Palette, layer_shares
from saccade.report.results.maps import layer_map

VOID = {"meta", "img", "br", "path", "use", "input"}


class Reader(HTMLParser):
    """Checks that tags close; collects addresses, ids, text and links within the page."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.ids: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        self._look(attrs)

    def handle_startendtag(self, tag, attrs):
        self._look(attrs)

    def _look(self, attrs):
        self.sources += [v for k, v in attrs if k in ("src", "href", "xlink:href", "srcset", "data") and v]
        self.ids += [v for k, v in attrs if k == "id"]

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def page(result_files) -> str:
    return render([read(path) for path in result_files.values()])


@pytest.fixture(scope="module")
def reader(page) -> Reader:
    found = Reader()
    found.feed(page)
    return found


def test_tags_close_and_nothing_is_fetched(page, reader):
    assert reader.open == []
    assert all(source.startswith(("data:image/png;base64,", "#")) for source in reader.sources)
    assert not re.search(r"<script|@import|url\((?!#)|<link|<iframe", page)


def test_ids_are_distinct_and_links_within_the_page_arrive(reader):
    assert len(reader.ids) == len(set(reader.ids))
    assert {source[1:] for source in reader.sources if source.startswith("#")} <= set(reader.ids)


def test_colours_follow_the_reader_s_theme(page):
    style, body = page.split("</style>", 1)
    assert "prefers-color-scheme: dark" in style
    drawings = re.findall(r"<svg .*?</svg>", body, re.DOTALL)
    assert len(drawings) > 5
    for drawing in drawings:
        named = set(re.findall(r"var\(--([\w-]+)\)", drawing))
        assert named and all(f"--{name}:" in style for name in named)
        assert not re.findall(r"(?:fill|stroke): #(?!fff)", drawing)


def test_names_from_files_are_escaped(page):
    assert "&lt;b&gt;odd&lt;/b&gt;" in page and "<b>odd</b>" not in page


def test_every_file_says_how_to_run_it_again(page, result_files):
    sources = page.split('id="sources"')[1]
    for kind, path in result_files.items():
        part = sources.split(f"<h3>{path}</h3>")[1].split("<h3>")[0]
        data = json.loads(Path(path).read_text("utf-8"))
        if "provenance" in data:
            assert data["provenance"]["command"] in part and "saccade 0" in part and ">3<" in part
        else:
            assert "does not name the command" in part and ("feedc0de" in part) == (kind == "plan")


def test_accuracy_stands_with_interval_blind_and_loss(result_files):
    text = render([read(result_files["eval"])])
    data = json.loads(Path(result_files["eval"]).read_text("utf-8"))
    for entry in data["plans"]:
        mean = entry["mean"]
        assert f"{100 * mean['accuracy']:.1f} % ({100 * mean['low']:.1f} to {100 * mean['high']:.1f})" in text
        assert f"{mean['lost']} / {mean['gained']}" in text
    assert f"Blind: {100 * data['dense']['mean']['blind']:.1f} %" in text


def test_metrics_of_a_benchmark_s_own_judge_are_shown_as_it_gave_them(result_files, tmp_path):
    data = json.loads(Path(result_files["eval"]).read_text("utf-8"))
    for column in (data["dense"], *data["plans"]):
        # What lmms-eval's main metric is to a task whose score is no share.
        column["tasks"]["count"] |= {"accuracy": None, "low": None, "high": None, "metric": "mme_score"}
        column["tasks"]["count"]["metrics"] = {"mme_score": 1236}
    path = tmp_path / "lmms.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    text = render([read(path)])
    row = text.split("Official metrics")[1].split("</table>")[0].split("mme_score")[1]
    assert row.count("<td>1,236</td>") == 1 + len(data["plans"])


def test_what_a_study_says_stands_in_the_page(page):
    assert "Late layers are free" in page and "supported" in page and "How many?" in page


def test_models_are_told_apart_and_what_is_assumed_is_said(page):
    first, second = re.findall(r'<h2 class="model".*?</h2>', page)
    assert "toy" in first and "weights feedc0de" in first
    assert "Toy &lt;b&gt;" in second and "weights not recorded" in second
    # A bench and a cost have no digest, and stand with the model of their name.
    assert page.count("it stands here by the model's name") == 2


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(-1, 2)), max_size=12))
def test_the_frontier_is_what_no_other_beats(points):
    best = frontier(points)
    beaten = [
        any((x <= cost and y >= kept) and (x < cost or y > kept) for j, (x, y) in enumerate(points) if j != i)
        for i, (cost, kept) in enumerate(points)
    ]
    assert not any(beaten[i] for i in best)
    assert {points[i] for i in best} == {point for i, point in enumerate(points) if not beaten[i]}
    assert [points[i][0] for i in best] == sorted(points[i][0] for i in best)


@pytest.mark.parametrize(
    "spec", ["vskip(layers=1)", "vtw(layer=2)", "shortv(layers=0,3)", "uniform(keep=0.25)"]
)
def test_the_map_is_the_route(spec):
    route = Plan.of(spec).route(Layout.single(16, 4), 4)
    shares = layer_shares(spec, 4, 16, 4)
    for number, layer in enumerate(route.layers):
        rows = {"alive": layer.alive_BN, "attention": layer.query_BN, "ffn": layer.ffn_BN}
        for key, mask in rows.items():
            wanted = mask[0][route.layout.visual_BN[0]].float().mean().item()
            assert shares[key][number] == pytest.approx(wanted)


def test_a_map_tells_skipped_gone_and_whole():
    drawn = layer_map([("V", "vskip(layers=1)"), ("W", "vtw(layer=2)")], 4, (16, 4), Palette())
    first, second = drawn.split("<title>")[1:]
    assert first.count("h10v20") == 7 and "gone" not in first  # one half of eight is empty
    assert second.count("h10v20") == 4 and second.split("gone")[1].count("h20v20") == 2
    assert layer_map([("none", "vskip(budget=2)"), ("odd", "what()")], 4, (16, 4), Palette()) == ""


def test_few_methods_have_colours_of_their_own():
    few = Palette.of(["vskip(layers=1)", "vtw(layer=2)"], 4)
    assert few.colour("vskip(layers=1)") != few.colour("vtw(layer=2)")
    many = Palette.of(
        [f"{n}(keep=0.5)" for n in ("fastv", "random", "uniform", "divprune", "dart")]
        + ["vskip(layers=1)", "vtw(layer=2)"],
        4,
    )
    assert many.colour("vskip(layers=1)") == many.colour("vtw(layer=2)")
    assert many.group("fastv(keep=0.5)") == "reduced inside the decoder"


@pytest.mark.e2e
def test_the_command_writes_one_page_and_says_what_is_in_it(result_files, tmp_path, root):
    out = tmp_path / "deep" / "r.html"
    path = os.pathsep.join([str(root / "src"), os.environ.get("PYTHONPATH", "")])
    words = ["report", result_files["eval"], result_files["plan"], "--out", str(out), "--json", "-"]
    done = subprocess.run(
        [sys.executable, "-m", "saccade", *words], capture_output=True, text=True, timeout=240,
        env=os.environ | {"PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (model,) = json.loads(done.stdout)["models"]
    assert (model["name"], model["weights"]) == ("toy", "feedc0de")
    assert model["files"] == [result_files["eval"], result_files["plan"]]
    assert out.read_text("utf-8").startswith("<!doctype html>") and f"next: open {out}" in done.stderr
    assert os.listdir(out.parent) == ["r.html"]


def test_bad_input_ends_with_one_line_and_no_page(result_files, tmp_path, capsys):
    broken = tmp_path / "broken.json"
    broken.write_text('{"dense": 3}', encoding="utf-8")
    out = tmp_path / "r.html"
    for words, told in (
        ([str(broken)], str(broken)),
        ([result_files["eval"], "none.json"], "none.json"),
        ([result_files["eval"], result_files["eval"]], "given twice"),
        ([result_files["eval"], "--out", str(tmp_path)], "ends with .html"),
        ([], "RESULT"),
    ):
        assert main(["report", *words, *([] if "--out" in words else ["--out", str(out)])]) == 2
        err = capsys.readouterr().err
        assert told in err and "Traceback" not in err
    assert not out.exists()
