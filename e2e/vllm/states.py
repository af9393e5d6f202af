"""Gated delta nets of vLLM in plain torch and any type: its own kernel on CPU takes bfloat16 alone, in which
greedy tokens of a random model follow rounding.

Rows, states and what metadata says of them are vLLM's; the arithmetic alone is done here, row by row.

Shape letters: N rows of a step, C channels of the convolution, H heads of values, K, V widths of keys and
values.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F
from vllm.forward_context import get_forward_context
from vllm.model_executor.layers.mamba.mamba_utils import is_conv_state_dim_first
from vllm.model_executor.layers.mamba.ops.cpu import gdn_attention
from vllm.utils.torch_utils import LayerNameType, _resolve_layer_name


class PlainStates:
    """What ``worker_extension_cls`` names: a process that imports it mixes rows as this module does."""


def core(
    mixed_qkv: torch.Tensor,
    b: torch.Tensor,
    a: torch.Tensor,
    core_attn_out: torch.Tensor,
    layer_name: LayerNameType,
) -> None:
    """In place of vLLM's operator of that signature."""
    context = get_forward_context()
    layer: Any = context.no_compile_layers[_resolve_layer_name(layer_name)]
    if not isinstance(context.attn_metadata, dict):
        return
    decay_NH = torch.exp(-layer.A_log.float().exp() * F.softplus(a.float() + layer.dt_bias))
    _mix(layer, context.attn_metadata[layer.prefix], mixed_qkv, b.sigmoid(), decay_NH, core_attn_out)


def _mix(
    layer: Any,
    told: Any,
    mixed_NC: torch.Tensor,
    beta_NH: torch.Tensor,
    decay_NH: torch.Tensor,
    given_NHV: torch.Tensor,
) -> None:
    window = layer.kv_cache[0] if is_conv_state_dim_first() else layer.kv_cache[0].transpose(1, 2)
    states, taps = layer.kv_cache[1], layer.conv1d.weight.squeeze(1)
    starts = told.non_spec_query_start_loc.tolist()
    for number in range(told.num_decodes + told.num_prefills):
        slot = int(told.non_spec_state_indices_tensor[number])
        if number >= told.num_decodes and not bool(told.has_initial_state[number]):
            window[slot], states[slot] = 0, 0
        first, last = starts[number], starts[number + 1]
        x = torch.cat((window[slot].T.to(mixed_NC.dtype), mixed_NC[first:last]))
        window[slot] = x[-window.shape[-1] :].T
        rolled = F.silu(F.conv1d(x.T[None], taps[:, None], layer.conv1d.bias, groups=len(taps)))[0].T
        parts = [size // layer.tp_size for size in (layer.key_dim, layer.key_dim, layer.value_dim)]
        q, k, v = rolled.split(parts, dim=-1)
        q, k = (F.normalize(y.unflatten(-1, (-1, layer.head_k_dim)), dim=-1, eps=1e-6) for y in (q, k))
        v = v.unflatten(-1, (-1, layer.head_v_dim))
        q, k = (y.repeat_interleave(v.shape[1] // y.shape[1], dim=1) for y in (q, k))
        state_HVK = states[slot].float()
        for row, at in enumerate(range(first, last)):
            state_HVK = state_HVK * decay_NH[at][:, None, None]
            change_HV = (v[row] - _read(state_HVK, k[row])) * beta_NH[at][:, None]
            state_HVK = state_HVK + change_HV[..., None] * k[row][:, None]
            given_NHV[at] = _read(state_HVK, q[row]) * layer.head_k_dim**-0.5
        states[slot] = state_HVK


def _read(state_HVK: torch.Tensor, key_HK: torch.Tensor) -> torch.Tensor:
    return (state_HVK @ key_HK[..., None])[..., 0]


gdn_attention.cpu_gdn_attention_core = core
