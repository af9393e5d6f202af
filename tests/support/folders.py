"""Folders of tiny models as checkpoints lie on the hub: its class names, files and settings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers as T

from saccade.system.environment import has_torchvision
from support.models import FACTORIES, Tiny
from support.models_views import GRIDS
from support.processors import CHAT, tokenizer

CLIP = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
QWEN = {"patch_size": 4, "temporal_patch_size": 2, "merge_size": 2}
PIXELS = {"min_pixels": 64, "max_pixels": 2304}
EDGES = {"size": {"shortest_edge": 64, "longest_edge": 2304}}
TILES = {"size": {"longest_edge": 72}, "max_image_size": {"longest_edge": 24}}
PLACES = {
    80 + 6 * row + column: f"<row_{row + 1}_col_{column + 1}>" for row in range(6) for column in range(6)
}
VIEWS = {5: "<fake_token_around_image>", 6: "<global-img>", 127: "<end_of_utterance>"} | PLACES
LFM2 = {5: "<|image_start|>", 6: "<|image_end|>", 127: "<|img_thumbnail|>"} | {
    80 + 6 * row + column: f"<|img_row_{row + 1}_col_{column + 1}|>"
    for row in range(6)
    for column in range(6)
}
MARKS = {
    "lfm2_vl": ("<image>", LFM2),
    "idefics3": ("<image>", VIEWS),
    "smolvlm": ("<image>", VIEWS),
    "mistral3": ("[IMG]", {5: "[IMG_BREAK]", 6: "[IMG_END]"}),
    "glm4v": ("<|image|>", {5: "<|begin_of_image|>", 6: "<|end_of_image|>"}),
}
"""Placeholder of a picture, and what stands around it, by the beginning of the model's name."""

Files = dict[str, dict[str, Any]]


def _crop(side: int) -> dict[str, Any]:
    return CLIP | {
        "size": {"shortest_edge": side},
        "crop_size": {"height": side, "width": side},
        "resample": 3,
    }


def _llava(strategy: str = "default") -> dict[str, Any]:
    return {"patch_size": 8, "vision_feature_select_strategy": strategy, "num_additional_image_tokens": 1}


def _files(
    pictures: dict[str, Any], kind: str, name: str, own: dict[str, Any] | None = None, **more: dict[str, Any]
) -> Files:
    """Settings files; ``own`` is processor_config.json, which the Qwen models have not."""
    found = {"preprocessor_config.json": pictures | {"image_processor_type": kind, "processor_class": name}}
    if own is not None:
        found["processor_config.json"] = own | {"processor_class": name}
    return found | more


FILES: dict[str, Callable[[], Files]] = {
    "llava-llama": lambda: _files(_crop(32), "CLIPImageProcessor", "LlavaProcessor", _llava()),
    "llava_next-mistral": lambda: _files(
        _crop(24) | {"image_grid_pinpoints": [[24, 48], [48, 24], [48, 48]]},
        "LlavaNextImageProcessor",
        "LlavaNextProcessor",
        _llava(),
    ),
    "llava_next_video": lambda: _files(
        _crop(24) | {"image_grid_pinpoints": [[24, 48], [48, 24], [48, 48]]},
        "LlavaNextImageProcessor",
        "LlavaNextVideoProcessor",
        _llava() | {"patch_size": 6},
        **{
            "video_preprocessor_config.json": _crop(24)
            | {"video_processor_type": "LlavaNextVideoVideoProcessor"}
        },
    ),
    "llava_onevision": lambda: _files(
        HALF | {"size": {"height": 24, "width": 24}, "image_grid_pinpoints": GRIDS, "do_pad": True},
        "LlavaOnevisionImageProcessor",
        "LlavaOnevisionProcessor",
        {
            "num_image_tokens": 9,
            "vision_feature_select_strategy": "full",
            "vision_aspect_ratio": "anyres_max_2",
        },
        **{
            "video_processor/preprocessor_config.json": HALF
            | {"video_processor_type": "LlavaOnevisionVideoProcessor"}
        },
    ),
    "internvl-qwen2": lambda: _files(
        HALF | {"size": {"height": 24, "width": 24}, "crop_to_patches": False, "max_patches": 6},
        "GotOcr2ImageProcessorFast",
        "InternVLProcessor",
        {"image_seq_length": 9},
        **{
            "video_preprocessor_config.json": HALF
            | {"size": {"height": 24, "width": 24}, "video_processor_type": "InternVLVideoProcessor"}
        },
    ),
    "qwen2_vl": lambda: _files(CLIP | QWEN | PIXELS, "Qwen2VLImageProcessor", "Qwen2VLProcessor"),
    "qwen2_5_vl": lambda: _files(CLIP | QWEN | PIXELS, "Qwen2VLImageProcessor", "Qwen2_5_VLProcessor"),
    "qwen3_vl": lambda: _files(
        HALF | QWEN | EDGES,
        "Qwen2VLImageProcessorFast",
        "Qwen3VLProcessor",
        **{
            "video_preprocessor_config.json": HALF
            | QWEN
            | EDGES
            | {"video_processor_type": "Qwen3VLVideoProcessor", "processor_class": "Qwen3VLProcessor"}
        },
    ),
    "qwen3_vl_moe": lambda: FILES["qwen3_vl"](),
    "qwen3_5": lambda: FILES["qwen3_vl"](),
    "qwen3_5_moe": lambda: FILES["qwen3_vl"](),
    "glm4v_moe": lambda: FILES["glm4v"](),
    "idefics3-llama": lambda: _files(
        HALF | TILES, "Idefics3ImageProcessor", "Idefics3Processor", {"image_seq_len": 9}
    ),
    "smolvlm-llama": lambda: _files(
        HALF | TILES, "SmolVLMImageProcessor", "SmolVLMProcessor", {"image_seq_len": 9}
    ),
    "glm4v": lambda: _files(
        CLIP | QWEN | EDGES,
        "Glm4vImageProcessor",
        "Glm4vProcessor",
        **{
            "video_preprocessor_config.json": CLIP
            | QWEN
            | EDGES
            | {"video_processor_type": "Glm4vVideoProcessor", "processor_class": "Glm4vProcessor"}
        },
    ),
}  # fmt: skip
"""Settings files of one folder of each family, by the name of its tiny model."""

NEEDING: dict[str, Callable[[], Files]] = {
    "lfm2_vl": lambda: _files(
        HALF
        | {
            "encoder_patch_size": 4, "downsample_factor": 2, "tile_size": 24,
            "size": {"height": 24, "width": 24},
            "min_tiles": 2, "max_tiles": 4, "min_image_tokens": 1, "max_image_tokens": 9,
            "max_pixels_tolerance": 1.0, "do_image_splitting": True, "use_thumbnail": True,
        },
        "Lfm2VlImageProcessorFast",
        "Lfm2VlProcessor",
        {"use_image_special_tokens": True},
    ),
    "mistral3": lambda: _files(
        CLIP | {"size": {"longest_edge": 48}, "patch_size": 4},
        "PixtralImageProcessorFast",
        "PixtralProcessor",
        {
            "image_token": "[IMG]", "image_break_token": "[IMG_BREAK]", "image_end_token": "[IMG_END]",
            "patch_size": 4, "spatial_merge_size": 2,
        },
    ),
}  # fmt: skip
"""Those whose stock processor is not there without torchvision."""

# In transformers 5.17 their classes for pictures are stand-ins without it.
READS_IDEFICS = has_torchvision() or not hasattr(T.Idefics3ImageProcessorPil, "_backends")
if not READS_IDEFICS:
    NEEDING |= {name: FILES.pop(name) for name in ("idefics3-llama", "smolvlm-llama")}


def write(folder: Path, name: str, tiny: Tiny | None = None, legacy_chat: bool | None = None) -> Path:
    """Writes the checkpoint folder of a tiny model.

    Args:
        folder: Where to.
        name: The tiny model, a key of ``FILES``.
        tiny: The model, where it is at hand.
        legacy_chat: Whether the chat template lies in chat_template.json; as the family has it if None.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = (tiny or FACTORIES[name]()).model
    model.save_pretrained(folder, max_shard_size="100KB")
    token, marks = MARKS.get(name.partition("-")[0], ("<|image_pad|>", None))
    if name.startswith(("llava", "internvl")):
        token = "<image>"
    tokenizer(token, marks, whole=name.startswith("qwen3_5")).save_pretrained(folder)
    for file, data in (FILES | NEEDING)[name]().items():
        put(folder / file, data)
    legacy = name in ("qwen2_vl", "qwen2_5_vl") if legacy_chat is None else legacy_chat
    # Pictures side by side are told apart by what stands between them.
    around = " ".join((marks or {5: "<img>", 6: "</img>"}).values())
    begin, end = around.split()[:2]
    apart = token != "<image>" and name != "mistral3"
    chat = CHAT.replace("<image>", f"{begin} {token} {end}" if apart else token)
    if legacy:
        put(folder / "chat_template.json", {"chat_template": chat})
    else:
        (folder / "chat_template.jinja").write_text(chat, encoding="utf-8")
    return folder


def put(path: Path, data: Any) -> None:
    """Writes a JSON file, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1), encoding="utf-8")


def change(path: Path, **settings: Any) -> None:
    """Changes keys of a JSON file; those that become None are removed."""
    data = json.loads(path.read_text(encoding="utf-8")) | settings
    put(path, {key: value for key, value in data.items() if value is not None})


def again(folder: Path, to: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(folder, to))
