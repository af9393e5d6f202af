"""What skipping does to real (tiny, random) models, and that every corrected bound of it holds."""

from __future__ import annotations

import pytest
import torch

from saccade.engine import apply
from saccade.families import find
from saccade.plans.plan import Plan
from saccade.research.analysis.capture import Unskipped, record
from saccade.research.analysis.checks import BOUNDS, Check, in_words, verdicts
from saccade.research.analysis.compare import measure, skips_ffn
from saccade.research.analysis.constants import constants
from support.models import FACTORIES, SQUARE

PROMPT = [3, SQUARE, 5]
PLANS = ("ffn_skip(layers=0-3)", "ffn_skip(layers=1)", "shortv(layers=1-2)", "skip_vision(retained=0.5)")


def drift_of(tiny, plan, prompt=PROMPT):
    family = find(tiny.model)
    inputs, found = tiny.singles([prompt])[0], Plan.of(plan)
    planned = record(tiny.model, inputs, found)
    whole = record(tiny.model, inputs, Unskipped(found.methods))
    known = constants(family, tiny.model)
    return measure(family, family.parts(tiny.model), known, whole, planned)


@pytest.fixture(
    scope="module",
    params=[
        "llava-llama",
        pytest.param("llava-qwen2", marks=pytest.mark.long(instead="qwen2_5_vl")),
        "qwen2_5_vl",
    ],
)
def model(request):
    """Tiny models without and with biases, with and without grouped heads and several axes of positions."""
    return FACTORIES[request.param]()


@pytest.fixture(scope="module", params=PLANS)
def skipped(request, model):
    """A plan, and the drift under it."""
    return request.param, drift_of(model, request.param)


def test_corrected_bounds_hold_and_drift_never_exceeds_the_residual_bound(skipped):
    _, found = skipped
    checks = found.checks()
    assert not [check for check in checks if BOUNDS[check.bound].form == "corrected" and not check.holds]
    # Rounding of the float32 forwards is all that may lie between.
    assert all(
        one.leaving <= bound * (1 + 1e-5) for one, bound in zip(found.layers, found.residual, strict=True)
    )
    assert found.layers[-1].leaving > 0 and found.kl > 0
    assert {check.bound for check in checks} == {n for n, kind in BOUNDS.items() if kind.source != "31"}


def test_corrected_bounds_hold_in_half_precision_up_to_its_rounding():
    tiny = FACTORIES["llava-llama"](dtype=torch.bfloat16)
    for plan in ("ffn_skip(layers=3)", "ffn_skip(layers=0-3)"):
        checks = drift_of(tiny, plan).checks()
        assert not [check for check in checks if BOUNDS[check.bound].form == "corrected" and not check.holds]


@pytest.mark.parametrize("seed", range(3))
def test_the_printed_lipschitz_constants_fail(seed):
    checks = drift_of(FACTORIES["llava-llama"](seed=seed), "ffn_skip(layers=0-3)").checks()
    failing = {check.bound for check in checks if not check.holds}
    assert {"attention_paper", "ffn_paper"} <= failing
    assert {BOUNDS[name].form for name in failing} == {"printed"}


def test_sharp_queries_make_a_small_model_break_the_printed_constant_and_not_the_local_one():
    tiny = FACTORIES["llava-llama"](layers=2)
    with torch.no_grad():
        for layer in tiny.model.model.language_model.layers:
            layer.self_attn.q_proj.weight.zero_()
    found = drift_of(tiny, "ffn_skip(layers=0)")
    assert all(one.attention_paper == 0 and one.attention_heads > 0.5 for one in found.layers)
    assert all(0.5 < one.attention_true <= one.attention_local for one in found.layers)


def test_the_printed_attention_constant_is_held_against_what_it_speaks_of():
    """It has no output projection, so a model that differs there alone gets the same verdict."""
    found = []
    for factor in (1e-3, 1.0, 1e3):
        tiny = FACTORIES["llava-llama"](layers=1)
        with torch.no_grad():
            tiny.model.model.language_model.layers[0].self_attn.o_proj.weight.mul_(factor)
        found.append(drift_of(tiny, "ffn_skip(layers=0)").layers[0])
    small, usual, large = found
    assert small.attention_heads == usual.attention_heads == large.attention_heads > usual.attention_paper
    assert small.attention_true < 1e-2 * usual.attention_true < 1e-4 * large.attention_true
    for one in found:
        assert one.attention_true <= one.attention_local * (1 + 1e-4)


def test_drift_is_the_difference_of_the_models_own_hidden_states(model, skipped):
    plan, found = skipped
    inputs = model.singles([PROMPT])[0]
    with torch.no_grad():
        stock = model.model(**inputs, output_hidden_states=True)
        with apply(model.model, plan):
            planned = model.model(**inputs, output_hidden_states=True)
    # The last of the recorded states has the final norm on it.
    for number, one in enumerate(found.layers[:-1]):
        change = planned.hidden_states[number + 1] - stock.hidden_states[number + 1]
        assert one.leaving == pytest.approx(float(change.norm()), rel=1e-4, abs=1e-5)
        assert found.layers[number + 1].entering == one.leaving
    change = (planned.logits[0, -1] - stock.logits[0, -1]).double()
    assert found.logits == pytest.approx(float(change.norm()), rel=1e-3)
    assert found.logit_range == pytest.approx(float(change.max() - change.min()), rel=1e-3)
    p, q = (one.logits[0, -1].double().log_softmax(-1) for one in (planned, stock))
    assert found.kl == pytest.approx(float((p.exp() * (p - q)).sum()), rel=1e-3)


def test_layers_before_the_first_skip_do_not_drift(llava):
    found = drift_of(llava, "ffn_skip(layers=2)")
    assert [one.leaving > 0 for one in found.layers] == [False, False, True, True]
    assert found.residual[:2] == [0, 0]
    # Where nothing had drifted before, what the layer leaves out is the whole drift.
    assert found.layers[2].leaving == pytest.approx(found.layers[2].skip.total, rel=1e-4)
    assert found.layers[2].skip.max <= found.layers[2].skip.total


def test_skipping_over_dropped_rows_is_held_against_the_same_rows(llava):
    found = drift_of(llava, "random(keep=5,layer=1)+ffn_skip(layers=2)")
    assert [one.leaving > 0 for one in found.layers] == [False, False, True, True]
    assert all(check.holds for check in found.checks() if BOUNDS[check.bound].form == "corrected")


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ("ffn_skip(layers=0)+random(keep=5,layer=1,position_policy=compact)", "position_policy=keep"),
        ("ffn_skip(layers=0)+vskip(layers=1,reading=mask)", "reading=mask"),
        ("ffn_skip(layers=0)+dart(keep=5,layer=2)", "which rows are dropped before layer 2"),
        (
            "ffn_skip(layers=0)+sparsevlm(layers=1/2/3,tokens=8,position_policy=keep)",
            "merged between layers",
        ),
    ],
)
def test_forwards_that_cannot_be_compared_row_by_row_are_refused(llava, plan, words):
    with pytest.raises(ValueError, match=words):
        drift_of(llava, plan)


def test_whether_a_plan_skips_an_ffn_is_read_off_its_row_sets(llava):
    inputs = llava.singles([PROMPT])[0]
    skips = ("ffn_skip(layers=3)", "shortv(layers=0)", "skip_vision(retained=0.5)")
    others = ("ffn_skip(layers=none)", "vskip(layers=0-3)", "vtw(layer=1)", "random(keep=5)")
    assert [skips_ffn(record(llava.model, inputs, plan)) for plan in skips] == [True] * 3
    assert [skips_ffn(record(llava.model, inputs, plan)) for plan in others] == [False] * 4


def test_the_unskipped_plan_of_a_static_method_is_the_stock_model(tiny):
    inputs = tiny.singles([PROMPT])[0]
    run = record(tiny.model, inputs, Unskipped(Plan.of("shortv(layers=0-3)").methods))
    with torch.no_grad():
        stock = tiny.model(**inputs, logits_to_keep=1).logits[0, -1]
    assert torch.equal(run.logits_V, stock)


def test_adapters_and_other_activations_are_refused():
    tiny = FACTORIES["llava-llama"](layers=1)
    layer = tiny.model.model.language_model.layers[0]
    tiny.model.config.text_config.hidden_act = "tanh"
    with pytest.raises(ValueError, match="gated by 'tanh'"):
        constants(find(tiny.model), tiny.model)
    tiny.model.config.text_config.hidden_act = "silu"
    layer.self_attn.q_proj = torch.nn.Sequential(layer.self_attn.q_proj)
    with pytest.raises(ValueError, match="query projection is a Sequential"):
        constants(find(tiny.model), tiny.model)


def test_constants_are_those_of_full_decompositions(model):
    known = constants(find(model.model), model.model)
    text = model.model.model.language_model
    for one, layer in zip(known.layers, text.layers, strict=True):
        attn, width = layer.self_attn, layer.self_attn.head_dim
        weight = attn.k_proj.weight
        assert one.key == pytest.approx(float(torch.linalg.matrix_norm(weight.detach(), 2)), rel=1e-4)
        assert len(one.query_H) == 4 and len(one.key_G) == len(weight) // width
        assert one.value_G[-1] == pytest.approx(
            float(torch.linalg.matrix_norm(attn.v_proj.weight[-width:].detach(), 2)), rel=1e-4
        )
        assert one.biased == (attn.q_proj.bias is not None)
        assert all((a < b) == one.biased for a, b in zip(one.query_H, one.lifted_H, strict=True))
        assert one.ffn_gain.largest == float(layer.post_attention_layernorm.weight.detach().abs().max())
        x = torch.randn(3, 64)
        rms = one.ffn_gain.rms(x)[:, None].float() * layer.post_attention_layernorm(x)
        torch.testing.assert_close(rms, x * layer.post_attention_layernorm.weight, rtol=1e-4, atol=1e-5)


def test_verdicts_count_failures_and_say_how_loose():
    checks = [
        Check("ffn_paper", 0, 2.0, 4.0),
        Check("ffn_paper", 1, 8.0, 4.0),
        Check("ffn_paper", 2, 0.0, 0.0),
        Check("kl_l2", None, float("inf"), 1.0),
    ]
    first, second = verdicts(reversed(checks))
    assert (first.bound, first.comparisons, first.failures) == ("ffn_paper", 3, 1)
    assert (first.value, first.measured, first.looseness) == (2.0, 4.0, (1.25, 0.5, 2.0))
    assert Check("logits", None, 1.0, 1.2, 0.3).holds and not Check("logits", None, 1.0, 1.4, 0.3).holds
    assert second.failures == 0 and in_words(second.value) == "over 1e308"
    assert (
        first.to_dict()["form"] == "printed" and in_words(None) == "-" and in_words(0.00123456) == "0.00123"
    )
