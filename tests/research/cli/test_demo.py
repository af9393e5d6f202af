"""``saccade demo`` on a toy model: everything it promises is written and consistent."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace

import pytest
import torch

from saccade import models
from saccade.core.layout import Layout
from saccade.core.shapes import ModelShape
from saccade.evaluation import Comparison, Prediction, matched, runner
from saccade.evaluation.results import score
from saccade.glance import suite
from saccade.inputs.samples import Sample
from saccade.methods import METHODS
from saccade.plans.budget import flops_ratio
from saccade.plans.plan import Plan
from saccade.report import style
from saccade.research.demo import threads, tuned
from saccade.research.demo.plans import entry, lineup
from saccade.research.demo.questions import pick
from saccade.system.embedded import EMBEDDED
from support.toy import build_toy

TASKS = ("count", "word")


@pytest.fixture
def glance(monkeypatch):
    """A toy in Glance's place, and two tasks of its suite."""
    loaded = build_toy()
    monkeypatch.setattr(
        models, "open_as", lambda name, opening: models.wrap(loaded.model, loaded.processor, name)
    )
    real, answer = suite.samples, runner.generate
    monkeypatch.setattr(
        runner, "generate", lambda loaded, inputs, plan, most: answer(loaded, inputs, plan, 2)
    )
    monkeypatch.setattr(style, "DPI", 60)
    monkeypatch.setattr(
        suite,
        "samples",
        lambda n, split, seed, scale=1: [s for task in TASKS for s in real(task, n, split, seed, scale)],
    )
    return loaded


@pytest.mark.e2e
def test_writes_report_figures_plan_and_numbers(command, glance, tmp_path):
    out = tmp_path / "demo"
    done = command("demo", "--out", out, "--samples", 2, "--json", "-")
    assert done.code == 0, done.err
    data = json.loads((out / "demo.json").read_text())
    assert (
        done.json | {"commands": data["commands"]} == data
        and data["data"]["questions"] == data["dense"]["mean"]["n"] == 4
    )
    names = {path.name for path in out.iterdir()}
    questions = {f"question-{i + 1}.png" for i in range(len(data["questions"]))}
    assert questions and names == questions | {
        "report.html", "demo.json", "plan.json", "layers.png", "retention.png", "flops.png", "measured.png",
    }  # fmt: skip
    budgets = [e["budget"] for e in data["plans"] if e["method"] == "vskip"]
    assert budgets == [1, 2, 3, 4]
    assert {e["method"] for e in data["plans"]} == {"vskip", "ffn_skip", "shortv", "vtw"}
    for one in data["plans"]:
        assert len(one["layers"]) == one["budget"]
        assert one["mean"]["n"] == 4 and one["cost"]["flops_ratio"] < 1
    shown = {*data["headline"]["layers"], *data["headline"]["flops"]}
    assert {e["name"] for e in data["plans"] if "timing" in e} == shown

    plan = Plan.load(out / "plan.json")
    main = next(e for e in data["plans"] if e["name"] == data["headline"]["main"])
    assert plan.spec == main["spec"] and plan.model and plan.calibration["order"]
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 4 + len(questions)
    assert not re.search(r'(?:src|href)="(?!data:)', page)


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_plan_that_was_tuned_for_an_embedded_model_is_of_its_weights(name):
    """And costs at most half; a model of other weights, or of another name, has none."""
    loaded = models.load(name, device="cpu")
    found = tuned.tuned_plan(loaded)
    assert found is not None and found.calibration["tuned"]["predicted"]["ratio"] <= tuned.HALF
    assert tuned.tuned_plan(replace(loaded, name="mine")) is None
    with torch.no_grad():
        next(loaded.model.parameters()).view(-1)[0] += 1
    assert tuned.tuned_plan(loaded) is None and tuned.at_half(loaded, [], {}) == {}


@pytest.mark.e2e
def test_it_ends_with_the_tuned_plan_beside_single_methods(command, glance, tmp_path, monkeypatch):
    facts = {"samples": ["a", "b"], "tuned": {"search": {"passes": 77}}}
    kept = replace(Plan.of("shortv(layers=2-3)"), calibration=facts)
    monkeypatch.setattr(tuned, "tuned_plan", lambda loaded: kept)
    # A toy of few rows cannot halve its cost by all of them.
    monkeypatch.setattr(
        tuned,
        "SINGLES",
        {"ShortV": "shortv(flops=0.9)", "DivPrune": "divprune(keep=0.5,position_policy=keep)"},
    )
    done = command("demo", "--out", tmp_path / "demo", "--samples", 2, "--json", "-")
    assert done.code == 0, done.err
    told = done.json["tuned"]
    first, *rest = [one["title"] for one in told["plans"]]
    assert first == tuned.FOUND and sorted(rest) == ["DivPrune", "ShortV"]
    assert told["plans"][0]["spec"] == kept.spec and (told["passes"], told["samples"]) == (77, 2)
    scores = [one["mean"]["accuracy"] for one in told["plans"][1:]]
    assert scores == sorted(scores, reverse=True)
    assert kept.spec in (tmp_path / "demo" / "report.html").read_text()


@pytest.mark.long(instead="test_the_family_line_up_names_every_method_at_every_ratio")
def test_all_methods_at_matched_flops(command, glance, tmp_path):
    out = tmp_path / "family"
    done = command("demo", "--methods", "all", "--out", out, "--samples", 2)
    assert done.code == 0, done.err
    assert {path.name for path in out.iterdir()} == {"report.html", "family.json", "family.png"}
    data = json.loads((out / "family.json").read_text())
    assert {row["method"] for row in data["rows"]} == {*METHODS, "fastv+vskip", "pyramiddrop+ffn_skip"}
    ran = [row for row in data["rows"] if row.get("mean")]
    for row in ran:
        assert row["mean"]["n"] == 4 and row["cost"]["flops_ratio"] <= (row["asked"] or 1) + 0.05, row["name"]
        assert row["name"] in done.out
    assert {row["method"] for row in ran} >= {
        "random",
        "uniform",
        "fastv",
        "visionzip",
        "fastervlm",
        "shortv",
        "vtw",
    }
    for row in data["rows"]:
        assert bool(row["reason"]) != bool(row.get("mean"))
        if row["reason"]:
            assert f"not in the table: {row['name']}" in done.out
    # Random rows are dropped before the decoder: what ran is what was asked.
    random = {row["asked"]: row["cost"] for row in ran if row["method"] == "random"}
    assert (
        random[0.7]["equivalent_tokens"] > random[0.5]["equivalent_tokens"] > random[0.3]["equivalent_tokens"]
    )
    assert (out / "report.html").read_text().count("data:image/png;base64,") == 1


def test_a_model_of_ones_own_is_sent_elsewhere(command, tmp_path):
    done = command("demo", "llava-1.5-7b", "--out", tmp_path / "demo")
    assert done.code == 2 and "saccade tune" in done.err and not (tmp_path / "demo").exists()


def test_an_unknown_lineup_is_refused(command, tmp_path):
    done = command("demo", "--methods", "some", "--out", tmp_path / "demo")
    assert done.code == 2 and "kin or all" in done.err


def test_the_family_line_up_names_every_method_at_every_ratio():
    shape = ModelShape("toy", 12, 128, 4, 4, 32, 320, 132, 100)
    layout = Layout.single(100, 8)
    rows = matched.lineup(
        shape, [layout], {score: tuple(range(12)) for score in ("vig", "ffn", "lc")}, family="LLaVA-1.5"
    )
    asked = {(row.method, row.asked) for row in rows}
    assert asked >= {(name, ratio) for name in METHODS for ratio in matched.RATIOS}
    assert len({row.name for row in rows}) == len(rows)
    for row in rows:
        if row.plan is None:
            assert row.reason
        elif row.asked is not None:
            assert flops_ratio(row.plan, shape, [layout]) <= row.asked
    named = {row.name: row for row in rows}
    assert "cannot reach" in named["V-Skip at 50 %"].reason and named["V-Skip at 50 %"].kind == "layers"
    assert "steps are wide" in named["Average pooling at 70 %"].reason
    assert "stands in the line for 30 %" in named["Average pooling at 50 %"].reason
    assert named["FastV at 50 %"].plan.methods[0].layer == 2
    assert len({row.plan.spec for row in rows if row.plan}) == sum(row.plan is not None for row in rows)


def test_a_method_that_is_not_for_the_family_says_so():
    shape = ModelShape("toy", 12, 128, 4, 4, 32, 320, 132, 100)
    rows = matched.lineup(shape, [Layout.single(100, 8)], {}, family="Qwen2.5-VL")
    tome = [row for row in rows if row.method == "tome"]
    assert tome and all(row.plan is None and "is for LLaVA-1.5, LLaVA-NeXT" in row.reason for row in tome)


@pytest.mark.long(instead="cli/test_kills.py")
def test_an_interrupted_demo_goes_on_with_the_answers_it_has(command, glance, tmp_path, monkeypatch):
    out = tmp_path / "demo"
    real, calls = runner.generate, []

    def faulty(*args):
        if len(calls) == 5:
            raise KeyboardInterrupt
        calls.append(args)
        return real(*args)

    monkeypatch.setattr(runner, "generate", faulty)
    stopped = command("demo", "--out", out, "--samples", 1)
    assert stopped.code == 130 and "repeat the command" in stopped.err
    assert [path.name for path in out.iterdir()] == ["answers.partial.jsonl"]
    monkeypatch.setattr(runner, "generate", lambda *a: calls.append(a) or real(*a))
    done = command("demo", "--out", out, "--samples", 1)
    assert done.code == 0, done.err
    plans = json.loads((out / "demo.json").read_text())["plans"]
    distinct = {e["spec"] for e in plans}
    assert len(calls) == len(TASKS) * (len(distinct) + 2)
    assert not (out / "answers.partial.jsonl").exists()
    last = [line.strip() for line in done.out.strip().split("\n")][-2:]
    assert any(line.startswith("saccade") for line in last)
    assert "V-Skip 2" in done.out and "above blind" in done.out
    assert str(out / "report.html") in done.out.replace("\n", "")


def test_a_file_in_the_way_is_refused(command, tmp_path):
    path = tmp_path / "demo"
    path.write_text("mine")
    done = command("demo", "--out", path)
    assert done.code == 2 and "folder" in done.err
    assert path.read_text() == "mine"


def test_the_lineup_compares_at_equal_layers_and_at_equal_cost():
    shape = ModelShape("toy", 12, 128, 4, 4, 32, 320, 132, 100)
    layout = Layout.single(100, 8)
    orders = {score: tuple(range(12)) for score in ("vig", "ffn", "lc")}
    found = lineup(shape, layout, orders)
    entries = {e.name: e for e in found.entries}
    assert [entries[name].budget for name in found.layers] == [6, 6, 6, 6]
    assert found.flops[0] == found.main == found.layers[0]

    def ratio(one):
        return flops_ratio(one.plan, shape, [layout])

    target = ratio(entries[found.main])
    for name in found.flops[1:]:
        e = entries[name]
        others = [ratio(entry(e.method, budget, 12, orders)) for budget in range(1, 13)]
        assert abs(ratio(e) - target) == pytest.approx(min(abs(other - target) for other in others))


def test_questions_shown_divide_the_plans_and_differ_in_task():
    def run(rights):
        return [Prediction(str(i), f"t{i % 3}", "a", "a", right == "1") for i, right in enumerate(rights)]

    dense = run("111110")
    plans = {n: score(n, n, run(r), dense, None) for n, r in (("main", "101110"), ("other", "100011"))}
    found = Comparison(score("dense", "dense", dense, dense, None), None, plans)
    asked = [Sample(str(i), f"t{i % 3}", "", (), "?", "a") for i in range(6)]
    chosen = pick(found, asked, ["main", "other"])
    assert chosen[:2] == [2, 1]  # other fails where main is right; then main fails
    assert len({asked[i].task for i in chosen}) == len(chosen) == 3
    assert 5 not in chosen  # dense is wrong there


def test_the_faster_thread_count_is_taken_and_given_back(monkeypatch, glance):
    import torch

    before = torch.get_num_threads()
    monkeypatch.setattr(threads, "candidates", lambda: [1, 2])
    slow = {1: 0.02, 2: 0.0}
    monkeypatch.setattr(threads, "ask", lambda loaded, inputs: time.sleep(slow[torch.get_num_threads()]))
    with threads.fastest_threads(glance, suite.samples(1, "test", 0)):
        assert torch.get_num_threads() == 2
    slow.update({1: 0.0, 2: 0.02})
    with pytest.raises(KeyboardInterrupt), threads.fastest_threads(glance, suite.samples(1, "test", 0)):
        assert torch.get_num_threads() == 1
        raise KeyboardInterrupt
    assert torch.get_num_threads() == before
