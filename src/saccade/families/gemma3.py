"""Gemma 3: rows of an image see each other both ways, five sliding layers to a full one.

Shape letters: B batch, N rows, D hidden.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isqrt
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    PreTrainedConfig,
)

from saccade.core.shapes import ModelShape
from saccade.core.sight import runs_of
from saccade.core.sight_rule import SightRule
from saccade.core.tower import TowerShape
from saccade.families.base import Parts, core_of, text_sizes
from saccade.families.gemma import Gemma, siglip
from saccade.families.patch_tower import joined_tower
from saccade.families.registry import register
from saccade.families.tower_shape import encoder
from saccade.families.turning import Rotary
from saccade.families.vision import Tower, each_prompts, joined

if TYPE_CHECKING:
    from PIL.Image import Image


@register
class Gemma3(Gemma):
    """Gemma 3: every picture, and every crop of it (pan and scan), is 256 rows in a run of their own.

    Rows of a run see each other both ways, within the window in sliding layers, where the model is given
    ``token_type_ids``, as its processor makes them; without them it is causal throughout. A crop stands
    behind words of its own and is an image of its own here. A row is the mean of a square of patches: what
    the tower says of it is the mean of theirs, and what is merged are embeddings.
    """

    name = "Gemma 3"
    model_types = ("gemma3",)
    text_types = ("gemma3_text",)
    tower_can = ("merge_patches",)

    def written_ids(self, config: PreTrainedConfig) -> tuple[int, ...]:
        return (config.boi_token_id,)

    def typical_visual(self, config: PreTrainedConfig) -> int:
        return int(config.mm_tokens_per_image)

    def config(
        self, shape: ModelShape, layers: int | None = None, vision_layers: int = 1
    ) -> PreTrainedConfig:
        text = Gemma3TextConfig(
            **text_sizes(shape, layers, 131072),
            sliding_window=next((rule.window for rule in shape.rules if rule.window), 1024),
            query_pre_attn_scalar=shape.head_dim,
        )
        return Gemma3Config(
            text_config=text,
            vision_config=siglip(vision_layers, 896),
            mm_tokens_per_image=256,
            image_token_index=min(262144, shape.vocab - 1),
        )

    def model_class(self) -> type[nn.Module]:
        return Gemma3ForConditionalGeneration

    def processor_settings(self, config: PreTrainedConfig) -> dict[str, Any]:
        return {"image_seq_length": config.mm_tokens_per_image}

    def spelled(self, processor: Any, text: str) -> str:
        # As its processor writes a picture: the rows between the marks of their beginning and end.
        begin, end, row = processor.boi_token, processor.tokenizer.eoi_token, processor.tokenizer.image_token
        return text.replace(begin, f"\n\n{begin}{row}{end}\n\n")

    def by_prompt(self, processor: Any, texts: Sequence[str], images: Sequence[Image]) -> list[Any]:
        return each_prompts(processor.boi_token, texts, images)

    def parts(self, model: nn.Module) -> Parts:
        found = super().parts(model)
        if found.decoder.config.use_bidirectional_attention:
            raise ValueError(
                f"{self.name} with use_bidirectional_attention makes embeddings, not answers; plans are for "
                "models that generate"
            )
        return found

    def rule(self, window: int | None) -> SightRule:
        return SightRule(window, "images")

    def blocks(self, given: Mapping[str, Any], past: int) -> torch.Tensor | None:
        kinds = given.get("token_type_ids")
        return None if kinds is None else runs_of(kinds == 1)

    def rotary_kind(self, attn: Any) -> str | None:
        return attn.layer_type

    def rotary(
        self,
        decoder: nn.Module,
        hidden_BND: torch.Tensor,
        position_ids: torch.Tensor,
        kind: str | None = None,
    ) -> Rotary:
        return decoder.rotary_emb(hidden_BND, position_ids, kind)

    def tower_shape(self, config: PreTrainedConfig) -> TowerShape | None:
        settings: Any = config
        vision, side = settings.vision_config, isqrt(settings.mm_tokens_per_image)
        width = config.get_text_config().hidden_size
        merge = (vision.image_size // vision.patch_size // side) ** 2
        return encoder(vision, width, projector=((vision.hidden_size, width),), side=side, merge=merge)

    def tower(self, model: nn.Module) -> Tower | None:
        core: Any = core_of(model)
        heads = core.config.vision_config.num_attention_heads
        return joined_tower(core.vision_tower, heads, core.multi_modal_projector.kernel_size**2)

    def tower_order(self, tower: Tower, kwargs: Mapping[str, Any]) -> torch.Tensor | None:
        pixels, patch = kwargs["pixel_values"], tower.module.config.patch_size
        side = pixels.shape[-1] // patch
        return joined([(side, side)] * len(pixels), isqrt(tower.merge))
