"""One dense forward of a prompt, kept layer by layer, so that other routes start where they first differ.

Calibration asks for the next-token logits of many routes that differ in a layer or two. Everything before the
first of them is known, and so is every row that layer computes as the stock model does; of the last layer
only the rows at the end matter whose logits are asked for. All of this is exact.

Shape letters: B batch (1 here), N rows, T rows at the end, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from saccade.core.layout import Layout
from saccade.core.pricing import executed_flops
from saccade.core.recurrence import check_sets
from saccade.core.route import LayerRoute, Route, compose
from saccade.core.shapes import ModelShape
from saccade.core.sight import Sight
from saccade.engine.attach import Attachment, apply
from saccade.engine.checks import check_supported
from saccade.engine.ending import read_from
from saccade.engine.frame import Frame
from saccade.engine.layers import FRAME
from saccade.engine.sights import sights_of
from saccade.families import Added
from saccade.families.offsets import position_offsets_kept
from saccade.plans.plan import Plan


@dataclass(frozen=True, eq=False)
class ReplayProgram:
    """What has to run to get the last rows' logits of a route.

    Attributes:
        start: First layer that differs from the stock layer; its input is the dense one.
        layers: Row sets of the layers from ``start`` on, None where a layer has nothing left to compute.
        known_BN: Rows that ``start`` leaves as the dense forward does; None where none are known.
    """

    start: int
    layers: tuple[LayerRoute | None, ...]
    known_BN: torch.Tensor | None = None


def shorten(route: Route, tail: int = 1) -> ReplayProgram | None:
    """The least that gives the last rows' logits of a route, or None where they are the dense ones.

    Args:
        route: Of one sample without padding.
        tail: How many rows at the end are asked for.
    """
    layout, depth = route.layout, len(route.layers)
    dense = {layer: layer.is_dense for layer in dict.fromkeys(route.layers)}
    start = next((n for n, layer in enumerate(route.layers) if not dense[layer]), None)
    if start is None:
        return None
    last_BN = torch.zeros_like(layout.visual_BN)
    last_BN[:, read_from(route)[0, -tail:]] = True
    final = route.layers[-1]
    end = _only(final, last_BN, layout)
    if start == depth - 1:
        return ReplayProgram(start, (end,)) if bool((last_BN & ~_as_dense(final, layout)).any()) else None
    first, rest = route.layers[start], (*route.layers[start + 1 : -1], end)
    known_BN = _as_dense(first, layout)
    if not bool(known_BN.any()):
        return ReplayProgram(start, (first, *rest))
    return ReplayProgram(start, (_only(first, ~known_BN, layout), *rest), known_BN)


def _only(layer: LayerRoute, rows_BN: torch.Tensor, layout: Layout) -> LayerRoute | None:
    """A layer of which only some rows' outputs are wanted; None if it does nothing to them."""
    query_BN, ffn_BN = layer.query_BN & rows_BN, layer.ffn_BN & rows_BN
    if layer.visibility == "text_and_self" and bool((query_BN & layout.visual_BN).any()):
        query_BN = layer.query_BN  # the engine runs this reading on all rows or none
    if bool(query_BN.any()):
        return LayerRoute(layer.alive_BN, query_BN, ffn_BN, layer.visibility)
    if not bool(ffn_BN.any()):
        return None
    if not bool(layer.query_BN.any()):
        return LayerRoute(layer.alive_BN, layer.query_BN, ffn_BN)
    # The engine's attention wants a query: a row whose output is not wanted, over the few keys that are left.
    query_BN[:, int(layer.query_BN[0].int().argmax())] = True
    return LayerRoute(ffn_BN | query_BN, query_BN, ffn_BN)


def _as_dense(layer: LayerRoute, layout: Layout) -> torch.Tensor:
    """Rows that a layer computes exactly as the stock layer does, given the same input."""
    if not bool(layer.alive_BN.all()):
        return torch.zeros_like(layer.alive_BN)
    rows_BN = layer.query_BN & layer.ffn_BN
    return rows_BN & ~layout.visual_BN if layer.visibility == "text_and_self" else rows_BN


class Replay:
    """The dense forward of one prompt, ready to be rerun under other routes (made by ``Replayer.record``).

    Attributes:
        layout: Where the prompt's visual rows are.
        logits_TV: Dense logits of the rows at the end.
    """

    def __init__(
        self,
        attachment: Attachment,
        layout: Layout,
        logits_TV: torch.Tensor,
        states: list[torch.Tensor],
        calls: list[dict[str, Any]],
        added: Added | None = None,
        sights: tuple[Sight, ...] = (),
    ) -> None:
        self.layout, self.logits_TV, self._sights = layout, logits_TV, sights
        self._attachment, self._states, self._calls, self._added = attachment, states, calls, added

    @torch.no_grad()
    def logits(self, route: Route) -> torch.Tensor:
        """Logits (T, V) of the rows at the end under a route of this replay's ``layout``.

        Raises:
            ValueError: If the route is of another layout or depth, or asks for what a state cannot honour.
        """
        parts = self._attachment.parts
        check_sets(route, self._attachment.recurrent, "this route")
        if route.layout is not self.layout or len(route.layers) != len(self._states):
            raise ValueError("a replay runs routes of its own layout and the model's depth")
        program = self._program(route)
        if program is None:
            return self.logits_TV
        start = program.start
        hidden = self._states[start]
        stock = Route.dense(self.layout, 1).layers
        whole = Route(self.layout, (*stock * start, *(layer or stock[0] for layer in program.layers)))
        rows, device = self.layout.rows, hidden.device
        frame = Frame.build(whole, len(self._states), 1, rows, 0, None, device, sights=self._sights)
        for number, layer in enumerate(program.layers, start):
            if layer is not None:
                hidden = parts.layers[number](hidden, **self._calls[number] | {FRAME: frame})
            if self._added is not None:
                hidden = self._added.after(number, hidden)
            if number == start and program.known_BN is not None:
                known = program.known_BN.to(hidden.device)[..., None]
                hidden = torch.where(known, self._states[start + 1], hidden)
        return _head(self._attachment, hidden, self._read_from(route))

    @property
    def tail(self) -> int:
        """How many rows at the end have logits."""
        return self.logits_TV.shape[0]

    def _read_from(self, route: Route) -> torch.Tensor:
        """Numbers of the rows whose outputs are those of the rows at the end."""
        own = self._attachment.plan
        both = compose([own.route(self.layout, len(route.layers)), route]) if own.methods else route
        return read_from(both)[0, -self.tail :]

    def _program(self, route: Route) -> ReplayProgram | None:
        own = self._attachment.plan
        if not own.methods:
            return shorten(route, self.tail)
        # It was recorded under the model's own plan: from the first touched layer on both run.
        start = next((n for n, layer in enumerate(route.layers) if not layer.is_dense), None)
        if start is None:
            return None
        both = compose([own.route(self.layout, len(route.layers)), route])
        return ReplayProgram(start, both.layers[start:])

    def flops(self, shape: ModelShape, route: Route) -> int:
        """Decoder FLOPs that ``logits(route)`` dispatches, the head's rows included."""
        program = self._program(route)
        if program is None:
            return 0
        sizes = shape.each_layer[program.start :]
        layers = sum(
            executed_flops(one, layer, self.layout)
            for layer, one in zip(program.layers, sizes, strict=True)
            if layer is not None
        )
        return layers + 2 * shape.hidden * shape.vocab * self.tail


class Replayer:
    """Records dense forwards of one model (see ``replaying``)."""

    def __init__(self, model: nn.Module, attachment: Attachment) -> None:
        self.model, self.attachment = model, attachment

    @torch.no_grad()
    def record(self, inputs: Mapping[str, Any], tail: int = 1) -> Replay:
        """Runs the dense forward of one prompt and keeps what each layer was given.

        Args:
            inputs: Keyword arguments of the model for one sample without padding.
            tail: How many rows at the end will be asked for their logits.

        Raises:
            ValueError: If there are more samples, padding, or a decoder loop that replay cannot follow.
        """
        ids, mask = inputs["input_ids"], inputs.get("attention_mask")
        if ids.shape[0] != 1 or (mask is not None and not bool(mask.all())):
            raise ValueError(f"replay takes one prompt without padding, got input_ids of {tuple(ids.shape)}")
        check_supported(self.attachment.family, self.attachment.parts.decoder, {}, ids, None)
        layout = Layout.from_mask(self.attachment.family.visual_mask(self.model, ids))
        states: list[torch.Tensor] = []
        calls: list[dict[str, Any]] = []
        outputs: list[torch.Tensor] = []
        seen: list[int] = []
        added: list[Added | None] = []

        def enter(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            added.append(self.attachment.family.added(kwargs))

        hooks = [self.attachment.parts.decoder.register_forward_pre_hook(enter, with_kwargs=True)]
        for number, layer in enumerate(self.attachment.parts.layers):

            def before(module: nn.Module, args: tuple, kwargs: dict[str, Any], n: int = number) -> None:
                kept = dict(kwargs)
                states.append(args[0] if args else kept.pop("hidden_states"))
                calls.append(kept)
                seen.append(n)

            def after(module: nn.Module, args: tuple, output: Any) -> None:
                outputs.append(output)

            # What the loop passes and takes back: other hooks of a layer are run again with it.
            hooks.append(layer.register_forward_pre_hook(before, with_kwargs=True, prepend=True))
            hooks.append(layer.register_forward_hook(after))
        try:
            result = self.model(**inputs, use_cache=False, logits_to_keep=tail)
        finally:
            for hook in hooks:
                hook.remove()
        if added[0] is not None:
            outputs = [added[0].after(number, left) for number, left in enumerate(outputs)]
        self._check_loop(seen, states, outputs)
        logits_TV = result.logits[0]
        read_T = torch.arange(layout.rows)[-tail:]
        if self.attachment.plan.methods:
            read_T = read_from(self.attachment.plan.route(layout, len(outputs)))[0, -tail:]
        again = _head(self.attachment, outputs[-1], read_T)
        if not torch.allclose(logits_TV.float(), again.float(), rtol=1e-2, atol=1e-2, equal_nan=True):
            raise ValueError("this model changes its logits after the head, which replay cannot follow")
        config: Any = self.attachment.parts.decoder.config
        rules = self.attachment.family.rules(config)
        sights = sights_of(self.attachment.family, rules, inputs, 0, layout.rows)
        return Replay(self.attachment, layout, logits_TV, states, calls, added[0], sights)

    def _check_loop(self, seen: list[int], states: list[torch.Tensor], outputs: list[Any]) -> None:
        name, depth = self.attachment.family.name, len(self.attachment.parts.layers)
        if seen != list(range(depth)):
            raise ValueError(
                f"{name}: a forward called {len(seen)} decoder layers, not each of the {depth} once in turn; "
                "replay cannot follow it"
            )
        for number, (left, entered) in enumerate(zip(outputs[:-1], states[1:], strict=True)):
            if left is entered or (
                isinstance(left, torch.Tensor) and torch.equal(left.to(entered.device), entered)
            ):
                continue
            raise ValueError(
                f"{name}: the states change between layers {number} and {number + 1}; replay cannot follow it"
            )


def _head(attachment: Attachment, hidden_BND: torch.Tensor, rows_T: torch.Tensor) -> torch.Tensor:
    parts = attachment.parts
    assert parts.head is not None
    logits_BTV = parts.head(parts.norm(hidden_BND[:, rows_T.to(hidden_BND.device)]))
    return attachment.family.said(attachment.model, logits_BTV)[0]


@contextmanager
def replaying(model: nn.Module) -> Iterator[Replayer]:
    """Makes a model ready for replay, in evaluation mode; leaves it as it was.

    Raises:
        ValueError: If the family is unknown, the model has no language-model head, a plan is attached, or the
            model's own plan decides on the way which rows go on.
    """
    modes = [(module, module.training) for module in model.modules()]
    with apply(model, Plan()) as attachment:
        parts = attachment.parts
        if attachment.decides:
            raise ValueError(
                f"the model's own plan {attachment.plan.spec} decides on the way which rows go on, "
                "which replay cannot follow; run whole forwards instead"
            )
        if parts.head is None:
            raise ValueError("replay needs next-token logits: give the model with its language-model head")
        model.eval()
        try:
            with position_offsets_kept(parts.core):
                yield Replayer(model, attachment)
        finally:
            for module, training in modes:
                module.training = training
