"""Which rows of a picture go on into the decoder, and where they then stand (pure).

A picture is decided on alone, by the plan's own methods: their budgets are per image, so that is what they do
to it in a prompt of any other pictures.

Shape letters: N rows of the picture, K rows that are kept, D decoder width, E what is added to rows later on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from saccade.core.layout import Layout
from saccade.core.precision import exact
from saccade.core.program import Tally
from saccade.core.stages import Evidence, Look, Vision
from saccade.engine.rewrite import Carried, rewritten
from saccade.engine.steps import closed_up
from saccade.engine.tower_vision import grid
from saccade.families import Added, Picture
from saccade.vllm.work import PlanWork


@dataclass(frozen=True, eq=False)
class Kept:
    """The rows of a picture that go on.

    Attributes:
        hidden_KD: What they hold.
        added_KE: What is added to them between layers, side by side; as many columns as there were.
        row_K: Which rows of the picture they are.
        place_K: Their positions, counted from the picture's first.
        span: Positions that the picture takes: the text after it goes on from there.
    """

    hidden_KD: torch.Tensor
    added_KE: torch.Tensor
    row_K: torch.Tensor
    place_K: torch.Tensor
    span: int


def layout_of(picture: Picture) -> Layout:
    """A prompt of one picture alone.

    Raises:
        ValueError: If it is none or several.
    """
    if len(picture.lengths) != 1:
        raise ValueError(f"one picture is decided on at a time, got {len(picture.lengths)}")
    layout = Layout.from_mask(torch.ones(1, picture.lengths[0], dtype=torch.bool), None, [[*picture.lengths]])
    sizes = picture.view_sizes
    return layout if sizes is None else replace(layout, views=(sizes,))


See = Callable[[Look, Layout, torch.Tensor], Vision]
"""Called with what a decision wants to see of the tower, the picture's layout, and its rows (1, N, D)."""


def kept_rows(
    work: PlanWork, picture: Picture, hidden_ND: torch.Tensor, added_NE: torch.Tensor, see: See | None = None
) -> Kept:
    """Decides which rows of a picture go on.

    Args:
        work: The plan.
        picture: What its rows are pictures of.
        hidden_ND: Its embeddings, as they would enter the decoder.
        added_NE: What the decoder adds to its rows after the first layers, of width 0 where it adds nothing.
        see: Tells what the vision tower knows; None where no decision looks at it.
    """
    layout, device = layout_of(picture), hidden_ND.device
    tally = Tally(work.plan.program(layout, len(work.layers)).route, work.stages)
    where = grid(picture, layout, torch.device("cpu"))
    hidden_BND, visual_BN = hidden_ND[None], layout.visual_BN.to(device)
    left_BN, gone_BN, span = visual_BN, torch.zeros_like(layout.image_BN, device=device), layout.rows
    features: list[torch.Tensor] = [added_NE]
    carried = Carried(Added("added", visual_BN, features))
    for stage in work.stages:
        found, keep = tally.reach(stage, left_BN.cpu)
        if keep == found:
            continue
        vision = None if see is None or stage.look.tower is None else see(stage.look, layout, hidden_BND)
        image_BN = layout.image_BN.to(device)
        evidence = Evidence(layout, left_BN, image_BN, found, keep, hidden_BND, grid=where, vision=vision)
        with exact(hidden_BND):
            choice = stage.by.choose(stage, evidence)
        counts = keep if choice.counts is None else choice.counts
        tally.cut(counts)
        left_BN = choice.keep_BN.to(device)
        if choice.rewrite is not None:
            carried.follow(choice.rewrite)
            hidden_BND = rewritten(hidden_BND, choice.rewrite)
        if stage.compact == "always":
            gone_BN, span = closed_up(visual_BN, left_BN).before_BN, counts[0][0]
    # The number of rows is known, so that nothing waits for the device.
    row_K = torch.argsort(~left_BN[0], stable=True)[: tally.alive[0][0]]
    return Kept(hidden_BND[0, row_K], carried[0][row_K], row_K, row_K - gone_BN[0, row_K], span)


def kept_count(work: PlanWork, picture: Picture) -> int:
    """How many rows of a picture go on, known before its embeddings are.

    Raises:
        ValueError: If none is left: a prompt has at least one row of each of its pictures.
    """
    if any(stage.rewrites and stage.look.tower is None for stage in work.stages):
        # Who makes new rows says only then how many; how many hangs on where rows lie, not on what they hold.
        blank = torch.zeros(picture.lengths[0], 1)
        count = len(kept_rows(work, picture, blank, blank[:, :0]).row_K)
    else:
        layout = layout_of(picture)
        tally = Tally(work.plan.program(layout, len(work.layers)).route, work.stages)
        for stage in work.stages:
            tally.cut(tally.reach(stage, lambda: layout.visual_BN)[1])
        count = tally.alive[0][0]
    if not count:
        raise ValueError(f"{work.plan.spec} leaves no row of a picture: keep at least one")
    return count


DIGIT = 128
"""Base in which whole numbers ride on embeddings: every number below it is exact in bfloat16."""
MOST = DIGIT**2
"""Positions that two digits can say."""


def written(numbers_KA: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Whole numbers as columns of an embedding (K, 2A), exact in any floating point type."""
    return torch.cat((numbers_KA // DIGIT, numbers_KA % DIGIT), dim=1).to(like.dtype)


def read(columns_K2A: torch.Tensor) -> torch.Tensor:
    """What ``written`` wrote (K, A)."""
    high, low = columns_K2A.long().chunk(2, dim=1)
    return high * DIGIT + low


def axes_of(picture: Picture) -> torch.Tensor:
    """Frame, line and column of every row of a picture (N, 3), for positions of several axes."""
    return torch.stack((picture.plane_R, picture.line_R, picture.column_R), dim=1)


def check_sizes(pictures: Sequence[Picture]) -> None:
    """Refuses pictures whose places cannot be said.

    Raises:
        ValueError: If one has too many rows.
    """
    longest = max((length for picture in pictures for length in picture.lengths), default=0)
    if longest >= MOST:
        raise ValueError(f"a picture of {longest} rows is too large for a plan in vLLM: at most {MOST - 1}")
