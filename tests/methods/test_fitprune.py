"""FitPrune drops rows layer by layer: by a recipe that was fitted, or by the authors' own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import saccade
from saccade.core.layout import Layout
from saccade.core.pricing import scoring_flops
from saccade.core.shapes import SHAPES
from saccade.engine import readers
from saccade.methods.fitprune import PUBLISHED, FitPrune, published_left, with_recipe
from saccade.plans.budget import price_prompt, reach_flops
from saccade.plans.plan import Plan
from support import fitprune_reference as reference
from support.decoder_parity import check, check_never_waits, scenes, twins
from support.models import SQUARE, TALL

SOME = (1, 3, 4), (0.8, 0.5, 0.26)
MANY = (2, 3, 4, 5, 6, 7), (0.9, 0.7, 0.7, 0.5, 0.3, 0.1)


@pytest.mark.parametrize(
    ("name", "layers", "left"), [("llava-qwen2", *MANY), ("qwen2_5_vl", *SOME), ("gemma3", *SOME)]
)
def test_rows_and_logits_are_those_of_the_plain_account(name, layers, left):
    spec = f"fitprune(layers={'/'.join(map(str, layers))},left={'/'.join(map(str, left))})"
    check(name, spec, lambda m, i: reference.fitprune(m, i, layers, left))


def test_without_text_behind_it_the_image_alone_decides():
    samples = [[6, SQUARE], [2, TALL, 3, SQUARE]]
    check("llava-llama", "fitprune(layers=2/5,left=0.6/0.3)", _account, samples)


def _account(model, inputs):
    return reference.fitprune(model, inputs, (2, 5), (0.6, 0.3))


def test_a_map_in_pieces_is_the_whole_map(monkeypatch):
    _, tiny = twins("llava-llama")
    inputs = tiny.batch(scenes("llava-llama"))
    spec = "fitprune(layers=1/2/5,left=0.8/0.5/0.2)"

    def ran() -> tuple[torch.Tensor, list]:
        with torch.no_grad(), saccade.apply(tiny.model, spec) as handle, handle.tracing() as traces:
            return tiny.model(**inputs).logits, traces[0].kept(7)

    logits, kept = ran()
    monkeypatch.setattr(readers, "CHUNK", 1000)
    again, same = ran()
    assert same == kept and torch.equal(again, logits)


def test_keeping_all_is_the_stock_model():
    _, tiny = twins("llava-llama")
    inputs = tiny.batch(scenes("llava-llama"))
    with torch.no_grad():
        stock = tiny.model(**inputs).logits
        for spec in ("fitprune(keep=1)", "fitprune(layers=2,left=1)"):
            with saccade.apply(tiny.model, spec):
                assert torch.equal(tiny.model(**inputs).logits, stock)


@pytest.mark.parametrize(("keep", "gone"), PUBLISHED)
def test_on_their_model_the_authors_recipes_are_met_row_by_row(keep, gone):
    method, left = FitPrune(keep=keep), 576
    stages = {stage.before: stage for stage in method.stages(32)}
    for layer, leave in enumerate(gone, start=1):
        if layer in stages:
            found, left = left, method.kept(stages[layer], left, 576, 576)
            # Two recipes leave a row or two more than a milder one in some layer, which no dial may.
            assert abs(found - left - leave) <= 5
        else:
            assert leave <= 5
    assert left == pytest.approx(576 - sum(gone), abs=2)


def test_a_recipe_costs_about_what_its_name_says():
    shape = SHAPES["llava-1.5-7b"]
    for keep, _ in PUBLISHED:
        found = price_prompt(Plan.of(f"fitprune(keep={keep})"), shape, 576, 0).ratio
        assert keep - 0.01 <= found <= keep + 0.06


@given(fine=st.integers(0, 999), depth=st.sampled_from([2, 8, 28, 32, 40]))
def test_turning_it_up_never_keeps_more_anywhere(fine, depth):
    mild, strong = (published_left(1 - part / 1000, depth) for part in (fine, fine + 1))
    assert all(0 <= b <= a <= 1 for a, b in zip(mild, strong, strict=True))
    assert list(mild) == sorted(mild, reverse=True)


def test_a_flops_ratio_takes_the_mildest_of_the_authors_recipes():
    shape, layout = SHAPES["llava-1.5-7b"], Layout.single(576, 64)
    plan = reach_flops(Plan.of("fitprune(flops=0.5)"), shape, [layout])
    assert 0.49 < price_prompt(plan, shape, 576, 64).ratio <= 0.5


def test_score_rows_are_those_of_the_image_and_the_text_behind_it():
    shape = SHAPES["llava-1.5-7b"]
    (scoring,) = Plan.of("fitprune(layers=3,left=0.5)").route(Layout.single(576, 64), 32).scorings
    assert (scoring.asking, scoring.keys) == (576 + 64 - 32, 640)
    found = price_prompt(Plan.of("fitprune(layers=3,left=0.5)"), shape, 576, 64)
    assert found.score_tflops == pytest.approx(scoring_flops(shape, scoring) / 1e12)


def test_it_never_waits_for_the_device():
    check_never_waits(FitPrune(layers=(1, 2), left=(0.5, 0.2)))


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"keep": 1.5}, "keep is a fraction"),
        ({"keep": True}, "keep is a fraction"),
        ({"layers": (1, 2)}, "both layers and left"),
        ({"left": (0.5,)}, "both layers and left"),
        ({"layers": (1, 2), "left": (0.5,)}, "each of the 2 layers"),
        ({"layers": (1, 2), "left": (0.5, 0.6)}, "never rises"),
        ({"layers": (2, 1), "left": (0.6, 0.5)}, "ascend"),
        ({"layers": (1,), "left": (1.5,)}, "from 0 to 1"),
        ({"layers": (1,), "left": (0.5,), "keep": 0.5}, "leave out keep"),
        ({"layers": (1,), "left": (0.5,), "flops": 0.5}, "leave out keep"),
    ],
)
def test_what_makes_no_sense_is_refused(bad, said):
    with pytest.raises(ValueError, match=f"fitprune.*{said}"):
        FitPrune(**bad)


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=40))
def test_a_recipe_reads_and_writes(shares):
    method = with_recipe([share / 10_000 for share in sorted(shares, reverse=True)])
    assert Plan.of(str(method)).methods == (method,)
    assert Plan.from_dict(Plan((method,)).to_dict()).methods == (method,)


@pytest.mark.parametrize("text", ["0.5/", "0.5/half", "-0.5", "0.5//0.4", "nan", "0.5/1e"])
def test_lists_of_fractions_that_cannot_be_read_are_refused(text):
    with pytest.raises(ValueError, match="not a list of numbers such as"):
        Plan.of(f"fitprune(layers=1/2,left={text})")


def test_depths_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="layer 8"):
        FitPrune(layers=(2, 8), left=(0.5, 0.2)).stages(8)
