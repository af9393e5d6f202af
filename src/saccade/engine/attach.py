"""Attaching a plan to one model instance, and taking it off without a trace."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from saccade.core.layout import Layout
from saccade.core.recurrence import check_looks
from saccade.core.stages import Grid, Stage, Vision
from saccade.engine.blocks import Blocks
from saccade.engine.forward import Forward, Handover
from saccade.engine.given import Given
from saccade.engine.healed import put_on
from saccade.engine.layers import AttentionStandIn, MixerStandIn, MlpStandIn, RecurrentStandIn, RowHandover
from saccade.engine.made_for import check_made_for
from saccade.engine.resolution import FullSize
from saccade.engine.swap import swap_forward
from saccade.engine.tower import TowerTap, allow_other_sizes
from saccade.engine.trace import Trace
from saccade.families import Family, find, unwrap
from saccade.plans.plan import Plan, PlanLike


def apply(
    model: nn.Module, plan: PlanLike, *, force: bool = False, strict: bool = False, resident: bool = False
) -> Attachment:
    """Attaches a plan to a model; only this instance is touched.

    A plan that belongs to the model (``resident``: it was trained with it) stays in force under any other:
    the two compose, the model's own first, unless both are of the same method.

    Args:
        model: A stock Hugging Face VLM (PEFT and DDP wrappers are seen through).
        plan: A plan, a method, a plan file or a spec string.
        force: Apply a plan that was made for another model.
        strict: Refuse a plan that was made for other weights of this shape, instead of warning of it once.
        resident: The plan is part of the model; others may be applied over it.

    Returns:
        A handle: use it as a context manager, or call ``remove()``.

    Raises:
        ValueError: If the model family is unknown, or its adapter was made by inspection and no check has
            accepted it for this plan, the plan is for another model or does not know its
            layers, or the model has a plan already.
    """
    family = find(model)
    found = Plan.of(plan)
    config: Any = unwrap(model).config
    check_made_for(model, found, force=force, strict=strict)
    family.check_accepted([method.name for method in found.methods], found)
    below = attached(model)
    if below is None or not below.resident:
        return Attachment(model, family, found.resolve(family.shape(config).layers), resident=resident)
    both = found.over(below.plan).resolve(family.shape(config).layers)
    below.remove()
    try:
        above = Attachment(model, family, both)
    except BaseException:
        below.attach()
        raise
    above.below = below
    return above


class Attachment:
    """A plan on a model. Leaving the ``with`` block, or ``remove()``, restores the model exactly.

    Attributes:
        plan: The plan as it runs, layers resolved.
        family: Adapter of the model.
        parts: Modules of the model.
        recurrent: Numbers of the layers without attention.
        resident: Whether the plan is part of the model, so that others may be applied over it.
        below: The resident plan that this one was applied over; it comes back when this one goes.
        decides: Whether the plan decides on the way which rows go on, by what it sees there.
        looks_at_end: Whether what it does hangs on the end of the prompt, so that prompts which begin alike
            cannot share what the cache holds of their beginning.
    """

    def __init__(self, model: nn.Module, family: Family, plan: Plan, resident: bool = False) -> None:
        self.model, self.family, self.plan, self.resident = model, family, plan, resident
        self.below: Attachment | None = None
        self.decides = self.looks_at_end = False
        self.parts = family.parts(model)
        self.recurrent = tuple(n for n, layer in enumerate(self.parts.layers) if family.recurs(layer))
        self._handover = Handover()
        self._blocks = Blocks()
        self._undo: list[Callable[[], None]] = []
        self._entered = 0
        self.attach()

    def attach(self) -> None:
        """Puts the plan on (again, after ``remove()``).

        Raises:
            ValueError: If the model has a plan already, or cannot run this one.
        """
        if attached(self.model) is not None:
            raise ValueError("this model has a saccade plan; remove it first, or compose plans with '+'")
        try:
            self._attach()
        except BaseException:
            self.remove()
            raise

    def _attach(self) -> None:
        layer: Any
        if self.plan.adapter is not None:
            self._undo.append(put_on(unwrap(self.model), self.plan.adapter))
        for number, layer in enumerate(self.parts.layers):
            ffn_rows = RowHandover()
            # The layer itself is left alone: its class's call checkpoints, around whatever forward it has.
            kind = RecurrentStandIn if self.family.recurs(layer) else AttentionStandIn
            mixer = self.family.mixer(layer)
            stand_in = functools.partial(kind, self, self.family, number, mixer, ffn_rows)
            self._undo.append(swap_forward(mixer, stand_in))
            ffn = self.family.ffn_of(layer)
            mlp = functools.partial(MlpStandIn, ffn_rows, self.family.flat_ffn(ffn))
            self._undo.append(swap_forward(ffn, mlp))
        stages = [s for m in self.plan.methods for s in m.stages(len(self.parts.layers))]
        self._check_positions(stages)
        check_looks(stages, self.recurrent, len(self.parts.layers))
        self.decides = bool(stages)
        forward = self._forward = Forward(
            self.model,
            self.family,
            self.parts,
            self.plan,
            stages,
            self._handover,
            self._blocks,
            self._tower_tap(stages),
            self.recurrent,
        )
        self.looks_at_end = forward.looks_at_end
        self._hook_layers(stages, forward)
        core, decoder = self.parts.core, self.parts.decoder
        self._undo.append(core.register_forward_pre_hook(forward.before_core, with_kwargs=True).remove)
        self._undo.append(core.register_forward_hook(forward.after_core, always_call=True).remove)
        self._undo.append(decoder.register_forward_pre_hook(forward.before_decoder, with_kwargs=True).remove)
        self._undo.append(forward.unwatch)
        if self.plan.methods:
            self._undo.append(decoder.register_forward_hook(forward.after_decoder, with_kwargs=True).remove)
        if self.plan.shortening:
            self._undo.append(allow_other_sizes(self.model, self.family))

    def _check_positions(self, stages: list[Stage]) -> None:
        family = self.family
        for stage in stages:
            if stage.compact == "always" and not family.compact_positions:
                raise ValueError(
                    f"{stage.by}: positions of {family.name} have several axes and cannot close up; "
                    "take position_policy=keep"
                )

    def _hook_layers(self, stages: list[Stage], forward: Forward) -> None:
        """Puts hooks on the layers that decisions look at."""
        before = {s.before for s in stages if s.look.layer and s.look.moment == "before"}
        after = {s.before - 1 for s in stages if not (s.look.layer and s.look.moment == "before")} - {-1}
        for number in before:
            hook = functools.partial(forward.before_layer, number)
            layer = self.parts.layers[number]
            self._undo.append(layer.register_forward_pre_hook(hook, with_kwargs=True).remove)
        for number in after:
            hook = functools.partial(forward.after_layer, number)
            layer = self.parts.layers[number]
            if any(s.look.layer and s.before == number + 1 for s in stages):
                keep = functools.partial(forward.keep_past, number)
                self._undo.append(layer.register_forward_pre_hook(keep, with_kwargs=True).remove)
            # Before the hooks that shard the layer's weights away again.
            handle = layer.register_forward_hook(hook, with_kwargs=True, prepend=True)
            self._undo.append(handle.remove)

    def _tower_tap(self, stages: list[Stage]) -> TowerTap | None:
        """Watches the vision tower, where the plan has to know of it or of its images."""
        wanted = frozenset(s.look.tower for s in stages if s.look.tower is not None)
        merges = [method.tower_merge for method in self.plan.methods if method.tower_merge is not None]
        if len(merges) > 1:
            raise ValueError(f"{self.plan.spec}: a vision tower merges by one rule only")
        shortening = bool(self.plan.shortening)
        if not (stages or shortening or merges or any(method.by_image for method in self.plan.methods)):
            return None
        check = FullSize(self.model, self.family, self.plan).check if shortening else None
        weighs = any(stage.look.weighs for stage in stages)
        received = frozenset(layer for stage in stages for layer in stage.look.received)
        merge = merges[0] if merges else None
        prunes = [method.tower_prune for method in self.plan.methods if method.tower_prune is not None]
        if len(prunes) > 1:
            raise ValueError(f"{self.plan.spec}: patches leave before a vision tower by one rule only")
        prune = prunes[0] if prunes else None
        tap = TowerTap(self.model, self.family, wanted, merge, weighs, check, received, prune)
        self._undo.append(tap.remove)
        return tap

    def remove(self) -> None:
        """Takes the plan off; calling it again does nothing."""
        while self._undo:
            self._undo.pop()()
        self._handover = Handover()
        below, self.below = self.below, None
        if below is not None:
            below.attach()

    def __enter__(self) -> Attachment:
        """Begins a block under the plan, which is put on again if it was taken off; blocks may nest."""
        if not self._undo:
            self.attach()
        self._entered += 1
        return self

    def __exit__(self, *exc: object) -> None:
        self._entered -= 1
        if not self._entered:
            self.remove()

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise ValueError("a model with a saccade plan is not copied or pickled; remove the plan first")

    @contextmanager
    def with_layout(
        self, layout: Layout, vision: Vision | None = None, grid: Grid | None = None
    ) -> Iterator[None]:
        """Says which rows are visual where the model cannot see it: calls with merged embeddings only.

        It is for forwards of the thread (or asyncio task) that opens it.

        Given once, it serves a whole ``generate(inputs_embeds=...)``: tokens that follow on a cache are text.
        A batch that is a multiple of the layout's holds each sample several times in turn, as beams and
        several sequences of a prompt are laid out.

        Args:
            layout: Where the visual rows are.
            vision: What a vision tower would know of them, for methods that look at it.
            grid: Where they lie in the picture, for methods that ask, on the host.
        """
        self._check_on()
        with self._blocks.layout(Given(layout, vision, grid)):
            yield

    @contextmanager
    def answering(self, asked_BN: torch.Tensor) -> Iterator[None]:
        """Says which rows are prompts where their answers follow them in one forward, without a cache.

        Decisions then fall as they do where the answer is said token by token. It is for forwards of the
        thread that opens it.

        Args:
            asked_BN: True at rows of prompts.
        """
        self._check_on()
        with self._blocks.answering(asked_BN.cpu()):
            yield

    @contextmanager
    def tracing(self, sources: bool = True) -> Iterator[list[Trace]]:
        """Notes what happens to the visual rows: one ``Trace`` for every forward that has some, in order.

        It notes forwards of the thread (or asyncio task) that opens it, and warns if they all ran in others.
        Inside another such block both note them.

        Args:
            sources: Whether to note what merged rows are made of, which takes memory of rows times rows.
        """
        self._check_on()
        found: list[Trace] = []
        with self._forward.watching(), self._blocks.tracing(found, sources):
            yield found

    def _check_on(self) -> None:
        """Refuses to say something of forwards that this plan has no part in.

        Raises:
            ValueError: If the plan is not on the model.
        """
        if not self._undo:
            raise ValueError(
                "this plan is not on the model now: open the block while it is, or attach() it again"
            )


def attached(model: nn.Module) -> Attachment | None:
    """The plan that is on a model now, if any."""
    family = find(model)
    mixer = family.mixer(family.parts(model).layers[0])
    held = mixer.__dict__.get("_old_forward", mixer.__dict__.get("forward"))
    return held.owner if isinstance(held, MixerStandIn) else None
