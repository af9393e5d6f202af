"""What happens around one forward of a model with a plan: the hooks of its core, decoder and layers.

The core's hook reads which rows are visual, the decoder's makes the frame that travels to the layers, and
the layers' take decisions. What they hand to each other is local to the thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from saccade.core.host import on_host
from saccade.core.layout import Layout
from saccade.core.precision import wide
from saccade.core.recurrence import check_sets
from saccade.core.route import Route
from saccade.core.stages import Look, Stage, Vision
from saccade.engine.blocks import Blocks
from saccade.engine.cache import Cache, cache_in, has_state, keep_past, ragged_layer
from saccade.engine.checks import (
    check_router,
    check_supported,
    chunked_prompt,
    refuse_replicas,
    refuse_split_pictures,
    refuse_split_prompts,
)
from saccade.engine.decide import Decisions, ForwardFacts
from saccade.engine.ending import check_end, read_where_left
from saccade.engine.frame import Frame, Positions
from saccade.engine.given import Given
from saccade.engine.layers import FRAME, eager
from saccade.engine.prompt import Prompt, by_name, goes_on, layout_of
from saccade.engine.release import release
from saccade.engine.rewrite import Carried
from saccade.engine.sights import sights_of
from saccade.engine.tower import Captured, TowerTap, grid, left, vision
from saccade.families import Family, Rotary
from saccade.families.base import Parts
from saccade.plans.plan import Plan


class Handover(threading.local):
    """What the hooks of one forward hand on; threads may share a model.

    Attributes:
        prompt: What the core was given that holds images; taken by the decoder's hook.
        core: What the core was given, by name; empty outside it.
        continues: Whether this forward holds no more than tokens that follow what was laid out.
        inside: Whether the core is running; else its decoder was called by itself.
    """

    prompt: Prompt | None = None
    core: Mapping[str, Any] = MappingProxyType({})
    continues: bool = False
    inside: bool = False


class Forward:
    """The hooks of one attachment, and what they know of its plan.

    Attributes:
        model: The model.
        family: Its adapter.
        parts: Its modules.
        plan: The plan, layers resolved.
        call: What the hooks of a forward hand on.
        blocks: Which ``tracing`` and ``with_layout`` blocks are open.
        tap: What the vision tower is watched with, or None.
        decides: Whether the plan decides on the way which rows go on.
        whole: Whether it needs a prompt in one piece.
        looks_at_end: Whether the end of the prompt counts.
        recurrent: Numbers of the layers without attention.
    """

    def __init__(
        self,
        model: nn.Module,
        family: Family,
        parts: Parts,
        plan: Plan,
        stages: list[Stage],
        call: Handover,
        blocks: Blocks,
        tap: TowerTap | None,
        recurrent: Sequence[int] = (),
    ) -> None:
        self.model, self.family, self.parts, self.plan = model, family, parts, plan
        self.call, self.blocks, self.tap = call, blocks, tap
        self._lent: TowerTap | None = None
        self._watchers, self._lending = 0, threading.Lock()
        releases = any(method.releases for method in plan.methods)
        self.decides = bool(stages)
        config: Any = parts.decoder.config
        self.rules = family.rules(config)
        self.looks_ahead = any(rule.blocks != "none" for rule in self.rules)
        self.recurrent = recurrent
        self.whole = self.decides or releases or any(method.by_image for method in plan.methods)
        self.looks_at_end = releases or any(stage.look.layer or stage.look.words for stage in stages)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watches the vision tower, also where the plan does not; blocks of several threads share one tap."""
        with self._lending:
            self._watchers += 1
            if self.tap is None:
                self.tap = self._lent = TowerTap(self.model, self.family)
        try:
            yield
        finally:
            with self._lending:
                self._watchers -= 1
                if not self._watchers:
                    self._take_back()

    def unwatch(self) -> None:
        """Takes off the tap that open blocks asked for: the plan goes."""
        with self._lending:
            self._take_back()

    def _take_back(self) -> None:
        if self._lent is not None:
            self._lent.remove()
            self.tap = self._lent = None

    @eager
    @on_host
    def before_core(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """Reads the token ids and the padding: which rows are visual."""
        refuse_replicas(module)
        self.call.prompt, self.call.inside, self.call.continues, self.call.core = None, True, False, {}
        if (tap := self.tap) is not None:
            tap.begin()
        if self.plan.adapter is not None and module.training and torch.is_grad_enabled():
            raise ValueError(
                f"{self.plan.key} brings weights of its own, which do not train: merge the adapter first "
                "(saccade heal --merge), or call model.eval()"
            )
        if not self.plan.methods:
            return
        named = self.call.core = by_name(module, args, kwargs)
        if self.blocks.given is not None:
            self.call.continues = goes_on(named, self._has_images(named))
            return
        ids, embeds, padding = (named.get(key) for key in ("input_ids", "inputs_embeds", "attention_mask"))
        if ids is None and embeds is None:
            return
        if not self._has_images(named):
            if ids is None and embeds is not None and embeds.shape[1] > 1:
                self.blocks.cannot_tell()
            return
        mask = self.family.visual_mask(self.model, ids, embeds)
        self.call.prompt = Prompt.of(mask, padding, named)

    def after_core(self, module: nn.Module, args: tuple, output: Any) -> None:
        """Forgets what was handed on: the forward is over, also where it failed."""
        self.call.prompt, self.call.inside, self.call.continues, self.call.core = None, False, False, {}
        if (tap := self.tap) is not None:
            tap.begin()

    @eager
    @on_host
    def before_decoder(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict]:
        """Turns the layout into a route, and the route into the frame that travels to the layers."""
        if FRAME in kwargs:
            # The frame was made already, and says all.
            return args, kwargs
        refuse_replicas(module)
        # Taken, not read: the images are of this call of the decoder and of no other.
        prompt, self.call.prompt = self.call.prompt, None
        given, traces = None if self.call.continues else self.blocks.given, self.blocks.traces
        pictures = prompt is not None and self.whole and bool(prompt.visual_BN.any())
        if self.whole and (pictures or given is not None):
            refuse_split_prompts(self.plan.spec, self.looks_at_end)
        elif self.looks_ahead and prompt is not None and bool(prompt.visual_BN.any()):
            refuse_split_pictures(self.family.name)
        if given is not None and (tap := self.tap) is not None and tap.spreads:
            raise ValueError(
                f"{self.plan.spec} merges tokens while the vision tower runs, and these embeddings are made: "
                "give pixel_values, or leave the plan out"
            )
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
        layout = layout_of(self.family, prompt, captured) if given is None else given.layout
        # The core was passed by, or its forward called without its hooks.
        alone = layout is None and not self.call.inside and bool(self.plan.methods)
        if alone and new > 1 and rows.is_floating_point():
            self.blocks.cannot_tell()
        if layout is not None and not traces:
            self.blocks.untraced()
        if layout is not None and (layout.batch, layout.rows) != (batch, new):
            raise ValueError(
                f"the layout is of {layout.batch} x {layout.rows} rows, the forward of {batch} x {new}"
            )
        num_layers = len(self.parts.layers)
        seen = layout is not None and layout.has_visual
        program = self.plan.program(layout, num_layers) if layout is not None and seen else None
        route = None if program is None else program.route
        watched = program is not None and (program.stages or traces)
        if route is not None and not watched and all(one.is_dense for one in dict.fromkeys(route.layers)):
            route = program = None
        ragged = cache is not None and any(ragged_layer(cache, n) for n in range(len(cache.layers)))
        core = self.call.core
        # Some cores make the masks of all layers, which travel in the padding's place.
        mask = core.get("attention_mask") if self.call.inside and core else named.get("attention_mask")
        if route is None and not ragged and not self._wears(cache, mask, new):
            return args, kwargs
        past = check_supported(self.family, module, named | {"attention_mask": mask}, rows, cache)
        if program is not None:
            check_router(self.family, module, named, program)
            check_sets(program.route, self.recurrent, self.plan.spec)
        if route is not None and not bool(route.layers[-1].alive_BN.all()):
            self._check_end(route, past)
        positions = self._positions(named, rows, past) if self.decides or ragged else None
        sights = sights_of(self.family, self.rules, core, past, past + new, mask)
        frame = Frame.build(route, num_layers, batch, new, past, mask, rows.device, positions, sights)
        if program is None or not (program.stages or traces):
            return args, kwargs | {FRAME: frame}
        added = self.family.added(named)
        carried = None if added is None else Carried(added)
        context = self._context(program.route.layout, captured, carried, given)
        frame.decisions = Decisions(program, frame, context)
        changed: dict[str, Any] = {"inputs_embeds": frame.decisions.enter(rows), FRAME: frame}
        if carried is not None:
            changed[carried.added.keyword] = carried
        # The decoder's input is rewritten: from here on every argument goes by its name.
        return (), {**named, **changed}

    @eager
    @on_host
    def after_decoder(self, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        """Frees rows of the cache, and shows at dropped rows what the last row left before them says."""
        frame: Frame | None = kwargs.get(FRAME)
        if frame is None:
            return None
        values = output if isinstance(output, tuple) else tuple(output.values())
        cache = cache_in(values)
        if cache is not None and frame.cached:
            release(frame, cache, [self._place(layer) for layer in self.parts.layers])
        hidden = values[0]
        read = read_where_left(frame, hidden)
        return output if read is hidden else _replaced(output, hidden, read)

    def _place(self, layer: nn.Module) -> int:
        """Where a layer's part of the cache is."""
        mixer: Any = self.family.mixer(layer)
        return mixer.layer_idx

    def _wears(self, cache: Cache | None, mask: Any, new: int) -> bool:
        """Whether padding among the new rows would wear away what recurrent layers hold already."""
        if not self.recurrent or new == 1 or cache is None or not isinstance(mask, torch.Tensor):
            return False
        begun = any(has_state(cache, number) for number in self.recurrent)
        return begun and mask.ndim == 2 and not bool(mask[:, -new:].all())

    def _has_images(self, named: dict[str, Any]) -> bool:
        return any(named.get(name) is not None for name in self.family.image_inputs)

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

        def rotate(at: torch.Tensor, exact: bool, kind: str | None) -> Rotary:
            return family.rotary(decoder, wide(like) if exact else like, at, kind)

        return Positions(ids, rotate, family.numbered)

    def _captured(self, prompt: Prompt | None) -> Captured | None:
        """What is known of the images of this forward, where anybody wants to know."""
        # Read once: a block of another thread may end, and take off the one that it put on.
        if (tap := self.tap) is None or prompt is None:
            return None
        captured = tap.captured(prompt.inputs.get("mm_encoder_outputs"), prompt.inputs)
        return captured if captured is None or prompt.shown_R is None else captured.showing(prompt.shown_R)

    def _context(
        self, layout: Layout, captured: Captured | None, carried: Carried | None, given: Given | None
    ) -> ForwardFacts:
        given_vision = None if given is None else given.vision
        see: Callable[[Look, torch.Tensor], Vision] | None = None
        if given_vision is not None:

            def see(look: Look, embeddings_BND: torch.Tensor) -> Vision:
                return given_vision
        elif captured is not None and captured.tower is not None:

            def see(look: Look, embeddings_BND: torch.Tensor) -> Vision:
                assert look.tower is not None
                return vision(captured, look.tower, layout, embeddings_BND, look.received)

        def kept(device: torch.device) -> torch.Tensor | None:
            if given is not None:
                return None if given.vision is None else given.vision.left_BN
            return None if captured is None else left(captured, layout, device)

        where = None if given is None else given.grid
        if captured is not None:
            where = grid(captured.picture, layout, torch.device("cpu"))
        asked_BN = self.blocks.asked_BN
        if asked_BN is not None and asked_BN.shape != layout.visual_BN.shape:
            raise ValueError(
                f"the rows of the prompts are {tuple(asked_BN.shape)}, those of the forward "
                f"{tuple(layout.visual_BN.shape)}"
            )
        return ForwardFacts(
            self.family,
            self.parts,
            where,
            see,
            self.blocks.traces,
            self.blocks.sources,
            carried,
            kept,
            asked_BN,
        )

    @eager
    @on_host
    def before_layer(self, number: int, layer: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Takes the decisions that look at the layer about to run."""
        frame: Frame | None = kwargs.get(FRAME)
        if frame is None or frame.decisions is None:
            return None
        hidden = args[0] if args else kwargs["hidden_states"]
        changed = frame.decisions.before(number, layer, hidden, kwargs)
        if args:
            return (changed, *args[1:]), kwargs
        return args, kwargs | {"hidden_states": changed}

    @eager
    @on_host
    def keep_past(self, number: int, layer: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        """Lets a cache keep what a window hides until the layer about to run has been looked at."""
        frame: Frame | None = kwargs.get(FRAME)
        if frame is not None and frame.decisions is not None:
            frame.decisions.kept[number] = keep_past(kwargs.get("past_key_values"), self._place(layer), True)

    @eager
    @on_host
    def after_layer(
        self, number: int, layer: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any
    ) -> Any:
        """Takes the decisions that look at the layer that has run."""
        frame: Frame | None = kwargs.get(FRAME)
        if frame is None or frame.decisions is None:
            return None
        into = args[0] if args else kwargs["hidden_states"]
        hidden = output[0] if isinstance(output, tuple) else output
        changed = frame.decisions.after(number, layer, into, kwargs, hidden)
        if frame.decisions.kept.pop(number, False):
            keep_past(kwargs.get("past_key_values"), self._place(layer), False)
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
