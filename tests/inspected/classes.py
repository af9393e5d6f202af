"""A tiny random model of any class that reads pictures and words, with the pictures that it takes."""

from __future__ import annotations

import re
from typing import Any

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from inspected.shrink import FIRST_WORD, HEADS, HIDDEN, text_of, tower_of, turns

TOKEN = re.compile(r"\w+_token_(id|index)")
KEPT = ("pad_token_id", "bos_token_id", "eos_token_id")
LARGEST = 30_000_000
"""Parameters of a model that still counts as tiny."""


def kinds() -> dict[str, str]:
    """Classes by model type, each once."""
    found: dict[str, str] = {}
    for kind, name in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.items():
        if name not in found.values():
            found[kind] = name
    return found


def config_of(kind: str) -> Any:
    """A tiny configuration of a class."""
    cls: Any = getattr(transformers, kinds()[kind]).config_class
    default = cls()
    given: dict[str, Any] = {}
    more = MORE.get(kind, {})
    for part in getattr(cls, "sub_configs", {}):
        own = getattr(default, part, None)
        if own is not None:
            given[part] = (text_of if "text" in part else tower_of)(own, **more.get(part, {}))
    names = [n for n in default.to_dict() if TOKEN.fullmatch(n) and n not in KEPT and not n.startswith("_")]
    given |= {name: 3 + number for number, name in enumerate(names)}
    return cls(**given, **more.get("", {}))


def model_of(kind: str, seed: int = 0) -> Any:
    """A tiny random model of a class, whose weights are wide enough that every row matters.

    Raises:
        ValueError: If it is not tiny.
    """
    cls: Any = getattr(transformers, kinds()[kind])
    config = config_of(kind)
    with torch.device("meta"):
        size = sum(p.numel() for p in cls(config).parameters())
    if size > LARGEST:
        raise ValueError(f"its configuration does not come down to a tiny one ({size:,} parameters)")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = cls(config)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=draw)
            if parameter.ndim >= 2:
                parameter.copy_(noise * (1.0 if "embed" in name else 1.2 * parameter[0].numel() ** -0.5))
            elif "norm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.2 * noise)
            else:
                parameter.copy_(0.2 * noise)
    model.generation_config.suppress_tokens = list(range(FIRST_WORD))
    model.generation_config.pad_token_id = 0
    return model.eval()


_HEADS = {"text_config": {"num_key_value_heads": HEADS, "head_dim": 8}}
_AXES = {"text_config": turns(2, 3, 3)}
_TILES = {"": {"image_grid_pinpoints": [[32, 64], [64, 32], [64, 64]]}}
_QUARTER = {"text_config": turns(2, 1, 1, partial_rotary_factor=0.5)}

MORE: dict[str, dict[str, dict[str, Any]]] = {
    **{kind: _AXES for kind in ("qwen2_5_vl", "paddleocr_vl", "qwen2_5_omni_thinker", "cosmos3_edge")},
    **{kind: _QUARTER for kind in ("glm4v", "glm46v", "glm_ocr", "glm4v_moe")},
    **{kind: _HEADS for kind in ("kimi_k25", "mistral_large4")},
    **{kind: _TILES for kind in ("llava_next", "llava_next_video", "llava_onevision")},
    "qwen2_vl": {"text_config": turns(2, 3, 3), "vision_config": {"hidden_size": HIDDEN}},
    "ernie4_5_vl_moe": {"text_config": turns(3, 3, 2) | {"moe_intermediate_size": [32, 32]}},
    "vipllava": {"": {"vision_feature_layers": [-1, -2]}},
    "mllama": {"text_config": {"cross_attention_layers": [1]}},
    "got_ocr2": {"vision_config": {"image_size": 256, "global_attn_indexes": [1], "output_channels": 64}},
    "aria": {"": {"projector_patch_to_query_dict": {16: 8}}},
    "janus": {
        "vision_config": {"projection_dim": HIDDEN},
        "vq_config": {
            "base_channels": 32,
            "num_embeddings": 32,
            "embed_dim": 8,
            "channel_multiplier": [1, 1],
        },
    },
    "granite_docling": {"vision_config": {"image_size": 64}},
    "ovis2": {
        "vision_config": {"vocab_size": 64, "num_visual_indicator_tokens": 5},
        "": {"hidden_size": HIDDEN},
    },
    "fuyu": {"": {"patch_size": 8, "image_size": 32}},
}
"""What classes need besides, by part of the configuration."""
