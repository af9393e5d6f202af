"""The stages of one forward: reaching them, gathering evidence from a few score rows, applying the choice.

Shape letters: B batch, N new rows, R asking rows, H heads, G key/value heads, K cached keys, W head width,
D hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn.functional import pad

from saccade.core.precision import exact
from saccade.core.program import Program, Tally
from saccade.core.rows import RowIndex
from saccade.core.stages import Choice, Counts, Evidence, Grid, Look, Scoring, Stage, Vision
from saccade.engine.attention import scaled_scores, take_rotary, take_rows
from saccade.engine.cache import Cache, KeyRows, ragged_layer
from saccade.engine.ending import those_left
from saccade.engine.frame import Frame
from saccade.engine.mesh import all_heads, check_rows, most_of_heads
from saccade.engine.readers import read
from saccade.engine.rewrite import Carried, rewritten, without
from saccade.engine.steps import Moves, Narrowing, Step, closed_up
from saccade.engine.trace import Trace
from saccade.families import Family, Parts, Rotary


@dataclass(frozen=True, eq=False)
class ForwardFacts:
    """What is known of a forward beside its rows.

    Attributes:
        family: Adapter of the model.
        parts: Modules of the model.
        grid: Where the visual rows lie in the picture, on the host, or None.
        vision: Gives what the vision tower knows, for a look at it and the decoder's input.
        traces: Where to note what happens, if anywhere.
        sources: Whether to note what merged rows are made of.
        carried: What the stock loop adds to rows between layers, or None.
        left: Gives the rows whose patches passed the vision tower, on a device, or None.
        asked_BN: Rows of the prompts, where answers follow them that decisions must not see; on the host.
    """

    family: Family
    parts: Parts
    grid: Grid | None = None
    vision: Callable[[Look, torch.Tensor], Vision] | None = None
    traces: Sequence[list[Trace]] = ()
    sources: bool = True
    carried: Carried | None = None
    left: Callable[[torch.device], torch.Tensor | None] | None = None
    asked_BN: torch.Tensor | None = None


@dataclass(frozen=True, eq=False)
class _Taken:
    """A decision that was taken, for layers that are recomputed under gradient checkpointing.

    Attributes:
        found: Candidates of every image.
        keep: Rows to keep of every image.
        alive_BN: The candidates.
        due_BND: What the stock loop is about to add to the rows, which the decision sees added; or None.
    """

    found: Counts
    keep: Counts
    alive_BN: torch.Tensor
    due_BND: torch.Tensor | None


class Decisions:
    """The stages of one forward. It travels with the frame, never with the model."""

    def __init__(self, program: Program, frame: Frame, context: ForwardFacts) -> None:
        """Gets ready; nothing is decided yet."""
        self.program, self.frame, self.context = program, frame, context
        self.stages = tuple(stage.settled(context.family.compact_positions) for stage in program.stages)
        layout, device, asked_BN = program.route.layout, frame.device, context.asked_BN
        # What decisions see: to them rows of an answer are padding.
        self.layout = layout if asked_BN is None else replace(layout, real_BN=layout.real_BN & asked_BN)
        self.visual_BN = layout.visual_BN.to(device, non_blocking=True)
        self.text_BN = layout.text_BN.to(device, non_blocking=True)
        self.image_BN = layout.image_BN.to(device, non_blocking=True)
        self.left_BN = self.visual_BN
        self._tally = Tally(program.route, program.stages)
        text = RowIndex.from_mask(layout.text_BN).on(device)
        self._narrowings = {
            first: Narrowing.of(program.route, first, text) for first in {s.before for s in program.stages}
        }
        self._scored: Scoring | None = None
        self._moves: Moves | None = None
        self._asking: dict[int, RowIndex] = {}
        self._taken: dict[int, _Taken | None] = {}
        self.kept: dict[int, bool] = {}
        last_BN = _last_rows(self.layout.real_BN)
        self._last = RowIndex.from_mask(last_BN).on(device)
        self._ends_visual = bool((last_BN & layout.visual_BN).any())
        self.trace: Trace | None = None
        if context.traces:
            self.trace = Trace(program.route, context.grid)
            for found in context.traces:
                found.append(self.trace)

    def enter(self, hidden_BND: torch.Tensor) -> torch.Tensor:
        """Takes the decisions that come before the decoder; returns its input."""
        for place, stage in enumerate(self.stages):
            if stage.before == 0 and not stage.look.layer:
                hidden_BND = self._take(place, hidden_BND, lambda s, t: {})
                # The prompt keeps its length: rows that are gone are zeros, and in no layer's alive set.
                gone = self.visual_BN & ~self.left_BN
                hidden_BND = hidden_BND.masked_fill(gone[..., None].to(hidden_BND.device), 0)
        for stage in self.stages:
            if stage.look.ask == "chosen" and id(stage.by) not in self._asking:
                self._asking[id(stage.by)] = self._chosen(stage, hidden_BND)
        return hidden_BND

    def before(
        self, number: int, layer: Any, hidden_BND: torch.Tensor, kwargs: dict[str, Any]
    ) -> torch.Tensor:
        """Takes the decisions that look at the layer about to run; returns its input."""
        for place, stage in enumerate(self.stages):
            if stage.before == number and stage.look.layer and stage.look.moment == "before":
                into = hidden_BND

                def see(stage: Stage, taken: _Taken, into: torch.Tensor = into) -> dict[str, Any]:
                    return self._look(stage, taken, number, layer, into, kwargs, fresh=True)

                hidden_BND = self._take(place, hidden_BND, see)
        return hidden_BND

    def after(
        self,
        number: int,
        layer: Any,
        into_BND: torch.Tensor,
        kwargs: dict[str, Any],
        hidden_BND: torch.Tensor,
    ) -> torch.Tensor:
        """Takes the decisions that look at the layer that just ran, or at no layer; returns its output."""
        for place, stage in enumerate(self.stages):
            if stage.before == number + 1 and not (stage.look.layer and stage.look.moment == "before"):

                def see(stage: Stage, taken: _Taken) -> dict[str, Any]:
                    if not stage.look.layer:
                        return {}
                    return self._look(stage, taken, number, layer, into_BND, kwargs, fresh=False)

                hidden_BND = self._take(place, hidden_BND, see, number)
        return hidden_BND

    def _take(
        self,
        place: int,
        hidden_BND: torch.Tensor,
        see: Callable[[Stage, _Taken], dict[str, Any]],
        ran: int | None = None,
    ) -> torch.Tensor:
        stage, again = self.stages[place], place in self._taken
        if not again:
            self._taken[place] = self._reach(stage, ran)
        taken = self._taken[place]
        if taken is None:
            return hidden_BND
        home, where = self.frame.device, hidden_BND.device
        due_BND = None if taken.due_BND is None else taken.due_BND.to(hidden_BND)
        self._scored = None
        with torch.no_grad():
            seen = see(stage, taken)
        vision = self.context.vision
        if stage.look.tower is not None and vision is not None:
            seen["vision"] = vision(stage.look, hidden_BND)
        if stage.look.pruned and self.context.left is not None:
            seen["left_BN"] = self.context.left(where)
        # A boundary is where the next layer begins: what comes in between belongs to the layer before.
        evidence = Evidence(
            layout=self.layout,
            alive_BN=taken.alive_BN.to(where),
            image_BN=self.image_BN.to(where),
            found=taken.found,
            keep=taken.keep,
            hidden_BND=hidden_BND if due_BND is None else hidden_BND + due_BND,
            norm=self.context.parts.norm,
            grid=None if self.context.grid is None else _on(self.context.grid, where),
            **seen,
        )
        with exact(hidden_BND):
            choice = stage.by.choose(stage, evidence)
            if not again:
                self._apply(stage, choice, taken, home)
            if choice.rewrite is None:
                return hidden_BND
            rewrite = choice.rewrite if due_BND is None else without(choice.rewrite, due_BND)
            return rewritten(hidden_BND, rewrite)

    def _reach(self, stage: Stage, ran: int | None) -> _Taken | None:
        found, keep = self._tally.reach(stage, self.left_BN.cpu)
        if keep == found:
            return None
        meets, alive_BN = self._tally.meets(stage), self.left_BN
        if meets is not None:
            alive_BN = alive_BN & meets.to(alive_BN.device, non_blocking=True)
        carried = self.context.carried
        due_BND = None if carried is None or ran is None else carried.due(ran)
        return _Taken(found, keep, alive_BN, due_BND)

    def _apply(self, stage: Stage, choice: Choice, taken: _Taken, home: torch.device) -> None:
        counts = taken.keep if choice.counts is None else choice.counts
        self._tally.cut(counts)
        self.left_BN = choice.keep_BN.to(home)
        compact = stage.compact == "always"
        if compact:
            self._moves = closed_up(self.visual_BN, self.left_BN)
        totals = [sum(sample) for sample in counts]
        steps = self._narrowings[stage.before].steps(self.left_BN, totals, self.text_BN, self._moves)
        self.frame.change(stage.before, steps)
        if choice.rewrite is not None and self.context.carried is not None:
            self.context.carried.follow(choice.rewrite)
        if self.trace is not None:
            rewrite = choice.rewrite if self.context.sources else None
            self.trace.cut(stage, self.left_BN, rewrite, compact, self._scored)

    def _chosen(self, stage: Stage, hidden_BND: torch.Tensor) -> RowIndex:
        evidence = Evidence(
            self.layout, self.left_BN, self.image_BN, self._tally.alive, self._tally.alive, hidden_BND
        )
        with torch.no_grad(), exact(hidden_BND):
            mask_BN = stage.by.asking(evidence)
        # How many rows ask depends on the data: the host waits, once a prompt.
        return RowIndex.from_mask(mask_BN.cpu()).on(self.frame.device)

    def _look(
        self,
        stage: Stage,
        taken: _Taken,
        number: int,
        layer: Any,
        hidden_BND: torch.Tensor,
        kwargs: dict[str, Any],
        fresh: bool,
    ) -> dict[str, Any]:
        """Score rows of a layer, from its input. ``fresh``: the layer has not run yet."""
        # A view of a tensor with gradients says it wants one, which hooks on modules cannot give it here.
        hidden_BND = check_rows(hidden_BND.detach(), self.frame.new)
        family = self.context.family
        attn: Any = family.mixer(layer)
        frame = self.frame.on(hidden_BND.device)
        step = frame.steps[number] or Step()
        cache: Cache | None = kwargs.get("past_key_values")
        ragged = None if cache is None else ragged_layer(cache, attn.layer_idx)
        held, kind = None if ragged is None else ragged.rows, family.rotary_kind(attn)
        stock = frame.tables(family, attn, kwargs["position_embeddings"])
        rotary = frame.rotary(step, held, stock, kind=kind)
        keys_BGKW, rows = self._keys(attn, layer, frame, step, hidden_BND, rotary, cache, fresh)
        seen: dict[str, Any] = {}
        if stage.look.rotary:
            tables = frame.rotary(step, held, stock, exact=True, kind=kind)
            seen["rotary"], seen["turn"] = _over_heads(tables, keys_BGKW.shape[-1]), family.turn
        if stage.look.keys:
            keys = _over_rows(keys_BGKW.transpose(2, 3), step, frame).transpose(2, 3)
            seen["keys_BGNW"] = all_heads(keys, family.heads(attn)[1], attn)
        if stage.look.ask == "nothing":
            self._scored = Scoring(0, keys_BGKW.shape[2], fresh or cache is None)
            return seen
        asks = self._asks(stage, taken).on(hidden_BND.device)
        if self._ends_visual and stage.look.ask != "readers":
            asks = those_left(asks, step.alive)
        self._scored = Scoring(asks.count, keys_BGKW.shape[2], fresh or cache is None)
        normed = family.input_norm(layer, take_rows(asks, hidden_BND))
        queries_BHRW = family.queries(attn, normed, take_rotary(asks, rotary))

        def weights(part: slice) -> torch.Tensor:
            logits = family.capped(attn, scaled_scores(queries_BHRW[:, :, part], keys_BGKW, attn.scaling))
            mask = frame.mask(asks, rows, frame.sights[number], step, part)
            return logits.masked_fill(~mask, float("-inf")).softmax(-1)

        if stage.look.ask == "readers":
            heads = family.heads(attn)[0]

            def most(part: slice) -> torch.Tensor:
                return _over_rows(most_of_heads(weights(part), heads, attn)[:, None], step, frame)[:, 0]

            per_ask = queries_BHRW.shape[0] * queries_BHRW.shape[1] * keys_BGKW.shape[2]
            seen["read_B2N"] = read(most, asks, self.image_BN.to(hidden_BND.device), per_ask)
            return seen
        whole = _over_rows(weights(slice(None)), step, frame)
        seen["weights_BHRN"] = all_heads(whole, family.heads(attn)[0], attn)
        seen["asking_BR"] = asks.index_BR
        seen["asks_BR"] = torch.ones_like(asks.index_BR).bool() if asks.valid_BR is None else asks.valid_BR
        return seen

    def _asks(self, stage: Stage, taken: _Taken) -> RowIndex:
        """Rows that ask at a stage."""
        if stage.look.ask != "readers":
            return self._last if stage.look.ask == "last" else self._asking[id(stage.by)]
        words_BN = self.layout.instruction_BN & self.layout.visual_BN.any(1, keepdim=True)
        words = words_BN.sum(1).tolist()
        counts = [sum(found) + more for found, more in zip(taken.found, words, strict=True)]
        words_BN = words_BN.to(taken.alive_BN.device, non_blocking=True)
        return RowIndex.from_counts(taken.alive_BN | words_BN, counts)

    def _keys(
        self,
        attn: Any,
        layer: nn.Module,
        frame: Frame,
        step: Step,
        hidden_BND: torch.Tensor,
        rotary: Rotary,
        cache: Cache | None,
        fresh: bool,
    ) -> tuple[torch.Tensor, KeyRows]:
        """Keys of a layer and which rows they are: read from the cache where they are there."""
        ragged = None if cache is None else ragged_layer(cache, attn.layer_idx)
        if cache is not None and not fresh:
            held: Any = cache.layers[attn.layer_idx].keys
            rows = frame.held(held.shape[2]) if ragged is None else ragged.rows
            assert rows is not None
            return held.to(hidden_BND.device), rows
        normed = self.context.family.input_norm(layer, take_rows(step.alive, hidden_BND))
        keys_BGKW = self.context.family.keys(attn, normed, take_rotary(step.alive, rotary))
        if cache is None or not frame.past:
            return keys_BGKW, frame.every(frame.new) if step.alive is None else frame.keys(None, step)
        held = cache.layers[attn.layer_idx].keys
        every = frame.every(frame.past, frame.past - held.shape[2])
        rows = frame.keys(every if ragged is None else ragged.rows, step)
        return torch.cat([held.to(keys_BGKW.device), keys_BGKW], dim=2), rows


def _over_heads(rotary: Rotary, width: int) -> Rotary:
    """Rotary tables over whole heads: what they do not turn stays."""
    cos, sin = rotary[:2]
    more = width - cos.shape[-1]
    return (pad(cos, (0, more), value=1.0), pad(sin, (0, more))) if more else (cos, sin)


def _last_rows(real_BN: torch.Tensor) -> torch.Tensor:
    """The last real row of every sample."""
    rows = torch.arange(real_BN.shape[1]).expand_as(real_BN)
    last = torch.where(real_BN, rows, -1).max(1, keepdim=True).values
    return rows == last


def _over_rows(x_BHRK: torch.Tensor, step: Step, frame: Frame) -> torch.Tensor:
    """Columns of the newest keys at the rows of this forward: (B, H, R, N), zeros at dead rows."""
    alive = step.alive
    if alive is None:
        return x_BHRK[..., x_BHRK.shape[-1] - frame.new :]
    newest = x_BHRK[..., x_BHRK.shape[-1] - alive.count :]
    index_BR = alive.index_BR
    if alive.valid_BR is not None:
        newest = newest * alive.valid_BR[:, None, None, :].to(newest.dtype)
    out = newest.new_zeros(*newest.shape[:-1], frame.new)
    # Padding slots all point at row 0 and add nothing.
    return out.scatter_add_(-1, index_BR[:, None, None, :].expand_as(newest), newest)


def _on(grid: Grid, device: torch.device) -> Grid:
    return Grid(*(part.to(device) for part in (grid.line_BN, grid.column_BN, grid.plane_BN, grid.box_BN4)))
