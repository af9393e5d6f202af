"""Routes compose by intersection and never bring a dropped row back."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saccade.core.layout import Layout
from saccade.core.route import LayerRoute, Route, compose
from saccade.plans.plan import Plan

ROWS, LAYERS = 6, 3
rows = st.lists(st.booleans(), min_size=ROWS, max_size=ROWS).map(lambda r: torch.tensor([r]))
LAYOUT = Layout.from_mask(torch.tensor([[False, True, True, False, True, False]]))


@st.composite
def routes(draw):
    """Any consistent route: alive only shrinks, query and ffn lie inside it."""
    alive, layers = torch.ones(1, ROWS, dtype=torch.bool), []
    for _ in range(LAYERS):
        alive = alive & draw(rows) if draw(st.booleans()) else alive
        seen = draw(st.sampled_from(["causal", "text_and_self"]))
        layers.append(LayerRoute(alive, alive & draw(rows), alive & draw(rows), seen))
    return Route(LAYOUT, tuple(layers)).check()


def same(a: Route, b: Route) -> bool:
    return all(
        torch.equal(x.alive_BN, y.alive_BN)
        and torch.equal(x.query_BN, y.query_BN)
        and torch.equal(x.ffn_BN, y.ffn_BN)
        and x.visibility == y.visibility
        for x, y in zip(a.layers, b.layers, strict=True)
    )


@given(routes(), routes())
def test_composition_intersects_and_is_consistent(a, b):
    both = compose([a, b]).check()
    for x, y, z in zip(a.layers, b.layers, both.layers, strict=True):
        assert torch.equal(z.alive_BN, x.alive_BN & y.alive_BN)
        assert torch.equal(z.query_BN, x.query_BN & y.query_BN & z.alive_BN)
        assert torch.equal(z.ffn_BN, x.ffn_BN & y.ffn_BN & z.alive_BN)
        assert (z.visibility == "causal") == (x.visibility == y.visibility == "causal")


@given(routes(), routes(), routes())
def test_order_and_grouping_do_not_matter(a, b, c):
    assert same(compose([a, compose([b, c])]), compose([compose([a, b]), c]))
    assert same(compose([a, b, c]), compose([c, a, b]))


@given(routes())
def test_dense_is_neutral_and_twice_is_once(a):
    assert same(compose([a, Route.dense(LAYOUT, LAYERS)]), a)
    assert same(compose([a, a]), a) and compose([a]) is a


@given(routes())
def test_counts_are_sums(a):
    for (alive, query, ffn), layer in zip(a.counts(), a.layers, strict=True):
        assert (alive, query, ffn) == (
            int(layer.alive_BN.sum()),
            int(layer.query_BN.sum()),
            int(layer.ffn_BN.sum()),
        )


def test_reviving_or_asking_without_being_alive_is_refused():
    full, part = torch.ones(1, ROWS, dtype=torch.bool), torch.zeros(1, ROWS, dtype=torch.bool)
    with pytest.raises(ValueError, match="revives"):
        Route(LAYOUT, (LayerRoute(part, part, part), LayerRoute(full, part, part))).check()
    with pytest.raises(ValueError, match="query"):
        Route(LAYOUT, (LayerRoute(part, full, part),)).check()
    with pytest.raises(ValueError, match="ffn"):
        Route(LAYOUT, (LayerRoute(part, part, full),)).check()
    with pytest.raises(ValueError, match="fit"):
        Route(LAYOUT, (LayerRoute(full[:, :3], full[:, :3], full[:, :3]),)).check()


def test_only_like_routes_compose():
    other = Layout.from_mask(LAYOUT.visual_BN)
    for bad in (
        [],
        [Route.dense(LAYOUT, 2), Route.dense(LAYOUT, 3)],
        [Route.dense(LAYOUT, 2), Route.dense(other, 2)],
    ):
        with pytest.raises(ValueError):
            compose(bad)


def test_layers_share_their_sets():
    """Index work is done once per distinct set, so equal sets are one tensor."""
    layers = Plan.of("vskip(layers=0-9)+vtw(layer=20)").route(LAYOUT, 32).layers
    assert len({id(s) for layer in layers for s in (layer.alive_BN, layer.query_BN, layer.ffn_BN)}) <= 4


def test_is_dense():
    dense = Route.dense(LAYOUT, 1).layers[0]
    assert dense.is_dense
    assert not LayerRoute(dense.alive_BN, dense.query_BN, dense.ffn_BN, "text_and_self").is_dense
    assert not LayerRoute(dense.alive_BN, LAYOUT.text_BN, dense.ffn_BN).is_dense
