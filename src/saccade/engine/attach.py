"""Attaching a plan to one model instance, and taking it off without a trace."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache

from saccade.core.layout import Layout
from saccade.core.precision import wide
from saccade.core.route import Route
from saccade.core.stages import Grid, Vision, Which
from saccade.engine.blocks import Blocks
from saccade.engine.cache import ragged_layer
from saccade.engine.decide import Decisions, ForwardFacts
from saccade.engine.ending import check_end, read_where_left
from saccade.engine.frame import Frame, Positions
from saccade.engine.given import Given
from saccade.engine.layers import FRAME, AttentionStandIn, MlpStandIn, RowHandover, eager
from saccade.engine.made_for import check_made_for
from saccade.engine.prompt import Prompt, by_name, goes_on, layout_of
from saccade.engine.release import release
from saccade.engine.resolution import FullSize
from saccade.engine.rewrite import Carried
from saccade.engine.support import (
    check_supported,
    chunked_prompt,
    refuse_replicas,
    refuse_split_prompts,
)
from saccade.engine.tower import Captured, TowerTap, allow_other_sizes, grid, vision
from saccade.engine.trace import Trace
from saccade.families import Family, find, unwrap
from saccade.plans.plan import Plan, PlanLike

_IMAGES = ("pixel_values", "pixel_values_videos", "mm_encoder_outputs")


def apply(
    model: nn.Module, plan: PlanLike, *, force: bool = False, strict: bool = False, resident: bool = False
) -> Attachment:
    """Attaches a plan to a model; only this instance is touched.

    A plan that belongs to the model (``resident``: it was trained with it) stays in force under any other:
    the two compose, the model's own first, unless both are of the same method.

    Args:
        model: A stock Hugging Face VLM (PEFT and DDP wrappers are seen through).
        plan: A plan, a method, a plan file or a spec string such as ``"vskip(layers=12-31)"``.
        force: Apply a plan that was made for another model.
        strict: Refuse a plan that was made for other weights of this shape, instead of warning of it once.
        resident: The plan is part of the model; others may be applied over it.

    Returns:
        A handle: use it as a context manager, or call ``remove()``.

    Raises:
        ValueError: If the model family is unknown, the plan is for another model or does not know its
            layers, or the model has a plan already.
    """
    family = find(model)
    found = Plan.of(plan)
    config: Any = unwrap(model).config
    check_made_for(model, found, force=force, strict=strict)
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


class _AttachedCall(threading.local):
    """What the hooks of one forward hand on; threads may share a model."""

    prompt: Prompt | None = None
    given: Given | None = None
    said: bool = False
    sources: bool = True
    traces: list[Trace] | None = None
    inside: bool = False


class Attachment:
    """A plan on a model. Leaving the ``with`` block, or ``remove()``, restores the model exactly.

    Attributes:
        plan: The plan as it runs, layers resolved.
        family: Adapter of the model.
        parts: Modules of the model.
        resident: Whether the plan is part of the model, so that others may be applied over it.
        below: The resident plan that this one was applied over; it comes back when this one goes.
        decides: Whether the plan decides on the way which rows go on, by what it sees there.
    """

    def __init__(self, model: nn.Module, family: Family, plan: Plan, resident: bool = False) -> None:
        self.model, self.family, self.plan, self.resident = model, family, plan, resident
        self.below: Attachment | None = None
        self.decides = False
        self.parts = family.parts(model)
        self._call = _AttachedCall()
        self._blocks = Blocks()
        self._undo: list[Callable[[], None]] = []
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
        for number, layer in enumerate(self.parts.layers):
            cell = RowHandover()
            stand_in = functools.partial(AttentionStandIn, self, self.family, number, layer.self_attn, cell)
            self._swap(layer.self_attn, stand_in)
            self._swap(layer.mlp, functools.partial(MlpStandIn, cell))
        self._hook_stages()
        core, decoder = self.parts.core, self.parts.decoder
        self._undo.append(core.register_forward_pre_hook(self._before_core, with_kwargs=True).remove)
        self._undo.append(core.register_forward_hook(self._after_core, always_call=True).remove)
        self._undo.append(decoder.register_forward_pre_hook(self._before_decoder, with_kwargs=True).remove)
        if self.plan.methods:
            self._undo.append(decoder.register_forward_hook(self._after_decoder, with_kwargs=True).remove)

    def _hook_stages(self) -> None:
        """Puts hooks on the layers that decisions look at, and on the vision tower where it is looked at."""
        family = self.family
        stages = [s for m in self.plan.methods for s in m.stages(len(self.parts.layers))]
        for stage in stages:
            if stage.compact == "always" and not family.compact_positions:
                raise ValueError(
                    f"{stage.by}: positions of {family.name} have several axes and cannot close up; "
                    "take position_policy=keep"
                )
        before = {s.before for s in stages if s.look.layer and s.look.moment == "before"}
        after = {s.before - 1 for s in stages if not (s.look.layer and s.look.moment == "before")} - {-1}
        for number in before:
            hook = functools.partial(self._before_layer, number)
            layer = self.parts.layers[number]
            self._undo.append(layer.register_forward_pre_hook(hook, with_kwargs=True).remove)
        for number in after:
            hook = functools.partial(self._after_layer, number)
            layer = self.parts.layers[number]
            # Before the hooks that shard the layer's weights away again.
            handle = layer.register_forward_hook(hook, with_kwargs=True, prepend=True)
            self._undo.append(handle.remove)
        wanted = frozenset(s.look.tower for s in stages if s.look.tower is not None)
        merges = [method.tower_merge for method in self.plan.methods if method.tower_merge is not None]
        if len(merges) > 1:
            raise ValueError(f"{self.plan.spec}: a vision tower merges by one rule only")
        merge = merges[0] if merges else None
        self._tap: TowerTap | None = None
        shortening = bool(self.plan.shortening)
        if stages or shortening or any(method.by_image for method in self.plan.methods):
            check = FullSize(self.model, family, self.plan).check if shortening else None
            weighs = any(stage.look.weighs for stage in stages)
            self._tap = TowerTap(self.model, family, wanted, merge, weighs, check)
            self._undo.append(self._tap.remove)
        releases = any(method.releases for method in self.plan.methods)
        self._whole = bool(stages) or releases or any(method.by_image for method in self.plan.methods)
        self._looks_at_end = releases or any(s.look.layer for s in stages)
        self.decides = bool(stages)
        if shortening:
            self._undo.append(allow_other_sizes(self.model, family))

    def _swap(self, module: nn.Module, make: Callable[[Callable], Callable]) -> None:
        # accelerate keeps the true forward in _old_forward; attaching there leaves its hooks around us.
        slot = "_old_forward" if "_old_forward" in module.__dict__ else "forward"
        own = slot in module.__dict__
        inner = getattr(module, slot)
        wrapper = make(inner)
        setattr(module, slot, wrapper)

        def undo() -> None:
            # Device hooks put on or taken off meanwhile have moved the wrapper to the other slot.
            for held in ("forward", "_old_forward"):
                if module.__dict__.get(held) is wrapper:
                    if own or held == "_old_forward":
                        setattr(module, held, inner)
                    else:
                        del module.__dict__[held]

        self._undo.append(undo)

    def remove(self) -> None:
        """Takes the plan off; calling it again does nothing."""
        while self._undo:
            self._undo.pop()()
        self._call = _AttachedCall()
        below, self.below = self.below, None
        if below is not None:
            below.attach()

    def __enter__(self) -> Attachment:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise ValueError("a model with a saccade plan is not copied or pickled; remove the plan first")

    @contextmanager
    def with_layout(
        self, layout: Layout, vision: Vision | None = None, grid: Grid | None = None
    ) -> Iterator[None]:
        """Says which rows are visual where the model cannot see it: calls with merged embeddings only.

        It is for forwards of the thread that opens it.

        Given once, it serves a whole ``generate(inputs_embeds=...)``: tokens that follow on a cache are text.
        A batch that is a multiple of the layout's holds each sample several times in turn, as beams and
        several sequences of a prompt are laid out.

        Args:
            layout: Where the visual rows are.
            vision: What a vision tower would know of them, for methods that look at it.
            grid: Where they lie in the picture, for methods that ask, on the host.
        """
        call = self._call
        call.given = Given(layout, vision, grid)
        try:
            with self._blocks.layout():
                yield
        finally:
            call.given = None

    @contextmanager
    def tracing(self, sources: bool = True) -> Iterator[list[Trace]]:
        """Notes what happens to the visual rows: one ``Trace`` for every forward that has some, in order.

        It notes forwards of the thread that opens it, and warns if they all ran in others.

        Args:
            sources: Whether to note what merged rows are made of, which takes memory of rows times rows.
        """
        found: list[Trace] = []
        self._call.traces, self._call.sources = found, sources
        own, self._tap = self._tap, self._tap or TowerTap(self.model, self.family)
        try:
            with self._blocks.tracing(found):
                yield found
        finally:
            self._call.traces = None
            if own is None:
                self._tap.remove()
            self._tap = own

    @eager
    def _before_core(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        refuse_replicas(module)
        self._call.prompt, self._call.inside, self._call.said = None, True, False
        if self._tap is not None:
            self._tap.begin()
        if not self.plan.methods:
            return
        named = by_name(module, args, kwargs)
        if self._call.given is not None:
            self._call.said = goes_on(named, any(named.get(name) is not None for name in _IMAGES))
            return
        ids, embeds, padding = (named.get(key) for key in ("input_ids", "inputs_embeds", "attention_mask"))
        if ids is None and embeds is None:
            return
        if not any(named.get(name) is not None for name in _IMAGES):
            if ids is None and embeds is not None and embeds.shape[1] > 1:
                self._blocks.cannot_tell()
            return
        mask = self.family.visual_mask(self.model, ids, embeds)
        self._call.prompt = Prompt.of(mask, padding, named)

    def _after_core(self, module: nn.Module, args: tuple, output: Any) -> None:
        self._call.prompt, self._call.inside, self._call.said = None, False, False
        if self._tap is not None:
            self._tap.begin()

    @eager
    def _before_decoder(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict]:
        if FRAME in kwargs:
            return args, kwargs
        refuse_replicas(module)
        prompt, self._call.prompt = self._call.prompt, None
        given = None if self._call.said else self._call.given
        pictures = prompt is not None and self._whole and bool(prompt.visual_BN.any())
        if self._whole and (pictures or given is not None):
            refuse_split_prompts(self.plan.spec, self._looks_at_end)
        captured = self._captured(prompt)
        named = by_name(module, args, kwargs)
        rows = next(
            (named[key] for key in ("inputs_embeds", "input_ids") if named.get(key) is not None), None
        )
        if rows is None:
            return args, kwargs
        batch, new = rows.shape[:2]
        cache: Cache | None = named.get("past_key_values")
        if given is not None:
            given = given.fitted(batch, new, 0 if cache is None else cache.get_seq_length())
        layout = layout_of(prompt, captured) if given is None else given.layout
        # The core was passed by, or its forward called without its hooks.
        alone = layout is None and not self._call.inside and bool(self.plan.methods)
        if alone and new > 1 and rows.is_floating_point():
            self._blocks.cannot_tell()
        if layout is not None and self._call.traces is None:
            self._blocks.untraced()
        if layout is not None and (layout.batch, layout.rows) != (batch, new):
            raise ValueError(
                f"the layout is of {layout.batch} x {layout.rows} rows, the forward of {batch} x {new}"
            )
        num_layers = len(self.parts.layers)
        seen = layout is not None and layout.has_visual
        program = self.plan.program(layout, num_layers) if layout is not None and seen else None
        route = None if program is None else program.route
        watched = program is not None and (program.stages or self._call.traces is not None)
        if route is not None and not watched and all(one.is_dense for one in dict.fromkeys(route.layers)):
            route = program = None
        ragged = cache is not None and any(ragged_layer(cache, n) for n in range(len(cache.layers)))
        if route is None and not ragged:
            return args, kwargs
        past = check_supported(self.family, module, named, rows, cache)
        if route is not None and not bool(route.layers[-1].alive_BN.all()):
            self._check_end(route, past)
        positions = self._positions(named, rows, past) if self.decides or ragged else None
        mask = named.get("attention_mask")
        frame = Frame.build(route, num_layers, batch, new, past, mask, rows.device, positions)
        if program is None or (not program.stages and self._call.traces is None):
            return args, kwargs | {FRAME: frame}
        added = self.family.added(named)
        carried = None if added is None else Carried(added)
        scene = self._scene(program.route.layout, captured, carried, given)
        frame.decisions = Decisions(program, frame, scene)
        changed: dict[str, Any] = {"inputs_embeds": frame.decisions.enter(rows), FRAME: frame}
        if carried is not None:
            changed[carried.added.keyword] = carried
        # The decoder's input is rewritten: from here on every argument goes by its name.
        return (), {**named, **changed}

    @eager
    def _after_decoder(self, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        frame: Frame | None = kwargs.get(FRAME)
        if frame is None:
            return None
        values = output if isinstance(output, tuple) else tuple(output.values())
        cache = next((value for value in values if isinstance(value, Cache)), None)
        if cache is not None and frame.cached:
            layers: Any = self.parts.layers
            release(frame, cache, [layer.self_attn.layer_idx for layer in layers])
        hidden = values[0]
        read = read_where_left(frame, hidden)
        return output if read is hidden else _replaced(output, hidden, read)

    def _check_end(self, route: Route, past: int) -> None:
        """Refuses prompts whose last row left would be one of an earlier forward."""
        whole_BN = chunked_prompt()
        if whole_BN is None:
            check_end(route, past, self.plan.spec)
        elif bool(self.family.visual_mask(self.model, whole_BN[:, -1:]).any()):
            raise ValueError(
                f"{self.plan.spec} drops the rows of the image that this prompt ends with, so it needs the "
                "prompt in one piece: leave prefill_chunk_size unset"
            )

    def _positions(self, named: dict[str, Any], rows: torch.Tensor, past: int) -> Positions | None:
        if not (self.decides or self.family.compact_positions):
            return None
        ids = named.get("position_ids")
        if ids is None:
            ids = torch.arange(past, past + rows.shape[1], device=rows.device)[None]
        decoder, family = self.parts.decoder, self.family
        like = rows if rows.is_floating_point() else next(self.parts.norm.parameters())
        return Positions(ids, lambda at, exact: family.rotary(decoder, wide(like) if exact else like, at))

    def _captured(self, prompt: Prompt | None) -> Captured | None:
        """What is known of the images of this forward, where anybody wants to know."""
        if self._tap is None or prompt is None:
            return None
        captured = self._tap.captured(prompt.inputs.get("mm_encoder_outputs"), prompt.inputs)
        return captured if captured is None or prompt.shown_R is None else captured.showing(prompt.shown_R)

    def _scene(
        self, layout: Layout, captured: Captured | None, carried: Carried | None, given: Given | None
    ) -> ForwardFacts:
        told = None if given is None else given.vision
        look: Callable[[Which, torch.Tensor], Vision] | None = None
        if told is not None:

            def look(which: Which, embeddings_BND: torch.Tensor) -> Vision:
                return told
        elif captured is not None and captured.tower is not None:

            def look(which: Which, embeddings_BND: torch.Tensor) -> Vision:
                return vision(captured, which, layout, embeddings_BND)

        where = None if given is None else given.grid
        if captured is not None:
            where = grid(captured.picture, layout, torch.device("cpu"))
        return ForwardFacts(
            self.family, self.parts, where, look, self._call.traces, self._call.sources, carried
        )

    @eager
    def _before_layer(self, number: int, layer: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        frame: Frame | None = kwargs.get(FRAME)
        if frame is None or frame.decisions is None:
            return None
        hidden = args[0] if args else kwargs["hidden_states"]
        changed = frame.decisions.before(number, layer, hidden, kwargs)
        if args:
            return (changed, *args[1:]), kwargs
        return args, kwargs | {"hidden_states": changed}

    @eager
    def _after_layer(
        self, number: int, layer: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any
    ) -> Any:
        frame: Frame | None = kwargs.get(FRAME)
        if frame is None or frame.decisions is None:
            return None
        into = args[0] if args else kwargs["hidden_states"]
        hidden = output[0] if isinstance(output, tuple) else output
        changed = frame.decisions.after(number, layer, into, kwargs, hidden)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed


def _replaced(output: Any, old: torch.Tensor, new: torch.Tensor) -> Any:
    """A decoder's output with its last state replaced, also where the recorded states end with it."""

    def changed(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(changed, value))
        return new if value is old else value

    if isinstance(output, tuple):
        return changed(output)
    for key, value in output.items():
        output[key] = changed(value)
    return output


def attached(model: nn.Module) -> Attachment | None:
    """The plan that is on a model now, if any."""
    attn = find(model).parts(model).layers[0].self_attn
    held = attn.__dict__.get("_old_forward", attn.__dict__.get("forward"))
    return held.owner if isinstance(held, AttentionStandIn) else None
