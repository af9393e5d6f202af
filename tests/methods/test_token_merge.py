"""The token merge before the decoder, against a slow account of it; gradients, rows left alone, positions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import saccade
from saccade.methods.token_merge import TokenMerge
from saccade.plan import Plan
from support.models import FACTORIES, SQUARE, tiny_llava
from support.tower_scene import SAMPLES, build, counts_of, holds


def slow(rows_ND: torch.Tensor, keep: int) -> dict[int, tuple[list[int], torch.Tensor]]:
    """By row that stays: its members, and their mean; one pair of rows after another."""
    unit = [row / row.norm() for row in rows_ND]
    total = [sum(float(a @ b) for j, b in enumerate(unit) if j != i) for i, a in enumerate(unit)]
    order = sorted(range(len(unit)), key=lambda i: (-total[i], i))
    homes = sorted(order[len(order) - keep :])
    members = {home: [home] for home in homes}
    for row in order[: len(order) - keep]:
        members[max(homes, key=lambda home: (float(unit[row] @ unit[home]), -home))].append(row)
    return {home: (sorted(m), rows_ND[m].mean(0)) for home, m in members.items()}


@pytest.mark.parametrize(("first", "last"), [(0, 0), (3, 0), (2, 1)])
@pytest.mark.parametrize("keep", [0.3, 2, 5])
def test_it_makes_what_the_reference_makes(keep, first, last):
    scene, method = (
        build([["square", "large"], [], ["wide"]], seed=2),
        TokenMerge(keep=keep, first=first, last=last),
    )
    scene.hidden_BND.copy_(torch.randn(scene.hidden_BND.shape, generator=torch.Generator().manual_seed(1)))
    choice, wanted = scene.choose(method), scene.evidence(method).keep
    for b, sample in enumerate(scene.pictures):
        states = dict(zip(choice.rewrite.rows_BS[b].tolist(), choice.rewrite.states_BSD[b], strict=False))
        sources = dict(zip(choice.rewrite.rows_BS[b].tolist(), choice.rewrite.sources_BSN[b], strict=False))
        for image, picture in enumerate(sample):
            rows = picture.rows
            between = rows[first : len(rows) - last]
            made = slow(scene.hidden_BND[b, between], wanted[b][image] - first - last)
            alone = [row for row in rows if row not in between]
            kept = [row for row in rows if choice.keep_BN[b, row]]
            assert kept == sorted(alone + [between[home] for home in made])
            for home, (members, mean) in made.items():
                torch.testing.assert_close(states[between[home]], mean)
                weights = torch.zeros(scene.layout.rows)
                weights[[between[member] for member in members]] = 1 / len(members)
                torch.testing.assert_close(sources[between[home]], weights)


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


def test_positions_are_kept_unless_they_are_to_close_up():
    tiny = tiny_llava(layers=3)
    inputs = tiny.batch([[2, SQUARE, 4]])
    with torch.no_grad():
        said = {}
        for policy in ("keep", "compact"):
            with saccade.apply(tiny.model, f"token_merge(keep=4,position_policy={policy})"):
                said[policy] = tiny.model(**inputs).logits[0, -1]
        with saccade.apply(tiny.model, "token_merge(keep=4)"):
            usual = tiny.model(**inputs).logits[0, -1]
    assert torch.equal(usual, said["keep"]) and not torch.allclose(usual, said["compact"], atol=1e-4)


def test_all_that_is_between_can_stay_and_an_image_that_is_too_small_stays_whole():
    scene = build([["dot", "square"]])
    assert bool(scene.choose(TokenMerge(keep=1.0)).keep_BN[scene.layout.visual_BN].all())
    kept = scene.choose(TokenMerge(keep=1, first=4, last=4)).keep_BN
    dot, square = scene.pictures[0]
    assert bool(kept[0, dot.rows].all()) and kept[0, square.rows].sum() == 16


@pytest.mark.parametrize("spec", ["token_merge(first=-1)", "token_merge(last=0.5)", "token_merge(keep=-1)"])
def test_bad_settings_are_refused(spec):
    with pytest.raises(ValueError, match=r"token_merge: (first|last|keep)"):
        Plan.of(spec)
