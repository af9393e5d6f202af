"""Configurations of the tiny Gemma 3 and PaliGemma 2; their windows are shorter than most prompts."""

from __future__ import annotations

from typing import Any

import transformers as T

WINDOW = 12
KINDS = ("sliding_attention", "full_attention", "sliding_attention")


def _tower(patch: int) -> T.SiglipVisionConfig:
    return T.SiglipVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=32,
        patch_size=patch, vision_use_head=False,
    )  # fmt: skip


def gemma3(sizes: dict[str, Any], **ids: int) -> T.Gemma3Config:
    """Gemma 3 in miniature: 16 rows an image of four patches each, every third layer a full one."""
    layers = sizes["num_hidden_layers"]
    text = T.Gemma3TextConfig(
        **sizes, head_dim=16, query_pre_attn_scalar=16, sliding_window=WINDOW,
        layer_types=[KINDS[n % 3] for n in range(layers)],
    )  # fmt: skip
    # Tied, scaled embeddings of random models say the last token again.
    return T.Gemma3Config(
        text_config=text, vision_config=_tower(4), mm_tokens_per_image=16, tie_word_embeddings=False, **ids
    )


def paligemma(sizes: dict[str, Any], **ids: int) -> T.PaliGemmaConfig:
    """PaliGemma 2 in miniature: 16 rows an image, caps low enough to be felt."""
    text = T.Gemma2Config(
        **sizes, head_dim=16, query_pre_attn_scalar=16, sliding_window=WINDOW,
        attn_logit_softcapping=3.0, final_logit_softcapping=9.0,
    )  # fmt: skip
    return T.PaliGemmaConfig(
        text_config=text, vision_config=_tower(8), projection_dim=sizes["hidden_size"],
        hidden_size=sizes["hidden_size"], tie_word_embeddings=False, **ids,
    )  # fmt: skip
