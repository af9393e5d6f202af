"""What plans cost beside the dense model, from row counts alone, so that a search can price thousands (pure).

What a layer costs hangs on three things: how many visual rows are alive in it, whether they attend, and
whether they pass the FFN. A ``Meter`` says what that is (FLOPs, rows of the KV cache, seconds); a ``Pricer``
counts the rows of a plan and adds up.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

import torch

from saccade.core.calls import blocks
from saccade.core.layout import Layout, prefix_of
from saccade.core.pricing import scoring_flops
from saccade.core.program import in_order, scoring_of
from saccade.core.route import Route
from saccade.core.rows import RowIndex
from saccade.core.shapes import LayerShape, ModelShape
from saccade.core.sight_rule import SightRule
from saccade.core.stages import Scoring
from saccade.methods import BudgetMethod, Method
from saccade.methods.reducer import Reducer
from saccade.methods.resize import Resize
from saccade.plans.budget import as_processed
from saccade.plans.plan import Plan

Prompts = Mapping[tuple[int, int], float]
"""How often each (visual rows, text rows) occurs."""


_CAUSAL = SightRule()


@dataclass(frozen=True)
class Rows:
    """What one layer works on in one prompt of one image.

    Attributes:
        visual: Visual rows alive.
        text: Text rows.
        query: Whether the visual rows attend.
        ffn: Whether they pass the FFN.
        whole: Whether no row of the prompt was dropped.
        size: Sizes of the layer; of one that is causal where they do not matter.
    """

    visual: int
    text: int
    query: bool = True
    ffn: bool = True
    whole: bool = True
    size: LayerShape | None = None

    @property
    def rule(self) -> SightRule:
        """Who sees whom in the layer."""
        return _CAUSAL if self.size is None else self.size.rule

    @property
    def alive(self) -> int:
        """Rows with K and V."""
        return self.visual + self.text

    @property
    def asking(self) -> int:
        """Rows that attend."""
        return self.alive if self.query else self.text

    @property
    def fed(self) -> int:
        """Rows that pass the FFN."""
        return self.alive if self.ffn else self.text

    @property
    def held(self) -> int:
        """Rows in the layer's cache once the prompt is over."""
        if self.size is not None and self.size.recurrent is not None:
            return 0
        return self.alive if self.rule.span is None else min(self.alive, self.rule.span - 1)

    @property
    def pairs(self) -> int:
        """Pairs of query and key that attention calls compute (``saccade.core.calls.blocks``)."""
        if self.rule != _CAUSAL:
            return _pairs(self)
        if self.query or not self.visual or not self.whole:
            return self.asking * self.alive
        first = prefix_of(self.text)
        return first * first + (self.text - first) * self.alive


@lru_cache(maxsize=4096)
def _pairs(rows: Rows) -> int:
    """The same where rows do not see just all before them: the calls themselves are laid out."""
    stock = rows.whole and (rows.query or not rows.visual)
    if stock or not (rows.query or rows.whole):
        return rows.asking * rows.alive
    layout = Layout.single(rows.visual, rows.text)
    full = RowIndex.from_mask(torch.ones_like(layout.visual_BN))
    asking = full if rows.query else RowIndex.from_mask(layout.text_BN)
    calls = blocks(asking, full, same=rows.query, sight=rows.rule.sight(layout))
    assert calls is not None
    return sum((call.stop - call.start) * (call.keys - call.first) for call in calls)


class Meter(ABC):
    """What one thing costs; all costs of a meter are of one unit and add up.

    Attributes:
        name: Of what it is, as tables have it: ``FLOPs``, ``KV cache``, ``time here``, ``time on h100``.
    """

    name: str

    @abstractmethod
    def layer(self, rows: Rows) -> float:
        """One decoder layer of one prompt."""

    def scoring(self, scoring: Scoring) -> float:
        """Score rows of one decision."""
        return 0.0

    def decision(self, method: Method, visual: int, text: int) -> float:
        """What taking one decision, or making pictures smaller, costs beside its score rows."""
        return 0.0

    def prompt(self, visual: int, text: int, plan: Plan) -> float:
        """What comes before and after the layers, once a prompt.

        Args:
            visual: Visual rows of the prompt, of pictures that are small already where a plan makes them so.
            text: Its text rows.
            plan: A resolved plan, which may look at the tower or merge in it.
        """
        return 0.0


class FlopsMeter(Meter):
    """FLOPs that the engine dispatches: matrix products of the decoder's layers, score rows among them."""

    name = "FLOPs"

    def __init__(self, shape: ModelShape) -> None:
        self.shape = shape

    def layer(self, rows: Rows) -> float:
        one = rows.size or self.shape.each_layer[0]
        kept = one.kept_flops * rows.alive + one.ffn_dispatched * rows.fed
        if one.recurrent is not None:
            return float(kept + one.recurrent.chunk_flops(rows.alive))
        return float(kept + one.asking_flops * rows.asking + 4 * one.query_width * rows.pairs)

    def scoring(self, scoring: Scoring) -> float:
        return float(scoring_flops(self.shape, scoring))


class CacheMeter(Meter):
    """Rows that decoding starts from, summed over the layers: the KV cache, whatever a number takes."""

    name = "KV cache"

    def layer(self, rows: Rows) -> float:
        return float(rows.held)


@dataclass(frozen=True)
class Pricer:
    """Prices plans on some prompts, as shares of what the dense model costs on them.

    Attributes:
        meter: What is counted.
        shape: Sizes of the decoder.
        prompts: The prompts.
        own: A plan that belongs to the model and runs under any other.
        shorter: The prompts as a plan makes them that shrinks pictures, for where these are cut into tiles
            their rows do not follow their area; by the area if None.
    """

    meter: Meter
    shape: ModelShape
    prompts: Prompts
    own: Plan = field(default_factory=Plan)
    shorter: Callable[[Plan], Prompts] | None = None
    _memo: dict[str, float] = field(default_factory=dict, repr=False, compare=False)

    def ratio(self, plan: Plan) -> float:
        """Cost of a resolved plan over that of the dense model, of totals over the prompts."""
        key = plan.spec
        if key not in self._memo:
            self._memo[key] = self._total(plan) / self._total(Plan())
        return self._memo[key]

    def _total(self, plan: Plan) -> float:
        if self.own.methods:
            plan = plan.over(self.own)
        prompts = self.prompts
        once = sum(
            weight * self.meter.decision(method, *prompt)
            for method in plan.shortening
            for prompt, weight in prompts.items()
        )
        if plan.shortening and self.shorter is not None:
            prompts = self.shorter(plan)
            plan = at_size(plan)
        sets = visual_sets(plan, self.shape.layers)
        return once + sum(
            weight * (self._routed(plan, *prompt) if sets is None else self._counted(plan, sets, *prompt))
            for prompt, weight in prompts.items()
        )

    def _counted(
        self, plan: Plan, sets: tuple[tuple[bool, bool, bool], ...], visual: int, text: int
    ) -> float:
        meter, layers = self.meter, self.shape.layers
        for method in plan.shortening:
            visual = method.visual_rows(visual)
        views = self.shape.views(visual)
        total = meter.prompt(visual, text, plan)
        stages = list(in_order([stage for method in plan.methods for stage in method.stages(layers)]))
        alive, original, starts = visual, visual, dict[int, int]()
        seen: Counter[tuple[int, bool, bool, LayerShape]] = Counter()
        for number, ((here, query, ffn), size) in enumerate(zip(sets, self.shape.each_layer, strict=True)):
            alive = alive if here else 0
            while stages and stages[0].before == number:
                stage = stages.pop(0)
                start = starts.setdefault(id(stage.by), alive)
                keep = min(alive, max(0, stage.by.kept(stage, alive, start, original, views)))
                if keep != alive:
                    scoring = scoring_of(stage, text, alive)
                    total += 0.0 if scoring is None else meter.scoring(scoring)
                    total += meter.decision(stage.by, alive, text)  # type: ignore[arg-type]
                    alive = keep
            seen[alive, query, ffn, size] += 1
        for (alive, query, ffn, size), count in seen.items():
            total += count * meter.layer(Rows(alive, text, query, ffn, alive == original, size))
        return total

    def _routed(self, plan: Plan, visual: int, text: int) -> float:
        """By the route itself, for plans whose row sets are not all of the visual rows or none."""
        layout = Layout.single(visual, text, views=self.shape.views(visual))
        route = plan.route(as_processed(plan, layout), self.shape.layers)
        total = self.meter.prompt(int(route.layout.visual_BN.sum()), text, plan)
        total += sum(self.meter.scoring(scoring) for scoring in route.scorings)
        seen = route.layout.visual_BN
        for layer, size in zip(route.layers, self.shape.each_layer, strict=True):
            alive, query, ffn = (
                int((rows & seen).sum()) for rows in (layer.alive_BN, layer.query_BN, layer.ffn_BN)
            )
            least = Rows(alive, text, False, False, alive == int(seen.sum()), size)
            bare, asked, fed = (
                self.meter.layer(each)
                for each in (least, replace(least, query=True), replace(least, ffn=True))
            )
            shares = [rows / alive if alive else 0.0 for rows in (query, ffn)]
            total += bare + shares[0] * (asked - bare) + shares[1] * (fed - bare)
        return total


def at_size(plan: Plan) -> Plan:
    """A plan on pictures that are as small already as it makes them."""
    return Plan(tuple(method for method in plan.methods if method not in plan.shortening))


@lru_cache(maxsize=4096)
def _sets(methods: tuple[Method, ...], layers: int) -> tuple[tuple[bool, bool, bool], ...] | None:
    layout = Layout.single(1, 2)
    route = Plan(methods).route(layout, layers) if methods else Route.dense(layout, layers)
    if any(layer.visibility != "causal" for layer in route.layers):
        return None

    def holds(rows_BN: torch.Tensor) -> bool:
        return bool((rows_BN & layout.visual_BN).any())

    return tuple((holds(one.alive_BN), holds(one.query_BN), holds(one.ffn_BN)) for one in route.layers)


def visual_sets(plan: Plan, layers: int) -> tuple[tuple[bool, bool, bool], ...] | None:
    """For every layer whether visual rows may be alive, attend and pass the FFN, decisions on the way aside.

    None where some do and some do not, or they see only a part of what is alive.
    """
    if not all(isinstance(method, (BudgetMethod, Reducer, Resize)) for method in plan.methods):
        return None
    return _sets(tuple(method for method in plan.methods if isinstance(method, BudgetMethod)), layers)


def typical(prompts: Prompts, most: int = 8) -> dict[tuple[int, int], float]:
    """A few prompts that stand for many: of images of like size one, with the mean of their text rows.

    Costs are nearly linear in the text, and a mean between two whole numbers is given by both.

    Args:
        prompts: All of them.
        most: Groups of images of like size, at most.
    """
    ordered = sorted(prompts.items())
    sizes = sorted({visual for visual, _ in prompts})
    total = sum(prompts.values())
    groups: dict[int, list[tuple[tuple[int, int], float]]] = {}
    before = 0.0
    for prompt, weight in ordered:
        group = sizes.index(prompt[0]) if len(sizes) <= most else int(most * before / total)
        groups.setdefault(group, []).append((prompt, weight))
        before += weight
    found: dict[tuple[int, int], float] = {}
    for members in groups.values():
        weight = sum(w for _, w in members)
        visual = round(sum(v * w for (v, _), w in members) / weight)
        text = sum(t * w for (_, t), w in members) / weight
        low, share = int(text), text - int(text)
        for rows, part in ((low, 1 - share), (low + 1, share)):
            if part > 0:
                found[visual, rows] = found.get((visual, rows), 0.0) + weight * part
    return found
