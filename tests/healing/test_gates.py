"""Gates: shut ones are the engine's skips, chances and prices move as told, and a run with them resumes."""

from __future__ import annotations

import json

import pytest
import torch

import saccade
from calibration.vlm import save_model
from healing.test_run import SAMPLES, SMALL, met
from saccade import models
from saccade.core.shapes import SHAPES
from saccade.families import find
from saccade.healing.gates import Gates, chosen, gated, savings, skipping
from saccade.healing.learning import GATES, LEARNT, GateTrainer, Stopped
from saccade.healing.settings import HealingSettings
from saccade.plans.plan import Plan
from saccade.tuning.price import FlopsMeter, Pricer
from support.models import FACTORIES, SQUARE

SHAPE = SHAPES["llava-1.5-7b"]
PRICER = Pricer(FlopsMeter(SHAPE), SHAPE, {(576, 64): 1.0})
LEARN = SMALL | {"learn": 0.7, "learn_steps": 8, "steps": 4}


@pytest.mark.parametrize("name", ["llava-llama", "qwen2_5_vl", "qwen3_vl_moe", "qwen3_5", "lfm2_vl"])
@pytest.mark.parametrize("spec", ["dense", "divprune(keep=0.5,position_policy=keep)"])
def test_gates_that_are_shut_are_the_engines_skips(name, spec):
    tiny = FACTORIES[name]()
    model, family, inputs = tiny.model, find(tiny.model), tiny.batch([[3, SQUARE, 5], [9, SQUARE, 2]])
    base, closed = Plan.of(spec), {(0, 1): True, (1, 1): True, (1, 2): True}
    layers = len(family.parts(model).layers)
    if name != "qwen3_5":  # its first layers have no attention
        closed[0, 0] = True
    gates = Gates(layers, 0.5)
    gates.visual_BN = family.visual_mask(model, inputs["input_ids"])
    with torch.no_grad():
        gates.values_GL = torch.ones_like(gates.odds_GL)
        for gate in closed:
            gates.values_GL[gate] = 0.0
        with saccade.apply(model, base), gated(model, family, gates):
            found = model(**inputs).logits
            with gates.off():
                opened = model(**inputs).logits
        with saccade.apply(model, skipping(base, closed, layers)):
            wanted = model(**inputs).logits
        with saccade.apply(model, base):
            plain = model(**inputs).logits
    last = (slice(None), -1)
    torch.testing.assert_close(found[last], wanted[last], atol=1e-5, rtol=1e-4)
    assert torch.equal(opened, plain) and not torch.allclose(found[last], plain[last], atol=1e-4)


def test_a_model_that_norms_what_is_added_is_refused():
    tiny = FACTORIES["gemma3"]()
    with (
        pytest.raises(ValueError, match="norms what attention and FFN add"),
        gated(tiny.model, find(tiny.model), Gates(4, 0.5)),
    ):
        pass


def test_gates_are_open_as_often_as_their_chance_says():
    torch.manual_seed(0)
    gates = Gates(2000, 0.5)
    for odds in (-2.0, 0.0, 1.0):
        with torch.no_grad():
            gates.odds_GL.fill_(odds)
        gates.draw()
        share = float((gates.values_GL > 0).float().mean())
        assert share == pytest.approx(float(gates.chances_GL.detach().mean()), abs=0.03)
        assert bool(((gates.values_GL >= 0) & (gates.values_GL <= 1)).all())


def test_savings_add_up_to_the_plan_of_all_gates_shut():
    base = Plan.of("divprune(keep=0.5)")
    whole, saved_GL = savings(base, PRICER, SHAPE.layers)
    every = {(op, layer): True for op in range(2) for layer in range(SHAPE.layers)}
    assert whole == PRICER.ratio(base) and saved_GL.shape == (2, SHAPE.layers)
    left = PRICER.ratio(skipping(base, every, SHAPE.layers))
    assert whole - float(saved_GL.sum()) == pytest.approx(left, abs=1e-6)


def test_those_likeliest_shut_are_shut_until_it_costs_what_was_asked():
    odds_GL = torch.linspace(-3, 3, 2 * SHAPE.layers).view(2, SHAPE.layers)
    plan = chosen(Plan(), odds_GL, PRICER, 0.9)
    last = len(plan.methods[0].layers) - 1
    assert plan.spec == f"vskip(layers=0-{last})" and last < SHAPE.layers - 1
    assert (
        PRICER.ratio(plan) <= 0.9 < PRICER.ratio(Plan.of(f"vskip(layers=0-{last - 1})").resolve(SHAPE.layers))
    )
    with pytest.raises(ValueError, match=r"no choice of layers brings dense to 0\.1 .* drops rows"):
        chosen(Plan(), odds_GL, PRICER, 0.1)


def test_the_price_shuts_gates_while_they_cost_too_much_and_opens_them_below():
    gates = Gates(4, 0.5)
    saved_GL = torch.full((2, 4), 0.1)
    optimizer = torch.optim.Adam(gates.parameters(), lr=0.05)
    for _ in range(600):
        optimizer.zero_grad()
        gates.penalty(1.0, saved_GL, 1.0).backward()
        optimizer.step()
    cost = 1.0 - float(((1 - gates.chances_GL) * saved_GL).sum())
    assert cost == pytest.approx(0.5, abs=0.05)
    early = Gates(4, 0.5)
    early.multipliers.data.fill_(1.0)
    assert float(early.penalty(1.0, saved_GL, 0.0).detach()) < float(
        early.penalty(1.0, saved_GL, 1.0).detach()
    )


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return models.load(str(save_model(tmp_path_factory.mktemp("model"))))


def heal(loaded, out, **changed):
    return saccade.heal(loaded.model, loaded.processor, SAMPLES, "dense", out, **LEARN | changed)


@pytest.fixture(scope="module")
def made(loaded, tmp_path_factory):
    before, out = met(loaded), tmp_path_factory.mktemp("learnt") / "run"
    found = heal(loaded, out)
    after = met(loaded)
    assert [key for key in before | after if before.get(key) != after.get(key)] == []
    return found, out


def test_layers_are_learnt_and_healed_in_one_run(made):
    found, out = made
    learnt = found.data["heal"]["learnt"]
    assert learnt["flops_ratio"] <= 0.7 and learnt["spec"] == found.plan.spec == found.data["heal"]["spec"]
    assert {method.name for method in found.plan.methods} <= {"vskip", "ffn_skip", "shortv"}
    assert found.after.cost["flops_ratio"] == pytest.approx(learnt["flops_ratio"], abs=0.02)
    told = json.loads((out / GATES / LEARNT).read_text())
    assert len(told["odds"]) == 2 and min(map(min, told["odds"])) < 2.5, "gates moved"
    assert found.data["heal"]["training"]["steps"] == 4 and found.plan.adapter is not None


def test_a_run_that_stops_among_the_gates_goes_on_and_ends_alike(made, loaded, tmp_path, monkeypatch):
    whole, _ = made
    steps, real = [], GateTrainer.compute_loss

    def stopping(self, *args, **kwargs):
        steps.append(self.state.global_step)
        if len(steps) == 6:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(GateTrainer, "compute_loss", stopping)
        with pytest.raises((KeyboardInterrupt, Stopped)):
            heal(loaded, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(
            GateTrainer, "compute_loss", lambda self, *a, **k: (steps.append(-1), real(self, *a, **k))[1]
        )
        again = heal(loaded, tmp_path / "run")
    assert 0 < steps.count(-1) < 8, "it went on from a checkpoint"
    assert again.plan.adapter.digest == whole.plan.adapter.digest
    with pytest.raises(ValueError, match="learn"):
        heal(loaded, tmp_path / "run", learn=0.8)


def test_what_cannot_be_learnt_is_refused(loaded, tmp_path):
    with pytest.raises(ValueError, match=r"0\.001 is not between"):
        heal(loaded, tmp_path / "a", learn=0.001)
    for wrong in (0, 1.0, True, "half"):
        with pytest.raises(ValueError, match="learn is a share between 0 and 1"):
            HealingSettings(learn=wrong)
