"""Attention of a layer whose row sets are not all rows: projections, scores and cache of those rows alone.

Shape letters: B batch, N new rows, Q query rows, K keys, H heads, G key/value heads, D hidden, W head width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from saccade.core.precision import exact, wide
from saccade.core.rows import RowIndex
from saccade.core.sight import CAUSAL, Sight
from saccade.engine.cache import Cache, KeyRows, kv_length, make_ragged, ragged_layer
from saccade.engine.frame import Frame
from saccade.engine.mesh import check_rows
from saccade.engine.steps import Step
from saccade.families import Family, Rotary


def routed_attention(
    family: Family,
    attn: Any,
    frame: Frame,
    step: Step,
    hidden_BND: torch.Tensor,
    rotary: Rotary,
    cache: Cache | None,
    sight: Sight = CAUSAL,
) -> torch.Tensor:
    """Attention output (B, N, D) of a routed layer, zero at rows that do not ask.

    Args:
        family: Adapter that takes the attention module apart.
        attn: The stock attention module.
        frame: This forward.
        step: This layer's row sets.
        hidden_BND: Normed hidden states of every new row.
        rotary: Cosines and sines of every new row.
        cache: KV cache, or None.
        sight: Who sees whom in this layer.
    """
    ragged = None if cache is None else ragged_layer(cache, attn.layer_idx)
    held, kind = None if ragged is None else ragged.rows, family.rotary_kind(attn)
    rotary = frame.rotary(step, held, rotary, kind=kind)
    alive_BND, alive_rotary = take_rows(step.alive, hidden_BND), take_rotary(step.alive, rotary)
    keys_BGKW, values_BGKW = family.keys_values(attn, alive_BND, alive_rotary)
    # Which row of the full sequence each key is: without a cache only those of this forward.
    rows = frame.every(frame.new) if step.alive is None else frame.keys(None, step)
    if cache is not None:
        keys_BGKW, values_BGKW, rows = _store(frame, step, cache, attn.layer_idx, keys_BGKW, values_BGKW)
    asking_BND, asking_rotary = alive_BND, alive_rotary
    # Equal sets are one object: rows that were gathered for the keys serve the queries too.
    if step.query is not step.alive:
        asking_BND, asking_rotary = take_rows(step.query, hidden_BND), take_rotary(step.query, rotary)
    queries_BHQW, gate_BQD = family.asking(attn, asking_BND, asking_rotary)
    dropout = attn.attention_dropout if attn.training else 0.0
    own = family.attention(attn)
    parts = []
    for c in frame.calls(step, rows, sight, squares=own is None):
        if c.stop > c.start:
            asked = queries_BHQW[:, :, c.start : c.stop]
            answers = keys_BGKW[:, :, c.first : c.keys], values_BGKW[:, :, c.first : c.keys]
            if own is None:
                parts.append(_sdpa(asked, *answers, c.mask, c.causal, attn.scaling, dropout))
            else:
                parts.append(own(asked, *answers, _added(c.mask, asked), dropout))
    # A prompt of nothing but visual rows may leave no query at all.
    mixed_BHQW = torch.cat(parts, dim=2) if len(parts) > 1 else parts[0] if parts else queries_BHQW
    out = check_rows(family.output(attn, mixed_BHQW, gate_BQD), mixed_BHQW.shape[2])
    # Rows that do not ask get 0, and so ride the residual.
    out = out if step.query is None else step.query.put(out)
    if step.narrow is None:
        return out
    narrow = _text_and_self(family, attn, frame, step, hidden_BND, rotary, keys_BGKW, values_BGKW, sight)
    return out + step.narrow.put(family.output(attn, *narrow))


def take_rows(rows: RowIndex | None, x_BND: torch.Tensor) -> torch.Tensor:
    """The selected rows of hidden states; all where there is no selection."""
    return x_BND if rows is None else rows.take(x_BND)


def take_rotary(rows: RowIndex | None, rotary: Rotary) -> Rotary:
    """The selected rows of rotary tables."""
    return rotary if rows is None else tuple(rows.take(part) for part in rotary)


def _store(
    frame: Frame, step: Step, cache: Cache, number: int, keys: torch.Tensor, values: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, KeyRows]:
    """Appends the alive rows to the cache; a layer becomes ragged when its first row is dropped."""
    ragged = ragged_layer(cache, number)
    if ragged is None and step.alive is None:
        # Nothing was ever dropped here: the stock layer stays, and columns are row numbers.
        keys, values = cache.update(keys, values, number)
        return keys, values, frame.held(keys.shape[2])
    if ragged is None:
        ragged = make_ragged(cache, number, frame.every(frame.past, frame.past - kv_length(cache, number)))
    rows = frame.keys(ragged.rows, step)
    ragged.expect(rows, frame.past + frame.new)
    return *cache.update(keys, values, number), rows


def _added(mask: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor | None:
    """A mask as what is added to attention logits."""
    if mask is None:
        return None
    none = torch.zeros((), dtype=like.dtype, device=like.device)
    return none.expand(mask.shape).masked_fill(~mask, torch.finfo(like.dtype).min)


def _sdpa(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    causal: bool,
    scale: float,
    dropout: float,
) -> torch.Tensor:
    grouped = q.shape[1] != k.shape[1]
    if grouped and mask is not None:
        # Masked grouped attention falls back to the math kernel on CUDA; repeated heads do not.
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
        grouped = False
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal, scale=scale, enable_gqa=grouped
    )


def _text_and_self(
    family: Family,
    attn: Any,
    frame: Frame,
    step: Step,
    hidden_BND: torch.Tensor,
    rotary: Rotary,
    keys_BGNW: torch.Tensor,
    values_BGNW: torch.Tensor,
    sight: Sight,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Visual queries over text that they see and themselves (``text_and_self``), without an N x N mask.

    Returns:
        Mixed values, and the gate of the queries.
    """
    if frame.past:
        raise ValueError(
            "under this plan visual rows see text and themselves alone, which takes no new image on an "
            "existing cache; start a new cache"
        )
    visual, text = step.narrow, step.query
    assert visual is not None and text is not None
    q, gate = family.asking(attn, visual.take(hidden_BND), take_rotary(visual, rotary))
    groups = q.shape[1] // keys_BGNW.shape[1]

    def pick(rows: RowIndex, x_BGNW: torch.Tensor) -> torch.Tensor:
        flat = x_BGNW.transpose(1, 2).flatten(2)
        taken = rows.take(flat).unflatten(2, (x_BGNW.shape[1], -1)).transpose(1, 2)
        return taken.repeat_interleave(groups, dim=1)

    k_text, v_text = pick(text, keys_BGNW), pick(text, values_BGNW)
    k_self, v_self = pick(visual, keys_BGNW), pick(visual, values_BGNW)
    seen = frame.mask(visual, frame.keys(None, Step(text)), sight)
    far = family.capped(attn, scaled_scores(q, k_text, attn.scaling)).masked_fill(~seen, float("-inf"))
    near = family.capped(attn, (wide(q) * attn.scaling * wide(k_self)).sum(-1, keepdim=True))
    weights = torch.cat([far, near], dim=-1).softmax(-1).to(q.dtype)
    if attn.training:
        weights = F.dropout(weights, attn.attention_dropout)
    return weights[..., :-1] @ v_text + weights[..., -1:] * v_self, gate


def scaled_scores(q_BHQW: torch.Tensor, k_BGKW: torch.Tensor, scale: float) -> torch.Tensor:
    """Attention logits (B, H, Q, K) of a few queries over many keys, in float32 at least.

    Scaled first, as fused kernels do: with the key biases of Qwen2 a product of half-precision queries and
    keys is past what float16 holds, and bfloat16 rounds away what tells one key from another.
    """
    groups = k_BGKW.shape[1]
    with exact(q_BHQW):
        # The heads of a group ask side by side, so that no key is copied for each of them.
        asks_BGMW = (wide(q_BHQW) * scale).unflatten(1, (groups, -1)).flatten(2, 3)
        scores_BGMK = asks_BGMW @ wide(k_BGKW).transpose(2, 3)
    return scores_BGMK.unflatten(2, (q_BHQW.shape[1] // groups, -1)).flatten(1, 2)
