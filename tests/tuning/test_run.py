"""A tuning from samples to files: what it writes, what it proves, what it refuses, and that it resumes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

import saccade
from calibration.vlm import question, save_model
from saccade import models
from saccade.core.layout import Layout
from saccade.evaluation.runner import count_prompts
from saccade.plans.plan import Plan
from saccade.plans.schema import unknown_fields
from saccade.report.tuned import tell
from saccade.system.journal import Journal
from saccade.tuning import Settings, Watch, beside
from saccade.tuning.front import names, write
from saccade.tuning.prepare import foretold
from saccade.tuning.price import FlopsMeter, Pricer
from saccade.tuning.questions import split
from saccade.tuning.result import pick, refusal, thinned
from saccade.tuning.run import hopeless, run, tune

SAMPLES = [question(i, task="ab"[i % 2], subtask="xy"[i // 2 % 2]) for i in range(24)]
SMALL = {
    "num_samples": 8,
    "num_held_out": 16,
    "passes": 120,
    "tokens": 3,
    "batch": 8,
    "allow": ("ffn", "freeze", "drop"),
}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return models.load(str(save_model(tmp_path_factory.mktemp("model"))))


@pytest.fixture(scope="module")
def made(loaded, tmp_path_factory):
    out = tmp_path_factory.mktemp("tuned") / "plans" / "plan.json"
    found = saccade.tune(
        loaded.model, loaded.processor, SAMPLES, flops=0.7, unsure=0.25, explain=True, out=out,
        **SMALL | {"passes": 220, "allow": ("freeze", "drop", "reduce")},
    )  # fmt: skip
    return found, out


@pytest.fixture(autouse=True)
def unfitted(monkeypatch):
    """Nothing is fitted beside tunings of so few passes but beside ``made``, which is there before."""
    monkeypatch.setattr(beside, "fitting", lambda *given: {})


@pytest.mark.e2e
def test_beside_it_fitprune_is_fitted_to_samples_of_the_search(made, loaded):
    found, _ = made
    (told,) = (line for line in found.data["tune"]["singles"] if line["title"] == "FitPrune")
    (method,) = Plan.of(told["spec"]).methods
    layouts = [Layout.single(visual, text) for visual, text in count_prompts(loaded, SAMPLES[:8])]
    prompts = {(int(one.visual_BN.sum()), int(one.text_BN.sum())): 1.0 for one in layouts}
    pricer = Pricer(FlopsMeter(loaded.shape), loaded.shape, prompts)
    assert method.left is not None and told["ratio"] <= 0.7
    assert pricer.ratio(Plan((method,))) == pytest.approx(told["ratio"], abs=0.02)


@pytest.mark.e2e
def test_the_plan_costs_what_was_asked_and_holds_how_it_was_found(made, loaded):
    found, out = made
    plan = Plan.load(out)
    assert found.plan == plan and found.chosen is not None and found.chosen.tried.ratio <= 0.7
    assert plan.model == loaded.family.identity(loaded.model) and unknown_fields(plan.to_dict()) == []
    facts = plan.calibration
    assert (
        facts["asked"] == {"flops": 0.7} and set(facts["tasks"]) == {"a", "b"} and len(facts["samples"]) == 8
    )
    tuned = facts["tuned"]
    assert tuned["predicted"]["ratio"] == found.chosen.tried.ratio and tuned["predicted"]["cost"] == "FLOPs"
    assert tuned["held_out"]["samples"] == 16 and tuned["held_out"]["bound"] >= tuned["held_out"]["loss"]
    assert tuned["search"]["passes"] <= 220 and tuned["search"]["answers"] == "the dense model's own"
    assert 0 <= tuned["unsure"]["share"] <= 1
    cost = found.found.plans[plan.spec].cost
    assert tuned["held_out"]["whole_ratio"] == cost["whole_ratio"] > cost["flops_ratio"]
    assert tuned["held_out"]["tower_share"] == cost["tower_share"]
    with saccade.apply(loaded.model, str(out)) as attached:
        assert attached.plan.methods == plan.methods


def test_beside_it_lie_the_front_the_result_and_the_picture(made):
    found, out = made
    places = names(out)
    front = [Plan.load(path) for path in sorted(places["front"].iterdir())]
    assert {plan.spec for plan in front} == {one.plan.spec for one in found.candidates} and len(front) <= 6
    ratios = [one.tried.ratio for one in found.candidates]
    assert ratios == sorted(ratios)
    data = json.loads(places["result"].read_text())
    assert data["tune"]["spec"] == found.plan.spec and data["refused"] == ""
    # Most of a toy is its tower, so that looking into it weighs.
    assert all(0 < line["whole_ratio"] < 1.5 for line in data["tune"]["front"])
    assert [plan.calibration["tuned"]["held_out"]["whole_ratio"] for plan in front] == pytest.approx(
        [found.found.plans[plan.spec].cost["whole_ratio"] for plan in front]
    )
    assert {plan["spec"] for plan in data["plans"]} == {one.plan.spec for one in found.candidates}
    assert places["picture"].read_bytes().startswith(b"\x89PNG")
    assert not list(out.parent.glob("*.partial*"))
    told = tell(data)
    assert "**chosen**" in told and "## Single methods" in told and "Uniform grid" in told


def test_the_search_never_sees_what_judges(made):
    found, _ = made
    asked = {one.id for one in found.found.dense.predictions}
    assert len(asked) == 16 and not asked & set(found.data["tune"]["search"]["samples"])


def test_what_undoing_a_choice_changes_is_measured_choice_by_choice(made, loaded):
    found, _ = made
    assert found.chosen is not None and len(found.explained) >= loaded.shape.layers
    for one in found.explained:
        undone = one.other in ("dense", "nothing", "all that are left", "full")
        assert (one.ratio > found.chosen.tried.ratio) == undone, one


def test_the_guard_at_run_time_answers_the_unsure_with_the_dense_model(made):
    found, _ = made
    guard, chosen = found.unsure, found.chosen
    assert guard is not None and chosen is not None
    assert guard.ratio == pytest.approx(chosen.ratio + guard.share)
    assert guard.loss <= chosen.verdict.loss + 1e-9


def test_answers_of_ones_own_are_the_reference(loaded):
    named = [replace(sample, answer="red") for sample in SAMPLES]
    found = tune(loaded.model, loaded.processor, named, kv=0.6, **SMALL | {"passes": 60})
    assert found.data["tune"]["search"]["answers"] == "given"
    assert {one.answer for one in found.found.dense.predictions} == {"red"}
    assert found.data["tune"]["search"]["cost"] == "KV cache"
    assert found.chosen is not None and found.chosen.tried.ratio <= 0.6


@pytest.mark.e2e
def test_a_loss_that_is_not_proven_is_refused_with_what_would_help(loaded, tmp_path):
    out = tmp_path / "plan.json"
    found = tune(loaded.model, loaded.processor, SAMPLES, max_loss=0.5, out=out, **SMALL)
    assert found.plan is None and found.chosen is None and not out.exists()
    assert "no plan is proven to lose at most 0.5 points" in found.refused
    assert names(out)["result"].exists() and list(names(out)["front"].iterdir())


def test_the_cheapest_of_those_proven_is_taken(made):
    found, _ = made
    asked = Settings(max_loss=100)
    proven = [
        replace(one, verdict=replace(one.verdict, within=n > 0)) for n, one in enumerate(found.candidates)
    ]
    assert pick(proven, asked, None) is proven[1]
    assert pick(proven, Settings(max_loss=100, flops=0.99 * proven[1].tried.ratio), None) is None
    none = [replace(one, verdict=replace(one.verdict, within=False, needed=70)) for one in proven]
    assert pick(none, asked, None) is None
    told = refusal(none, asked)
    assert "about 70 held-out samples of each of the 2 tasks" in told and "--mean" in told


@pytest.mark.e2e
def test_a_tuning_that_is_cut_off_goes_on_and_ends_alike(loaded, tmp_path):
    class Cut(Exception):
        pass

    settings = Settings(flops=0.7, **SMALL)
    questions = split(SAMPLES, settings)
    ran = {}
    for name, stops in (("whole", None), ("cut", 90)):
        path, count = tmp_path / f"{name}.jsonl", [0]

        def step(prompts: int, count: list[int] = count, stops: int | None = stops) -> None:
            count[0] += prompts
            if stops is not None and count[0] > stops:
                raise Cut

        if stops is not None:
            with Journal(path) as journal, pytest.raises(Cut):
                run(loaded, questions, settings, journal, Watch(step=step))
            assert len(path.read_text().splitlines()) > 3
        count = [0]
        with Journal(path) as journal:
            found = run(
                loaded,
                questions,
                settings,
                journal,
                Watch(step=lambda n, count=count: count.__setitem__(0, count[0] + n)),
            )
        ran[name] = (found, count[0])
    (whole, all_of_it), (again, rest) = ran["whole"], ran["cut"]
    assert again.plan is not None and whole.plan is not None and again.plan.spec == whole.plan.spec
    for key in ("tried", "front", "singles", "alone"):
        assert again.data["tune"][key] == whole.data["tune"][key], key
    assert rest < all_of_it - 50


def test_time_is_measured_and_the_chosen_plan_is_timed_beside_it(loaded, monkeypatch):
    from saccade.tuning import run as running
    from saccade.tuning import timing

    pricer = Pricer(FlopsMeter(loaded.shape), loaded.shape, {(100, 8): 1.0})

    def prefills(loaded, asked, repeats=1, clock=None):
        # A clock that counts FLOPs, for a model this small is all overhead.
        return [0.002 + pricer.ratio(plan) for _, plan in asked]

    for module in (timing, running):
        monkeypatch.setattr(module, "prefills", prefills)
    found = tune(loaded.model, loaded.processor, SAMPLES, time=0.8, **SMALL | {"passes": 40})
    timed = found.data["tune"]["timed"]
    assert found.chosen is not None and found.data["tune"]["search"]["cost"] == "time here"
    assert timed["predicted"] == found.chosen.tried.ratio <= 0.8
    assert timed["measured"] == pytest.approx(timed["predicted"], rel=0.1)


def test_a_front_is_thinned_evenly_and_keeps_the_best(made):
    found, _ = made
    one = found.candidates[0].tried
    many = [replace(one, ratio=0.1 + 0.02 * n) for n in range(30)]
    few = thinned(many, 6, many[17])
    assert len(few) == 6 and many[17] in few and few[0] is many[0] and few[-1] is many[-1]
    assert thinned(many[:4], 6, None) == many[:4]


@pytest.mark.e2e
def test_the_same_file_is_written_twice_alike(made, tmp_path):
    found, _ = made
    again = write(found, tmp_path / "other.json")
    assert Plan.load(again.files["plan"]) == found.plan


def test_where_the_dense_model_is_never_right_nothing_is_proven(made):
    found, _ = made
    told = refusal(found.candidates, Settings(max_loss=2), 0.01)
    assert "the dense model is right on 1.0 % of the held-out samples" in told and "'score'" in told
    assert "the nearest" in refusal(found.candidates, Settings(max_loss=2), 0.9)


def test_what_cannot_be_proven_is_said_before_the_search():
    settings = Settings(max_loss=1, **SMALL)
    tasks = [replace(sample, task=f"t{n}") for n, sample in enumerate(SAMPLES)]
    with pytest.raises(ValueError, match=r"no held-out sample is of task 't\d+' nor of 7 others"):
        hopeless(split(tasks, settings), settings)
    told = hopeless(split(SAMPLES, settings), settings)
    assert "16 held-out samples prove of no plan" in told and "299 of each of the 2 tasks" in told
    assert "150 of each" in hopeless(split(SAMPLES, settings), replace(settings, each_task=False))
    assert hopeless(split(SAMPLES, settings), replace(settings, max_loss=40)) == ""
    assert hopeless(split(tasks, settings), Settings(flops=0.5, **SMALL)) == ""


def test_a_method_whose_price_is_not_what_runs_is_not_searched_with(loaded, monkeypatch):
    from saccade.tuning import prepare

    plan = Plan.of("divprune(keep=0.5)+vskip(layers=2)")
    assert foretold(loaded, plan, SAMPLES[0])
    # As of ToMe in a tower of another depth than its price counts.
    ran = prepare.generate
    monkeypatch.setattr(
        prepare, "generate", lambda loaded, inputs, plan, most: ran(loaded, inputs, Plan(), most)
    )
    assert not foretold(loaded, plan, SAMPLES[0])


def test_times_are_measured_once_however_often_a_search_is_interrupted(loaded, tmp_path, monkeypatch):
    from saccade.methods.fastv import FastV
    from saccade.tuning import timing

    clock = iter(range(1, 10**6))
    monkeypatch.setattr(timing, "prefills", lambda _, asked, *rest: [1e-3 * next(clock) for _ in asked])
    found = []
    for _ in range(2):
        with Journal(tmp_path / "kept.jsonl") as journal:
            meter = timing.timed(loaded, SAMPLES[0], journal=journal)
            found.append((meter.table, meter.decision(FastV(layer=2), 100, 8)))
    assert found[0] == found[1]
    with Journal(tmp_path / "kept.jsonl") as journal:
        assert timing.timed(loaded, SAMPLES[1], journal=journal).table != found[0][0]


def test_a_time_of_more_rows_than_were_timed_goes_on_rising():
    from saccade.tuning.price import Rows
    from saccade.tuning.timing import KEEPS, SKIPPED, TimedMeter

    meter = TimedMeter(4, 100, {kind: [0.2 + keep for keep in KEEPS] for kind in SKIPPED})
    times = [4 * meter.layer(Rows(visual, 8)) for visual in (50, 100, 150, 300)]
    assert times == pytest.approx([0.7, 1.2, 1.7, 3.2])


def test_every_plan_of_a_front_has_a_file_and_a_former_front_leaves_none(made, tmp_path):
    found, _ = made
    # Plans that cost nearly the same: a tenth of a percent does not tell them apart.
    near = [
        replace(one, tried=replace(one.tried, ratio=0.5 + 0.0003 * n))
        for n, one in enumerate(found.candidates)
    ]
    assert len(near) > 1
    folder = names(tmp_path / "plan.json")["front"]
    write(replace(found, candidates=tuple(near)), tmp_path / "plan.json")
    assert {Plan.load(path).spec for path in folder.iterdir()} == {one.plan.spec for one in near}
    data = json.loads(names(tmp_path / "plan.json")["result"].read_text())
    assert len({line["file"] for line in data["tune"]["front"]}) == len(near)
    (folder / "mine.json").write_text("{}")
    write(found, tmp_path / "plan.json")
    left = {path.name for path in folder.iterdir()}
    assert len(left) == len(found.candidates) + 1 and "mine.json" in left


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "say what is wanted"),
        ({"flops": 0.5, "kv": 0.5}, "give one budget, not flops and kv"),
        ({"flops": 1.0}, "flops is a share between 0 and 1, got 1.0"),
        ({"flops": float("nan")}, "flops is a share between 0 and 1"),
        ({"kv": True}, "kv is a share between 0 and 1"),
        ({"max_loss": -1}, "max_loss is a number of points above 0"),
        ({"flops": 0.5, "num_samples": 3}, "num_samples is a number from 8"),
        ({"flops": 0.5, "passes": 0}, "passes is a number from 1"),
        ({"flops": 0.5, "unsure": 2}, "unsure is a share between 0 and 1"),
        ({"flops": 0.5, "allow": ("skip",)}, "no operation 'skip'"),
        ({"flops": 0.5, "engine": "tgi"}, "no engine 'tgi'"),
        ({"flops": 0.5, "on": "h100"}, "give a share of the time, not of flops"),
        ({"flops": 0.5, "seed": -1}, "seed is a number from 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(given, said):
    with pytest.raises(ValueError, match=said):
        Settings(**given)


def test_samples_that_cannot_be_split_are_refused(loaded):
    settings = Settings(flops=0.5, **SMALL)
    with pytest.raises(ValueError, match="10 samples are too few"):
        split(SAMPLES[:10], settings)
    with pytest.raises(ValueError, match="ids must be distinct"):
        split([SAMPLES[0]] * 20, settings)
    with pytest.raises(ValueError, match="none of the samples has an image"):
        bare = [replace(s, images=(), question=f"{s.question} {s.id}") for s in SAMPLES]
        tune(loaded.model, loaded.processor, bare, flops=0.5, **SMALL)
    with pytest.raises(ValueError, match="no plan of what is allowed costs 1 %"):
        tune(loaded.model, loaded.processor, SAMPLES, flops=0.01, **SMALL | {"allow": ("ffn",)})
