"""One decoder layer in which visual rows do not do everything; in place of vLLM's own loop body.

Between layers vLLM carries what a layer gave and the stream it is still to be added to. A layer that leaves
rows out adds what it gives to the rows that have some, and hands the stream on alone.

Shape letters: N rows, T text rows, D decoder width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from vllm.model_executor.layers.attention.attention import unified_kv_cache_update
from vllm.model_executor.models.qwen3_next import Qwen3NextDecoderLayer

from saccade.core.rows import RowIndex
from saccade.vllm.inside.weights import Projections
from saccade.vllm.work import LayerWork

Carried = tuple[torch.Tensor, torch.Tensor | None]
"""What a layer gave, and the stream it is to be added to; the stream alone where that is None."""


@dataclass(frozen=True, eq=False)
class TextStep:
    """What layers need to know of a step in which visual rows do less.

    Attributes:
        text: The text rows.
        positions_N: Positions of all rows, perhaps on several axes (3, N).
        positions_T: Those of the text rows.
        metadata: Attention metadata of the text rows in runs, by layer; None where there are none.
    """

    text: RowIndex
    positions_N: torch.Tensor
    positions_T: torch.Tensor
    metadata: Mapping[str, Any]


def run_layer(
    layer: Any, work: LayerWork, projections: Projections | None, step: TextStep, carried: Carried
) -> Carried:
    """Runs a layer in which visual rows have K and V, but do not attend, or pass no FFN.

    Args:
        layer: vLLM's layer.
        work: What visual rows do in it.
        projections: Those of its attention; None where it recurs, and mixes rows through a state.
        step: The rows of the step.
        carried: What the layer before handed on.
    """
    stream_ND, normed_ND = _entered(layer, carried)
    text, given_TD = step.text, None
    if projections is None:
        # Every row writes the state; a row that does not attend gets nothing from it.
        given_ND = layer.linear_attn(hidden_states=normed_ND)
        if work.asks:
            stream_ND += given_ND
        elif text.count:
            given_TD = text.take(given_ND[None])[0]
    elif work.asks:
        stream_ND += layer.self_attn(positions=step.positions_N, hidden_states=normed_ND)
    else:
        given_TD = _attended(layer.self_attn, projections, step, normed_ND)
    if work.feeds:
        if given_TD is not None:
            add_rows(stream_ND, text, given_TD)
        return layer.mlp(layer.post_attention_layernorm(stream_ND)), stream_ND
    if text.count:
        stream_TD = text.take(stream_ND[None])[0].clone()
        if given_TD is None:
            normed_TD = layer.post_attention_layernorm(stream_TD)
        else:
            normed_TD, stream_TD = layer.post_attention_layernorm(given_TD, stream_TD)
        put_rows(stream_ND, text, stream_TD + layer.mlp(normed_TD))
    return stream_ND, None


def recurrent(layer: Any) -> bool:
    """Whether a layer mixes rows through a state, and not by attention."""
    return isinstance(layer, Qwen3NextDecoderLayer) and layer.layer_type != "full_attention"


def check_layers(layers: Sequence[Any]) -> None:
    """Refuses layers that do more than ``run_layer`` does.

    Raises:
        ValueError: If one scales what it adds, or its rows are shared among ranks for experts.
    """
    for layer in layers:
        if isinstance(layer, Qwen3NextDecoderLayer) and layer.layer_scale:
            raise ValueError("saccade: inside vLLM plans do not know layers that scale what they add")
        if isinstance(layer, Qwen3NextDecoderLayer) and layer.use_attn_reduce_scatter_for_moe:
            raise ValueError(
                "saccade: rows are shared among ranks for the experts here, and plans need them whole: leave "
                "expert parallelism out"
            )


def dense_layer(layer: Any, positions_N: torch.Tensor, carried: Carried) -> Carried:
    """Runs a layer as vLLM has it; the order of its arguments differs from family to family."""
    hidden_ND, stream_ND = carried
    return layer(positions=positions_N, hidden_states=hidden_ND, residual=stream_ND)


def _entered(layer: Any, carried: Carried) -> tuple[torch.Tensor, torch.Tensor]:
    hidden_ND, stream_ND = carried
    if stream_ND is None:
        return hidden_ND, layer.input_layernorm(hidden_ND)
    normed_ND, stream_ND = layer.input_layernorm(hidden_ND, stream_ND)
    return stream_ND, normed_ND


def _attended(
    attn: Any, projections: Projections, step: TextStep, normed_ND: torch.Tensor
) -> torch.Tensor | None:
    """Writes K and V of all rows, and attends from the text rows (T, D); None where there are none."""
    q, k, v, gate = projections(step.positions_N, normed_ND, step.text, step.positions_T)
    attention = attn.attn
    k = k.view(-1, attention.num_kv_heads, attention.head_size)
    v = v.view(-1, attention.num_kv_heads, attention.head_size_v)
    unified_kv_cache_update(k, v, attention.layer_name)
    metadata = step.metadata[attention.layer_name]
    if metadata is None:
        return None
    q = q.view(-1, attention.num_heads, attention.head_size)
    mixed = torch.empty(
        q.shape[0], attention.num_heads, attention.head_size_v, dtype=q.dtype, device=q.device
    )
    attention.impl.forward(attention, q, k, v, attention.kv_cache, metadata, output=mixed)
    mixed = mixed.view(q.shape[0], -1)
    given_TD, _ = attn.o_proj(mixed if gate is None else mixed * gate.sigmoid())
    return given_TD


def add_rows(x_ND: torch.Tensor, rows: RowIndex, y_TD: torch.Tensor) -> None:
    """Adds to some rows in place."""
    if rows.slices is None:
        x_ND.index_add_(0, rows.flat_T, y_TD)
        return
    start = 0
    for a, b in rows.slices:
        x_ND[a:b] += y_TD[start : start + b - a]
        start += b - a


def put_rows(x_ND: torch.Tensor, rows: RowIndex, y_TD: torch.Tensor) -> None:
    """Writes some rows in place."""
    if rows.slices is None:
        x_ND.index_copy_(0, rows.flat_T, y_TD)
        return
    start = 0
    for a, b in rows.slices:
        x_ND[a:b] = y_TD[start : start + b - a]
        start += b - a
