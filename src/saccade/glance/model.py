"""The embedded models' architecture: a stock LLaVA, sizes as data.

Glance's vision tower does not mix patches: all visual understanding happens in the decoder, on the visual
rows, and visual computation that is skipped there is missed. Gaze's tower mixes them, as released models' do.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from transformers import CLIPVisionConfig, GenerationConfig, LlamaConfig, LlavaConfig
from transformers import LlavaForConditionalGeneration as Llava

from saccade.glance.draw import IMAGE_SIZE, PATCH
from saccade.glance.tokenizer import EOS, IMAGE, PAD, build_tokenizer


@dataclass(frozen=True)
class GlanceConfig:
    """Sizes of the model.

    Attributes:
        layers: Decoder layers.
        width: Decoder width.
        heads: Attention heads of the decoder.
        mlp: Inner width of the decoder's gated MLP.
        vision_width: Width of the vision tower; 192 is one patch's 8 x 8 x 3 numbers.
        tower: Layers of the tower that mix patches before features are taken; one more follows, as in CLIP
            behind LLaVA.
        tower_mlp: Inner width of the tower's MLP.
        image_size: Side of the square image in pixels.
        patch: Side of a patch in pixels.
        rope_theta: Base of the rotary embedding; small, for sequences of a few hundred rows.
    """

    layers: int = 12
    width: int = 128
    heads: int = 4
    mlp: int = 320
    vision_width: int = 192
    tower: int = 0
    tower_mlp: int = 16
    image_size: int = IMAGE_SIZE
    patch: int = PATCH
    rope_theta: float = 1000.0

    @property
    def visual_tokens(self) -> int:
        """Visual rows per image."""
        return (self.image_size // self.patch) ** 2


def build_config(sizes: GlanceConfig) -> LlavaConfig:
    """The Hugging Face config of these sizes."""
    tokenizer = build_tokenizer()
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in (PAD, EOS, IMAGE)}
    vision = CLIPVisionConfig(
        hidden_size=sizes.vision_width,
        intermediate_size=sizes.tower_mlp,
        # Feature layer -2 (LLaVA's own default) is what enters the last layer; of a one-layer tower patch +
        # position, no mixing. transformers records it through a hook on the layer, so the layer has to
        # exist; its output is never used. (An index of 0 would be read as "record nothing".)
        num_hidden_layers=sizes.tower + 1,
        num_attention_heads=4,
        image_size=sizes.image_size,
        patch_size=sizes.patch,
        projection_dim=sizes.width,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=sizes.width,
        intermediate_size=sizes.mlp,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.heads,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": sizes.rope_theta},
        pad_token_id=ids[PAD],
        bos_token_id=None,
        eos_token_id=ids[EOS],
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=ids[IMAGE],
        image_seq_length=sizes.visual_tokens,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )


def build_model(sizes: GlanceConfig, seed: int) -> Llava:
    """A freshly initialised model; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Llava(build_config(sizes))
        tower = model.model.vision_tower
        with torch.no_grad():
            # Rows and columns known from the start save the model from having to discover the plane.
            tower.embeddings.position_embedding.weight[1:] = _plane(sizes)
            nn.init.normal_(tower.embeddings.patch_embedding.weight, std=(3 * sizes.patch**2) ** -0.5)
            for linear in (
                model.model.multi_modal_projector.linear_1,
                model.model.multi_modal_projector.linear_2,
            ):
                nn.init.normal_(linear.weight, std=linear.in_features**-0.5)
            if sizes.tower:
                for layer in tower.encoder.layers:
                    _neutral(layer)
            else:
                for parameter in tower.encoder.parameters():
                    parameter.zero_()
    model.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=24,
        eos_token_id=model.config.text_config.eos_token_id,
        pad_token_id=model.config.text_config.pad_token_id,
    )
    return model


def _plane(sizes: GlanceConfig) -> torch.Tensor:
    """Sine waves over rows (one half) and columns (other half), patches x vision width."""
    side = sizes.image_size // sizes.patch
    quarter = sizes.vision_width // 4
    frequency = torch.pi * 2.0 ** torch.linspace(-1.0, 3.0, quarter) / side
    angle = torch.arange(side)[:, None] * frequency
    wave = torch.cat((angle.sin(), angle.cos()), dim=1)
    grid = torch.cat((wave[:, None].expand(-1, side, -1), wave[None].expand(side, -1, -1)), dim=-1)
    return 0.3 * grid.reshape(side * side, -1)


def _neutral(layer: nn.Module) -> None:
    """Let a layer of the tower begin as the identity, ready to learn."""
    attention, mlp = layer.self_attn, layer.mlp
    for linear in (attention.q_proj, attention.k_proj, attention.v_proj):
        nn.init.normal_(linear.weight, std=linear.in_features**-0.5)
        nn.init.zeros_(linear.bias)
    nn.init.xavier_uniform_(mlp.fc1.weight)
    nn.init.zeros_(mlp.fc1.bias)
    for linear in (attention.out_proj, mlp.fc2):
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)


GLANCE = GlanceConfig()
GAZE = GlanceConfig(image_size=2 * IMAGE_SIZE, tower=6, tower_mlp=768, rope_theta=4400.0)
"""Four times Glance's rows; the angles of slow rotary pairs grow as slowly over them as over Glance's."""
