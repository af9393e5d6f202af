"""LLaVA-1.5 (Llama, Mistral or Qwen2 text decoders)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedConfig,
)

from saccade.core.shapes import ModelShape
from saccade.core.tower import TowerShape
from saccade.families.base import core_of, text_sizes, unwrap
from saccade.families.patch_tower import PatchTower
from saccade.families.projector import ProjectorPlace, Undo, projector_stand_in
from saccade.families.registry import register
from saccade.families.tower_shape import encoder
from saccade.families.vision import Picture, Tower, made_lengths, of_patches, square

if TYPE_CHECKING:
    from PIL.Image import Image

TOWERS = ("clip_vision_model", "siglip_vision_model")
"""Vision towers whose layers this adapter can take apart."""


@register
class Llava(PatchTower):
    """LLaVA-1.5: one run of placeholders per image, all visual rows of the vision tower's grid."""

    name = "LLaVA-1.5"
    model_types = ("llava",)
    text_types = ("llama", "mistral", "qwen2")
    tower_can = ("merge_rows", "merge_patches")
    layouts: ClassVar[tuple[str, ...]] = ("cos", "llava")

    def config(
        self, shape: ModelShape, layers: int | None = None, vision_layers: int = 1
    ) -> PreTrainedConfig:
        return LlavaConfig(**config_parts(shape, layers, vision_layers))

    def model_class(self) -> type[nn.Module]:
        return LlavaForConditionalGeneration

    def processor_settings(self, config: PreTrainedConfig) -> dict[str, Any]:
        return {
            "patch_size": config.vision_config.patch_size,
            "vision_feature_select_strategy": config.vision_feature_select_strategy,
            # Its towers with a CLS row say so to the processor, which takes it off again.
            "num_additional_image_tokens": int(config.vision_config.model_type == "clip_vision_model"),
        }

    def picture(self, model: nn.Module, inputs: Mapping[str, Any]) -> Picture | None:
        stand_in = projector_stand_in(core_of(model))
        if stand_in is None:
            return self._stock_picture(model, inputs)
        made = made_lengths(inputs)
        if made is None:
            rows = self._rows_to_lay_out(model, inputs)
            made = None if rows is None else tuple(stand_in.length(n) for n in rows)
        return None if made is None else Picture.unmapped(made)

    def _rows_to_lay_out(self, model: nn.Module, inputs: Mapping[str, Any]) -> list[int] | None:
        """Rows of every image that a module in the projector's place is given; None without pixels."""
        config: Any = unwrap(model).config
        pixels, patch = inputs.get("pixel_values"), config.vision_config.patch_size
        if pixels is None:
            return None
        return [(pixels.shape[-2] // patch) * (pixels.shape[-1] // patch)] * len(pixels)

    def _stock_picture(self, model: nn.Module, inputs: Mapping[str, Any]) -> Picture | None:
        """The picture where the stock projector makes the rows."""
        config: Any = unwrap(model).config
        vision, pixels, made = config.vision_config, inputs.get("pixel_values"), made_lengths(inputs)
        more = len(self._view(model, inputs, 0))
        if made is not None:
            sides = {square(length - more) for length in made}
            side = sides.pop() if len(sides) == 1 else None
            if side is None:
                return Picture.unmapped(made)
            images, height, width = len(made), side * vision.patch_size, side * vision.patch_size
        elif pixels is None:
            return None
        else:
            images, (height, width) = len(pixels), pixels.shape[-2:]
        lines, columns = height // vision.patch_size, width // vision.patch_size
        view = self._view(model, inputs, lines * columns)
        patch = torch.where(view < 0, view, view + torch.arange(images)[:, None] * lines * columns)
        shown = of_patches(patch.flatten(), (len(view),) * images, (1,) * images, lines, columns)
        cover = torch.tensor((columns / width, lines / height)).repeat(2) * vision.patch_size
        return replace(shown, box_R4=shown.box_R4 * cover)

    def _view(self, model: nn.Module, inputs: Mapping[str, Any], patches: int) -> torch.Tensor:
        """Which patch each feature of a view is, -1 for a CLS row."""
        strips = strips_first(unwrap(model).config, inputs)
        return torch.arange(-1 if _has_cls(core_of(model)) else 0, patches)[1 if strips else 0 :]

    def seen(self, processor: Any, image: Image) -> Image:
        from PIL import Image as pil

        pixels = processor.image_processor(
            images=image.convert("RGB"), do_rescale=False, do_normalize=False, return_tensors="np"
        )["pixel_values"][0]
        return pil.fromarray(pixels.round().clip(0, 255).astype("uint8").transpose(1, 2, 0))

    def projector_place(self, model: nn.Module, image_size: int | None = None) -> ProjectorPlace:
        core: Any = core_of(model)
        vision = core.config.vision_config
        side = vision.image_size if image_size is None else image_size
        if side % vision.patch_size:
            raise ValueError(
                f"an image of {side} pixels does not divide into patches of {vision.patch_size}; "
                f"choose an image_size that is a multiple of {vision.patch_size}"
            )
        grid = side // vision.patch_size
        levels = core.config.vision_feature_layer
        return ProjectorPlace(
            core.vision_tower,
            core.multi_modal_projector,
            vision.hidden_size,
            grid,
            grid * grid,
            1 if isinstance(levels, int) else len(levels),
        )

    def stock_rows(self, config: Any, image_size: int | None = None) -> int:
        if image_size is None:
            return self.typical_visual(config)
        return (image_size // config.vision_config.patch_size) ** 2

    def replace_projector(
        self,
        model: nn.Module,
        processor: Any,
        module: nn.Module,
        image_size: int | None = None,
        levels: Sequence[int] = (),
    ) -> Callable[[], None]:
        core: Any = core_of(model)
        patches = self.projector_place(model, image_size).rows
        depth = core.config.vision_config.num_hidden_layers
        if any(not -depth - 1 <= level <= depth for level in levels):
            raise ValueError(
                f"levels {', '.join(map(str, levels))}: the vision tower has {depth} layers, so its hidden "
                f"states are 0 to {depth}, or {-depth - 1} to -1 from the end"
            )
        undo = Undo()
        undo.attribute(core, "multi_modal_projector", module)
        if levels:
            undo.attribute(
                core.config, "vision_feature_layer", list(levels) if len(levels) > 1 else levels[0]
            )
        if image_size is not None and image_size != core.config.vision_config.image_size:
            undo.append(self.other_sizes(model))
        if processor is not None:
            self._adapt(processor, module, patches, image_size, undo)
        return undo.all

    def _adapt(self, processor: Any, module: Any, patches: int, image_size: int | None, undo: Undo) -> None:
        """Tells a processor the size of the picture and the number of its placeholders."""
        if image_size is not None:
            given, sides = processor.image_processor, {"height": image_size, "width": image_size}
            undo.attribute(given, "size", sides)
            if getattr(given, "do_center_crop", False):
                undo.attribute(given, "crop_size", sides)
        # The stock processor counts patches, adds this, and takes one off where the first row is stripped.
        stripped = int(processor.vision_feature_select_strategy == "default")
        undo.attribute(processor, "num_additional_image_tokens", module.length(patches) - patches + stripped)

    def tower_shape(self, config: PreTrainedConfig) -> TowerShape | None:
        settings: Any = config
        vision, width = settings.vision_config, config.get_text_config().hidden_size
        if vision.model_type not in TOWERS:
            return None
        depth, chosen = vision.num_hidden_layers, settings.vision_feature_layer
        states = [n % (depth + 1) for n in ([chosen] if isinstance(chosen, int) else chosen)]
        full = settings.vision_feature_select_strategy == "full"
        return encoder(
            vision,
            width,
            projector=((vision.hidden_size * len(states), width), (width, width)),
            made=states[-1],
            reads=0 < states[-1] < depth,
            projects_cls=full and vision.model_type == "clip_vision_model",
        )

    def tower(self, model: nn.Module) -> Tower | None:
        core: Any = core_of(model)
        config: Any = core.config
        module = core.vision_tower
        if config.vision_config.model_type not in TOWERS:
            return None
        layers, chosen = module.encoder.layers, config.vision_feature_layer
        depth = len(layers)
        states = tuple(n % (depth + 1) for n in ([chosen] if isinstance(chosen, int) else chosen))
        return Tower(
            module,
            layers,
            states,
            made=layers[states[-1] - 1].self_attn if states[-1] else None,
            reads=layers[states[-1]].self_attn if states[-1] < depth else None,
            heads=config.vision_config.num_attention_heads,
            has_cls=_has_cls(core),
            merge=1,
            projector=core.multi_modal_projector,
            strips=strips_first(config, {}),
        )

    def full_size(self, model: nn.Module, pixels: torch.Tensor) -> bool | None:
        config: Any = unwrap(model).config
        side = config.vision_config.image_size
        return tuple(pixels.shape[-2:]) == (side, side)

    def other_sizes(self, model: nn.Module) -> Callable[[], None]:
        module, side = core_of(model).vision_tower, unwrap(model).config.vision_config.image_size

        def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict] | None:
            pixels = args[0] if args else kwargs["pixel_values"]
            if tuple(pixels.shape[-2:]) == (side, side):
                return None
            # Stock reads the weights of its positions past the module that brings them from where they lie.
            if any(weight.device.type == "meta" for weight in module.parameters()):
                raise ValueError(
                    "pictures of another size need the vision tower's weights in memory, and here they are "
                    "offloaded: keep it on a device (device_map)"
                )
            return args, kwargs | {"interpolate_pos_encoding": True}

        return module.register_forward_pre_hook(hook, with_kwargs=True).remove

    def smaller(
        self, processor: Any, images: list[Image], scale: float
    ) -> tuple[list[Image], dict[str, Any]]:
        given, patch = processor.image_processor, processor.patch_size
        size, crop = (
            dict(given.size),
            dict(given.crop_size or {}) if getattr(given, "do_center_crop", False) else {},
        )
        side = crop.get("height") or size.get("height") or size["shortest_edge"]
        small = max(round(side * scale / patch), 1) * patch
        sizes = {"size": {k: round(v * small / side) for k, v in size.items() if v}}
        if crop:
            sizes["crop_size"] = {"height": small, "width": small}
        return images, sizes


def strips_first(config: PreTrainedConfig, inputs: Mapping[str, Any]) -> bool:
    """Whether the first row of every view is taken off the features."""
    return (
        inputs.get("vision_feature_select_strategy") or config.vision_feature_select_strategy
    ) == "default"


def _has_cls(core: nn.Module) -> bool:
    return hasattr(getattr(core.vision_tower, "embeddings", None), "class_embedding")


def config_parts(shape: ModelShape, layers: int | None, vision_layers: int) -> dict:
    """Arguments of a configuration: a decoder of this shape and LLaVA's tower."""
    text = LlamaConfig(**text_sizes(shape, layers, 8192))
    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=vision_layers,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
        projection_dim=768,
    )
    layer = -2 if vision_layers > 1 else -1
    return {
        "text_config": text,
        "vision_config": vision,
        "image_token_index": min(32000, shape.vocab - 1),
        "vision_feature_layer": layer,
    }
