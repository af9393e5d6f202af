"""The program of a forward: what is fixed beforehand, and what is decided on the way (pure).

Shape letters: B batch, N rows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from saccade.core.host import on_host
from saccade.core.layout import Layout, prefix_of
from saccade.core.route import LayerRoute, Route
from saccade.core.select import count, top
from saccade.core.stages import Counts, Scoring, Stage


@dataclass(frozen=True, eq=False)
class Program:
    """Row sets known beforehand, and the stages that cut further.

    Attributes:
        route: What the static methods say.
        stages: Decisions, in the order they are taken.
    """

    route: Route
    stages: tuple[Stage, ...] = ()

    @on_host
    def nominal(self) -> Route:
        """A route that costs what a real one does: as many rows as each stage keeps, chosen blindly."""
        layout, route = self.route.layout, self.route
        tally, alive_BN = Tally(route, self.stages), layout.visual_BN
        for stage in self.stages:
            found, keep = tally.reach(stage, functools.partial(_itself, alive_BN))
            if keep == found:
                continue
            scoring = expected_scoring(stage, layout, found)
            candidates_BN = alive_BN & self.route.layers[stage.before].alive_BN
            level_BN = candidates_BN.float()
            if stage.last:
                ends = tuple(tuple(stage.last for _ in sample) for sample in found)
                place_BN = torch.arange(layout.rows).expand_as(level_BN).float()
                level_BN = level_BN + top(place_BN, candidates_BN, layout.image_BN, ends)
            alive_BN = top(level_BN, candidates_BN, layout.image_BN, keep)
            tally.cut(keep)
            route = narrowed(route, stage.before, layout.text_BN | alive_BN)
            route = replace(route, scorings=(*route.scorings, *([scoring] if scoring else [])))
        return route


def _itself(mask_BN: torch.Tensor) -> torch.Tensor:
    return mask_BN


def in_order(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """Stages in the order they are reached: by layer, those that look back first, then as given."""
    return tuple(sorted(stages, key=lambda s: (s.before, s.look.layer and s.look.moment == "before")))


def narrowed(route: Route, first: int, rows_BN: torch.Tensor) -> Route:
    """The same route with every set cut down to some rows from a layer on; equal sets stay one tensor."""
    memo: dict[int, torch.Tensor] = {}
    layers: dict[int, LayerRoute] = {}

    def cut(set_BN: torch.Tensor) -> torch.Tensor:
        if id(set_BN) not in memo:
            found = set_BN & rows_BN
            same = next((s for s in (set_BN, rows_BN) if torch.equal(s, found)), None)
            memo[id(set_BN)] = found if same is None else same
        return memo[id(set_BN)]

    def layer(one: LayerRoute) -> LayerRoute:
        if id(one) not in layers:
            sets = (cut(one.alive_BN), cut(one.query_BN), cut(one.ffn_BN))
            layers[id(one)] = LayerRoute(*sets, one.visibility, one.cached_BN)
        return layers[id(one)]

    return replace(route, layers=(*route.layers[:first], *(layer(one) for one in route.layers[first:])))


class Tally:
    """How many visual rows of every image are alive, kept on the host while stages are decided.

    What the static methods do between the stages is read off beforehand, so that coming to a stage is
    arithmetic alone.

    Attributes:
        alive: Visual rows of every image that are alive now.
    """

    def __init__(self, route: Route, stages: Sequence[Stage]) -> None:
        """Counts every image's rows."""
        self.layout, self.alive = route.layout, route.layout.counts
        self._starts: dict[int, Counts] = {}
        self._meets: dict[int, torch.Tensor | None] = {}
        before_BN, visual_BN = torch.ones_like(self.layout.visual_BN), self.layout.visual_BN
        self._falls: dict[int, Literal["nothing", "everything", "some"]] = {}
        for first in sorted({stage.before for stage in stages}):
            static_BN = route.layers[first].alive_BN
            lost = bool((before_BN & ~static_BN & visual_BN).any())
            left = bool((static_BN & visual_BN).any())
            self._falls[first] = "nothing" if not lost else "some" if left else "everything"
            self._meets[first] = static_BN if bool((visual_BN & ~static_BN).any()) else None
            before_BN = static_BN

    def reach(self, stage: Stage, mask: Callable[[], torch.Tensor]) -> tuple[Counts, Counts]:
        """Comes to a stage.

        Args:
            stage: The stage.
            mask: Gives the visual rows that earlier decisions have left, (B, N) on the host; called only
                where a static method has dropped part of them meanwhile.

        Returns:
            Rows that the stage finds and rows that it keeps, for every image.
        """
        # What falls away on the way to a layer does so once.
        falls = self._falls.get(stage.before, "nothing")
        self._falls[stage.before] = "nothing"
        static_BN = self._meets[stage.before]
        if falls == "everything":
            self.alive = tuple(tuple(0 for _ in sample) for sample in self.alive)
        elif falls == "some" and static_BN is not None:
            left_BN = mask() & static_BN & self.layout.visual_BN
            self.alive = count(left_BN, self.layout.image_BN, self.alive)
        if stage.number == 0:
            self._starts[id(stage.by)] = self.alive
        starts = self._starts[id(stage.by)]
        counts = self.layout.counts
        views = self.layout.views or tuple(tuple(() for _ in sample) for sample in counts)
        keep = tuple(
            tuple(
                min(found, max(0, stage.by.kept(stage, found, start, original, cut)))
                for found, start, original, cut in zip(*sample, strict=True)
            )
            for sample in zip(self.alive, starts, counts, views, strict=True)
        )
        return self.alive, keep

    def meets(self, stage: Stage) -> torch.Tensor | None:
        """The static rows that a stage's candidates must be among, on the host; None where all are."""
        return self._meets[stage.before]

    def cut(self, keep: Counts) -> None:
        """Notes what a decision has left."""
        self.alive = keep


def expected_scoring(stage: Stage, layout: Layout, found: Counts) -> Scoring | None:
    """What a stage's score rows cost; rows of the method's own choice are taken as half of the text."""
    if not stage.look.layer:
        return None
    text = int(layout.text_BN.sum(1).max()) if layout.batch else 0
    return scoring_of(stage, text, max((sum(sample) for sample in found), default=0))


def scoring_of(stage: Stage, text: int, visual: int) -> Scoring | None:
    """The same for a prompt of so many text rows, of whose visual rows so many are alive."""
    if not stage.look.layer:
        return None
    after = {"nothing": 0, "last": 1, "readers": visual + text - prefix_of(text)}
    asking = after.get(stage.look.ask, text // 2)
    return Scoring(asking, text + visual, stage.look.moment == "before")
