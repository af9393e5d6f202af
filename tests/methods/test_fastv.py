"""FastV keeps the rows that the last prompt row attends to most, and computes what the plain account does."""

from __future__ import annotations

import pytest
import torch

import saccade
from saccade.core.layout import Layout
from saccade.core.pricing import cost
from saccade.core.shapes import SHAPES
from saccade.methods.fastv import FastV
from saccade.plans.plan import Plan
from support import decoder_reference as reference
from support.decoder_parity import check, check_never_waits, scenes, twins


@pytest.mark.parametrize("name", ["llava-llama", "llava-qwen2", "qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize(("layer", "keep"), [(1, 0.25), (3, 0.5), (7, 0.9)])
def test_rows_and_logits_are_those_of_the_plain_account(name, layer, keep):
    runs = check(name, f"fastv(layer={layer},keep={keep})", lambda m, i: reference.fastv(m, i, layer, keep))
    assert all(len(run.alive) == bool(images) for run, images in zip(runs, (1, 2, 0), strict=True))


@pytest.mark.parametrize("spec", ["fastv(keep=1)", "fastv(layer=2,keep=100)"])
def test_keeping_all_is_the_stock_model(spec):
    _, tiny = twins("llava-llama")
    inputs = tiny.batch(scenes("llava-llama"))
    with torch.no_grad():
        stock = tiny.model(**inputs).logits
        with saccade.apply(tiny.model, spec):
            assert torch.equal(tiny.model(**inputs).logits, stock)


def test_the_price_is_that_of_the_readme():
    route = Plan.of("fastv(layer=3,keep=0.5)").route(Layout.single(576, 66), 32)
    found = cost(SHAPES["llava-1.5-7b"], route)
    assert found.ratio == pytest.approx(0.588, abs=0.003)
    assert found.equivalent_tokens == 3 / 32 * 576 + 29 / 32 * 288


def test_counts_and_fractions_are_per_image():
    method = FastV(layer=2, keep=5)
    (stage,) = method.stages(4)
    assert [method.kept(stage, found, found, found) for found in (3, 5, 16)] == [3, 5, 5]
    assert [FastV(keep=0.5).kept(stage, n, n, 2 * n) for n in (1, 5, 7, 16)] == [1, 2, 4, 8]
    assert FastV(keep=0.5, of="original").kept(stage, 10, 10, 16) == 8


def test_it_never_waits_for_the_device():
    check_never_waits(FastV(layer=2, keep=0.5))


@pytest.mark.parametrize("bad", [{"layer": 0}, {"layer": 1.5}, {"keep": -0.1}, {"keep": 2.5}, {"of": "all"}])
def test_what_makes_no_sense_is_refused(bad):
    with pytest.raises(ValueError, match="fastv"):
        FastV(**bad)


def test_a_layer_past_the_last_is_refused():
    with pytest.raises(ValueError, match="layer 9"):
        FastV(layer=9).stages(9)
