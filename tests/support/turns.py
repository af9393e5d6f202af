"""A second turn of a conversation, on the cache of the first or recomputed whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import transformers

from support.models import FACTORIES, IMAGE, SEVERAL_AXES, VISION_END, VISION_START, Segment, Tiny
from support.models_views import (
    by_sample,
    internvl_views,
    lfm2_grids,
    molmo2_inputs,
    molmo2_kinds,
    same_size,
)

_VERSION = tuple(int(part) for part in transformers.__version__.split(".")[:2])


def stock_takes_new_images(name: str) -> bool:
    """Whether stock ``generate`` takes new images on an existing cache (Qwen-VL and Gemma 3: since 5.23)."""
    return not name.startswith((*SEVERAL_AXES, "gemma3")) or _VERSION >= (5, 23)


def stock_recomputes(name: str) -> bool:
    """Whether stock ``generate`` without a cache tells kinds of rows as with one (Gemma: from 5.23 on)."""
    return "gemma" not in name or _VERSION >= (5, 23)


RECOMPUTED = [name for name in FACTORIES if stock_recomputes(name) and name != "llama4"]
"""Tiny models whose stock ``generate`` without a cache is that with one; that of Llama 4 takes no picture for
several sequences per prompt."""
BEAMS = [name for name in RECOMPUTED if not name.startswith("glm4v")]
"""Those for which beams are alike too: stock GLM, dense, finds others where samples have several images."""


def next_turn(
    tiny: Tiny,
    first: Sequence[Sequence[Segment]],
    inputs: dict[str, torch.Tensor],
    sequences: torch.Tensor,
    second: Sequence[Sequence[Segment]],
    seed: int = 1,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs of a second turn: for a call on the cache of the first, and for one that recomputes all.

    Args:
        tiny: The model and its inputs.
        first: Samples of the first turn.
        inputs: Their inputs, left padded.
        sequences: (B, N) what ``generate`` returned for them.
        second: New segments of every sample; they are left padded to one length.
        seed: Of the new contents.
    """
    new = tiny.batch(second, "left", seed)
    said = sequences.shape[1] - inputs["input_ids"].shape[1]
    mask = torch.nn.functional.pad(inputs["attention_mask"], (0, said), value=1)
    both: dict[str, Any] = {
        "input_ids": torch.cat([sequences, new["input_ids"]], 1),
        "attention_mask": torch.cat([mask, new["attention_mask"]], 1),
    }
    if tiny.family == "gemma3":
        both["token_type_ids"] = (both["input_ids"] == IMAGE).int()
    if tiny.family == "paligemma":
        # What comes on a cache is causal.
        after = torch.ones_like(both["input_ids"])[:, inputs["input_ids"].shape[1] :]
        both["token_type_ids"] = torch.cat([inputs["token_type_ids"], after], 1)
    if tiny.family == "qwen":
        both["mm_token_type_ids"] = (both["input_ids"] == IMAGE).int()
    if tiny.family == "molmo2":
        both["mm_token_type_ids"] = molmo2_kinds(both["input_ids"], IMAGE, VISION_START, VISION_END)
    told = {}
    if tiny.family == "molmo2":
        # What stands on a cache has not seen the pictures that come later: theirs is another block.
        later = torch.arange(both["input_ids"].shape[1]) >= sequences.shape[1]
        told["mm_token_type_ids"] = both["mm_token_type_ids"] * (1 + later.int())
    old_images, new_images = (_images(tiny, s, i) for s, i in ((first, inputs), (second, new)))
    full = both | told | _join(tiny, [a + b for a, b in zip(old_images, new_images, strict=True)])
    if "pixel_values" not in new:
        keep = {"image_grid_thw"} if tiny.family == "qwen" else set()
        return both | {k: v for k, v in full.items() if k in keep}, full
    text = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
    vision = {k: v for k, v in new.items() if k not in text}
    if tiny.family != "qwen":
        return both | vision, full
    with torch.no_grad():
        features = tiny.model.model.get_image_features(**vision, return_dict=True)
    grids = {"image_grid_thw": full["image_grid_thw"], "mm_encoder_outputs": {"image": features}}
    return both | grids, full


def _images(
    tiny: Tiny, samples: Sequence[Sequence[Segment]], inputs: dict[str, torch.Tensor]
) -> list[list[dict[str, Any]]]:
    """Vision inputs of every image of every sample."""
    found, number, patch = [], 0, 0
    for sample in samples:
        images, sizes = [], [s for s in sample if not isinstance(s, int)]
        for _ in sizes:
            if tiny.family == "qwen":
                grid = inputs["image_grid_thw"][number]
                end = patch + int(grid.prod())
                images.append(
                    {"pixel_values": inputs["pixel_values"][patch:end], "image_grid_thw": grid[None]}
                )
                patch = end
            elif tiny.family == "idefics3":
                end = patch + internvl_views(sizes[len(images)])
                images.append({"pixel_values": inputs["pixel_values"][len(found), patch:end]})
                patch = end
            elif tiny.family == "lfm2_vl":
                end = patch + len(lfm2_grids(sizes[len(images)]))
                keys = ("pixel_values", "spatial_shapes", "pixel_attention_mask")
                images.append({key: inputs[key][patch:end] for key in keys})
                patch = end
            elif tiny.family == "molmo2":
                end = patch + int(inputs["image_num_crops"][number])
                images.append({"pixel_values": inputs["pixel_values"][patch:end], "size": sizes[len(images)]})
                patch = end
            elif tiny.family in ("internvl", "llama4"):
                end = patch + internvl_views(sizes[len(images)])
                images.append({"pixel_values": inputs["pixel_values"][patch:end]})
                patch = end
            else:
                keys = [k for k in ("pixel_values", "image_sizes") if k in inputs]
                images.append({k: inputs[k][number : number + 1] for k in keys})
            number += 1
        if tiny.family == "idefics3":
            patch = 0
        found.append(images)
    return found


def _join(tiny: Tiny, images: list[list[dict[str, Any]]]) -> dict[str, torch.Tensor]:
    flat = [image for sample in images for image in sample]
    if not flat:
        return {}
    if tiny.family == "idefics3":
        return {
            "pixel_values": by_sample([i["pixel_values"] for i in flat], [len(sample) for sample in images])
        }
    if tiny.family == "lfm2_vl":
        return {key: torch.cat([image[key] for image in flat]) for key in flat[0]}
    if tiny.family == "molmo2":
        return molmo2_inputs([i["size"] for i in flat], [i["pixel_values"] for i in flat])
    if tiny.family == "mistral3":
        cut = [i["pixel_values"][0, :, : i["image_sizes"][0, 0], : i["image_sizes"][0, 1]] for i in flat]
        return {"pixel_values": same_size(cut), "image_sizes": torch.cat([i["image_sizes"] for i in flat])}
    if tiny.family in ("llava_next", "llava_onevision"):
        most = max(i["pixel_values"].shape[1] for i in flat)
        pad = (0, 0, 0, 0, 0, 0)
        flat = [
            i | {"pixel_values": torch.nn.functional.pad(p, (*pad, 0, most - p.shape[1]))}
            for i in flat
            for p in [i["pixel_values"]]
        ]
    return {k: torch.cat([i[k] for i in flat]) for k in flat[0]}
