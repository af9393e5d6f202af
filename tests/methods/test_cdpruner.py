"""CDPruner against a slow account of it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saccade import apply
from saccade.methods.cdpruner import CDPruner, likeliest
from support.models import FACTORIES
from support.shorter import Shown, compare
from support.tower_reference import best, cdpruner
from support.tower_scene import SAMPLES, Scene, build, counts_of, holds

RAGGED = [["square", "tiles"], [], ["large"]]


def instruction(scene: Scene, b: int) -> torch.Tensor:
    """Embeddings of the text after the last image."""
    after = max(picture.rows[-1] for picture in scene.pictures[b]) + 1
    return scene.hidden_BND[b, after:]


@pytest.mark.parametrize("theta", [None, 0.0, 0.7])
@pytest.mark.parametrize("keep", [0.1, 2, 5, 9])
@pytest.mark.parametrize("samples", [RAGGED, [["tower"]]])
def test_it_keeps_what_the_reference_keeps(samples, keep, theta):
    scene, method = build(samples, seed=2), CDPruner(keep=keep, theta=theta)
    choice = scene.choose(method)
    assert choice.rewrite is None and choice.counts is None
    for b, sample in enumerate(scene.pictures):
        for image, picture in enumerate(sample):
            words, asked = instruction(scene, b), scene.evidence(method).keep[b][image]
            picked = cdpruner(scene.hidden_BND[b, picture.rows], words, asked, theta)
            assert [r - picture.first for r in picture.rows if choice.keep_BN[b, r]] == picked


@given(SAMPLES, st.sampled_from([0.0, 0.1, 0.5, 0.97, 1.0, 2, 9, 64]), st.integers(0, 99))
def test_properties(samples, keep, seed):
    scene, choice = holds(CDPruner(keep=keep), samples, True, seed)
    assert counts_of(scene.evidence(CDPruner(keep=keep)), choice) == scene.evidence(CDPruner(keep=keep)).keep


@pytest.mark.parametrize("name", ["llava-llama", "llava_next-llama"])
def test_it_equals_a_shorter_prompt(name):
    tiny = FACTORIES[name](layers=3)
    embed = tiny.model.get_input_embeddings()

    def account(image: Shown) -> list[torch.Tensor]:
        return [image.states_ND[n] for n in cdpruner(image.states_ND, words, 7)]

    given = tiny.singles([[2, (24, 48), 3, (48, 24), 4]], seed=2)[0]
    words = embed(given["input_ids"][0, -4:]).detach()
    compare(tiny, "cdpruner(keep=7)", "made", account, [[2, (24, 48), 3, (48, 24), 4]])


def test_relevance_alone_decides_among_rows_that_are_all_unlike():
    x, relevance = torch.eye(12)[None], torch.linspace(0.1, 1, 12)[None]
    picked = likeliest(x, relevance, torch.ones(1, 12).bool(), (5,))
    assert picked[0].nonzero()[:, 0].tolist() == [7, 8, 9, 10, 11]


def test_equal_rows_count_once_and_what_adds_nothing_comes_by_relevance():
    x = torch.eye(6)[[0] * 8 + [1, 2]][None]
    relevance = torch.tensor([[0.3, 0.9, 0.8, 0.2, 0.1, 0.7, 0.6, 0.5, 0.4, 0.35]])
    one = likeliest(x, relevance, torch.ones(1, 10).bool(), (5,))[0].nonzero()[:, 0].tolist()
    assert one == [1, 2, 5, 8, 9]
    assert best({i: float(r) for i, r in enumerate(relevance[0, :8])}, 3) == [1, 2, 5]


def test_of_rows_that_differ_by_rounding_alone_the_first_is_taken():
    x = torch.eye(6)[[0, 1, 2, 2, 2, 3]][None]
    relevance = torch.tensor([[0.2, 0.3, 0.9, 0.9 + 1e-6, 0.9 + 2e-6, 0.4]])
    for keep, picked in ((1, [2]), (3, [1, 2, 5])):
        assert likeliest(x, relevance, torch.ones(1, 6).bool(), (keep,))[0].nonzero()[:, 0].tolist() == picked


def test_another_instruction_keeps_other_rows_and_theta_of_zero_does_not_hear_it():
    heard, deaf = [], []
    for seed in range(4):
        scene = build([["large"]], seed=3)
        words = instruction(scene, 0)
        words.copy_(torch.randn(words.shape, generator=torch.Generator().manual_seed(seed)))
        heard.append(scene.choose(CDPruner(keep=5)).keep_BN)
        deaf.append(scene.choose(CDPruner(keep=5, theta=0.0)).keep_BN)
    assert any(not torch.equal(heard[0], other) for other in heard[1:])
    assert all(torch.equal(deaf[0], other) for other in deaf[1:])


@torch.no_grad()
def test_where_nothing_follows_the_image_all_text_is_the_instruction():
    tiny = FACTORIES["llava-llama"](layers=2)
    given = tiny.batch([[6, (24, 24)]], seed=1)
    states = tiny.model.get_image_features(pixel_values=given["pixel_values"]).pooler_output[0]
    words = tiny.model.get_input_embeddings()(given["input_ids"][0, :6])
    with apply(tiny.model, "cdpruner(keep=6)") as handle, handle.tracing() as traces:
        tiny.model(**given)
    assert [row - 6 for row in traces[0].kept(0)[0]] == cdpruner(states, words, 6)


@pytest.mark.parametrize("theta", [-0.1, 1, "much"])
def test_a_weight_out_of_range_is_refused(theta):
    with pytest.raises(ValueError, match="cdpruner: theta is a weight from 0 to below 1"):
        CDPruner(theta=theta)
