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


def molmo2(sizes: dict[str, Any], **ids: int) -> T.Molmo2Config:
    """Molmo 2 in miniature: views of 5 x 5 patches, two by two to a row, fewer at the edges.

    Its features are of two layers of three; rotary positions of every second layer are scaled.
    """
    layers = sizes["num_hidden_layers"]
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16}
    return T.Molmo2Config(
        vision_config=dict(
            hidden_size=32, intermediate_size=48, num_hidden_layers=3, image_size=[20, 20], patch_size=4,
            **heads,
        ),
        adapter_config=dict(
            vision_feature_layer=[1, 0], hidden_size=32, intermediate_size=40,
            text_hidden_size=sizes["hidden_size"], **heads,
        ),
        text_config=sizes | {
            "head_dim": 16, "additional_vocab_size": 4, "rope_scaling_layers": list(range(0, layers, 2)),
            "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0},
        },
        image_patch_id=ids["image"],
    )  # fmt: skip


def molmo2_grid(size: tuple[int, int]) -> tuple[int, int]:
    """Lines and columns of crops, each of 5 x 5 patches that share one on each side with its neighbours."""
    return -(-size[0] // 24), -(-size[1] // 24)


def molmo2_pools(size: tuple[int, int]) -> tuple[list[list[int]], tuple[int, int, int, int]]:
    """Patches of every row of an image, the whole before its crops; and lines and columns of either."""
    down, across = molmo2_grid(size)
    whole = [[5 * y + x for x in range(5)] for y in range(5)]
    high, wide = 3 * down + 2, 3 * across + 2
    crops = [[0] * wide for _ in range(high)]
    for y in range(high):
        for x in range(wide):
            # A patch is of the crop whose inner part, or outer edge, it lies in.
            row, column = min(max((y - 1) // 3, 0), down - 1), min(max((x - 1) // 3, 0), across - 1)
            crops[y][x] = 25 * (1 + row * across + column) + 5 * (y - 3 * row) + x - 3 * column
    pooled = _twos(whole) + _twos(crops)
    return pooled, (3, 3, -(-high // 2), -(-wide // 2))


def _twos(table: list[list[int]]) -> list[list[int]]:
    high, wide = len(table), len(table[0])
    return [
        [table[y + v][x + u] if y + v < high and x + u < wide else -1 for v in range(2) for u in range(2)]
        for y in range(0, high, 2)
        for x in range(0, wide, 2)
    ]


def molmo2_pixels(size: tuple[int, int], draw: torch.Generator) -> torch.Tensor:
    """Patches of the views of an image."""
    down, across = molmo2_grid(size)
    return torch.randn(1 + down * across, 25, 48, generator=draw)


def molmo2_inputs(sizes: list[tuple[int, int]], pixels: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """What its processor gives beside the token ids."""
    pools, first = [], 0
    for size, views in zip(sizes, pixels, strict=True):
        own = torch.tensor(molmo2_pools(size)[0])
        pools.append(torch.where(own < 0, own, own + first))
        first += 25 * len(views)
    return {
        "pixel_values": torch.cat(pixels),
        "image_token_pooling": torch.cat(pools),
        "image_grids": torch.tensor([molmo2_pools(size)[1] for size in sizes]),
        "image_num_crops": torch.tensor([len(views) for views in pixels]),
    }


def molmo2_prompt(size: tuple[int, int], image: int, start: int, end: int) -> torch.Tensor:
    """What its processor writes for an image: lines of rows with a mark after each, and marks around them."""
    found = []
    low, wide, high, broad = molmo2_pools(size)[1]
    for lines, columns in ((low, wide), (high, broad)):
        found += [start, *([*[image] * columns, MOLMO2_LINE] * lines), end]
    return torch.tensor(found)


MOLMO2_LINE = 20
"""What stands behind a line of rows."""


def molmo2_kinds(input_ids: torch.Tensor, image: int, start: int, end: int) -> torch.Tensor:
    """What ``mm_token_type_ids`` are: 1 for rows of pictures and the marks among them."""
    opened = ((input_ids == start).int().cumsum(1) - (input_ids == end).int().cumsum(1)) > 0
    return (opened | (input_ids == end) | (input_ids == image)).int()


def llama4(sizes: dict[str, Any], image: int) -> T.Llama4Config:
    """Llama 4 in miniature: views of 6 x 6 patches that become 9 rows; a plain FFN in every second layer."""
    wide = {"projector_input_dim": 40, "projector_output_dim": 40, "vision_output_dim": 40}
    text = {
        "head_dim": 16, "intermediate_size_mlp": 80, "num_local_experts": 4, "interleave_moe_layer_step": 2,
        "attention_chunk_size": 16,
    }  # fmt: skip
    return T.Llama4Config(
        vision_config=dict(
            hidden_size=32, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, image_size=24,
            patch_size=4, **wide,
        ),
        text_config=text | sizes | {"intermediate_size": sizes["intermediate_size"] // 2},
        image_token_index=image,
    )  # fmt: skip


def llama4_prompt(size: tuple[int, int], image: int, start: int, end: int) -> torch.Tensor:
    """What its processor writes for an image: tiles with marks between and after lines of them, the whole."""
    down, across = -(-size[0] // 24), -(-size[1] // 24)
    found = [start]
    for _ in range(down if down * across > 1 else 0):
        for column in range(across):
            found += [*[image] * 9, 21 if column + 1 < across else 22]
    return torch.tensor([*found, 23, *[image] * 9, end])
