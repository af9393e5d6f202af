"""Decoders whose FFN is sparse: a router picks the experts of every row.

A row that skips the FFN is not in what the FFN is given, so no router sees it, and no expert has to hold it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from saccade.core.shapes import Experts, ModelShape
from saccade.families.base import Family


class SparseFFN(Family):
    """The part of an adapter whose decoders may have experts, as Qwen's configurations say it."""

    def flat_ffn(self, mlp: Any) -> bool:
        return hasattr(mlp, "experts")

    def shows_router(self, decoder: Any, given: Mapping[str, Any]) -> bool:
        asked = given.get("output_router_logits")
        return bool(getattr(decoder.config, "output_router_logits", False) if asked is None else asked)

    def shape(self, config: Any, name: str = "") -> ModelShape:
        """Sizes of the decoder of a configuration.

        Raises:
            ValueError: If some layers have experts and others a plain FFN, which no price tells apart.
        """
        shape, text = super().shape(config, name), config.get_text_config()
        sparse = _sparse(text)
        if not any(sparse):
            return shape
        if not all(sparse):
            raise ValueError(
                f"{self.name}: some layers of this decoder have experts and others a plain FFN; models whose "
                "layers are alike are supported"
            )
        experts = Experts(text.num_experts, text.num_experts_per_tok, text.moe_intermediate_size)
        return replace(shape, ffn=experts.passed, experts=experts)

    def fingerprint(self, config: Any) -> dict[str, Any]:
        found, experts = super().fingerprint(config), self.shape(config).experts
        if experts is not None:
            found["text"] |= {"experts": experts.count, "chosen": experts.chosen}
        return found


def _sparse(text: Any) -> list[bool]:
    """Which layers have a sparse FFN, of the configuration of a text decoder."""
    depth, experts = text.num_hidden_layers, getattr(text, "num_experts", 0)
    if not experts:
        return [False] * depth
    plain, step = set(text.mlp_only_layers or ()), text.decoder_sparse_step
    return [number not in plain and (number + 1) % step == 0 for number in range(depth)]
