"""PaliGemma: a picture, then a prompt, all of which see each other both ways; the answer is causal.

Shape letters: B batch, H heads, Q rows that ask, K keys and head width, T rows of the full sequence.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import cache, partial
from math import ceil
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import (
    Gemma2Config,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PreTrainedConfig,
)
from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward

from saccade.core.shapes import ModelShape
from saccade.core.sight_rule import SightRule
from saccade.core.tower import TowerShape
from saccade.families.base import Attend, core_of, text_sizes, unwrap
from saccade.families.gemma import Gemma, siglip
from saccade.families.registry import register
from saccade.families.tower_shape import encoder
from saccade.families.vision import Tower, each_prompts

if TYPE_CHECKING:
    from PIL.Image import Image


@register
class PaliGemma(Gemma):
    """PaliGemma 2, whose Gemma 2 caps attention logits and has a window in every other layer.

    Rows with ``token_type_ids`` of 0, as its processor gives the prompt, see each other both ways whatever
    the window; those of 1 (the answer, in training) are causal, and so is all that is generated. No fused
    kernel caps logits: routed layers run the model's own eager function on their rows, but where the model
    runs SDPA, which leaves the cap out. A row is one patch of the tower, whose last norm counts as part of
    the projector.
    """

    name = "PaliGemma 2"
    model_types = ("paligemma",)
    text_types = ("gemma2",)
    tower_can = ("merge_patches",)
    answer_type = 1
    text_alone = False

    def config(
        self, shape: ModelShape, layers: int | None = None, vision_layers: int = 1
    ) -> PreTrainedConfig:
        text = Gemma2Config(
            **text_sizes(shape, layers, 8192),
            sliding_window=next((rule.window for rule in shape.rules if rule.window), 4096),
            query_pre_attn_scalar=shape.head_dim,
        )
        side = ceil(shape.visual**0.5)
        return PaliGemmaConfig(
            text_config=text,
            vision_config=siglip(vision_layers, side * 14),
            projection_dim=shape.hidden,
            hidden_size=shape.hidden,
            image_token_index=min(257152, shape.vocab - 1),
        )

    def model_class(self) -> type[nn.Module]:
        return PaliGemmaForConditionalGeneration

    def plain_prompt(self, question: str, images: int) -> str | None:
        return "<image>" * images + question

    def by_prompt(self, processor: Any, texts: Sequence[str], images: Sequence[Image]) -> list[Any]:
        return each_prompts(processor.image_token, texts, images)

    def rule(self, window: int | None) -> SightRule:
        return SightRule(window, "prompt", bounded=False)

    def blocks(self, given: Mapping[str, Any], past: int) -> torch.Tensor | None:
        kinds, pixels = given.get("token_type_ids"), given.get("pixel_values")
        made = (given.get("mm_encoder_outputs") or {}).get("image")
        if past and pixels is None:
            return None
        if kinds is None:
            if pixels is None and made is None:
                return None
            raise ValueError(
                "which rows of a PaliGemma prompt see each other both ways is said by token_type_ids, and "
                "without them it differs between attention implementations: give those of the processor"
            )
        return torch.where(kinds == 0, 0, -1)

    def implementation(self, asked: str | Mapping[str, str]) -> str | Mapping[str, str]:
        """SDPA caps no logits: newer versions refuse it for the decoder, older ones leave the cap out."""
        return {"text_config": "eager", "vision_config": "sdpa"} if asked == "sdpa" else asked

    def attention(self, attn: Any) -> Attend | None:
        return None if self._cap(attn) is None else partial(_eager, attn)

    def capped(self, attn: Any, logits: torch.Tensor) -> torch.Tensor:
        cap = self._cap(attn)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def _cap(self, attn: Any) -> float | None:
        """Cap of attention logits, where the model's implementation heeds it."""
        return None if attn.config._attn_implementation == "sdpa" else attn.attn_logit_softcapping

    def said(self, model: nn.Module, logits: torch.Tensor) -> torch.Tensor:
        cap = unwrap(model).config.get_text_config().final_logit_softcapping
        return logits if cap is None or not _caps_last() else torch.tanh(logits / cap) * cap

    def tower_shape(self, config: PreTrainedConfig) -> TowerShape | None:
        settings: Any = config
        vision, width = settings.vision_config, config.get_text_config().hidden_size
        return encoder(vision, width, projector=((vision.hidden_size, width),))

    def tower(self, model: nn.Module) -> Tower | None:
        core: Any = core_of(model)
        layers, last = core.vision_tower.encoder.layers, core.vision_tower.post_layernorm
        return Tower(
            core.vision_tower,
            layers,
            states=(len(layers),),
            made=layers[-1].self_attn,
            reads=None,
            heads=core.config.vision_config.num_attention_heads,
            has_cls=False,
            merge=1,
            projector=nn.Sequential(last, core.multi_modal_projector),
            strips=False,
        )


def _eager(
    attn: Any,
    q_BHQK: torch.Tensor,
    k_BGNK: torch.Tensor,
    v_BGNK: torch.Tensor,
    mask: torch.Tensor | None,
    dropout: float,
) -> torch.Tensor:
    """The model's own attention with its cap, on some rows."""
    mixed, _ = eager_attention_forward(
        attn, q_BHQK, k_BGNK, v_BGNK, mask, dropout, attn.scaling, attn.attn_logit_softcapping
    )
    return mixed.transpose(1, 2)


@cache
def _caps_last() -> bool:
    """Whether this version of transformers caps the last logits of PaliGemma 2; older ones do not."""
    return "final_logit_softcapping" in inspect.getsource(PaliGemmaForConditionalGeneration.forward)
