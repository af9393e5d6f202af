"""The token merge before the decoder, against a slow account of it; gradients, rows left alone, positions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import saccade
from saccade.methods.token_merge import TokenMerge
from saccade.plans.plan import Plan
from skip_vision.slow import merge_groups
from skip_vision.small import PICTURE, cos, made
from support.models import FACTORIES, SQUARE, tiny_llava
from support.tower_scene import SAMPLES, build, counts_of, holds


def noise(scene) -> None:
    scene.hidden_BND.copy_(torch.randn(scene.hidden_BND.shape, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("policy", ["keep", "compact"])
@pytest.mark.parametrize(("first", "last"), [(0, 0), (3, 0), (2, 1)])
@pytest.mark.parametrize("keep", [0.3, 2, 5])
@pytest.mark.parametrize("rule", ["similarity", "mean"])
def test_it_makes_what_the_reference_makes(rule, keep, first, last, policy):
    scene = build([["square", "large"], [], ["wide"]], seed=2)
    method = TokenMerge(keep=keep, first=first, last=last, rule=rule, position_policy=policy)
    noise(scene)
    choice, wanted = scene.choose(method), scene.evidence(method).keep
    for b, sample in enumerate(scene.pictures):
        places = choice.rewrite.rows_BS[b].tolist()
        states = dict(zip(places, choice.rewrite.states_BSD[b], strict=True))
        sources = dict(zip(places, choice.rewrite.sources_BSN[b], strict=True))
        for image, picture in enumerate(sample):
            rows = picture.rows
            between = rows[first : len(rows) - last]
            stay = wanted[b][image] - first - last
            merged = merge_groups(scene.hidden_BND[b, between], stay, rule)
            groups = [[between[member] for member in members] for members in merged.values()]
            homes = [between[home] for home in merged]
            kept = [row for row in rows if choice.keep_BN[b, row]]
            if policy == "keep":
                assert kept == sorted(rows[:first] + homes + rows[len(rows) - last :])
                expected = dict(zip(homes, groups, strict=True))
            else:
                # As the prompt of the authors has them: closed up, from the most to the least similar row.
                assert kept == rows[: wanted[b][image]]
                order = [[row] for row in rows[:first]] + groups + [[row] for row in rows[len(rows) - last :]]
                expected = dict(zip(kept, order, strict=True))
            for seat, members in expected.items():
                torch.testing.assert_close(states[seat], scene.hidden_BND[b, members].mean(0))
                weights = torch.zeros(scene.layout.rows)
                weights[members] = 1 / len(members)
                torch.testing.assert_close(sources[seat], weights)


@pytest.mark.parametrize("row", [1, 7])
def test_closed_up_it_is_the_merge_in_the_projectors_place(row):
    """The same model with its own merge, and without it under this method."""
    scene = [[3, PICTURE, 5]]
    said = []
    for merged in (6, None):
        tiny, _ = made(replace(cos(row), merged=merged, skip_ffn=False, latter=False))
        plan = Plan() if merged else Plan.of("token_merge(keep=6,first=10)")
        with saccade.apply(tiny.model, plan), torch.no_grad():
            said.append(tiny.model(**tiny.batch(scene)).logits[0, -5:])
    torch.testing.assert_close(*said, atol=1e-5, rtol=1e-4)


@given(
    SAMPLES,
    st.sampled_from([0.0, 0.1, 0.5, 1.0, 2, 9]),
    st.sampled_from([(0, 0), (2, 1)]),
    st.integers(0, 99),
)
def test_properties(samples, keep, alone, seed):
    method = TokenMerge(keep=keep, first=alone[0], last=alone[1])
    scene, choice = holds(method, samples, True, seed)
    assert counts_of(scene.evidence(method), choice) == scene.evidence(method).keep


@pytest.mark.parametrize("name", FACTORIES)
def test_training_passes_through_the_means(name):
    """What no row holds by itself any more still learns: pixels that are merged away have gradients too."""
    tiny = FACTORIES[name](layers=2)
    inputs = tiny.batch([[2, SQUARE, 3]])
    inputs["pixel_values"].requires_grad_(True)
    with saccade.apply(tiny.model, "token_merge(keep=2)"):
        tiny.model(**inputs, labels=inputs["input_ids"]).loss.backward()
    gradient = inputs["pixel_values"].grad
    assert bool(torch.isfinite(gradient).all()) and (gradient != 0).float().mean() > 0.9


def test_positions_close_up_unless_they_are_to_be_kept():
    tiny = tiny_llava(layers=3)
    inputs = tiny.batch([[2, SQUARE, 4]])
    with torch.no_grad():
        said = {}
        for policy in ("keep", "compact"):
            with saccade.apply(tiny.model, f"token_merge(keep=4,position_policy={policy})"):
                said[policy] = tiny.model(**inputs).logits[0, -1]
        with saccade.apply(tiny.model, "token_merge(keep=4)"):
            usual = tiny.model(**inputs).logits[0, -1]
    assert torch.equal(usual, said["compact"]) and not torch.allclose(usual, said["keep"], atol=1e-4)


def test_all_that_is_between_can_stay_and_an_image_that_is_too_small_stays_whole():
    scene = build([["dot", "square"]])
    assert bool(scene.choose(TokenMerge(keep=1.0)).keep_BN[scene.layout.visual_BN].all())
    kept = scene.choose(TokenMerge(keep=1, first=4, last=4)).keep_BN
    dot, square = scene.pictures[0]
    assert bool(kept[0, dot.rows].all()) and kept[0, square.rows].sum() == 16


@pytest.mark.parametrize(
    "spec",
    ["token_merge(first=-1)", "token_merge(last=0.5)", "token_merge(keep=-1)", "token_merge(rule=max)"],
)
def test_bad_settings_are_refused(spec):
    with pytest.raises(ValueError, match=r"token_merge: (first|last|keep|rule)"):
        Plan.of(spec)
