"""Ready-made prompts of any class: its own kind of pictures, with as many placeholders as they make rows."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from inspected.shrink import FIRST_WORD, VOCAB
from saccade.check import Prompts

SAMPLES: tuple[tuple[int, ...], ...] = ((3, 0, 5), (6,), (2, 0, 2, 0, 3))
"""Words between pictures, which are zeros."""

Pixels = Callable[[Any, Sequence[int], Sequence[torch.Generator]], dict[str, torch.Tensor]]
"""Pictures of a batch: of a configuration, how many each sample shows, and what draws them."""


def prompts(model: Any, kind: str, image: int) -> Prompts:
    """What a model is asked while it is checked.

    Args:
        model: The model.
        kind: Its model type.
        image: Its placeholder token.
    """
    singles = tuple(_batch(model, kind, image, [number]) for number in range(len(SAMPLES)))
    whole = _batch(model, kind, image, range(len(SAMPLES)))
    return Prompts(singles[0], singles[1], singles, whole, tuple(sample.count(0) for sample in SAMPLES))


@torch.no_grad()
def _batch(model: Any, kind: str, image: int, numbers: Sequence[int]) -> dict[str, Any]:
    shown = [SAMPLES[number].count(0) for number in numbers]
    pixels = pictures(model.config, kind, shown, numbers)
    lengths = iter(rows_of(model, kind, pixels, sum(shown)))
    rows = []
    for number in numbers:
        draw = torch.Generator().manual_seed(number)
        parts = [
            torch.randint(FIRST_WORD, VOCAB, (n,), generator=draw)
            if n
            else torch.full((next(lengths),), image)
            for n in SAMPLES[number]
        ]
        rows.append(torch.cat(parts))
    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for one, row, seen in zip(ids, rows, mask, strict=True):
        one[longest - len(row) :], seen[longest - len(row) :] = row, 1
    given = {"input_ids": ids, "attention_mask": mask} | pixels
    named = inspect.signature(type(model.base_model).forward).parameters
    for name in ("mm_token_type_ids", "token_type_ids"):
        if name in named:
            given[name] = (ids == image).int()
    return given


def pictures(config: Any, kind: str, shown: Sequence[int], seeds: Sequence[int]) -> dict[str, torch.Tensor]:
    """Pictures of a batch; the same sample has the same ones in any batch."""
    if not any(shown):
        return {}
    draws = [torch.Generator().manual_seed(100 + seed) for seed in seeds]
    return PICTURES.get(kind, _square)(config, shown, draws)


def rows_of(model: Any, kind: str, pixels: Mapping[str, torch.Tensor], count: int) -> list[int]:
    """Visual rows of every picture, as the model itself makes them."""
    if not pixels:
        return []
    output = model.base_model.get_image_features(**pixels, return_dict=True)
    made = (
        output.last_hidden_state if getattr(output, "pooler_output", None) is None else output.pooler_output
    )
    if getattr(output, "pooler_output", None) is None and getattr(output, "deepstack_features", None):
        # One decoder layer's features of every picture, the same rows for each layer.
        made = output.deepstack_features[0][1]
    if isinstance(made, torch.Tensor):
        total = made.numel() // made.shape[-1]
        return [total // count] * count
    # Some hand their features out by sample rather than by picture; pictures here are of one size.
    return [sum(len(rows) for rows in made) // count] * count


def _each(shown: Sequence[int], draws: Sequence[torch.Generator], *shape: int) -> list[torch.Tensor]:
    return [torch.randn(*shape, generator=d) for n, d in zip(shown, draws, strict=True) for _ in range(n)]


def _square(config: Any, shown: Sequence[int], draws: Sequence[torch.Generator]) -> dict[str, torch.Tensor]:
    """One square view a picture."""
    side = _side(config)
    return {"pixel_values": torch.stack(_each(shown, draws, 3, side, side))}


def _side(config: Any) -> int:
    tower = getattr(config, "vision_config", None)
    side = getattr(tower, "image_size", 32)
    return side if isinstance(side, int) else side[0]


def _by_sample(
    config: Any, shown: Sequence[int], draws: Sequence[torch.Generator]
) -> dict[str, torch.Tensor]:
    """Views of every sample together, blank ones after them."""
    side = _side(config)
    views = [
        torch.stack([*_each([n], [d], 3, side, side), *[torch.zeros(3, side, side)] * (max(shown) - n)])
        for n, d in zip(shown, draws, strict=True)
    ]
    found = {"pixel_values": torch.stack(views)}
    return found | {
        "pixel_attention_mask": torch.ones(*found["pixel_values"].shape[:2], side, side, dtype=torch.bool)
    }


def _grid(config: Any, shown: Sequence[int], draws: Sequence[torch.Generator]) -> dict[str, torch.Tensor]:
    """Patches of grids of any size."""
    vision = config.vision_config
    height, width = 4, 8
    channels: int = getattr(vision, "in_channels", None) or getattr(vision, "num_channels", None) or 3
    wide = channels * (getattr(vision, "temporal_patch_size", None) or 1) * vision.patch_size**2
    return {
        "pixel_values": torch.cat(_each(shown, draws, height * width, wide)),
        "image_grid_thw": torch.tensor([[1, height, width]] * sum(shown)),
    }


def _planes(config: Any, shown: Sequence[int], draws: Sequence[torch.Generator]) -> dict[str, torch.Tensor]:
    """Patches of grids, each as a small picture."""
    found = _grid(config, shown, draws)
    patch = config.vision_config.patch_size
    return found | {"pixel_values": found["pixel_values"].unflatten(-1, (3, patch, patch))}


def _sized(config: Any, shown: Sequence[int], draws: Sequence[torch.Generator]) -> dict[str, torch.Tensor]:
    """Views with their sizes in pixels."""
    found = _square(config, shown, draws)
    side = _side(config)
    return found | {"image_sizes": torch.tensor([[side, side]] * sum(shown))}


def _tiles(config: Any, shown: Sequence[int], draws: Sequence[torch.Generator]) -> dict[str, torch.Tensor]:
    """A thumbnail and two tiles a picture."""
    side = _side(config)
    return {
        "pixel_values": torch.stack(_each(shown, draws, 3, 3, side, side)),
        "image_sizes": torch.tensor([[side, 2 * side]] * sum(shown)),
    }


def _two_towers(
    config: Any, shown: Sequence[int], draws: Sequence[torch.Generator]
) -> dict[str, torch.Tensor]:
    """A view, and the same larger for a second tower."""
    found = _square(config, shown, draws)
    high = config.high_res_vision_config.image_size
    larger = torch.nn.functional.interpolate(found["pixel_values"], size=(high, high))
    return found | {"high_res_pixel_values": larger}


def _whole_tiles(
    config: Any, shown: Sequence[int], draws: Sequence[torch.Generator]
) -> dict[str, torch.Tensor]:
    """Views of every sample together, and which of them are real."""
    found = _by_sample(config, shown, draws)
    real = torch.arange(max(shown)) < torch.tensor(list(shown))[:, None]
    return found | {"pixel_attention_mask": real}


def _strips(config: Any, shown: Sequence[int], draws: Sequence[torch.Generator]) -> dict[str, torch.Tensor]:
    """Patches of all pictures side by side, and the lines and columns of each."""
    patch, height, width = config.vision_config.patch_size, 4, 8
    each = _each(shown, draws, 1, 3, patch, patch * height * width)
    return {"pixel_values": torch.cat(each, -1), "target_sizes": torch.tensor([[height, width]] * sum(shown))}


def _pooled(config: Any, shown: Sequence[int], draws: Sequence[torch.Generator]) -> dict[str, torch.Tensor]:
    """One crop a picture as patches, which of them each row pools, and lines and columns of rows."""
    patch, count = config.vision_config.patch_size, sum(shown)
    places = torch.arange(16).view(2, 2, 2, 2).transpose(1, 2).reshape(4, 4)
    return {
        "pixel_values": torch.stack(_each(shown, draws, 16, 3 * patch * patch)),
        "image_token_pooling": torch.cat([places + 16 * number for number in range(count)]),
        "image_grids": torch.tensor([[2, 2, 0, 0]] * count),
    }


def _large(config: Any, shown: Sequence[int], draws: Sequence[torch.Generator]) -> dict[str, torch.Tensor]:
    """One view a picture, for towers that make one row of many pixels."""
    return {"pixel_values": torch.stack(_each(shown, draws, 3, 256, 256))}


def _tile(config: Any, shown: Sequence[int], draws: Sequence[torch.Generator]) -> dict[str, torch.Tensor]:
    """One tile a picture, of the size that a tower of timm was told."""
    side = config.vision_config.model_args["img_size"][0]
    return {"pixel_values": torch.stack(_each(shown, draws, 1, 3, side, side))}


def _padded(config: Any, shown: Sequence[int], draws: Sequence[torch.Generator]) -> dict[str, torch.Tensor]:
    """Patches of one view a picture, with its lines and columns and which patches are real."""
    patch, height, width = config.vision_config.patch_size, 4, 6
    views = torch.stack(_each(shown, draws, height * width, 3 * patch * patch))
    return {
        "pixel_values": views,
        "spatial_shapes": torch.tensor([[height, width]] * len(views)),
        "pixel_attention_mask": torch.ones(views.shape[:2], dtype=torch.int),
    }


def _patches(config: Any, shown: Sequence[int], draws: Sequence[torch.Generator]) -> dict[str, torch.Tensor]:
    """Patches as they are, for models without a tower."""
    wide = config.num_channels * config.patch_size**2
    return {"pixel_values": torch.stack(_each(shown, draws, 16, wide))}


def _merged(config: Any, shown: Sequence[int], draws: Sequence[torch.Generator]) -> dict[str, torch.Tensor]:
    """Patches of grids, with how many of them become one row."""
    found = _grid(config, shown, draws)
    return found | {"image_merge_sizes": torch.tensor([2] * sum(shown))}


PICTURES: dict[str, Pixels] = {
    **dict.fromkeys(("idefics2", "idefics3", "smolvlm"), _by_sample),
    **dict.fromkeys(("mistral3", "mistral_large4", "lighton_ocr", "emu3"), _sized),
    **dict.fromkeys(("llava_next", "llava_next_video", "llava_onevision", "granite4_vision"), _tiles),
    **dict.fromkeys(("paddleocr_vl",), _planes),
    **dict.fromkeys(
        (
            "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe", "qwen4_exp",
            "qwen2_5_omni_thinker", "qwen3_omni_moe_thinker", "glm4v", "glm46v", "glm4v_moe", "glm_ocr",
            "glm5_next", "cosmos3_edge", "cosmos3_omni", "cohere_compass", "exaone4_5", "ernie4_5_vl_moe",
            "hyperclovax_vision_v2",
            "hunyuan_vl", "kimi_k25", "lfm3_vl", "minimax_m3_vl", "muse_glimmer", "muse_spark", "dots3_note",
            "inkling2",
        ),
        _grid,
    ),
    **dict.fromkeys(("minicpmv4_6", "minicpmv4_7", "minicpm_ocr"), _strips),
    "molmo2": _pooled,
    "lfm2_vl": _padded,
    "perception_lm": _tile,
    "fast_vlm": _large,
    "granite_docling": _whole_tiles,
    "fuyu": _patches,
    "video_llama_3": _merged,
    "deepseek_vl_hybrid": _two_towers,
}  # fmt: skip
"""How classes take pictures; one square view each where nothing else is said."""
