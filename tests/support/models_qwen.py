"""Configurations of the tiny Qwen models: towers and positions differ, everything else is shared.

The patches of all three are of one size, so that the same pixels fit each of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import transformers as T

SECTIONS = [2, 3, 3]
"""Frequencies of a head for time, height and width."""


def qwen2_vl(text: dict[str, Any], ids: dict[str, int]) -> T.Qwen2VLConfig:
    """Qwen2-VL in miniature: a tower that sees whole pictures."""
    return T.Qwen2VLConfig(
        vision_config=dict(
            depth=2, embed_dim=32, hidden_size=text["hidden_size"], mlp_ratio=2, num_heads=2,
            patch_size=4, spatial_merge_size=2, temporal_patch_size=2,
        ),
        text_config=_turning(text, mrope_section=SECTIONS),
        **ids,
    )  # fmt: skip


def qwen2_5_vl(text: dict[str, Any], ids: dict[str, int]) -> T.Qwen2_5_VLConfig:
    """Qwen2.5-VL in miniature: a tower with windows."""
    return T.Qwen2_5_VLConfig(
        vision_config=dict(
            depth=2, hidden_size=32, intermediate_size=48, num_heads=2, out_hidden_size=text["hidden_size"],
            patch_size=4, spatial_merge_size=2, temporal_patch_size=2, window_size=16,
            fullatt_block_indexes=[1],
        ),
        text_config=_turning(text, mrope_section=SECTIONS),
        **ids,
    )  # fmt: skip


def qwen3_vl(text: dict[str, Any], ids: dict[str, int]) -> T.Qwen3VLConfig:
    """Qwen3-VL in miniature: the decoder gets the first two layers of the tower as well, and norms heads."""
    width = text["hidden_size"] // text["num_attention_heads"]
    return T.Qwen3VLConfig(
        vision_config=dict(
            depth=3, hidden_size=32, intermediate_size=48, num_heads=2, out_hidden_size=text["hidden_size"],
            patch_size=4, spatial_merge_size=2, temporal_patch_size=2, num_position_embeddings=16,
            deepstack_visual_indexes=[0, 1],
        ),
        text_config=_turning(text, mrope_section=[4, 2, 2], mrope_interleaved=True) | {"head_dim": width},
        **ids,
    )  # fmt: skip


def qwen3_vl_moe(text: dict[str, Any], ids: dict[str, int]) -> T.Qwen3VLMoeConfig:
    """Qwen3-VL-MoE in miniature: a row passes two of six experts, together as wide as the others' FFN."""
    dense = qwen3_vl(text, ids)
    return T.Qwen3VLMoeConfig(
        vision_config=dense.vision_config.to_dict() | {"model_type": "qwen3_vl_moe_vision"},
        text_config=dense.text_config.to_dict()
        | {"model_type": "qwen3_vl_moe_text"}
        | experts(text["intermediate_size"]),
        **ids,
    )


def experts(width: int) -> dict[str, int]:
    """Experts of which a row passes as many as are so wide together."""
    return dict(num_experts=6, num_experts_per_tok=2, moe_intermediate_size=width // 2)


def qwen3_5(
    text: dict[str, Any], ids: dict[str, int], recurrent: Callable[[int], bool], state: int | None = None
) -> T.Qwen3_5Config:
    """Qwen3.5 in miniature: gated delta nets in some layers, gated attention in the others."""
    width = text["hidden_size"] // text["num_attention_heads"]
    state = state or min(width, 16)
    kinds = [
        "linear_attention" if recurrent(n) else "full_attention" for n in range(text["num_hidden_layers"])
    ]
    return T.Qwen3_5Config(
        vision_config=dict(
            depth=2, hidden_size=32, intermediate_size=48, num_heads=2, out_hidden_size=text["hidden_size"],
            patch_size=4, spatial_merge_size=2, temporal_patch_size=2, num_position_embeddings=16,
        ),
        text_config=_turning(text, mrope_section=[2, 1, 1], mrope_interleaved=True, partial_rotary_factor=0.5)
        | dict(
            head_dim=width, layer_types=kinds, linear_num_key_heads=2, linear_num_value_heads=4,
            linear_key_head_dim=state, linear_value_head_dim=state, linear_conv_kernel_dim=4,
        ),
        **ids,
    )  # fmt: skip


def qwen3_5_moe(
    text: dict[str, Any], ids: dict[str, int], recurrent: Callable[[int], bool]
) -> T.Qwen3_5MoeConfig:
    """Qwen3.5-MoE in miniature: a row passes two of six experts, and one beside them as it says."""
    dense, width = qwen3_5(text, ids, recurrent), text["intermediate_size"] // 3
    inner = dense.text_config.to_dict() | {"model_type": "qwen3_5_moe_text"} | experts(2 * width)
    del inner["intermediate_size"]
    return T.Qwen3_5MoeConfig(
        vision_config=dense.vision_config.to_dict() | {"model_type": "qwen3_5_moe_vision"},
        text_config=inner | {"shared_expert_intermediate_size": width},
        **ids,
    )


def glm4v_moe(text: dict[str, Any], ids: dict[str, int]) -> T.Glm4vMoeConfig:
    """GLM-4.5V in miniature: a plain FFN in the first layer, two of six experts and one beside in others."""
    width = text["intermediate_size"] // 3
    return T.Glm4vMoeConfig(
        vision_config=dict(
            depth=2, hidden_size=32, intermediate_size=48, num_heads=2, out_hidden_size=text["hidden_size"],
            patch_size=4, spatial_merge_size=2, temporal_patch_size=2, image_size=24,
        ),
        text_config=_turning(text, mrope_section=[2, 1, 1], partial_rotary_factor=0.5)
        | dict(
            n_routed_experts=6, num_experts_per_tok=2, moe_intermediate_size=width, n_shared_experts=1,
            first_k_dense_replace=1,
        ),
        **ids,
    )  # fmt: skip


def glm4v(text: dict[str, Any], ids: dict[str, int]) -> T.Glm4vConfig:
    """GLM-4.1V in miniature: sandwich norms, half of every head turned, frequencies taken in turns."""
    return T.Glm4vConfig(
        vision_config=dict(
            depth=2, hidden_size=32, intermediate_size=48, num_heads=2, out_hidden_size=text["hidden_size"],
            patch_size=4, spatial_merge_size=2, temporal_patch_size=2, image_size=24,
        ),
        text_config=_turning(text, mrope_section=[2, 1, 1], partial_rotary_factor=0.5),
        **ids,
    )  # fmt: skip


def _turning(text: dict[str, Any], mrope_section: list[int], **rope: Any) -> dict[str, Any]:
    # Sections are those of a head of 16.
    scale = text["hidden_size"] // text["num_attention_heads"] // 16
    rope["mrope_section"] = [scale * count for count in mrope_section]
    return text | {"rope_parameters": dict(rope_type="default", rope_theta=1e4, **rope)}
