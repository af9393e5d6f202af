"""Prompts that really are shorter: the stock layers of a decoder on the rows that are left, and no others.

Nothing is masked and nothing keeps its place: rows that a layer does not have are cut out of the hidden
states before it. Which rows lived comes from a trace.

Shape letters: B batch, N rows, M rows that are left, D hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import pad

from saccade import apply
from support.models import Tiny, decoder_of
from support.recurrent import last_norm, recurs
from support.rowwise import Sets, sets_of
from support.sight import angles, last_logits, sees_BNN, told_kinds


@dataclass
class Entered:
    """What entered the decoder of a forward: its arguments, and what its first layer was given."""

    kwargs: dict[str, Any] = field(default_factory=dict)
    hidden_BND: Any = None


@contextmanager
def entering(tiny: Tiny) -> Iterator[Entered]:
    """Notes what the next forward's decoder and its first layer get."""
    found, decoder = Entered(), decoder_of(tiny.model)

    def into_decoder(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        found.kwargs = dict(kwargs)

    def into_layer(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        found.hidden_BND = args[0] if args else kwargs["hidden_states"]

    hooks = (
        decoder.register_forward_pre_hook(into_decoder, with_kwargs=True),
        decoder.layers[0].register_forward_pre_hook(into_layer, with_kwargs=True),
    )
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def shortened(
    tiny: Tiny, spec: str, given: dict[str, Any], said_1T: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Logits (M, vocabulary) of the shorter prompt, and the numbers of its rows; None without an image.

    Args:
        tiny: The model, without a plan.
        spec: The plan, which says what is left (and what was merged before the decoder).
        given: Inputs of one sample without padding.
        said_1T: Tokens after it, which the plan did not see.
    """
    with apply(tiny.model, spec) as handle, handle.tracing() as traces, entering(tiny) as entered:
        tiny.model(**given, use_cache=False)
    if not traces:
        return None
    hidden, stock = entered.hidden_BND, entered.kwargs.get("position_ids")
    stock = torch.arange(hidden.shape[1])[None] if stock is None else stock
    if said_1T is not None:
        hidden = torch.cat([hidden, tiny.model.get_input_embeddings()(said_1T)], 1)
        # As generate counts on, axis by axis.
        stock = torch.cat([stock, stock[..., -1:] + 1 + torch.arange(said_1T.shape[1])], -1)
    deep = list(_deep(entered.kwargs, hidden.shape[1]))
    return _run(tiny, hidden, stock, sets_of(traces[0]), deep, told_kinds(given))


def _run(
    tiny: Tiny,
    hidden: torch.Tensor,
    stock: torch.Tensor,
    sets: Sequence[Sets],
    deep: Sequence[torch.Tensor],
    kinds: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    decoder, every = decoder_of(tiny.model), hidden.shape[1]
    rows = torch.arange(every)
    for number, layer in enumerate(decoder.layers):
        one = sets[number].longer(every - sets[number].alive_BN.shape[1])
        stay = one.alive_BN[0, rows]
        rows, hidden = rows[stay], hidden[:, stay]
        if not len(rows):
            break
        at = stock if one.moved_BN is None else stock - one.moved_BN
        at = at[-3:] if at.ndim == 3 else at.expand(3, *at.shape) if tiny.family == "qwen" else at
        rotary = angles(decoder, hidden, at[..., rows], number)
        place = torch.arange(every)[None] if one.moved_BN is None else torch.arange(every) - one.moved_BN
        sees = sees_BNN(tiny.model.config, number, kinds, every, place)[:, rows][:, :, rows]
        mask = torch.zeros(sees.shape).masked_fill(~sees, torch.finfo(hidden.dtype).min)
        shown = None if recurs(layer) else mask[:, None]
        hidden = layer(hidden, attention_mask=shown, position_embeddings=rotary)
        if number < len(deep):
            hidden = hidden + deep[number][:, rows]
    return last_logits(tiny.model, last_norm(decoder)(hidden))[0], rows


def _deep(kwargs: dict[str, Any], every: int) -> Iterator[torch.Tensor]:
    """What the stock loop adds after its first layers (DeepStack), zeros at text."""
    for features_RD in kwargs.get("deepstack_visual_embeds") or []:
        rows_BN = pad(kwargs["visual_pos_masks"], (0, every - kwargs["visual_pos_masks"].shape[1]))
        dense = features_RD.new_zeros(*rows_BN.shape, features_RD.shape[-1])
        dense[rows_BN] = features_RD
        yield dense
