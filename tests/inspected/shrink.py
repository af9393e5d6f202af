"""Tiny configurations of any class, made of its own defaults: every size that has a name is brought down."""

from __future__ import annotations

from typing import Any

VOCAB = 160
HIDDEN, HEADS, KV_HEADS, HEAD_DIM, FFN = 64, 4, 2, 16, 96
LAYERS, TOWER_LAYERS = 3, 2
IMAGE, VIDEO, FIRST_WORD = 3, 4, 24
"""Tokens; those below ``FIRST_WORD`` stand for something."""

TEXT = {
    "vocab_size": VOCAB, "hidden_size": HIDDEN, "intermediate_size": FFN, "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM,
    "max_position_embeddings": 512, "moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2,
    "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4, "moe_k": 2, "moe_topk": 2,
    "shared_expert_intermediate_size": 32, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8, "v_head_dim": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 2,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "n_group": 1, "topk_group": 1,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
"""Fields of a text configuration."""

TOWER = {
    "hidden_size": 32, "embed_dim": 32, "intermediate_size": 48, "mlp_dim": 48,
    "num_hidden_layers": TOWER_LAYERS, "depth": TOWER_LAYERS, "num_attention_heads": 2,
    "num_heads": 2, "num_key_value_heads": 2, "head_dim": 16,
    "image_size": 32, "patch_size": 8, "projection_dim": 32, "output_channels": 32, "vision_output_dim": 32,
    "out_hidden_size": HIDDEN, "text_hidden_size": HIDDEN, "num_position_embeddings": 64, "pos_emb_size": 8,
    "init_pos_emb_height": 8, "init_pos_emb_width": 8, "window_size": 32, "global_attn_indexes": [1],
    "fullatt_block_indexes": [1], "deepstack_visual_indexes": [0], "projector_hidden_size": 32,
    "num_positions": 64,
}  # fmt: skip
"""Fields of a configuration of a vision tower."""


def text_of(config: Any, **more: Any) -> dict[str, Any]:
    """Arguments of a text configuration like a class's own, made small."""
    return {"model_type": config.model_type} | sized(config, TEXT) | every_kind(config) | more


def every_kind(config: Any) -> dict[str, list[Any]]:
    """What a text configuration says layer by layer, of as few layers as have every kind of them."""
    known, depth = config.to_dict(), getattr(config, "num_hidden_layers", None)
    lists = {
        name: value
        for name, value in known.items()
        if isinstance(value, list | tuple)
        and len(value) == depth
        and all(isinstance(one, str | int) for one in value)
    }
    # A kind of layer is what all of the lists say of it together.
    kinds = list(zip(*lists.values(), strict=True))
    chosen = [kinds.index(kind) for kind in dict.fromkeys(kinds)][:LAYERS]
    if len(chosen) < 2:
        return {}
    chosen = sorted(
        chosen + [number for number in range(len(kinds)) if number not in chosen][: LAYERS - len(chosen)]
    )
    return {name: [value[number] for number in chosen] for name, value in lists.items()}


def turns(*sections: int, **more: Any) -> dict[str, Any]:
    """Settings of rotary positions, of several axes where sections are given."""
    axes = {"mrope_section": list(sections)} if sections else {}
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4} | axes | more}


def tower_of(config: Any, **more: Any) -> dict[str, Any]:
    """Arguments of a vision tower's configuration like a class's own, made small."""
    return {"model_type": config.model_type} | sized(config, TOWER) | more


def sized(config: Any, sizes: dict[str, Any]) -> dict[str, Any]:
    """Those of the sizes that a configuration knows."""
    known = config.to_dict()
    found = {}
    for name, value in sizes.items():
        here = getattr(config, "attribute_map", {}).get(name, name)
        if here not in known or (known[here] is None and name in ("q_lora_rank", "head_dim")):
            continue
        found[here] = value
    return found
