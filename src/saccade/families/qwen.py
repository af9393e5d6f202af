"""What the Qwen-VL families have in common: images as grids of any size, rotary positions with three axes.

Shape letters: B batch, N rows, D hidden; in the tower H heads, P patches of all views, K head width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from saccade.core.shapes import ModelShape
from saccade.core.tower import TowerShape
from saccade.families.base import Family, text_sizes, unwrap
from saccade.families.turning import Rotary
from saccade.families.vision import Picture, Tower, of_grids

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import PreTrainedConfig


class QwenVL(Family):
    """The common part; its text loop hands out rotary tables already mixed by axis, so rows slice alike."""

    compact_positions = False
    films, frames_alike = True, False
    tower_modules = ("model.visual",)
    layouts = ()  # its rows have the positions of a grid, and rows laid out anew are on none

    def visual_ids(self, config: PreTrainedConfig) -> tuple[int, ...]:
        return (config.image_token_id, config.video_token_id)

    def typical_visual(self, config: PreTrainedConfig) -> int:
        return 1280

    def rotary(
        self,
        decoder: nn.Module,
        hidden_BND: torch.Tensor,
        position_ids: torch.Tensor,
        kind: str | None = None,
    ) -> Rotary:
        if position_ids.ndim == 2:
            position_ids = position_ids.expand(3, *position_ids.shape)
        # A fourth axis in front is that of the text, for packed sequences.
        return decoder.rotary_emb(hidden_BND, position_ids[-3:])

    def picture(self, model: nn.Module, inputs: Mapping[str, Any]) -> Picture | None:
        """Images, then videos; a video is one image whose frames (pairs of them) are planes and views."""
        config: Any = unwrap(model).config
        merge = config.vision_config.spatial_merge_size
        made, parts = inputs.get("mm_encoder_outputs") or {}, []
        for kind, pixels in (("image", "pixel_values"), ("video", "pixel_values_videos")):
            given = inputs.get(f"{kind}_grid_thw")
            grids = [] if given is None else [(int(t), int(h) // merge, int(w) // merge) for t, h, w in given]
            if made.get(kind) is not None:
                lengths = tuple(len(rows) for rows in made[kind].pooler_output)
                # The grids are those of the whole conversation, the features those of its last turn.
                grids = grids[max(len(grids) - len(lengths), 0) :]
                if tuple(math.prod(grid) for grid in grids) != lengths:
                    parts.append(Picture.unmapped(lengths))
                    continue
            elif inputs.get(pixels) is None:
                continue
            parts.append(of_grids(grids))
        return Picture.join(parts) if parts else None

    def positions(self, config: PreTrainedConfig, inputs: Mapping[str, Any]) -> list[int]:
        """Text after a picture goes on from the picture's longer side; videos are left out."""
        settings: Any = config
        given = inputs.get("image_grid_thw")
        grids = iter(() if given is None else given.tolist())
        merge, found = settings.vision_config.spatial_merge_size, []
        for ids_N, seen_N in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
            pictures, *videos = (int((ids_N == token).sum()) for token in self.visual_ids(config))
            taken = int(seen_N.sum()) - pictures - sum(videos)
            while given is not None and pictures > 0:
                time, height, width = next(grids)
                pictures -= time * height * width // merge**2
                taken += max(time, height // merge, width // merge)
            found.append(taken)
        return found

    def tower_shape(self, config: PreTrainedConfig) -> TowerShape | None:
        settings: Any = config
        vision, width = settings.vision_config, config.get_text_config().hidden_size
        return TowerShape(
            layers=vision.depth,
            merge=vision.spatial_merge_size**2,
            inputs=vision.in_channels * vision.temporal_patch_size * vision.patch_size**2,
            fused=True,
            **self.tower_sizes(vision, width),
        )

    def tower_sizes(self, vision: Any, decoder: int) -> dict[str, Any]:
        """Fields of ``tower_shape`` that differ from one Qwen-VL to the next.

        Args:
            vision: The tower's configuration.
            decoder: Width of the decoder.
        """
        return {
            "width": vision.hidden_size,
            "ffn": vision.intermediate_size,
            "heads": vision.num_heads,
            "projector": merger(vision, vision.hidden_size, decoder),
        }

    def tower(self, model: nn.Module) -> Tower | None:
        module: Any = self.parts(model).core.visual
        return Tower(
            module,
            module.blocks,
            states=(),
            made=module.blocks[-1].attn,
            reads=None,
            heads=module.config.num_heads,
            has_cls=False,
            merge=module.spatial_merge_size**2,
            projector=None,
            strips=False,
            attention="attn",
            packed=True,
        )

    def tower_heads(
        self, attn: nn.Module, x: torch.Tensor, kwargs: Mapping[str, Any], cls_only: bool
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        q_HPK, k_HPK, _ = attn.qkv(x).unflatten(-1, (3, attn.num_heads, -1)).permute(1, 2, 0, 3)
        cos, sin = (part.float() for part in kwargs["position_embeddings"])
        ends = kwargs["cu_seqlens"].tolist()
        q_HPK, k_HPK = (_turn(part.float(), cos, sin).to(x.dtype) for part in (q_HPK, k_HPK))
        return [(q_HPK[None, :, start:end], k_HPK[None, :, start:end]) for start, end in pairwise(ends)]

    def tower_cells(self, module: nn.Module, kwargs: Mapping[str, Any]) -> list[int]:
        return [lines * columns for t, lines, columns in kwargs["grid_thw"].tolist() for _ in range(t)]

    def packed_layer(
        self,
        layer: nn.Module,
        hidden_NV: torch.Tensor,
        rotary: tuple[torch.Tensor, ...],
        attend: Callable[[Sequence[torch.Tensor], float, float], torch.Tensor],
        after_attention: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        block: Any = layer
        attn = block.attn
        heads = attn.qkv(block.norm1(hidden_NV)).unflatten(-1, (3, attn.num_heads, -1)).permute(1, 2, 0, 3)
        cos, sin = (part.float() for part in rotary)
        q, k = (_turn(part.float(), cos, sin).to(hidden_NV.dtype) for part in heads[:2])
        dropout = attn.attention_dropout if attn.training else 0.0
        mixed = attend((q, k, heads[2]), attn.scaling, dropout)
        hidden = after_attention(hidden_NV + attn.proj(mixed.flatten(1)), heads[1])
        return hidden + block.mlp(block.norm2(hidden))

    def joined_pixels(self, module: nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
        tower: Any = module
        side = tower.spatial_merge_size
        pixels_PD = args[0] if args else kwargs["hidden_states"]
        cells_RD, planes, first = pixels_PD.unflatten(0, (-1, side**2)).flatten(1), [], 0
        for time, height, width in kwargs["grid_thw"].tolist():
            lines, columns = height // side, width // side
            for _ in range(time):
                cells = cells_RD[first : first + lines * columns]
                planes.append(cells.view(lines, columns, -1))
                first += lines * columns
        return planes

    def joiners(self, module: nn.Module) -> list[nn.Module]:
        tower: Any = module
        return [tower.merger]

    def fewer_patches_of(self, kwargs: Mapping[str, Any]) -> Any:
        return kwargs["cu_seqlens"]

    def fewer_patches(
        self, kwargs: Mapping[str, Any], keep_P: torch.Tensor, patches: torch.Tensor
    ) -> dict[str, Any]:
        ends = kwargs["cu_seqlens"]
        before = torch.cat((keep_P.new_zeros(1, dtype=ends.dtype), keep_P.cumsum(0).to(ends.dtype)))
        # A window of which nothing is left is none.
        left = before[ends.long()].unique_consecutive()
        found: dict[str, Any] = {
            "cu_seqlens": left,
            "position_embeddings": tuple(part[patches] for part in kwargs["position_embeddings"]),
        }
        if kwargs.get("max_seqlen") is not None:
            found["max_seqlen"] = int(left.diff().max())
        return found

    def smaller(
        self, processor: Any, images: list[Image], scale: float
    ) -> tuple[list[Image], dict[str, Any]]:
        (least, most), small = self.limits(processor.image_processor), []
        for image in images:
            area = image.width * image.height
            # What the model sees of an image is never more, and never less, than its processor allows.
            seen = min(max(area, least), most)
            fit = min(math.sqrt(max(seen * scale * scale, least) / area), 1.0)
            small.append(image.resize((max(round(image.width * fit), 1), max(round(image.height * fit), 1))))
        return small, {}

    def limits(self, image_processor: Any) -> tuple[float, float]:
        """Least and most pixels of a picture."""
        return image_processor.size["shortest_edge"], image_processor.size["longest_edge"]


def text_part(shape: ModelShape, layers: int | None, rope: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a text configuration of this shape.

    Args:
        shape: Sizes of the decoder.
        layers: Decoder layers, the shape's own if None.
        rope: How positions turn, beside that it is plain.
    """
    return {
        **text_sizes(shape, layers, 32768),
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, **rope},
    }


def tokens(shape: ModelShape) -> dict[str, int]:
    """Placeholder tokens of a configuration, within the vocabulary."""
    return {
        "image_token_id": min(151655, shape.vocab - 2),
        "video_token_id": min(151656, shape.vocab - 1),
    }


def merger(vision: Any, width: int, decoder: int) -> tuple[tuple[int, int], ...]:
    """Matrices of what joins patches of a tower of this width."""
    joined = width * vision.spatial_merge_size**2
    return ((joined, joined), (joined, decoder))


def thirds(head_dim: int) -> list[int]:
    """Frequencies of a head for time, height and width: a quarter for time, the rest in halves."""
    half = head_dim // 2
    time = half // 4
    height = (half - time) // 2
    return [time, height, half - time - height]


def _turn(x_HPK: torch.Tensor, cos_PK: torch.Tensor, sin_PK: torch.Tensor) -> torch.Tensor:
    low, high = x_HPK.chunk(2, dim=-1)
    return x_HPK * cos_PK + torch.cat((-high, low), dim=-1) * sin_PK
