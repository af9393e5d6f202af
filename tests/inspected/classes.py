"""A tiny random model of any class that reads pictures and words, with the pictures that it takes."""

from __future__ import annotations

import re
from typing import Any

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from inspected.shrink import (
    FIRST_WORD,
    HEAD_DIM,
    HEADS,
    HIDDEN,
    KV_HEADS,
    TEXT,
    VOCAB,
    sized,
    text_of,
    tower_of,
    turns,
)

TOKEN = re.compile(r"\w+_token_(id|index)|im(age)?_\w+_id")
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
_MIXED = ["linear_attention", "full_attention", "linear_attention"]
_QUARTER = {"text_config": turns(2, 1, 1, partial_rotary_factor=0.5)}


def _codes(name: str, count: int = 32) -> dict[str, int]:
    """Tokens of a picture's codes, at the end of the vocabulary."""
    return {name.format(code): VOCAB - count + code for code in range(count)}


MORE: dict[str, dict[str, dict[str, Any]]] = {
    "muse_glimmer": {"": {"projector_hidden_size": 64, "out_hidden_size": 64}},
    "glm5_next": {"text_config": {"num_key_value_heads": HEADS, "qk_rope_head_dim": 0}},
    "git": {"": sized(transformers.GitConfig(), TEXT)},
    "qwen4_exp": {"text_config": {"layer_types": ["linear_attention"] * 3}},
    **{kind: _AXES for kind in ("qwen2_5_vl", "paddleocr_vl", "cosmos3_edge")},
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
    "emu3": {
        "vq_config": {
            "base_channels": 32,
            "codebook_size": 32,
            "channel_multiplier": [1, 1],
            "num_res_blocks": 1,
            "attn_resolutions": [],
            "temporal_downsample_factor": 1,
        },
        "": {"vocabulary_map": {"<image>": 3, "<|extra_200|>": 4} | _codes("<|visual token {:06d}|>")},
    },
    "chameleon": {
        "vq_config": {
            "base_channels": 32,
            "embed_dim": 8,
            "latent_channels": 8,
            "num_embeddings": 26,
            "resolution": 16,
            "channel_multiplier": [1, 1],
            "num_res_blocks": 1,
        },
        "": sized(transformers.ChameleonConfig(), TEXT)
        | {"vocabulary_map": {"<image>": 3} | {f"IMGIMG{chr(65 + n)}Z": VOCAB - 26 + n for n in range(26)}},
    },
    "cohere_compass": {
        "vision_config": {"num_position_embeddings": 64},
        "text_config": {
            "rope_parameters": {
                "full_attention": {
                    "rope_type": "default",
                    "rope_theta": 1e4,
                    "mrope_section": [2, 3, 3],
                    "mrope_interleaved": False,
                }
            },
            "num_key_value_heads": KV_HEADS,
        },
    },
    **{
        kind: {
            "text_config": {"layer_types": _MIXED, **turns(2, 1, 1, partial_rotary_factor=0.5)},
            "vision_config": {"num_hidden_layers": 3, "insert_layer_id": 1},
            "": {"insert_layer_id": 1},
        }
        for kind in ("minicpmv4_6", "minicpmv4_7", "minicpm_ocr")
    },
    **{
        kind: {"text_config": {"layer_types": _MIXED, **turns(2, 1, 1, partial_rotary_factor=0.5)}}
        for kind in ("qwen3_5", "qwen3_5_moe")
    },
    "lfm2_vl": {
        "vision_config": {"num_patches": 16},
        "text_config": {"layer_types": ["conv", "full_attention", "conv"], "block_multiple_of": 16},
    },
    "florence2": {
        "vision_config": {
            "patch_size": [7, 3, 3, 3],
            "embed_dim": [16, 16, 16, 32],
            "num_heads": [2, 2, 2, 2],
            "num_groups": [2, 2, 2, 2],
            "depths": [1, 1, 1, 1],
            "projection_dim": HIDDEN,
        },
        "text_config": {"d_model": HIDDEN},
    },
    "hunyuan_vl": {"text_config": {"head_dim": HEAD_DIM, **turns(2, 3, 3)}},
    "granite4_vision": {
        "vision_config": {"hidden_size": 64, "image_size": 32},
        "": {
            "downsample_rate": "1/2",
            "deepstack_layer_map": [[0, 0], [1, 1]],
            "spatial_target_layers": [2],
            **_TILES[""],
        },
    },
    "perception_lm": {
        "vision_config": {
            "architecture": "vit_pe_core_large_patch14_336",
            "model_args": {
                "embed_dim": 64,
                "img_size": (28, 28),
                "depth": 2,
                "global_pool": "",
                "use_post_transformer_norm": False,
                "init_values": 0.1,
                "ref_feat_shape": (2, 2),
            },
        },
        "": {"projector_pooling_ratio": 1, "vision_use_cls_token": True},
    },
    "fast_vlm": {
        "vision_config": {
            "architecture": "fastvit_mci3",
            "hidden_size": 128,
            "do_pooling": True,
            "global_pool": "avg",
            "model_args": {
                "inference_mode": True,
                "layers": (1, 1, 1, 1, 1),
                "embed_dims": (8, 16, 32, 64, 64),
                "mlp_ratios": (1, 1, 1, 1, 1),
            },
        },
    },
    "gemma3": {"": {"mm_tokens_per_image": 4}},
    "gemma3n": {
        "text_config": {
            "num_kv_shared_layers": 0,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
            "vocab_size_per_layer_input": VOCAB,
            "hidden_size_per_layer_input": 16,
            "activation_sparsity_pattern": [0.0, 0.0, 0.0],
        },
    },
    "gemma4": {
        "text_config": {
            "vocab_size_per_layer_input": VOCAB,
            "hidden_size_per_layer_input": 16,
            "per_layer_config": {},
        },
    },
    "step3p7": {"text_config": {"sliding_window": 512}, "vision_config": {"image_size": 64}},
    "deepseek_ocr2": {"text_config": {"mlp_layer_types": ["dense", "sparse", "sparse"]}},
    "molmo2": {
        "vision_config": {"image_size": [32, 32], "num_position_embeddings": 16},
        "adapter_config": {"vision_feature_layer": [0, 1], "text_hidden_size": HIDDEN},
    },
    "qwen2_5_omni_thinker": {**_AXES, "": {"vision_start_token_id": 20}},
    "qwen3_omni_moe_thinker": {"": {"vision_start_token_id": 20}},
    "ovis2": {
        "vision_config": {"vocab_size": 64, "num_visual_indicator_tokens": 5},
        "": {"hidden_size": HIDDEN},
    },
    "fuyu": {"": {"patch_size": 8, "image_size": 32}},
}
"""What classes need besides, by part of the configuration."""
