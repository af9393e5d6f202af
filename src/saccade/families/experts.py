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

    def experts(self, text: Any) -> Experts | None:
        """What a sparse FFN of the decoder is made of, by its configuration; None where it has none."""
        if not getattr(text, "num_experts", 0):
            return None
        beside = getattr(text, "shared_expert_intermediate_size", None)
        sizes = (text.num_experts, text.num_experts_per_tok, text.moe_intermediate_size)
        return Experts(*sizes, beside or 0, weighed=beside is not None)

    def plain(self, text: Any) -> tuple[int, ...]:
        """Layers with a plain FFN in a decoder that has experts."""
        only, step = (
            set(getattr(text, "mlp_only_layers", None) or ()),
            getattr(text, "decoder_sparse_step", 1),
        )
        return tuple(n for n in range(text.num_hidden_layers) if n in only or (n + 1) % step)

    def plain_width(self, text: Any) -> int:
        """Inner width of a plain FFN of the decoder."""
        return super().ffn(text)

    def ffn(self, text: Any) -> int:
        experts = self.experts(text)
        return self.plain_width(text) if experts is None or self._all_plain(text) else experts.passed

    def shape(self, config: Any, name: str = "") -> ModelShape:
        shape, text = super().shape(config, name), config.get_text_config()
        experts, plain = self.experts(text), self.plain(text)
        if experts is None or self._all_plain(text):
            return shape
        return replace(shape, experts=experts, plain=plain, plain_ffn=self.plain_width(text) if plain else 0)

    def _all_plain(self, text: Any) -> bool:
        return len(self.plain(text)) == text.num_hidden_layers

    def fingerprint(self, config: Any) -> dict[str, Any]:
        found, experts = super().fingerprint(config), self.shape(config).experts
        if experts is not None:
            found["text"] |= {"experts": experts.count, "chosen": experts.chosen}
        return found
