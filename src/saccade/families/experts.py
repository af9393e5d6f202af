"""Decoders whose FFN is sparse: a router picks the experts of every row.

A row that skips the FFN is not in what the FFN is given, so no router sees it, and no expert has to hold it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from saccade.core.shapes import Experts, ModelShape
from saccade.families.base import Family


class SparseFFN(Family):
    """The part of an adapter whose decoders may have experts; it writes ``experts`` and ``sparse``."""

    flat_ffn: ClassVar[bool] = True

    def experts(self, text: Any) -> Experts:
        """What a sparse FFN is made of, of the configuration of a text decoder."""
        raise NotImplementedError

    def sparse(self, text: Any) -> Sequence[bool]:
        """Which layers have a sparse FFN."""
        raise NotImplementedError

    def shape(self, config: Any, name: str = "") -> ModelShape:
        """Sizes of the decoder of a configuration.

        Raises:
            ValueError: If some layers have experts and others a plain FFN, which no price tells apart.
        """
        shape, text = super().shape(config, name), config.get_text_config()
        sparse = self.sparse(text)
        if not any(sparse):
            return shape
        if not all(sparse):
            raise ValueError(
                f"{self.name}: some layers of this decoder have experts and others a plain FFN; models whose "
                "layers are alike are supported"
            )
        experts = self.experts(text)
        return replace(shape, ffn=experts.passed, experts=experts)

    def fingerprint(self, config: Any) -> dict[str, Any]:
        found, experts = super().fingerprint(config), self.shape(config).experts
        if experts is not None:
            found["text"] |= {"experts": experts.count, "chosen": experts.chosen}
        return found
