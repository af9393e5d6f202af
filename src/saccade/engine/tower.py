"""What the vision tower tells a plan: attention over patches, keys, features, which patches it merged.

A tap watches one model instance while it makes image features. What it saw is kept with the features
themselves, because ``generate`` makes them before the forward that needs it.

Shape letters: B batch, N rows, R visual rows in placeholder order, T views, P patches, H heads, K head width,
V tower width, D decoder width.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast
from weakref import WeakValueDictionary

import torch
from torch import nn

from saccade.core.bipartite import TowerMerge
from saccade.core.host import on_host
from saccade.core.predicted import TowerPrune
from saccade.core.stages import TowerLayer
from saccade.engine import tower_packed
from saccade.engine.mesh import all_heads
from saccade.engine.tower_merge import MERGING, Merging, MergingLayer, check_merging
from saccade.engine.tower_packed import PACKED, PackedMerging
from saccade.engine.tower_prune import PRUNING, Pruning, install
from saccade.engine.tower_scores import TowerScores, look, received, together
from saccade.engine.tower_vision import Captured, Seen, TowerRun, Which, grid, left, refuse_mixed, vision
from saccade.families import Family, unwrap
from saccade.families.base import checkpoints
from saccade.families.vision import KINDS, Picture, Tower

__all__ = ["Captured", "TowerTap", "allow_other_sizes", "grid", "left", "vision"]

SEEN = "saccade_seen"
"""Attribute of the features' output object that holds what the tap saw."""

_eager = functools.partial(
    torch.compiler.disable,
    reason="a saccade plan looks into the vision tower and needs graph breaks: compile without fullgraph",
)


class _TowerCall(threading.local):
    """What the hooks of one forward hand on; threads may share a model."""

    run: TowerRun | None = None
    made: dict[str, Any] | None = None


class TowerTap:
    """Watches, and where asked merges in, the vision tower of one model instance.

    Attributes:
        wanted: Which layers of the tower are looked at.
        merge: How tokens merge inside the tower, or None.
    """

    def __init__(
        self,
        model: nn.Module,
        family: Family,
        wanted: frozenset[Which] = frozenset(),
        merge: TowerMerge | None = None,
        weighs: bool = False,
        check: Callable[[Mapping[str, Any]], None] | None = None,
        received: frozenset[TowerLayer] = frozenset(),
        prune: TowerPrune | None = None,
    ) -> None:
        """Installs its hooks.

        Args:
            model: The model.
            family: Its adapter.
            wanted: Which layers of the tower are looked at.
            merge: How tokens merge inside the tower; None, or ``r`` of 0, for not at all.
            weighs: Whether gradients flow through the attention of all heads as one.
            check: Called with the arguments of ``get_image_features``, by name.
            received: Layers in which the attention of all rows is looked at.
            prune: Which patches leave before the tower, or None.

        Raises:
            ValueError: If the tower cannot give what is wanted.
        """
        self.model, self.family, self.wanted = model, family, wanted
        self.weighs, self.check = weighs, check
        self.merge = merge if merge is not None and merge.r else None
        self.prune = prune
        self._call = _TowerCall()
        self._undo: list[Callable[[], None]] = []
        # Accelerate's hooks hand outputs on in copies, which hold the same tensors and nothing else.
        self._known: WeakValueDictionary[int, Seen] = WeakValueDictionary()
        inside = bool(wanted or self.merge or prune)
        self.tower = family.tower(model) if inside else None
        if inside and self.tower is None:
            raise ValueError(
                f"the vision tower of this {family.name} model is of a kind that cannot be looked into; "
                "choose a method that scores rows in the decoder"
            )
        served = _served(family, self.tower) if self.tower is not None and wanted else {}
        self.keys = {key: served[key] for key in wanted}
        self.received: frozenset[int] = frozenset()
        if self.tower is not None:
            self.received = frozenset(self.tower.number(layer) for layer in received)
        if self.merge is not None:
            check_merging(family, self.tower, self.merge)
            if self.received or (self.merge.spread and wanted):
                raise ValueError(
                    "a plan that merges tokens inside the vision tower leaves nothing to look at in the "
                    "layers where they merge: leave one of the two methods out"
                )
        if prune is not None and (wanted or received or self.merge):
            raise ValueError(
                "a plan whose patches leave before the vision tower leaves gaps in what the tower knows of "
                "rows: leave that method out, or those that look at the tower or merge in it"
            )
        try:
            self._install(prune)
        except BaseException:
            self.remove()
            raise

    def _install(self, prune: TowerPrune | None) -> None:
        core: Any = self.family.parts(self.model).core
        for kind, name in self.family.feature_makers(core).items():
            self._wrap(core, kind, name)
        if self.tower is not None:
            self._watch(self.tower)
            if self.merge is not None:
                self._merge(self.tower, self.merge)
            if prune is not None:
                self._undo += install(self.family, self.tower, self._pruning)

    @property
    def spreads(self) -> bool:
        """Whether tokens merge and every patch is put back, so that nothing after the tower tells it."""
        return self.merge is not None and self.merge.spread

    def remove(self) -> None:
        """Takes everything off; calling it again does nothing."""
        while self._undo:
            self._undo.pop()()
        self._call = _TowerCall()

    def begin(self) -> None:
        """Forgets what was captured (in this thread): a forward begins."""
        self._call.made = {}

    def captured(
        self, mm_encoder_outputs: Mapping[str, Any] | None = None, inputs: Mapping[str, Any] | None = None
    ) -> Captured | None:
        """What was seen of this forward's images; None if it has none.

        Args:
            mm_encoder_outputs: Features that were made earlier, under the same plan.
            inputs: The other keyword arguments of the core's forward (``input_ids`` tells the order of images
                and videos where there are both).

        Raises:
            ValueError: If features were made without the plan, and the plan needs to know more of them.
        """
        given, inputs = mm_encoder_outputs or {}, inputs or {}
        seen: list[Seen] = []
        images: list[list[int]] = []
        for kind in KINDS:
            output = given.get(kind)
            found = (self._call.made or {}).get(kind) if output is None else output
            if found is None:
                images.append([])
                continue
            features = self.family.features(found)
            one: Seen | None = getattr(found, SEEN, None) or self._known.get(_mark(features))
            numbers = None if one is None or not self._serves(one) else _same(one.made, features)
            if one is None or numbers is None:
                one, numbers = self._unseen(kind, found, inputs)
            first = sum(len(s.picture.lengths) for s in seen)
            seen.append(one)
            images.append([first + number for number in numbers])
        if not seen:
            return None
        joined = Picture.join([one.picture for one in seen])
        order = in_order(self.family, self.model, images, joined.lengths, inputs.get("input_ids"))
        views = tuple(joined.views_of(order))
        picture = self.family.grouped(self.model, joined.take(order), inputs)
        return Captured(picture, tuple(seen), views, self.tower, self.keys)

    def _serves(self, seen: Seen) -> bool:
        """Whether what another tap saw would do: features may outlive the attachment that made them."""
        known = set(self.keys.values()) <= set(seen.run.scores) and self.received <= set(seen.run.received)
        return known and (seen.merge, seen.prune) == (self.merge, self.prune)

    def _unseen(self, kind: str, output: Any, inputs: Mapping[str, Any]) -> tuple[Seen, list[int]]:
        if self.wanted or self.merge is not None or self.prune is not None:
            raise ValueError(
                f"this plan looks into the vision tower, but these {kind} features were made without it, or "
                "cut in chunks since: make them with the plan attached, and leave prefill_chunk_size unset"
            )
        picture = self.family.picture(self.model, {**inputs, "mm_encoder_outputs": {kind: output}})
        assert picture is not None
        return Seen(picture, TowerRun(), (), None), list(range(len(picture.lengths)))

    def _wrap(self, core: Any, kind: str, name: str) -> None:
        own, inner = name in core.__dict__, getattr(core, name)
        signature = inspect.signature(inner)

        @functools.wraps(inner)
        def watched(*args: Any, **kwargs: Any) -> Any:
            if self._call.run is not None:
                # Qwen3-VL makes the features of videos by its own call for images.
                return inner(*args, **kwargs)
            named = _arguments(signature, args, kwargs)
            if self.merge is not None and not self.merge.spread and kind == "video":
                # What averages patches needs all of them: it would fail on those that are left.
                given = on_host(self.family.picture)(self.model, named)
                if given is not None:
                    refuse_mixed(given)
            run = self._call.run = TowerRun(named)
            try:
                output = inner(*args, **kwargs)
            finally:
                self._call.run = None
                run.given = {}  # what is kept of a run must not keep its pixels
            self._keep(kind, named, output, run)
            return output

        core.__dict__[name] = watched

        def undo() -> None:
            if own:
                core.__dict__[name] = inner
            else:
                core.__dict__.pop(name, None)

        self._undo.append(undo)

    @_eager
    @on_host
    def _keep(self, kind: str, named: Mapping[str, Any], output: Any, run: TowerRun) -> None:
        if self.check is not None:
            self.check(named)
        if self.tower is not None:
            self.family.check_feature_layer(cast(Any, unwrap(self.model)).config, named)
        for weigh in run.later:
            weigh()
        run.later.clear()
        picture, features = self.family.picture(self.model, named), self.family.features(output)
        if picture is None or features is None:
            return
        seen = Seen(picture, run, tuple(features), self.merge, self.prune)
        setattr(output, SEEN, seen)
        self._known[_mark(features)] = seen
        if self._call.made is not None:
            self._call.made[kind] = output

    def _watch(self, tower: Tower) -> None:
        module: Any
        hooks: list[Any] = [tower.module.register_forward_pre_hook(self._before_tower, with_kwargs=True)]
        for key in set(self.keys.values()):
            module = getattr(tower, key)
            hooks.append(
                module.register_forward_hook(functools.partial(self._after_attention, key), with_kwargs=True)
            )
        for number in self.received:
            hook = functools.partial(self._after_received, number)
            hooks.append(tower.attention_of(number).register_forward_hook(hook, with_kwargs=True))
        for number in set(tower.states) if self.wanted else ():
            if number:
                keep = functools.partial(self._after_layer, number)
                hooks.append(tower.layers[number - 1].register_forward_hook(keep))
            else:
                hooks.append(tower.layers[0].register_forward_pre_hook(self._before_first, with_kwargs=True))
        self._undo += [hook.remove for hook in hooks]

    @_eager
    @on_host
    def _before_tower(
        self, module: nn.Module, args: tuple, kwargs: dict[str, Any]
    ) -> tuple[tuple, dict[str, Any]] | None:
        run, tower = self._call.run, self.tower
        if run is None or tower is None:
            return None
        wants_order = self.wanted or self.prune is not None
        order = self.family.tower_order(tower, {**run.given, **kwargs}) if wants_order else None
        if self.wanted:
            run.order = order
        if self.prune is not None:
            run.pruning = Pruning.of(self.prune, self.family, tower, order, args, kwargs)
            return args, kwargs | {PRUNING: run.pruning}
        if self.merge is None:
            return None
        if not tower.carries and module.training and any(map(checkpoints, tower.layers)):
            raise ValueError(
                f"tokens merge inside the vision tower of {self.family.name} without gradient checkpointing "
                "alone, for its layers are told nothing when they are run again: switch it off for the tower"
            )
        if tower.packed:
            run.packed = PackedMerging(self.merge.r, self.family.tower_cells(module, kwargs))
            return args, kwargs | {PACKED: run.packed}
        run.merging = Merging(self.merge.r, int(tower.has_cls))
        return args, kwargs | {MERGING: run.merging}

    @_eager
    @on_host
    def _after_attention(
        self, key: Which, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any
    ) -> None:
        run, tower = self._call.run, self.tower
        if run is None or tower is None:
            return
        x = args[0] if args else kwargs["hidden_states"]
        bias = run.merging.bias(-1) if run.merging is not None else None
        with torch.no_grad():
            pairs = self._pairs(tower, module, x.detach(), kwargs)
            run.scores[key] = look(pairs, tower.has_cls, bias)
        if not (self.weighs and x.requires_grad and torch.is_grad_enabled()):
            return

        def weigh() -> None:
            pairs = self._pairs(tower, module, x, kwargs)
            run.scores[key] = replace(run.scores[key], single=together(pairs, tower.has_cls, bias))

        if tower.module.training and any(map(checkpoints, tower.layers)):
            # What a checkpointed layer does must be what it does again when it is recomputed.
            run.later.append(weigh)
        else:
            weigh()

    @_eager
    @on_host
    @torch.no_grad()
    def _after_received(
        self, number: int, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any
    ) -> None:
        run, tower = self._call.run, self.tower
        if run is not None and tower is not None:
            x = (args[0] if args else kwargs["hidden_states"]).detach()
            pairs = self._pairs(tower, module, x, kwargs, everyone=True)
            run.received[number] = tuple(received(q, k) for q, k in pairs)

    def _pairs(
        self, tower: Tower, module: nn.Module, x: torch.Tensor, kwargs: dict[str, Any], everyone: bool = False
    ) -> list:
        """Queries and keys of all heads, also where processes share them."""
        own = self.family.tower_heads(module, x, kwargs, tower.has_cls and not everyone)
        return [tuple(all_heads(part, tower.heads, module) for part in pair) for pair in own]

    @_eager
    @on_host
    def _after_layer(self, number: int, module: nn.Module, args: tuple, output: Any) -> None:
        if self._call.run is not None:
            self._call.run.states[number] = output[0] if isinstance(output, tuple) else output

    @_eager
    @on_host
    def _before_first(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if self._call.run is not None:
            self._call.run.states[0] = args[0] if args else kwargs["hidden_states"]

    def _pruning(self) -> Pruning | None:
        """What the run at hand leaves out."""
        return None if self._call.run is None else self._call.run.pruning

    def _merge(self, tower: Tower, merge: TowerMerge) -> None:
        layer: Any
        if tower.packed:
            self._undo += tower_packed.install(self.family, tower, self._packed)
            return
        made = tower.number("made")
        for number, layer in enumerate(tower.layers):
            last, merges = number == made, number <= made
            watch = self._watch_merged if last and "made" in self.keys.values() else None
            spreads, running = merge.spread and last, self._merging
            self._undo.append(
                MergingLayer(
                    self.family, layer, number, tower.heads, merges, watch, spreads, running
                ).install()
            )
        if not merge.spread:
            assert tower.projector is not None
            self._undo.append(tower.projector.register_forward_hook(self._after_projector).remove)

    def _packed(self) -> PackedMerging | None:
        """What the run at hand merges in a tower of packed patches."""
        return None if self._call.run is None else self._call.run.packed

    def _merging(self) -> Merging | None:
        """What the run at hand merges, for layers to which their tower hands nothing on."""
        run, tower = self._call.run, self.tower
        return None if run is None or tower is None or tower.carries else run.merging

    def _watch_merged(self, scores: TowerScores) -> None:
        if self._call.run is not None:
            self._call.run.scores["made"] = scores

    @_eager
    @on_host
    def _after_projector(self, module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor | None:
        run, tower = self._call.run, self.tower
        if run is None or run.merging is None or tower is None:
            return None
        return run.merging.spread(output)


def allow_other_sizes(model: nn.Module, family: Family) -> Callable[[], None]:
    """Lets the vision tower take images of other sizes than it was made for; returns what undoes it."""
    return family.other_sizes(model)


def _served(family: Family, tower: Tower) -> dict[Which, Which]:
    """Which layer's attention serves for each that may be wanted."""
    have: list[Which] = [key for key in ("made", "reads") if getattr(tower, key) is not None]
    if not have:
        raise ValueError(f"the vision tower of this {family.name} model has no layer to look at")
    return {key: key if key in have else have[0] for key in ("made", "reads")}


def _mark(features: Any) -> int:
    """What tells features of one call from others, whatever object they are handed on in."""
    return id(features if isinstance(features, torch.Tensor) or not features else features[0])


def _same(made: tuple[torch.Tensor, ...], given: Any) -> list[int] | None:
    """Which of the images these features are of, beams repeat them; None if of others."""
    if isinstance(given, torch.Tensor):
        return _copies(made, given)
    numbers = {id(one): number for number, one in enumerate(made)}
    found = [numbers.get(id(one)) for one in given]
    return None if None in found else [n for n in found if n is not None]


def _copies(made: tuple[torch.Tensor, ...], given: torch.Tensor) -> list[int] | None:
    """The same of features in one tensor, which beams copy: they are told by what they hold."""
    if not made or given.shape[1:] != made[0].shape:
        return None
    if given.shape[0] == len(made) and given.data_ptr() == made[0].data_ptr():
        return list(range(len(made)))
    equal = torch.stack([(given == one).flatten(1).all(1) for one in made], dim=1)
    return equal.int().argmax(1).tolist() if bool(equal.any(1).all()) else None


def in_order(
    family: Family,
    model: nn.Module,
    images: Sequence[Sequence[int]],
    lengths: Sequence[int],
    input_ids: torch.Tensor | None,
) -> list[int]:
    """Numbers of images and videos in the order of their placeholders.

    Args:
        family: The model's adapter.
        model: The model, for its configuration.
        images: Numbers of the images, and of the videos.
        lengths: Rows of each by number.
        input_ids: Token ids of the prompts.

    Raises:
        ValueError: If there are both and no token ids.
    """
    if not all(images):
        return [number for kind in images for number in kind]
    if input_ids is None:
        raise ValueError("images and videos in one prompt need input_ids, which tell their order")
    config: Any = unwrap(model).config
    ids = input_ids.flatten().cpu()
    left, order, at = [list(kind) for kind in images], [], 0
    tokens = torch.stack([(ids == token) for token in family.visual_ids(config)])
    kinds = tokens.long().argmax(0)[tokens.any(0)].tolist()
    while at < len(kinds):
        order.append(left[kinds[at]].pop(0))
        at += lengths[order[-1]]
    return order


def _arguments(
    signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Arguments of a call by name, with those that a signature only passes on (sizes, in some releases)."""
    bound = signature.bind(*args, **kwargs)
    found = dict(bound.arguments)
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            found |= found.pop(name, {})
    return found
