"""PyramidDrop narrows the image stage by stage, by what the next layer looks at."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import saccade
from saccade.core.layout import Layout
from saccade.core.pricing import cost
from saccade.core.shapes import SHAPES
from saccade.methods.pyramiddrop import PyramidDrop
from saccade.plans.plan import Plan
from support import decoder_reference as reference
from support.decoder_parity import check, check_never_waits, scenes, twins


@pytest.mark.parametrize("name", ["llava-llama", "llava-qwen2", "qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize(
    ("spec", "layers", "keep", "compact"),
    [
        ("pyramiddrop()", (2, 4, 6), 0.5, True),
        ("pyramiddrop(layers=1/5,keep=0.7,position_policy=keep)", (1, 5), 0.7, False),
        ("pyramiddrop(layers=7,keep=0.3)", (7,), 0.3, True),
    ],
)
def test_rows_and_logits_are_those_of_the_plain_account(name, spec, layers, keep, compact):
    compact = compact and name.startswith("llava")
    check(name, spec, lambda m, i: reference.pyramiddrop(m, i, layers, keep, compact))


def test_positions_that_close_up_are_not_those_that_are_kept():
    plain, _ = twins("llava-llama")
    one = plain.singles(scenes("llava-llama"))[0]
    closed, kept = (reference.pyramiddrop(plain.model, one, (2, 4), 0.5, c) for c in (True, False))
    assert not torch.allclose(closed.logits[-1], kept.logits[-1], rtol=1e-3)


def test_keeping_all_is_the_stock_model():
    _, tiny = twins("llava-llama")
    inputs = tiny.batch(scenes("llava-llama"))
    with torch.no_grad():
        stock = tiny.model(**inputs).logits
        with saccade.apply(tiny.model, "pyramiddrop(keep=1)"):
            assert torch.equal(tiny.model(**inputs).logits, stock)


def test_the_published_schedule():
    method = PyramidDrop()
    stages = method.stages(32)
    assert [s.before for s in stages] == [8, 16, 24] and len({id(s.by) for s in stages}) == 1
    assert [method.kept(s, 576, 576, 576) for s in stages] == [288, 144, 72]


@pytest.mark.parametrize(
    ("shape", "spec", "average"),
    [
        ("llava-1.5-7b", "pyramiddrop()", 270.0),
        ("llava-1.5-13b", "pyramiddrop(layers=8/16/24)", 230.4),
        ("llava-1.5-13b", "pyramiddrop()", 270.0),
    ],
)
def test_average_tokens_of_the_papers_models(shape, spec, average):
    shape = SHAPES[shape]
    found = cost(shape, Plan.of(spec).route(Layout.single(576, 64), shape.layers))
    assert found.equivalent_tokens == pytest.approx(average)


@given(depth=st.integers(4, 100))
def test_stages_scale_with_depth(depth):
    befores = PyramidDrop().befores(depth)
    assert len(set(befores)) == 3 and list(befores) == sorted(befores)
    assert befores[0] >= 1 and befores[-1] < depth
    for before, share in zip(befores, (0.25, 0.5, 0.75), strict=True):
        assert abs(before - share * depth) <= 1


@given(rows=st.integers(1, 3000), fine=st.integers(0, 999))
def test_turning_it_up_never_keeps_more(rows, fine):
    mild, strong = PyramidDrop().at_strength(fine), PyramidDrop().at_strength(fine + 1)
    for stage in mild.stages(32):
        counts = [m.kept(stage, rows, rows, rows) for m in (mild, strong)]
        assert 0 <= counts[1] <= counts[0] <= rows


def test_fractions_of_the_original_rows():
    method = PyramidDrop(of="original")
    first, second, _ = method.stages(32)
    assert method.kept(first, 200, 200, 576) == 200 and method.kept(second, 200, 200, 576) == 144
    assert PyramidDrop().kept(first, 200, 200, 576) == 100


def test_it_never_waits_for_the_device():
    check_never_waits(PyramidDrop())


@pytest.mark.parametrize(
    "bad", [{"keep": 1.5}, {"keep": 64}, {"keep": True}, {"layers": ()}, {"layers": (0, 3)}]
)
def test_what_makes_no_sense_is_refused(bad):
    with pytest.raises(ValueError, match="pyramiddrop"):
        PyramidDrop(**bad)


def test_depths_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="too few"):
        PyramidDrop().stages(3)
    with pytest.raises(ValueError, match="layer 8"):
        PyramidDrop(layers=(2, 8)).stages(8)


def test_the_spec_reads_and_writes():
    (method,) = Plan.of("pyramiddrop(layers=8/16/24,keep=0.5)").methods
    assert method == PyramidDrop(layers=(8, 16, 24))
    assert Plan.of(str(method)).methods == (method,)
