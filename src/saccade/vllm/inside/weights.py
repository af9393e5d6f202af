"""Queries of some rows, keys and values of all: the fused projection of a layer, taken apart.

Where weights are plain, K's and V's part of the fused weight is used alone, so that rows that do not attend
pay for no queries. Quantised weights are left in one piece: then all rows pass all of it.

Shape letters: N rows, T rows that attend, D decoder width.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn
from vllm.model_executor.layers.linear import UnquantizedLinearMethod
from vllm.model_executor.models.llama import LlamaAttention
from vllm.model_executor.models.mistral import MistralAttention
from vllm.model_executor.models.qwen2 import Qwen2Attention
from vllm.model_executor.models.qwen3 import Qwen3Attention
from vllm.model_executor.models.qwen3_next import Qwen3NextAttention
from vllm.platforms import current_platform

from saccade.core.rows import RowIndex

KNOWN = (LlamaAttention, MistralAttention, Qwen2Attention, Qwen3Attention, Qwen3NextAttention)
"""Attention that can be taken apart: plain projections, perhaps norms on heads, a gate, rotary positions."""


class Projections:
    """The projections of one attention layer."""

    def __init__(self, attn: Any, apart: bool) -> None:
        """Gets ready before weights are loaded.

        Args:
            attn: The attention layer.
            apart: Whether rows that do not attend are expected here, so that parts of the weight are worth
                having.

        Raises:
            ValueError: If the attention does more than this knows.
        """
        kind = type(attn).__name__
        if type(attn) not in KNOWN or getattr(attn, "do_llama_4_scaling", False):
            raise ValueError(
                f"saccade: the decoder's attention, {kind}, is not one that plans know inside vLLM"
            )
        self.attn = attn
        self.normed = type(attn) in (Qwen3Attention, Qwen3NextAttention) or getattr(attn, "qk_norm", False)
        self.gated = type(attn) is Qwen3NextAttention and attn.attn_output_gate
        self._asking = attn.q_size * (2 if self.gated else 1)
        method = attn.qkv_proj.quant_method
        plain = type(method) is UnquantizedLinearMethod
        self._parts: tuple[nn.Module, nn.Module] | None = None
        # On CPU weights are packed once they are loaded, so that parts have to be taken before.
        self._views = plain and not current_platform.is_cpu()
        if plain and apart and current_platform.is_cpu():
            method.process_weights_after_loading = functools.partial(
                self._pack, method.process_weights_after_loading
            )

    def _pack(self, stock: Any, layer: Any) -> None:
        from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

        cut = self._asking
        parts = []
        for rows in (slice(0, cut), slice(cut, None)):
            part: Any = nn.Module()
            part.weight = nn.Parameter(layer.weight[rows].detach().clone(), requires_grad=False)
            bias = None if layer.bias is None else layer.bias[rows].detach().clone()
            part.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
            dispatch_cpu_unquantized_gemm(part, remove_weight=True)
            parts.append(part)
        self._parts = (parts[0], parts[1])
        stock(layer)

    def __call__(
        self, positions_N: torch.Tensor, normed_ND: torch.Tensor, text: RowIndex, positions_T: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Queries of the text rows, keys and values of all rows, turned to their positions, and the gate of
        what the text rows mix, if there is one."""
        attn = self.attn
        if self._views or self._parts is not None:
            q = self._half(0, text.take(normed_ND[None])[0])
            k, v = self._half(1, normed_ND).split([attn.kv_size, attn.kv_size], dim=-1)
        else:
            qkv, _ = attn.qkv_proj(normed_ND)
            q, k, v = qkv.split([self._asking, attn.kv_size, attn.kv_size], dim=-1)
            q = text.take(q[None])[0]
        gate = None
        if self.gated:
            # Head by head, its queries and their gate.
            q, gate = q.unflatten(-1, (-1, 2, attn.head_dim)).transpose(-3, -2).flatten(-2).unbind(-2)
        if self.normed:
            q, k = self._headed(attn.q_norm, q), self._headed(attn.k_norm, k)
        return self._turned(positions_T, q), self._turned(positions_N, k), v, gate

    def _half(self, which: int, x: torch.Tensor) -> torch.Tensor:
        if self._parts is not None:
            part: Any = self._parts[which]
            return part.cpu_linear(x, part.weight, part.bias)
        layer, cut = self.attn.qkv_proj, self._asking
        rows = (slice(0, cut), slice(cut, None))[which]
        bias = None if layer.bias is None else layer.bias[rows]
        return nn.functional.linear(x, layer.weight[rows], bias)

    def _headed(self, norm: Any, x: torch.Tensor) -> torch.Tensor:
        return norm(x.reshape(*x.shape[:-1], -1, self.attn.head_dim)).reshape(x.shape)

    def _turned(self, positions: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        # Its kernels turn queries and keys together, and some do not take one alone.
        spare = x.new_zeros(x.shape[0], self.attn.head_dim)
        turned, _ = self.attn.rotary_emb(positions, x.contiguous(), spare)
        return turned
