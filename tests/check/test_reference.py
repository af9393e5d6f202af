"""The reference stands apart: it knows neither engine nor adapters, and finds layers and rows by itself."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from saccade.check import finders, meaning, reference
from saccade.check.distance import EXACT, MOST, Distance, allowed
from saccade.plans.plan import Plan
from support.checks import prompts
from support.models import FACTORIES, IMAGE, SQUARE, TALL, decoder_of, tiny_llava, tiny_qwen3
from support.programs import ROOT, environment
from support.reference import gap, recompute
from test_house import SOURCE, ours

FOLLOWED = {"check", "core", "methods", "plans"}


@pytest.mark.e2e
def test_the_reference_imports_nothing_of_what_it_judges():
    names = ("finders", "reference", "distance")
    for name in names:
        assert ours(SOURCE / "check" / f"{name}.py") <= {"check"}
    program = (
        "import sys, importlib, types; room = types.ModuleType('saccade.check'); "
        f"room.__path__ = [{str(SOURCE / 'check')!r}]; sys.modules['saccade.check'] = room; "
        f"[importlib.import_module('saccade.check.' + name) for name in {names}]; "
        "judged = ('saccade.engine', 'saccade.families', 'transformers'); "
        "print([m for m in sys.modules if m.startswith(judged)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, env=environment()
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_what_a_plan_means_is_not_asked_of_engine_or_adapters():
    assert ours(SOURCE / "check" / "meaning.py") <= FOLLOWED


@pytest.mark.parametrize("name", FACTORIES)
def test_layers_and_visual_rows_are_found_by_running_the_model(name):
    tiny = FACTORIES[name](layers=2)
    given = prompts(tiny)
    layers = finders.find_layers(tiny.model, given.text)
    assert layers is decoder_of(tiny.model).layers
    for inputs in given.singles:
        visual_N = finders.visual_rows(tiny.model, layers, inputs)
        assert torch.equal(visual_N, inputs["input_ids"][0] == IMAGE)


def test_a_tower_that_is_deeper_than_the_decoder_is_not_taken_for_it():
    tiny = tiny_llava(layers=1)
    lists = finders.lists_of_layers(tiny.model)
    assert len(lists[0]) == 2 and lists[0] is not decoder_of(tiny.model).layers
    found = finders.find_layers(tiny.model, prompts(tiny).text)
    assert found is decoder_of(tiny.model).layers


def test_a_model_without_such_layers_is_refused():
    class Plain(torch.nn.Module):
        def forward(self, input_ids, use_cache=True):
            return input_ids

    with pytest.raises(ValueError, match="cannot be checked yet"):
        finders.find_layers(Plain(), {"input_ids": torch.zeros(1, 3)})


@pytest.mark.parametrize("name", ["llava-llama", "llava_next-llama", "qwen2_5_vl", "internvl-qwen2"])
def test_pictures_are_told_apart(name):
    tiny = FACTORIES[name](layers=2)
    layers = decoder_of(tiny.model).layers
    touching = name.startswith("llava")
    sample = [2, SQUARE, TALL, 3] if touching else [2, SQUARE, 1, TALL, 3]
    (inputs,) = tiny.singles([sample], seed=3)
    visual_N = finders.visual_rows(tiny.model, layers, inputs)
    alone = [int((tiny.singles([[size]])[0]["input_ids"] == IMAGE).sum()) for size in (SQUARE, TALL)]
    assert finders.rows_of_pictures(tiny.model, layers, inputs, visual_N, 2) == alone
    assert finders.rows_of_pictures(tiny.model, layers, inputs, visual_N, 1) == [sum(alone)]
    if touching:
        assert finders.rows_of_pictures(tiny.model, layers, inputs, visual_N, 3) is None


@pytest.mark.parametrize(
    ("plan", "recipe"),
    [
        ("vskip(layers=1)+vtw(layer=2)", [("vskip", (1,)), ("vtw", (2,))]),
        ("vskip(layers=0/2,reading=mask)", [("vskip_mask", (0, 2))]),
        ("shortv(layers=0)+ffn_skip(layers=1-2)", [("shortv", (0,)), ("ffn_skip", (1, 2))]),
    ],
)
def test_it_agrees_with_the_reference_of_the_matrix(plan, recipe):
    tiny = tiny_qwen3(layers=3)
    (inputs,) = tiny.singles([[3, SQUARE, 5]], seed=1)
    layers = decoder_of(tiny.model).layers
    meant = meaning.account(Plan.of(plan).resolve(3), 3, inputs["input_ids"][0] == IMAGE)
    # What a dropped row holds is nobody's business: there it shows the row that is read in its place.
    left_N = meant.sets[-1].seen_N
    theirs = recompute(tiny.model, recipe, inputs).logits
    for attention in ("sdpa", "eager"):
        told = reference.run(tiny.model, layers, inputs, meant, attention, logits=theirs.shape[1])
        assert gap(told.logits_MV[left_N][None], theirs[:, left_N]) < 1e-5
        assert tiny.model.config.text_config._attn_implementation == "sdpa"


def test_distances_are_of_the_worst_row():
    truth = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    ours = truth.clone()
    ours[3] *= 1.5
    found = Distance.of(ours, truth)
    assert found.worst == pytest.approx(0.5) and found.typical == pytest.approx(0.5 / 5**0.5)
    ours[3, 0] = float("nan")
    assert Distance.of(ours, truth).worst == float("inf")
    assert Distance.of(ours[:4], truth).worst == float("inf")
    assert Distance.of_logits(truth + 7, truth).worst < 1e-5


def test_what_is_allowed_follows_the_machine_within_limits():
    assert allowed(Distance(0, 0), torch.float32) == Distance(EXACT, EXACT)
    assert allowed(Distance(1, 1), torch.float32) == Distance(MOST, MOST)
    served = allowed(Distance(0.01, 0.02), torch.bfloat16)
    assert served == Distance(pytest.approx(0.03), pytest.approx(0.08))
    assert allowed(Distance(0, 0), torch.bfloat16).worst > 0
