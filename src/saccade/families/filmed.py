"""Pictures in tiles, and videos whose frames are pooled: what LLaVA's models of videos have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedConfig

from saccade.families.llava_next import LlavaNext
from saccade.families.projector import ReplaceableProjector
from saccade.families.vision import Picture


class FilmedTiles(LlavaNext, ABC):
    """Images as in LLaVA-NeXT; a video is one image, whose frames are planes and views.

    A row of a video lies between four patches of its frame, and has their scores, keys and features in the
    model's own shares.
    """

    films = True
    layouts: ClassVar[tuple[str, ...]] = ()  # what stands in the projector's place would get pooled rows too
    projector_place = ReplaceableProjector.projector_place
    stock_rows = ReplaceableProjector.stock_rows
    replace_projector = ReplaceableProjector.replace_projector

    def visual_ids(self, config: PreTrainedConfig) -> tuple[int, ...]:
        return (config.image_token_id, config.video_token_id)

    def picture(self, model: nn.Module, inputs: Mapping[str, Any]) -> Picture | None:
        """Images, then videos."""
        found = (self._stock_picture(model, inputs), self._videos(model, inputs))
        parts = [part for part in found if part is not None]
        return Picture.join(parts) if parts else None

    @abstractmethod
    def _videos(self, model: nn.Module, inputs: Mapping[str, Any]) -> Picture | None:
        """The picture of the videos of a forward; None if it has none."""


def film(inputs: Mapping[str, Any]) -> torch.Tensor | None:
    """Pixels of videos among arguments of the core or of what makes their features."""
    pixels = inputs.get("pixel_values_videos")
    if pixels is None and inputs.get("image_sizes") is None:
        # Where get_video_features is older, its argument has no name of its own.
        pixels = inputs.get("pixel_values")
    return pixels
