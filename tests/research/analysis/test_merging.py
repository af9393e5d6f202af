"""What merging does to rows, by plans and in Skip-Vision models: the printed error, and bounds that hold."""

from __future__ import annotations

import math

import pytest
import torch

from calibration.vlm import question, save_model
from saccade import models, skip_vision
from saccade.core.merge import token_merge
from saccade.glance import suite
from saccade.plans.plan import Plan
from saccade.research.analysis import analyze, bounds
from saccade.research.analysis.capture import Unskipped, record
from saccade.research.analysis.checks import BOUNDS, Check
from saccade.research.analysis.merging import Merge, kl_checks, similarity
from saccade.skip_vision import SkipVisionConfig
from support.models import FACTORIES, SQUARE

SIMILARITY = {name for name, kind in BOUNDS.items() if kind.source == "31"}
KEPT = "token_merge(keep=4,position_policy=keep)"


def merged(x_ND, keep):
    found = token_merge(x_ND[None], keep)
    return Merge(x_ND, found.rows_BKD[0], found.weights_BKN[0], found.homes_BK[0])


@pytest.mark.parametrize("seed", range(4))
def test_distances_are_those_of_every_row_and_the_corrected_bounds_hold_for_each(seed):
    torch.manual_seed(seed)
    merge = merged(torch.randn(1, 12) + torch.randn(30, 12) * (0.2 + seed), 7)
    found = similarity(merge)
    joined, became, least, rows = [], [], 1.0, 0
    for home, made, weights in zip(merge.homes_K, merge.made_KD, merge.weights_KN, strict=True):
        members = weights.nonzero()[:, 0].tolist()
        rows += len(members) if len(members) > 1 else 0
        for n in members if len(members) > 1 else ():
            x, y = merge.rows_ND[n].double(), merge.rows_ND[home].double()
            became.append(float((x - made).norm() / x.norm()))
            if n != int(home):
                cosine = float(torch.nn.functional.cosine_similarity(x, y, dim=0))
                least = min(least, cosine)
                exact = bounds.eps_sim(cosine, float(x.norm()), float(y.norm()))
                assert exact == pytest.approx(float((x - y).norm()), rel=1e-6)
                joined.append((math.sqrt(1 - cosine), float((x - y).norm())))
    assert (found.rows, found.least) == (rows, pytest.approx(least))
    assert found.distance == pytest.approx(sum(became) / len(became), rel=1e-5)
    assert found.joined == pytest.approx(min(joined, key=lambda pair: pair[0] / pair[1]), rel=1e-5)
    printed, *corrected = found.checks()
    assert not printed.holds and all(check.holds for check in corrected)
    # The mean over a cluster is no further than its furthest pair: the bound says something.
    assert 1 - 1e-6 <= corrected[1].looseness < 20


def test_the_printed_similarity_error_forgets_the_norms_and_a_factor():
    """Unit vectors are exactly sqrt(2 (1 - cosine)) apart; ten times as long, ten times that."""
    for size in (1.0, 10.0):
        x = size * torch.tensor([[1.0, 0.0], [math.cos(0.1), math.sin(0.1)]])
        merge = Merge(x, x.mean(0, keepdim=True), torch.full((1, 2), 0.5), torch.tensor([0]))
        printed, joined, became = similarity(merge).checks()
        assert joined.looseness == pytest.approx(1, rel=1e-4)
        assert printed.looseness == pytest.approx(1 / (size * math.sqrt(2)), rel=1e-4)
        assert not printed.holds and became.looseness == pytest.approx(1, rel=1e-3)


def test_weights_that_do_not_add_up_to_one_are_reckoned_with():
    x = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    merge = Merge(x, x.sum(0, keepdim=True), torch.ones(1, 2), torch.tensor([1]))
    assert all(check.holds for check in similarity(merge).checks()[1:])


def test_where_nothing_merges_there_is_nothing_to_say():
    x = torch.randn(3, 4)
    assert similarity(Merge(x, x, torch.eye(3), torch.arange(3))) is None


def test_eq_31_is_eq_27_with_the_similarity_error_added():
    torch.manual_seed(0)
    found = similarity(merged(torch.randn(10, 6), 4))
    printed, corrected = kl_checks([found], 0.5, 2.0, 1.5, 0.1)
    assert printed.value == pytest.approx((0.5 + math.sqrt(1 - found.least)) ** 2 / 4)
    assert corrected == Check("kl_merge_l2", None, bounds.kl_bound(1.5), 0.1)


@pytest.mark.parametrize("family", ["llava-llama", "qwen2_5_vl"])
@pytest.mark.parametrize("spec", [KEPT, "visionzip(dominant=3,contextual=2)", "prumerge()"])
def test_a_plan_that_merges_before_layer_0_shows_what_it_merged(family, spec):
    tiny = FACTORIES[family]()
    inputs, plan = tiny.singles([[3, SQUARE, 5]])[0], Plan.of(spec)
    merges = record(tiny.model, inputs, plan).merges
    whole = record(tiny.model, inputs, "ffn_skip(layers=none)")
    assert not whole.merges
    # LLaVA's projector is not linear: what is merged before it is no mean of rows of the prompt.
    if family == "llava-llama" and spec != KEPT:
        assert not merges
        return
    (merge,) = merges
    torch.testing.assert_close(merge.rows_ND, whole.states[0])
    torch.testing.assert_close(merge.weights_KN @ merge.rows_ND, merge.made_KD, atol=1e-5, rtol=1e-4)
    assert all(check.holds for check in similarity(merge).checks()[1:])
    assert record(tiny.model, inputs, Unskipped(plan.methods)).merges


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return models.load(str(save_model(tmp_path_factory.mktemp("model"))))


@pytest.mark.parametrize(("spec", "skips"), [(KEPT, False), (f"{KEPT}+ffn_skip(layers=1-2)", True)])
def test_an_analysis_holds_merging_against_neither_skipping_nor_merging(loaded, spec, skips):
    found = analyze(loaded, [question(1), question(3)], spec, parts=("bounds",))
    data = found.data["bounds"]
    verdicts = {one["bound"]: one for one in data["verdicts"]}
    assert set(verdicts) >= SIMILARITY and ("total_paper" in verdicts) == skips == ("drift" in data)
    assert all(verdicts[name]["comparisons"] == 2 for name in SIMILARITY)
    assert not any(one["failures"] for one in data["verdicts"] if one["form"] == "corrected")
    assert verdicts["similarity_paper"]["failures"] == 2
    assert list(data["merging"]) == found.data["samples"]
    assert all(one["rows"] > 1 for (one,) in data["merging"].values()) and found.pictures["bounds"]


def test_merging_of_smaller_pictures_is_held_against_the_prompt_of_the_same_pictures():
    plan = "resize(scale=0.5)+token_merge(keep=0.5,position_policy=keep)"
    data = analyze(models.load("glance"), suite.samples("count", 1), plan, parts=("bounds",)).data["bounds"]
    assert {one["bound"] for one in data["verdicts"]} >= SIMILARITY
    assert not any(one["failures"] for one in data["verdicts"] if one["form"] == "corrected")


@pytest.mark.parametrize(
    "order", [pytest.param("similarity", marks=pytest.mark.long(instead="kept")), "kept"]
)
def test_a_skip_vision_model_shows_what_it_merges_in_the_projectors_place_or_after(order):
    config = SkipVisionConfig(retained=30, merged=20, merge_order=order)
    own = skip_vision.wrap(models.load("glance"), config)
    found = analyze(own, suite.samples("count", 2), parts=("bounds",)).data["bounds"]
    names = {one["bound"] for one in found["verdicts"]}
    # Merged in the projector's place, there is no prompt of the same rows to hold the answer against.
    assert ("kl_merge_l2" in names) == (order == "kept") and "similarity_became" in names
    assert not any(one["failures"] for one in found["verdicts"] if one["form"] == "corrected")
    assert skip_vision.wrapped(own.model).abstractor.noted is None
