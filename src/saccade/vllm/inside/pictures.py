"""What the rows of pictures are pictures of, from what vLLM's processors made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from vllm.multimodal.inputs import MultiModalBatchedField

from saccade.families import Family, Picture, find


class Pictures:
    """Asks the adapter of a model's family, which takes a model of transformers: this one has no weights.

    Attributes:
        family: The adapter.
    """

    def __init__(self, config: Any) -> None:
        """Builds the model without weights.

        Args:
            config: Configuration of the whole model.
        """
        self.family: Family = find(config)
        self._token = self.family.visual_ids(config)[0]
        with torch.device("meta"):
            self._hollow: Any = self.family.model_class()(config)

    @property
    def one_size(self) -> bool:
        """Whether the model takes pictures of one size alone."""
        return self.family.full_size(self._hollow, torch.zeros(1, 3, 1, 1)) is not None

    def of(self, inputs: Mapping[str, Any], lengths: Sequence[int] | None = None) -> Picture:
        """The pictures of a call that makes features.

        Args:
            inputs: What the call is given.
            lengths: Rows of every picture, where they are known already.

        Raises:
            ValueError: If it holds no pixels, or other rows than are known.
        """
        found = self.family.picture(self._hollow, inputs)
        if found is None:
            raise ValueError(
                "saccade: rows are chosen of pictures, and these came as something else than pixels"
            )
        rows = lengths or (sum(found.lengths),)
        # Views are put together by the prompt's runs of placeholders, so here is one of these pictures.
        runs = [
            torch.nn.functional.pad(torch.full((count,), self._token), (0, 1), value=-1) for count in rows
        ]
        if tuple(rows) != found.lengths:
            found = self.family.grouped(self._hollow, found, {"input_ids": torch.cat(runs)[None]})
        if lengths is not None and found.lengths != tuple(lengths):
            raise ValueError(f"saccade: pictures of {found.lengths} rows, and features of {tuple(lengths)}")
        return found

    def one(self, item: Mapping[str, Any]) -> Picture:
        """The picture of one item that vLLM's processor made."""
        inputs = {}
        for key, element in item.items():
            data = element.data
            batched = isinstance(element.field, MultiModalBatchedField)
            inputs[key] = data[None] if batched and isinstance(data, torch.Tensor) else data
        return self.of(inputs)
