"""Scores by replay against scores by brute force: equal, at about half the work."""

from __future__ import annotations

import math

import pytest
import torch

import saccade
from saccade.calibration import run
from saccade.calibration.probes import PROBES, find_probe, probe_for
from saccade.calibration.run import brute_force, compare, try_layers
from saccade.engine.replay import replaying
from saccade.families import find
from saccade.measure.counter import dispatched_flops
from saccade.methods.ffn_skip import FFNSkip
from saccade.methods.shortv import ShortV
from saccade.methods.vskip import VSkip
from saccade.methods.vtw import VTW
from saccade.plans.plan import Plan
from support.models import SQUARE, TALL, tiny_llava, tiny_llava_next, tiny_qwen

PROMPT = [3, SQUARE, 2, TALL, 5]
METHODS = {
    "vig": lambda n: VSkip(layers=(n,)),
    "cosine": lambda n: VSkip(layers=(n,)),
    "lc": lambda n: ShortV(layers=(n,)),
    "ffn": lambda n: FFNSkip(layers=(n,)),
    "withdrawal": lambda n: VTW(layer=n),
}
MEASURED = list(METHODS)


def distances(model, inputs, name, direction="perturbed-full", tail=1) -> list[float]:
    """Scores written out anew: one full forward per layer, torch's own KL, row by row."""

    def log_p(plan):
        with saccade.apply(model, plan), torch.no_grad():
            return model(**inputs).logits[0].double()

    def distance(full, tried) -> float:
        if name == "cosine":
            return 1 - float(full @ tried / full.norm() / tried.norm())
        p, q = (tried, full) if direction == "perturbed-full" else (full, tried)
        logs = q.log_softmax(-1), p.log_softmax(-1)
        return float(torch.nn.functional.kl_div(*logs, log_target=True, reduction="sum"))

    whole, found = log_p(Plan()), []
    for layer in range(len(find(model).parts(model).layers)):
        tried = log_p(METHODS[name](layer))
        found.append(sum(distance(whole[-row], tried[-row]) for row in range(1, tail + 1)))
    return found


@pytest.mark.parametrize("tail", [1, 4])
@pytest.mark.parametrize("make", [tiny_llava, tiny_llava_next, tiny_qwen])
@pytest.mark.parametrize("name", MEASURED)
def test_scores_equal_brute_force(make, name, tail):
    tiny = make(layers=5, seed=2)
    inputs = tiny.batch([PROMPT], seed=1)
    expected = distances(tiny.model, inputs, name, tail=tail)
    with replaying(tiny.model) as replayer:
        found = try_layers(replayer, inputs, PROBES[name], "perturbed-full", tail=tail)
    assert found.values == pytest.approx(expected, abs=1e-5, rel=1e-5)
    brute = brute_force(tiny.model, inputs, PROBES[name], "perturbed-full", tail=tail)
    assert brute == pytest.approx(expected, abs=1e-5)
    assert max(expected) > 1e-3 and found.visual + found.text == inputs["input_ids"].numel()


def test_the_direction_is_the_one_that_was_asked_for(llava):
    inputs = llava.batch([PROMPT])
    for direction in ("perturbed-full", "full-perturbed"):
        with replaying(llava.model) as replayer:
            found = try_layers(replayer, inputs, PROBES["vig"], direction).values
        assert found == pytest.approx(distances(llava.model, inputs, "vig", direction), abs=1e-5)


@pytest.mark.parametrize("name", ["vig", "lc", "ffn", "cosine"])
def test_the_last_layer_scores_exactly_zero(tiny, name):
    with replaying(tiny.model) as replayer:
        values = try_layers(replayer, tiny.batch([PROMPT]), PROBES[name], "perturbed-full").values
    assert values[-1] == 0 and min(values[:-1]) > 0


def test_a_text_prompt_scores_zero_without_a_forward(llava):
    with replaying(llava.model) as replayer:
        replayer.record = None
        found = try_layers(replayer, llava.batch([[6]]), PROBES["vig"], "perturbed-full")
    assert found.values == (0.0,) * 4 and (found.visual, found.text) == (0, 6)


def test_the_mask_reading_is_tried_as_it_is_read(llava):
    inputs = llava.batch([PROMPT])
    like = VSkip(budget=2, reading="mask")
    assert probe_for(like).at(1, like) == VSkip(layers=(1,), reading="mask")
    with replaying(llava.model) as replayer:
        masked = try_layers(replayer, inputs, PROBES["vig"], "perturbed-full", like).values
        bypassed = try_layers(replayer, inputs, PROBES["vig"], "perturbed-full").values
    assert masked == pytest.approx(
        brute_force(llava.model, inputs, PROBES["vig"], "perturbed-full", like), abs=1e-5
    )
    assert masked[0] != pytest.approx(bypassed[0], rel=0.01)
    found = compare(
        llava.model,
        inputs,
        PROBES["vig"],
        "perturbed-full",
        find(llava.model).shape(llava.model.config),
        like,
    )
    assert 0 < found["flops_ratio"] < 0.8 and found["largest_difference"] < 1e-5


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (tiny_llava, "vig"),
        (tiny_qwen, "vig"),
        pytest.param(tiny_llava, "lc", marks=pytest.mark.long(instead="vig")),
        pytest.param(tiny_qwen, "ffn", marks=pytest.mark.long(instead="vig")),
        (tiny_qwen, "withdrawal"),
    ],
)
def test_replay_costs_little_more_than_half_and_says_so_truly(make, name, monkeypatch):
    monkeypatch.setattr(run, "TIMING_SECONDS", 0.0)
    tiny = make(layers=8)
    inputs = tiny.batch([[4, SQUARE, 1, SQUARE, 1, SQUARE, 1, SQUARE, 8]])
    shape = find(tiny.model).shape(tiny.model.config)
    found = compare(tiny.model, inputs, PROBES[name], "perturbed-full", shape)
    assert found["flops_ratio"] <= 0.55
    assert found["flops_ratio"] == found["replay_flops"] / found["brute_force_flops"]
    assert found["replay_seconds"] > 0 and found["largest_difference"] < 1e-5
    tower = dispatched_flops(lambda: tiny.model.get_image_features(**vision(inputs), return_dict=True))
    with replaying(tiny.model) as replayer:
        replayed = dispatched_flops(lambda: try_layers(replayer, inputs, PROBES[name], "perturbed-full"))
    brute = dispatched_flops(lambda: brute_force(tiny.model, inputs, PROBES[name], "perturbed-full"))
    assert replayed - tower == pytest.approx(found["replay_flops"], rel=0.005)
    assert brute - 9 * tower == pytest.approx(found["brute_force_flops"], rel=0.005)


def vision(inputs) -> dict[str, torch.Tensor]:
    return {key: inputs[key] for key in ("pixel_values", "image_grid_thw") if key in inputs}


def test_the_vision_tower_runs_once(llava):
    inputs, runs = llava.batch([PROMPT]), []
    hook = llava.model.model.vision_tower.register_forward_hook(lambda *a: runs.append(1))
    with replaying(llava.model) as replayer:
        try_layers(replayer, inputs, PROBES["vig"], "perturbed-full")
    hook.remove()
    assert len(runs) == 1


def test_logits_that_are_not_finite_are_named():
    tiny = tiny_llava()
    inputs = tiny.batch([PROMPT])
    with torch.no_grad():
        tiny.model.lm_head.weight[5] = math.nan
    with replaying(tiny.model) as replayer, pytest.raises(ValueError, match="even without a plan"):
        try_layers(replayer, inputs, PROBES["vig"], "perturbed-full")


def test_logits_that_only_a_perturbation_breaks_name_the_layer(llava, monkeypatch):
    from saccade.engine.replay import Replay

    true = Replay.logits
    calls = []

    def broken(self, route):
        calls.append(route)
        return true(self, route) * (math.inf if len(calls) == 3 else 1)

    monkeypatch.setattr(Replay, "logits", broken)
    with replaying(llava.model) as replayer, pytest.raises(ValueError, match="vskip is tried at layer 2"):
        try_layers(replayer, llava.batch([PROMPT]), PROBES["vig"], "perturbed-full")


def test_half_precision_models_are_scored(llava):
    tiny = tiny_llava(dtype=torch.bfloat16)
    inputs = tiny.batch([PROMPT])
    with replaying(tiny.model) as replayer:
        values = try_layers(replayer, inputs, PROBES["vig"], "perturbed-full").values
    assert values[-1] == 0 and all(0 <= v < 100 for v in values) and max(values) > 0


def test_scores_that_do_not_fit_a_method_are_refused():
    assert probe_for(VTW()).name == "withdrawal" and probe_for(ShortV(budget=1), "random").name == "random"
    for method, name in ((VTW(), "vig"), (VSkip(budget=1), "withdrawal")):
        with pytest.raises(ValueError, match="does not fit"):
            probe_for(method, name)
    with pytest.raises(ValueError, match="no score 'best'; known: vig"):
        find_probe("best")
