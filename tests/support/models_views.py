"""Configurations and pixels of the tiny models that cut a picture into views their own ways."""

from __future__ import annotations

from typing import Any

import torch
import transformers as T

GRIDS = [[24, 48], [48, 24], [48, 48]]
"""Canvases of the tiny LLaVA-NeXT and LLaVA-OneVision."""


def llava_onevision(text: Any, ids: dict[str, int]) -> T.LlavaOnevisionConfig:
    """LLaVA-OneVision in miniature: SigLIP, the canvases of NeXT, rows for the tiles of two views at most."""
    return T.LlavaOnevisionConfig(
        vision_config=T.SiglipVisionConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=24,
            patch_size=8, vision_use_head=False,
        ),
        text_config=text,
        image_grid_pinpoints=GRIDS,
        vision_aspect_ratio="anyres_max_2",
        **ids,
    )  # fmt: skip


def internvl(text: Any, **ids: int) -> T.InternVLConfig:
    """InternVL in miniature: views of 6 x 6 patches that become 9 rows, norms in the tower."""
    return T.InternVLConfig(
        vision_config=T.InternVLVisionConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=24,
            patch_size=4, use_qk_norm=True, norm_type="rms_norm", attention_bias=True,
        ),
        text_config=text,
        image_seq_length=9,
        tie_word_embeddings=False,
        **ids,
    )  # fmt: skip


def internvl_views(size: tuple[int, int]) -> int:
    """Views of an image: tiles that cover it, and a thumbnail where they are several."""
    tiles = -(-size[0] // 24) * -(-size[1] // 24)
    return tiles if tiles == 1 else tiles + 1


def internvl_pixels(size: tuple[int, int], draw: torch.Generator) -> torch.Tensor:
    """The views of an image."""
    return torch.randn(internvl_views(size), 3, 24, 24, generator=draw)
