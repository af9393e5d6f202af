"""Plans from samples: what they hold, what is refused, and that an interruption loses nothing."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import saccade
from calibration.vlm import LAYERS, question, save_model
from saccade import models
from saccade.calibration import calibrate, scores
from saccade.calibration.api import partial_path
from saccade.engine import apply
from saccade.engine.replay import Replayer
from saccade.inputs.data import read_jsonl
from saccade.methods.shortv import ShortV
from saccade.methods.vskip import VSkip
from saccade.methods.vtw import VTW
from saccade.plans.plan import Plan

SAMPLES = [question(i, subtask="ab"[i % 2]) for i in range(5)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def loaded(folder):
    return models.load(str(folder))


@pytest.fixture
def run(loaded):
    """Calibrates the module's model; without the comparison to brute force unless asked."""

    def call(samples=SAMPLES, method="vskip", **kwargs) -> Plan:
        return calibrate(loaded.model, loaded.processor, samples, method, **{"check": False} | kwargs)

    return call


def stable(plan: Plan) -> dict:
    """A plan without what differs from run to run."""
    data = plan.to_dict()
    return data | {"calibration": {k: v for k, v in data["calibration"].items() if k not in ("date", "cost")}}


def test_a_plan_holds_how_it_was_made_and_applies_to_its_model(run, loaded, tmp_path):
    out = tmp_path / "plans" / "plan.json"
    plan = run(budget=2, out=out, check=True)
    facts = plan.calibration
    assert plan.methods == (VSkip(layers=tuple(sorted(facts["order"][:2]))),)
    assert plan.model == loaded.family.fingerprint(loaded.model.config)
    assert facts["order"][0] == LAYERS - 1 and sorted(facts["order"]) == list(range(LAYERS))
    assert (facts["metric"], facts["direction"], facts["asked"]) == ("vig", "perturbed-full", {"budget": 2})
    assert facts["samples"] == [s.id for s in SAMPLES] and facts["tasks"] == ["mine"]
    per_sample = facts["scores"]["samples"]
    assert len(per_sample) == facts["scores"]["n"] == 5 and {len(row) for row in per_sample} == {LAYERS}
    assert facts["scores"]["mean"][0] == pytest.approx(sum(row[0] for row in per_sample) / 5)
    assert facts["scores"]["sd"][0] > 0 and facts["scores"]["sd"][-1] == 0
    assert facts["versions"]["saccade"] == saccade.__version__ and len(facts["data_hash"]) == 64
    assert facts["cost"]["sample"] == SAMPLES[-1].id and facts["cost"]["largest_difference"] < 1e-5
    assert 0.3 < facts["cost"]["flops_ratio"] < 0.6
    assert Plan.load(out) == plan and not partial_path(out).exists()
    with saccade.apply(loaded.model, str(out)) as attachment:
        assert attachment.plan.methods == plan.methods


def test_the_lowest_scores_are_taken(run):
    for method, score in (
        ("vskip", None),
        ("shortv", None),
        ("ffn_skip", None),
        ("vskip", "cosine"),
        ("vskip", "lc"),
    ):
        plan = run(SAMPLES[:2], method, budget=2, score=score)
        mean = plan.calibration["scores"]["mean"]
        chosen = plan.methods[0].layers
        left = [mean[n] for n in range(LAYERS) if n not in chosen]
        assert max(mean[n] for n in chosen) <= min(left)


def test_scores_serve_every_budget(loaded):
    found = scores(loaded.model, loaded.processor, SAMPLES[:2], "lc", check=False)
    assert found.metric == "lc" and found.n == 2 and found.order[0] == LAYERS - 1
    assert ShortV(budget=3).resolve(LAYERS, found.order).layers == tuple(sorted(found.order[:3]))


def test_the_function_stays_the_function_once_its_package_is_imported(loaded):
    assert saccade.calibrate is calibrate
    plan = saccade.calibrate(loaded.model, loaded.processor, SAMPLES[:1], budget=1, check=False)
    assert plan.methods == (VSkip(layers=(LAYERS - 1,)),)


def test_vtw_withdraws_from_the_smallest_layer_under_eta(run):
    plan = run(SAMPLES[:2], "vtw", eta=1e9)
    assert plan.methods == (VTW(layer=0),) and plan.calibration["eta"] == 1e9
    mean = plan.calibration["scores"]["mean"]
    assert run(SAMPLES[:2], "vtw", eta=0.0).methods == (VTW(layer=LAYERS),)
    eta = sorted(mean)[1]
    assert run(SAMPLES[:2], "vtw", eta=eta).methods[0].layer == next(
        k for k, m in enumerate(mean) if m <= eta
    )
    assert run(SAMPLES[:2], "vtw", budget=1, eta=0.0).methods == (VTW(layer=LAYERS - 1),)


def test_a_flops_ratio_becomes_the_smallest_budget_on_these_prompts(run, loaded):
    from saccade.core.layout import Layout
    from saccade.plans.budget import flops_ratio

    whole = run(SAMPLES[:1], "ffn_skip", budget=LAYERS)
    layout = Layout.from_mask(
        loaded.family.visual_mask(loaded.model, models.inputs(loaded, SAMPLES[:1])["input_ids"])
    )
    per_layer = (1 - flops_ratio(whole, loaded.shape, [layout])) / LAYERS
    for method, wanted in (("ffn_skip", 3), ("ffn_skip(flops=R)", 2), ("vtw", 2)):
        ratio = 1 - per_layer * (wanted - 0.5)
        spec, extra = (method.replace("R", str(ratio)), {}) if "R" in method else (method, {"flops": ratio})
        plan = run(SAMPLES[:1], spec, **extra)
        assert plan.calibration["asked"]["flops"] == pytest.approx(ratio)
        if method != "vtw":
            assert len(plan.methods[0].layers) == wanted == plan.calibration["asked"]["budget"]
        else:
            assert plan.methods[0].layer == LAYERS - 1
    with pytest.raises(ValueError, match=r"cannot reach a FLOPs ratio of 0\.01"):
        run(SAMPLES[:1], "ffn_skip", flops=0.01)


def test_random_needs_no_forward_and_hangs_on_the_seed(run, monkeypatch):
    monkeypatch.setattr(Replayer, "record", None)
    orders = [
        tuple(run(budget=2, score="random", seed=seed).calibration["order"]) for seed in (0, 0, 1, 2, 3)
    ]
    assert orders[0] == orders[1] and len(set(orders)) > 1
    assert sorted(orders[0]) == list(range(LAYERS))


def test_the_same_seed_gives_the_same_plan(run):
    pool = [question(i, task="xy"[i % 2]) for i in range(6)]
    for how in ("global", "stratified"):
        first, second = (run(pool, budget=1, num_samples=4, draw=how, seed=7) for _ in range(2))
        assert stable(first) == stable(second)
        assert first.calibration["draw"] == how and len(first.calibration["samples"]) == 4
    assert sorted(first.calibration["tasks"]) == ["x", "y"]
    other = run(pool, budget=1, num_samples=4, seed=8)
    assert other.calibration["samples"] != first.calibration["samples"]


def test_text_samples_count_as_zero(run):
    plan = run([SAMPLES[0], question(9, images=0)], budget=1)
    alone = run([SAMPLES[0]], budget=1)
    mean = alone.calibration["scores"]["mean"]
    assert plan.calibration["scores"]["mean"] == pytest.approx([m / 2 for m in mean])
    assert plan.calibration["scores"]["samples"][1] == [0.0] * LAYERS


def test_a_layer_method_beside_a_reducer_is_calibrated_as_if_alone(run, loaded):
    alone = run(SAMPLES, budget=2)
    both = run(SAMPLES, method="fastv(layer=2,keep=0.5)+vskip", budget=2)
    assert both.methods == (*Plan.of("fastv(layer=2,keep=0.5)").methods, *alone.methods)
    assert both.calibration["scores"] == alone.calibration["scores"]
    with apply(loaded.model, both) as handle:
        assert handle.plan.spec == both.spec
    cheaper = run(SAMPLES, method="vskip+random(keep=0.5)", flops=0.42)
    assert cheaper.methods[1].name == "random" and len(cheaper.methods[0].layers) > 0


def test_several_images_in_a_sample(run):
    plan = run([question(3, images=2), SAMPLES[0]], budget=1, check=True)
    assert plan.calibration["cost"]["largest_difference"] < 1e-5


@pytest.mark.parametrize(
    ("samples", "kwargs", "match"),
    [
        ([], {"budget": 1}, "no samples"),
        ([question(1, images=0), question(2, images=0)], {"budget": 1}, "none of the 2 samples has an image"),
        (SAMPLES, {"budget": 1, "num_samples": 9}, "asked for 9 samples, but there are 5"),
        (SAMPLES, {"budget": LAYERS + 1}, f"budget of {LAYERS + 1} layers, but the model has {LAYERS}"),
        (SAMPLES, {}, "give a budget"),
        (SAMPLES, {"budget": 1, "flops": 0.9}, "one budget or one FLOPs ratio"),
        (SAMPLES, {"method": "vskip(budget=1)", "budget": 2}, "one budget or one FLOPs ratio"),
        (SAMPLES, {"flops": 0.0}, "ratio in"),
        (SAMPLES, {"method": "vskip(layers=1)"}, "knows its layers already"),
        (SAMPLES, {"method": "shortv(preset=llava-1.5-7b)"}, "knows its layers already"),
        (SAMPLES, {"method": "vskip(budget=1)+ffn_skip(budget=1)"}, "one method is calibrated at a time"),
        (
            SAMPLES,
            {"method": "fastv(keep=0.5)", "budget": 1},
            "there is nothing to calibrate: it decides",
        ),
        (SAMPLES, {"method": "resize()+random()", "budget": 1}, "nothing to calibrate"),
        (SAMPLES, {"method": "fastv(flops=0.5)+vskip(budget=1)"}, "beside a calibration only vskip can ask"),
        (SAMPLES, {"method": "fastv(layer=99)+vskip(budget=1)"}, "layer 99 is not a layer it can cut before"),
        (SAMPLES, {"method": "skipper", "budget": 1}, "no method 'skipper'"),
        (SAMPLES, {"budget": 1, "score": "withdrawal"}, "does not fit vskip"),
        (SAMPLES, {"budget": 1, "direction": "up"}, "direction is"),
        (SAMPLES, {"method": "vtw", "eta": -1.0}, "not negative"),
        ([SAMPLES[0], SAMPLES[0]], {"budget": 1}, "ids must be distinct"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(run, samples, kwargs, match):
    with pytest.raises(ValueError, match=match):
        run(samples, **kwargs)


def test_an_interrupted_run_goes_on_where_it_was(run, monkeypatch, tmp_path):
    out = tmp_path / "plan.json"
    whole = run(budget=2)
    true, calls = Replayer.record, []

    def interrupted(self, inputs, tail):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return true(self, inputs, tail)

    monkeypatch.setattr(Replayer, "record", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(budget=2, out=out)
    assert not out.exists() and len(partial_path(out).read_text().splitlines()) == 1 + 3
    kept = partial_path(out).read_bytes()
    run(SAMPLES[:2], budget=2, out=out)  # other settings: it neither takes nor loses what was kept
    assert partial_path(out).read_bytes() == kept and len(calls) == 4 + 2
    calls.clear()
    seen = []
    resumed = run(budget=2, out=out, progress=lambda done, total: seen.append((done, total)))
    assert stable(resumed) == stable(whole) and len(calls) == 2
    assert seen[0] == (0, 5) and seen[-1] == (5, 5)
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]


@pytest.mark.e2e
def test_a_killed_process_loses_at_most_one_sample(run, folder, tmp_path):
    out = tmp_path / "plan.json"
    code = f"""
import os, signal, sys
sys.path[:0] = {sys.path!r}
from calibration.vlm import question
from saccade import models
from saccade.calibration import calibrate
SAMPLES = [question(i, subtask="ab"[i % 2]) for i in range(5)]
loaded = models.load({str(folder)!r})
stop = lambda done, total: done == 3 and os.kill(os.getpid(), signal.SIGKILL)
calibrate(loaded.model, loaded.processor, SAMPLES, budget=2, check=False, out={str(out)!r}, progress=stop)
"""
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert killed.returncode == -9, killed.stderr
    lines = partial_path(out).read_text().splitlines()
    assert [json.loads(line)["sample"] for line in lines[1:]] == [s.id for s in SAMPLES[:3]]
    resumed = run(budget=2, out=out)
    # Another process may round differently in the last digit; what was kept is used as it is.
    assert resumed.calibration["scores"]["samples"][:3] == [json.loads(line)["values"] for line in lines[1:]]
    assert stable(resumed)["methods"] == stable(run(budget=2))["methods"]


def test_entries_of_a_file_are_decoded_only_when_drawn(run, tmp_path):
    lines = []
    for i in range(4):
        SAMPLES[i].images[0].save(tmp_path / f"{i}.png")
        lines.append(json.dumps({"image": f"{i}.png", "question": "is the red circle left?", "id": str(i)}))
    (tmp_path / "mine.jsonl").write_text("\n".join(lines))
    entries = read_jsonl(tmp_path / "mine.jsonl")
    plan = run(entries, budget=1, num_samples=2)
    undrawn = next(e for e in entries if e.id not in plan.calibration["samples"])
    undrawn.paths[0].write_text("broken")
    assert stable(run(entries, budget=1, num_samples=2)) == stable(plan)
    with pytest.raises(ValueError, match="cannot read image"):
        run(entries, budget=1)
