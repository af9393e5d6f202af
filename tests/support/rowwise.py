"""A slow account of row sets decided on the way: given which rows lived, stock dense layers run on all.

The stock layers run on every row without a cache; hooks give each layer an N x N mask that hides rows that
are gone, zero the outputs of rows that were not computed, and turn positions that closed up into rotary
tables. Which rows lived comes from a trace; everything that follows from it is recomputed here.

Shape letters: B batch, N rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import pad

from saccade.engine.trace import Trace
from support.ending import showing
from support.models import decoder_of
from support.recurrent import OnRows, ffn_of, kept, last_norm, mixer_of, recurs
from support.sight import angles, sees_BNN, told_kinds


@dataclass(frozen=True)
class Sets:
    """One layer: who is there, who asks, who passes the FFN, and by how much positions have moved down."""

    alive_BN: torch.Tensor
    query_BN: torch.Tensor
    ffn_BN: torch.Tensor
    moved_BN: torch.Tensor | None = None
    total_B1: torch.Tensor | None = None

    def longer(self, new: int) -> Sets:
        """The same with rows of text after it."""
        more = [pad(s, (0, new), value=True) for s in (self.alive_BN, self.query_BN, self.ffn_BN)]
        moved = self.moved_BN
        if moved is not None:
            moved = torch.cat([moved, self.total_B1.expand(-1, new)], 1)
        return Sets(*more, moved, self.total_B1)


def sets_of(trace: Trace) -> list[Sets]:
    """The row sets of every layer of a forward that was traced."""
    visual_BN, found = trace.layout.visual_BN, []
    for number, layer in enumerate(trace.route.layers):
        moved = total = None
        for cut in trace.cuts:
            if cut.before <= number and cut.compact:
                gone = (visual_BN & ~cut.alive_BN).long()
                moved, total = gone.cumsum(1) - gone, gone.sum(1, keepdim=True)
        found.append(Sets(layer.alive_BN, layer.query_BN, layer.ffn_BN, moved, total))
    return found


@contextmanager
def rowwise(model: nn.Module, sets: Sequence[Sets]) -> Iterator[None]:
    """Makes a stock model compute what the row sets mean, in forwards of the whole sequence without a cache.

    Dropped rows keep their embeddings where the engine clears them; no other row sees them.
    """
    state: dict[str, Any] = {}

    def before_core(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        state["mask"], state["kinds"] = kwargs.get("attention_mask"), told_kinds(kwargs)

    def before_decoder(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        embeds, mask = kwargs["inputs_embeds"], state.get("mask", kwargs.get("attention_mask"))
        rows = embeds.shape[1]
        state["real"] = torch.ones(embeds.shape[:2]).bool() if mask is None else mask.bool()
        ids = kwargs.get("position_ids")
        state["ids"] = torch.arange(rows)[None] if ids is None else ids
        state["embeds"] = embeds
        state["sets"] = [s.longer(rows - s.alive_BN.shape[1]) for s in sets]

    def before_attention(number: int):
        def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any]):
            one: Sets = state["sets"][number]
            rows = one.alive_BN.shape[1]
            place = torch.arange(rows)[None] - (state["real"].cumsum(1) == 0).sum(1, keepdim=True)
            place = place if one.moved_BN is None else place - one.moved_BN
            allowed = sees_BNN(model.config, number, state.get("kinds"), rows, place)
            allowed = allowed & (state["real"] & one.alive_BN)[:, None, :]
            own = torch.eye(rows, dtype=torch.bool)[None]
            allowed = allowed | (own & ~allowed.any(-1, keepdim=True))
            dtype = kwargs["hidden_states"].dtype
            mask = torch.zeros(allowed.shape, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)
            kwargs = kwargs | {"attention_mask": mask[:, None], "past_key_values": None}
            if one.moved_BN is not None:
                at = state["ids"] - one.moved_BN
                kwargs["position_embeddings"] = angles(decoder, state["embeds"], at, number)
            return args, kwargs

        return hook

    def entering(number: int):
        return lambda: state["real"] & state["sets"][number].alive_BN

    def silence(number: int, which: str):
        def hook(module: nn.Module, args: tuple, output: Any) -> Any:
            keep = getattr(state["sets"][number], which)[..., None]
            return kept(output, keep)

        return hook

    decoder = decoder_of(model)
    handles = [
        model.model.register_forward_pre_hook(before_core, with_kwargs=True),
        decoder.register_forward_pre_hook(before_decoder, with_kwargs=True),
    ]
    try:
        for number, layer in enumerate(decoder.layers):
            attn, mlp = mixer_of(layer), ffn_of(layer)
            if recurs(layer):
                handles.append(OnRows(attn, entering(number)))
            else:
                handles.append(attn.register_forward_pre_hook(before_attention(number), with_kwargs=True))
            handles.append(attn.register_forward_hook(silence(number, "query_BN")))
            handles.append(mlp.register_forward_hook(silence(number, "ffn_BN")))

        def rows() -> tuple[torch.Tensor, torch.Tensor]:
            alive_BN = state["sets"][-1].alive_BN
            return alive_BN, state["real"] & ~alive_BN

        handles.append(showing(last_norm(decoder), rows))
        yield
    finally:
        for handle in handles:
            handle.remove()
