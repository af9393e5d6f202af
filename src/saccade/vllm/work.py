"""What a plan comes to inside vLLM: what visual rows do in every layer, and who drops them before the
decoder.

vLLM schedules rows of many prompts in one step, and a picture may be split over several. What is known of a
row there is whether it is visual, so a plan is served where that says what the row does in every layer. This
asks the methods for their row sets and their stages as the engine does, and knows none of them by name.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from saccade.core.layout import Layout
from saccade.core.route import LayerRoute
from saccade.core.stages import Look, Stage
from saccade.families import find
from saccade.methods import Method
from saccade.plans.plan import Plan

PROBE = Layout.single(visual=7, text=6, prefix=3)
"""A prompt whose row sets are looked at."""


LOOKED_INTO = {"clip_vision_model": (), "internvl_vision": (-1,)}
"""Vision towers of vLLM that can be looked into, all with a CLS row, and the states that features may be of
there; any one where none is named."""
MARKED = ("pixtral",)
"""Vision towers whose rows have marks among them in the prompt, one after each line."""


@dataclass(frozen=True)
class ServedModel:
    """What of a model a plan has to fit inside vLLM.

    Attributes:
        layers: Depth of the decoder.
        closes_up: Whether positions can close up over rows that go (``Family.compact_positions``).
        recurs: Whether some layers mix rows through a state.
        shows: Whether its vision tower can be looked into.
        marked: Whether marks stand among the rows of a picture.
    """

    layers: int
    closes_up: bool = True
    recurs: bool = False
    shows: bool = False
    marked: bool = False

    @classmethod
    def of(cls, config: Any) -> ServedModel:
        """That of a configuration of transformers."""
        family = find(config)
        shape, tower = family.shape(config), config.vision_config.model_type
        state = getattr(config, "vision_feature_layer", None)
        shows = tower in LOOKED_INTO and isinstance(state, int) and state in (LOOKED_INTO[tower] or (state,))
        recurs, marked = shape.recurrent is not None, tower in MARKED
        return cls(shape.layers, family.compact_positions, recurs, shows, marked)


@dataclass(frozen=True)
class LayerWork:
    """What the visual rows of a prompt do in one layer; text rows do everything.

    Attributes:
        alive: Whether they have K and V, and can be attended to.
        asks: Whether they attend.
        feeds: Whether they pass the FFN.
    """

    alive: bool = True
    asks: bool = True
    feeds: bool = True

    @property
    def dense(self) -> bool:
        """Whether this is the stock layer."""
        return self.alive and self.asks and self.feeds


@dataclass(frozen=True, eq=False)
class PlanWork:
    """A plan that vLLM can run.

    Attributes:
        plan: The plan, its layers known.
        layers: What visual rows do in every layer.
        stages: Decisions before the decoder, in order; each says ``always`` or ``never`` of closing positions
            up.
    """

    plan: Plan
    layers: tuple[LayerWork, ...]
    stages: tuple[Stage, ...]

    @property
    def skips(self) -> bool:
        """Whether visual rows do less than all in some layer."""
        return not all(layer.dense for layer in self.layers)

    @cached_property
    def first_without(self) -> int | None:
        """The first layer without visual rows; no later one has any."""
        return next((n for n, layer in enumerate(self.layers) if not layer.alive), None)

    @property
    def gaps(self) -> bool:
        """Whether rows that go before the decoder leave gaps in the positions of the others."""
        return any(stage.compact == "never" for stage in self.stages)

    @property
    def looks(self) -> tuple[Look, ...]:
        """What its decisions want to see of the vision tower."""
        return tuple(stage.look for stage in self.stages if stage.look.tower is not None)

    @cached_property
    def digest(self) -> str:
        """What tells cached keys and values under this plan from others."""
        return hashlib.blake2b(self.plan.spec.encode(), digest_size=8).hexdigest()


def work_of(plan: Plan, model: ServedModel) -> PlanWork:
    """What a plan comes to inside vLLM.

    Args:
        plan: The plan.
        model: What it has to fit.

    Raises:
        ValueError: If it cannot be served exactly, in one line.
    """
    if plan.adapter is not None:
        raise ValueError(
            f"{plan.file or plan.spec} brings weights of its own, and vLLM runs the model's: merge them "
            "(saccade heal --merge) and serve that folder with the plan beside it"
        )
    found = plan.resolve(model.layers)
    for method in found.methods:
        _check_method(method)
    program = found.program(PROBE, model.layers)
    layers = tuple(_work_of_layer(found, n, route) for n, route in enumerate(program.route.layers))
    stages = tuple(stage.settled(model.closes_up) for stage in program.stages)
    for stage in stages:
        _check_stage(stage, model)
    _check_counts(found, stages)
    if stages and layers[0].alive is False:
        raise ValueError(f"{found.spec}: no visual row enters the decoder, so there are none to choose from")
    work = PlanWork(found, layers, stages)
    if model.recurs and work.first_without is not None:
        raise ValueError(
            f"{found.spec} is not served by vLLM on this model: its layers that recur would take rows into "
            "their state from which later ones are to be free; drop rows before the decoder instead"
        )
    return work


def _check_method(method: Method) -> None:
    reasons = {
        "frees rows of the KV cache once the prompt is read, and vLLM keeps them all": method.releases,
        "goes by a row's place in its picture, which a step of vLLM does not know": method.by_image,
        "merges tokens inside the vision tower, which is vLLM's own here": method.tower_merge is not None,
        "leaves patches out of the vision tower, which is vLLM's own here": method.tower_prune is not None,
    }
    _refuse(method, next((reason for reason, holds in reasons.items() if holds), None))


def _check_stage(stage: Stage, model: ServedModel) -> None:
    look, reason = stage.look, None
    if stage.before > 0:
        reason = "decides inside the decoder, from a whole prompt, and vLLM computes prompts in pieces"
    elif model.marked:
        # Prompts are written before it is known which rows stay, so the marks would not be where they were.
        reason = "chooses among rows that have marks between them, whose places vLLM is told too early"
    elif look.words:
        reason = "hears the prompt's words, and vLLM keeps the rows of a picture for other prompts too"
    elif look.tower == "reads":
        reason = "looks at a layer of the vision tower that reads the features, and vLLM runs none"
    elif (look != Look() or stage.unseen) and not model.shows:
        reason = "looks into the vision tower, which is vLLM's own here and shows nothing on this model"
    elif look != Look(tower=look.tower, received=look.received):
        reason = "looks at what vLLM does not show"
    elif stage.compact == "always" and not model.closes_up:
        reason = (
            "wants positions that close up, and this model's have several axes; take position_policy=keep"
        )
    _refuse(stage.by, reason)


def _check_counts(plan: Plan, stages: tuple[Stage, ...]) -> None:
    """Prompts are made before the tower has run: how many rows stay must be known without it."""
    looking = False
    for stage in stages:
        if looking and stage.rewrites and stage.look.tower is None:
            raise ValueError(
                f"{plan.spec} is not served by vLLM: how many rows {stage.by} makes of those that are chosen "
                "by the vision tower is known only then; leave one of the two out"
            )
        looking = looking or stage.look.tower is not None


def _refuse(what: object, reason: str | None) -> None:
    if reason is not None:
        raise ValueError(f"{what} is not served by vLLM: it {reason}")


def _work_of_layer(plan: Plan, number: int, route: LayerRoute) -> LayerWork:
    if route.visibility != "causal":
        raise ValueError(
            f"{plan.spec} is not served by vLLM: in layer {number} visual rows see text and themselves alone"
        )
    sets = (route.alive_BN, route.query_BN, route.ffn_BN)
    seen = [rows_BN[PROBE.visual_BN] for rows_BN in sets]
    told = all(bool(rows.all()) or not bool(rows.any()) for rows in seen)
    if not told or not all(bool(rows_BN[PROBE.text_BN].all()) for rows_BN in sets):
        raise ValueError(
            f"{plan.spec} is not served by vLLM: in layer {number} some visual rows do what others do not"
        )
    return LayerWork(*(bool(torch.all(rows)) for rows in seen))
