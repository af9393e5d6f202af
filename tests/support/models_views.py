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


def idefics3(kind: str, text: Any, **ids: int) -> Any:
    """Idefics3 or SmolVLM in miniature: views of 6 x 6 patches that become 9 rows."""
    config = T.Idefics3Config if kind == "idefics3" else T.SmolVLMConfig
    return config(
        vision_config=dict(
            hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=24,
            patch_size=4,
        ),
        text_config=text.to_dict(),
        scale_factor=2,
        tie_word_embeddings=False,
        **ids,
    )  # fmt: skip


def idefics3_prompt(count: int, image: int, mark: int, whole: int) -> torch.Tensor:
    """What its processor writes for an image of so many views: the place of each tile, then the whole."""
    # Tiles are named by some tokens of text.
    tiles = [token for n in range(count - 1) for token in (mark, 20 + n, *[image] * 9)]
    return torch.tensor([*tiles, mark, whole, *[image] * 9, mark])


def by_sample(pixels: list[torch.Tensor], counts: list[int]) -> torch.Tensor:
    """Views of every sample, as many as the longest has: (B, views, 3, 24, 24), zeros where there is none."""
    left = list(pixels)
    samples = [torch.cat([left.pop(0) for _ in range(n)]) if n else pixels[0][:0] for n in counts]
    return torch.nn.utils.rnn.pad_sequence(samples, batch_first=True)


def lfm2_vl(sizes: dict[str, Any], kinds: list[str], **ids: int) -> T.Lfm2VlConfig:
    """LFM2-VL in miniature: views of any size of patches of 4 x 4 pixels, two by two of them a row."""
    return T.Lfm2VlConfig(
        vision_config=dict(
            model_type="siglip2_vision_model", hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=2, num_patches=16, patch_size=4, vision_use_head=False,
        ),
        text_config=sizes | {"layer_types": kinds, "block_auto_adjust_ff_dim": False},
        projector_hidden_size=40,
        tie_word_embeddings=False,
        **ids,
    )  # fmt: skip


def lfm2_grids(size: tuple[int, int]) -> list[tuple[int, int]]:
    """Lines and columns of patches of an image's views: one, or tiles of 6 x 6 and a smaller whole."""
    high, wide = size
    if high * wide <= 24 * 24:
        return [(high // 4, wide // 4)]
    whole = (4, 8) if wide > high else (8, 4) if high > wide else (4, 4)
    return [(6, 6)] * (-(-high // 24) * -(-wide // 24)) + [whole]


def lfm2_pixels(size: tuple[int, int], draw: torch.Generator) -> torch.Tensor:
    """Patches of the views of an image, each padded to the largest."""
    each = [torch.randn(lines * columns, 48, generator=draw) for lines, columns in lfm2_grids(size)]
    return torch.stack([torch.nn.functional.pad(one, (0, 0, 0, 36 - len(one))) for one in each])


def lfm2_inputs(sizes: list[tuple[int, int]], pixels: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """What its processor gives beside the token ids."""
    shapes = torch.tensor([grid for size in sizes for grid in lfm2_grids(size)])
    mask = torch.arange(36)[None] < shapes.prod(1)[:, None]
    return {"pixel_values": torch.cat(pixels), "spatial_shapes": shapes, "pixel_attention_mask": mask.int()}


def lfm2_prompt(size: tuple[int, int], image: int, start: int, end: int) -> torch.Tensor:
    """What its processor writes for an image: a mark before every view of several, others around them all."""
    grids, found = lfm2_grids(size), [start]
    for number, (lines, columns) in enumerate(grids):
        found += [20 + number] if len(grids) > 1 else []
        found += [image] * (lines * columns // 4)
    return torch.tensor([*found, end])


def mistral3(text: Any, **ids: int) -> T.Mistral3Config:
    """Mistral 3 in miniature: patches of 4 x 4 pixels, two by two of them a row."""
    return T.Mistral3Config(
        vision_config=T.PixtralVisionConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=48,
            patch_size=4,
        ),
        text_config=text,
        spatial_merge_size=2,
        tie_word_embeddings=False,
        **ids,
    )  # fmt: skip


def pixtral(text: Any, **ids: int) -> T.LlavaConfig:
    """Pixtral in miniature: patches of 8 x 8 pixels, each a row."""
    return T.LlavaConfig(
        vision_config=T.PixtralVisionConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=48,
            patch_size=8,
        ),
        text_config=text,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        **ids,
    )  # fmt: skip


def mistral3_prompt(size: tuple[int, int], image: int, line: int, end: int) -> torch.Tensor:
    """What its processor writes for an image: lines of rows, a mark after each, another after the last."""
    lines = [token for _ in range(size[0] // 8) for token in (*[image] * (size[1] // 8), line)]
    return torch.tensor([*lines[:-1], end])


def same_size(pixels: list[torch.Tensor]) -> torch.Tensor:
    """Pictures one after another, with zeros below and beside the smaller ones."""
    high, wide = (max(image.shape[n] for image in pixels) for n in (1, 2))
    pad = torch.nn.functional.pad
    return torch.stack([pad(one, (0, wide - one.shape[2], 0, high - one.shape[1])) for one in pixels])
