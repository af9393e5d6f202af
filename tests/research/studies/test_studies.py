"""Every study runs at a small size, tells the truth of its cells, and can be told and drawn from its file."""

from __future__ import annotations

import functools
import json
import re

import pytest

from calibration.vlm import save_model
from research.studies.conftest import TOKENS
from saccade import models
from saccade.cli.common import plain
from saccade.core.layout import Layout
from saccade.core.shapes import SHAPES
from saccade.evaluation import evaluate
from saccade.evaluation.matched import RATIOS, lineup
from saccade.plans.plan import Plan
from saccade.research.studies import STUDIES, Store, StudyBench, StudyQuestions, iso_flops, run
from saccade.research.studies.base import VERDICTS
from saccade.research.studies.run import write
from saccade.system.files import read_json

NAMES = (
    *("budget", "compose", "identify", "iso-flops", "main"),
    *("realism", "saturation", "seeds", "stratified", "transfer", "whole-answer"),
)
LONG = ("iso-flops", "compose", "main", "realism")


@pytest.fixture(scope="module")
def result_of(loaded, questions, shared):
    """A study's result; each runs once."""
    bench = StudyBench(loaded, questions, Store(shared), tokens=TOKENS)
    with pytest.MonkeyPatch.context() as patch:
        # Three shares of the FLOPs say as much of the study as five.
        patch.setattr(iso_flops, "FINE", RATIOS)
        yield functools.cache(lambda name: run(STUDIES[name], bench, 4))


@pytest.mark.e2e
def test_equal_flops_stand_at_five_shares():
    shape = SHAPES["llava-1.5-7b"]
    rows = lineup(shape, [Layout.single(576, 64, views=shape.views(576))], {}, ratios=iso_flops.FINE)
    for method in ("uniform", "fastv", "random"):
        mine = {row.asked: row.plan for row in rows if row.method == method}
        assert sorted(mine, reverse=True) == [0.7, 0.6, 0.5, 0.4, 0.3]
        assert None not in mine.values() and len({plan.spec for plan in mine.values()}) == 5


def test_all_studies_are_found_by_name():
    assert set(NAMES) <= set(STUDIES)
    assert all(name == study.name and study.title and study.question for name, study in STUDIES.items())


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.long(instead="budget")) if name in LONG else name
        for name in NAMES
    ],
)
def test_a_study_runs_tells_and_draws(name, bench, result_of, tmp_path):
    study, result = STUDIES[name], result_of(name)
    paths = write(study, result, tmp_path)
    read = read_json(paths["data"])
    assert read == json.loads(json.dumps(plain(result))) and read["study"] == name
    # From the file alone: what other pages do.
    assert study.tell(read) == study.tell(result)
    pictures = study.draw(read)
    assert pictures and all(png.startswith(b"\x89PNG") for png in pictures.values())
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in paths.values()}
    page = paths["page"].read_text()
    for finding in read["findings"]:
        assert finding["verdict"] in VERDICTS and finding["claim"] in page and finding["found"] in page
    assert read["data"]["seed"] == 0 and read["data"]["questions"] == 6
    assert read["model"]["weights"] == bench.weights and read["provenance"]["command"]
    assert read["blind"]["mean"]["accuracy"] == read["dense"]["mean"]["blind"]
    ran = [entry for entry in read["plans"] if entry.get("mean")]
    assert ran and all(entry["reason"] for entry in read["plans"] if not entry.get("mean"))
    assert len({entry["name"] for entry in read["plans"]}) == len(read["plans"])
    for entry in ran:
        scores = [entry["mean"], *entry["tasks"].values()]
        assert all(s["low"] <= s["accuracy"] <= s["high"] for s in scores)
        assert all(s["difference_low"] <= s["difference"] <= s["difference_high"] for s in scores)
        assert 0 < entry["cost"]["flops_ratio"] <= 1.0001
    assert not re.search(r"\bnan\b|None", page)


@pytest.mark.parametrize(
    ("name", "layers"),
    [("saturation", 2), pytest.param("compose", 3, marks=pytest.mark.long(instead="saturation"))],
)
def test_a_model_that_is_too_shallow_is_refused_and_one_layer_more_is_enough(
    name, layers, questions, tmp_path
):
    for depth in (layers - 1, layers):
        loaded = models.load(str(save_model(tmp_path / str(depth), layers=depth)))
        bench = StudyBench(loaded, questions, Store(tmp_path / "store"), tokens=TOKENS)
        if depth < layers:
            with pytest.raises(ValueError, match=f"study {name} needs a model of at least {layers} layers"):
                run(STUDIES[name], bench)
        else:
            assert run(STUDIES[name], bench, 4)["findings"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"image": "bad.png", "answer": "red"}, "line 17: cannot read image"),
        ({"image": "0.png"}, "line 17: no answer"),
    ],
)
def test_questions_that_cannot_be_asked_are_found_before_any_work(row, said, loaded, data_file, tmp_path):
    (data_file.parent / "bad.png").write_bytes(b"no picture")
    path = data_file.parent / "broken.jsonl"
    row = {"id": "broken", "task": "first", "question": "is the red ?"} | row
    path.write_text(data_file.read_text() + json.dumps(row) + "\n")
    # Eight of the nine questions are held out, this one among them.
    asked = StudyQuestions.of_file(path, (), 9, 1, 0)
    notes = []
    bench = StudyBench(loaded, asked, Store(tmp_path), tokens=TOKENS, note=notes.append)
    with pytest.raises(ValueError, match=said):
        run(STUDIES["transfer"], bench)
    assert not notes and not list(tmp_path.iterdir())


def test_points_of_rows_are_of_pictures_where_a_file_begins_with_plain_text(loaded, data_file, tmp_path):
    text = [{"id": f"bare/{n}", "task": "bare", "question": "is it ?", "answer": "red"} for n in range(8)]
    path = data_file.parent / "bare_first.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in text) + data_file.read_text())
    specs = []
    for file in (path, data_file):
        asked = StudyQuestions.of_file(file, (), 4, 4, 0)
        bench = StudyBench(loaded, asked, Store(tmp_path), tokens=TOKENS)
        plans = [line.plan for line in STUDIES["realism"].design(bench).lines]
        specs.append([plan.spec for plan in plans if isinstance(plan, Plan)])
    tome = [[spec for spec in each if spec.startswith("tome")] for each in specs]
    assert tome[0] == tome[1] != []
    with pytest.raises(
        ValueError, match=r"^task bare: none of the 4 samples has an image.*; --task says which"
    ):
        STUDIES["transfer"].design(
            StudyBench(loaded, StudyQuestions.of_file(path, (), 4, 4, 0), Store(tmp_path))
        )


def test_names_of_tasks_with_marks_are_told_and_drawn(loaded, data_file, tmp_path):
    path = data_file.parent / "marked.jsonl"
    text = data_file.read_text().replace('"task": "first"', '"task": "$x^$|first"')
    path.write_text(text)
    bench = StudyBench(
        loaded, StudyQuestions.of_file(path, (), 3, 4, 0), Store(tmp_path / "store"), tokens=TOKENS
    )
    paths = write(STUDIES["transfer"], run(STUDIES["transfer"], bench, 4), tmp_path / "out")
    lines = paths["page"].read_text().split("\n")
    head = next(line for line in lines if line.startswith("| calibrated on | $x^$"))
    assert head == "| calibrated on | $x^$\\|first | second |"


def test_correlations_over_tasks_say_what_their_limits_are_of(result_of):
    found = [f["found"] for f in result_of("saturation")["findings"] if "ank correlation" in f["found"]]
    assert len(found) == 2
    assert all("bootstrap over tasks" in text or "not defined" in text for text in found)


def test_a_line_is_what_evaluate_says_of_its_plan(bench, result_of):
    result = result_of("budget")
    entry = next(e for e in result["plans"] if e["name"] == "shortv 2")
    samples = [s for task in bench.tasks for s in bench.questions.asked(task)]
    model, processor = bench.loaded.model, bench.loaded.processor
    found = evaluate(model, processor, samples, entry["spec"], batch_size=2, max_new_tokens=TOKENS).to_dict()
    for key in ("mean", "tasks", "spec"):
        assert entry[key] == found[key]
    assert entry["cost"] == pytest.approx({key: found["cost"][key] for key in entry["cost"]})


def test_the_budget_covers_every_number_of_layers(bench, result_of):
    result = result_of("budget")
    for method in ("vskip", "ffn_skip", "shortv", "vtw"):
        entries = [e for e in result["plans"] if e["method"] == method]
        assert [e["budget"] for e in entries] == list(range(bench.depth + 1))
        costs = [e["cost"]["flops_ratio"] for e in entries]
        assert costs[0] == 1 and costs == sorted(costs, reverse=True)
        assert entries[0]["mean"]["difference"] == 0
    assert set(result["headline"]) <= {e["name"] for e in result["plans"]}


@pytest.mark.long(instead="budget")
def test_equal_flops_are_equal_and_kept_positions_stand_beside_closed_ones(bench, result_of):
    result = result_of("iso-flops")
    ran = {e["name"]: e for e in result["plans"] if e.get("mean")}
    for entry in ran.values():
        if entry["asked"] is not None and not entry["method"].startswith(("prumerge", "sparsevlm")):
            assert entry["cost"]["flops_ratio"] <= entry["asked"] + 0.02
    kept = [e for e in ran.values() if e["positions"] == "keep"]
    assert kept and all("position_policy=keep" in e["spec"] for e in kept)
    assert {row["second"] for row in result["positions"]} <= set(ran)
    assert {e["method"] for e in ran.values()} >= {"random", "uniform", "pool", "resize", "fastv", "shortv"}


@pytest.mark.long(instead="budget")
def test_random_rows_are_a_measure_for_lines_that_place_rows_as_they_do(result_of):
    result = result_of("iso-flops")
    reached = {e["name"]: e["cost"]["flops_ratio"] for e in result["plans"] if e.get("mean")}
    for row in result["against_random"]:
        near = abs(reached[row["first"]] - reached[row["second"]]) <= 0.02
        assert row["counts"] == (near and row["kind"] != "plain")
        if row["first"].endswith(", positions kept"):
            assert row["closed"] is False
    closed = {row["method"] for row in result["against_random"] if row["closed"]}
    assert {"fastervlm", "pyramiddrop"} <= closed and not closed & {
        "fastv",
        "dart",
        "vtw",
        "shortv",
        "resize",
    }
    counted = [row["closed"] for row in result["against_random"] if row["counts"]]
    found = result["findings"][0]["found"]
    assert f"Of {len(counted) - counted.count(True)} lines" in found
    assert f"Of {counted.count(True)} with positions closed up" in found
    away = [r["first"] for r in result["against_random"] if not r["counts"] and r["kind"] != "plain"]
    assert all(name in found for name in away)


def test_equal_flops_of_the_budget_are_the_nearest_lines_within_a_point(bench, result_of):
    result = result_of("budget")
    reached = {e["name"]: e["cost"]["flops_ratio"] for e in result["plans"]}
    told = {(row["method"], row["budget"]): row for row in result["equal_flops"]}
    for method in ("ffn_skip", "shortv", "vtw"):
        for budget in range(1, bench.depth + 1):
            mine = reached[f"vskip {budget}"]
            gaps = [abs(reached[f"{method} {n}"] - mine) for n in range(1, bench.depth + 1)]
            assert ((method, budget) in told) == (min(gaps) <= 0.01)
            if (method, budget) in told:
                assert abs(reached[told[method, budget]["second"]] - mine) == min(gaps)


@pytest.mark.long(instead="budget")
def test_the_main_study_holds_one_plan_against_one_plan_and_judges_every_method(result_of):
    result = result_of("main")
    entries = {e["name"]: e for e in result["plans"] if e.get("mean")}
    claims = {f["claim"]: f for f in result["findings"]}
    judged = {e["title"] for e in entries.values() if e["kind"] not in ("plain", "composed") and e["spec"]}
    assert {"V-Skip", "ShortV", "FastV", "VisionZip", "DivPrune"} <= judged
    assert all(any(c.startswith(f"{title} costs nothing") for c in claims) for title in judged)
    order = next(f for claim, f in claims.items() if "than ShortV" in claim)
    for title in ("V-Skip", "ShortV"):
        (entry,) = [e for e in entries.values() if e["title"] == title]
        assert f"{100 * entry['cost']['flops_ratio']:.1f} %" in order["found"]


def test_no_plan_is_held_against_itself(bench, result_of):
    for name in ("identify", "whole-answer"):
        result = result_of(name)
        specs = {e["name"]: e["spec"] for e in result["plans"]}
        alike = sum(
            bool(specs[row["first"]]) and specs[row["first"]] == specs[row["second"]]
            for row in result["pairs"]
        )
        told = [re.search(r"of (\d+) comparisons", f["found"]) for f in result["findings"]]
        assert alike and sum(int(one[1]) for one in told) <= len(result["pairs"]) - alike


@pytest.mark.parametrize("name", ["identify", "transfer", "whole-answer"])
def test_findings_on_one_calibration_say_that_draws_are_in_no_interval(name, result_of):
    assert all("one draw" in f["found"] for f in result_of(name)["findings"])


def test_transfer_has_every_pair_of_tasks_and_nothing_to_gain_from_itself(bench, result_of):
    result = result_of("transfer")
    tasks = list(bench.tasks)
    assert list(result["matrix"]) == [*tasks, "mixture"]
    for task in tasks:
        assert list(result["matrix"][task]) == tasks and result["matrix"][task][task]["difference"] == 0


def test_saturation_skips_every_layer_alone(bench, result_of):
    result = result_of("saturation")
    assert [e["spec"] for e in result["plans"]] == [f"vskip(layers={n})" for n in range(bench.depth)]
    for task in bench.tasks:
        # Nothing reads the visual rows that the last layer writes.
        assert result["vig"][task][-1] == 0 and result["cost"][task][-1]["difference"] == 0
        assert result["attention"][task]["change"][0] is None


@pytest.mark.long(instead="budget")
def test_a_pair_is_left_out_where_the_layer_method_alone_is_cheap_enough(result_of):
    """Such a pair would drop no rows: it is the layer method in more layers, not at equal FLOPs."""
    result = result_of("compose")
    entries = {entry["name"]: entry for entry in result["plans"]}
    out = [entry for entry in entries.values() if "nothing is left to drop" in entry["reason"]]
    assert out and all(entry["kind"] == "composed" and not entry.get("mean") for entry in out)
    assert not {entry["name"] for entry in out} & {row["first"] for row in result["pairs"]}
    for row in result["pairs"]:
        both, alone = entries[row["first"]], entries[row["second"]]
        assert max(e["cost"]["flops_ratio"] for e in (both, alone)) <= row["asked"] + 0.03
        # Rows are dropped, or the cache would be the whole one.
        assert both["cost"]["kv_ratio"] < 1
    for row in result["best"]:
        mine = [e for e in entries.values() if e["asked"] == row["asked"] and e.get("mean")]
        for name, composed in ((row["first"], True), (row["second"], False)):
            kind = [e["mean"]["accuracy"] for e in mine if (e["kind"] == "composed") == composed]
            assert entries[name]["mean"]["accuracy"] == max(kind)
