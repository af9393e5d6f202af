"""What a plan means for a prompt, in the words of the reference.

What a layer method does is written down here once more, from the papers. Other methods say their row sets,
given the visual rows that were found by changing the picture; which rows a deciding method kept is taken from
the trace of the forward that is judged, and everything that follows from it is not.

Shape letters: N rows of the prompt, D hidden.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from saccade.check.reference import Account, Mix, Sets
from saccade.core.layout import Layout
from saccade.methods import Method
from saccade.plans.plan import Plan

LOSES: Mapping[str, frozenset[str]] = {
    "vskip": frozenset({"asks"}),
    "ffn_skip": frozenset({"fed"}),
    "shortv": frozenset({"asks", "fed"}),
    "vtw": frozenset({"seen", "asks", "fed"}),
}
"""What visual rows lose in a layer that a method touches, by the method's name."""


@dataclass(frozen=True, eq=False)
class ReferenceCut:
    """A decision that was taken, for one prompt.

    Attributes:
        before: First layer that runs with what is left.
        alive_N: Visual rows that are left.
        compact: Whether positions closed up.
        rows_N: Rows with new contents.
        weights_NN: What each of them is made of; None where nothing is.
    """

    before: int
    alive_N: torch.Tensor
    compact: bool
    rows_N: torch.Tensor
    weights_NN: torch.Tensor | None


@dataclass(frozen=True, eq=False)
class Contents:
    """What visual rows hold where they merged in the vision tower, taken from the forward that is judged.

    Attributes:
        before: The layer that is the first to get them.
        rows_ND: Its input.
        every: Whether all rows that are left are taken, or only those that the trace says are new: tokens
            that merge inside a tower change all others.
    """

    before: int
    rows_ND: torch.Tensor
    every: bool


def account(
    plan: Plan,
    depth: int,
    visual_N: torch.Tensor,
    cuts: Sequence[ReferenceCut] = (),
    contents: Contents | None = None,
    pictures: Sequence[int] | None = None,
) -> Account:
    """What a plan means for one prompt.

    Args:
        plan: The plan, its layers known.
        depth: Decoder layers.
        visual_N: Visual rows, found by changing the picture.
        cuts: Decisions that were taken on the way.
        contents: What rows hold, where merged rows cannot be made of the decoder's.
        pictures: Visual rows of every picture; each unbroken run is one if omitted.
    """
    methods = [_sets(method, depth, visual_N, pictures) for method in plan.methods]
    layers = [_both([sets[number] for sets in methods], visual_N) for number in range(depth)]
    mixes = []
    for cut in cuts:
        left_N = ~visual_N | cut.alive_N
        gone_N = (visual_N & ~cut.alive_N).long()
        for number in range(cut.before, depth):
            one = layers[number]
            moved_N = gone_N.cumsum(0) - gone_N if cut.compact else one.moved_N
            parts = (one.seen_N & left_N, one.asks_N & left_N, one.fed_N & left_N)
            layers[number] = Sets(*parts, one.apart_N, one.lasting_N, moved_N)
        given = contents if contents is not None and contents.before == cut.before else None
        if cut.weights_NN is not None or given is not None:
            own = torch.eye(len(visual_N))
            made = own if cut.weights_NN is None else cut.weights_NN
            weights_NN = torch.where(cut.rows_N[:, None], made, own)
            rows_N = cut.alive_N if given is not None and given.every else cut.rows_N
            mixes.append(Mix(cut.before, rows_N, weights_NN, None if given is None else given.rows_ND))
    return Account(_shared(layers), tuple(mixes))


def _sets(method: Method, depth: int, visual_N: torch.Tensor, pictures: Sequence[int] | None) -> list[Sets]:
    """Row sets of one method in every layer."""
    rows = len(visual_N)
    dense = Account.dense(rows, 1).sets[0]
    if method.name in LOSES and (method.name != "vskip" or getattr(method, "reading", None) != "mask"):
        layers = getattr(method, "layers", None)
        touched = range(getattr(method, "layer", depth), depth) if layers is None else layers
        lost = {f"{name}_N": ~visual_N for name in LOSES[method.name]}
        cut = replace(dense, **lost)
        return [cut if number in touched else dense for number in range(depth)]
    layout = Layout.from_mask(visual_N[None], None, None if pictures is None else [list(pictures)])
    found, memo = [], {}
    for layer in method.route(layout, depth).layers:
        if id(layer) not in memo:
            apart_N = visual_N if layer.visibility == "text_and_self" else dense.apart_N
            lasting_N = dense.lasting_N if layer.cached_BN is None else layer.cached_BN[0]
            parts = (layer.alive_BN[0], layer.query_BN[0], layer.ffn_BN[0])
            memo[id(layer)] = Sets(*parts, apart_N, lasting_N, dense.moved_N)
        found.append(memo[id(layer)])
    return found


def _both(several: Sequence[Sets], visual_N: torch.Tensor) -> Sets:
    """What is left of one layer's rows under several methods at once."""
    found = Account.dense(len(visual_N), 1).sets[0]
    for sets in several:
        found = Sets(
            found.seen_N & sets.seen_N,
            found.asks_N & sets.asks_N & sets.seen_N,
            found.fed_N & sets.fed_N & sets.seen_N,
            found.apart_N | sets.apart_N,
            found.lasting_N & sets.lasting_N,
            found.moved_N,
        )
    # A row that one method hides asks and is fed in no other either.
    return replace(found, asks_N=found.asks_N & found.seen_N, fed_N=found.fed_N & found.seen_N)


def _shared(layers: Sequence[Sets]) -> tuple[Sets, ...]:
    """Equal layers as one object, so that masks are made once."""
    kept: list[Sets] = []
    for one in layers:
        parts = tuple(vars(one).values())
        same = (
            other for other in kept[-1:] + kept[:1]
            if all(torch.equal(a, b) for a, b in zip(vars(other).values(), parts, strict=True))
        )  # fmt: skip
        kept.append(next(same, one))
    return tuple(kept)
