"""Prompts under a plan: fewer placeholders where rows go early, smaller pictures, keys of caches."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from vllm.multimodal.parse import ImageProcessorItems, MultiModalDataItems
from vllm.multimodal.processing.processor import PromptReplacement, PromptUpdateDetails

from saccade.models import image_scale
from saccade.vllm.inside.asked import work_for
from saccade.vllm.inside.pictures import Pictures
from saccade.vllm.keep import check_sizes, kept_count
from saccade.vllm.work import PlanWork


def under_plan(factories: Any) -> dict[str, Any]:
    """Factories of a model's processing info and processor that keep to its plan, from vLLM's own.

    Args:
        factories: Those that vLLM registered for the model.
    """

    def info(ctx: Any) -> Any:
        made = factories.info(ctx)
        work = work_for(ctx.model_config)
        return made if work is None else _mixed(PlannedInfo, made, work, ctx)

    def processor(info: Any, dummy_inputs: Any) -> Any:
        made = factories.processor(info, dummy_inputs)
        work = getattr(info, "saccade", None)
        return made if work is None else _mixed(PlannedProcessor, made, work, info, dummy_inputs)

    return {"info": info, "processor": processor, "dummy_inputs": factories.dummy_inputs}


def _mixed(mixin: type, like: Any, work: PlanWork, *args: Any) -> Any:
    """An object as vLLM made it, with a class of ours in front of its own."""
    return type(f"{mixin.__name__}{type(like).__name__}", (mixin, type(like)), {"saccade": work})(*args)


class PlannedInfo:
    """What a model takes, under a plan."""

    saccade: PlanWork

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        """Kinds of pictures: rows before the decoder are chosen of images alone."""
        limits: Mapping[str, int | None] = super().get_supported_mm_limits()
        if not self.saccade.stages and image_scale(self.saccade.plan) == 1:
            return limits
        return {kind: limit for kind, limit in limits.items() if kind == "image"}


class PlannedProcessor:
    """Makes prompts under a plan."""

    saccade: PlanWork
    info: Any
    _pictures: Pictures | None = None
    _dummy = False

    def get_dummy_mm_inputs(self, *args: Any, **named: Any) -> Any:
        """What memory is measured by at the start; it may end with a picture, for no answer is read."""
        self._dummy = True
        try:
            return super().get_dummy_mm_inputs(*args, **named)
        finally:
            self._dummy = False

    def apply(self, inputs: Any, timing_ctx: Any) -> Any:
        """Makes a prompt; pictures are made smaller first, where the plan says so.

        Raises:
            ValueError: If the prompt ends with a picture whose rows the plan drops in the decoder.
        """
        scale = image_scale(self.saccade.plan)
        if scale != 1 and inputs.mm_data_items.get("image") is not None:
            asked = inputs.hf_processor_mm_kwargs
            inputs = replace(inputs, mm_data_items=self._shrunk(inputs.mm_data_items, scale, asked))
        made = super().apply(inputs, timing_ctx)
        ends = [span.offset + span.length for spans in made["mm_placeholders"].values() for span in spans]
        looked_at = self.saccade.first_without is not None and not self._dummy
        if looked_at and len(made["prompt_token_ids"]) in ends:
            raise ValueError(
                f"{self.saccade.plan.spec} drops the rows of the picture that this prompt ends with: put "
                "text after it"
            )
        return made

    def _shrunk(self, items: Any, scale: float, asked: Mapping[str, Any]) -> Any:
        images = items["image"]
        if not isinstance(images, ImageProcessorItems):
            raise ValueError("saccade: pictures that are made smaller have to come as pictures")
        given = [images.get(number) for number in range(len(images))]
        # One that the client names alone is in the cache, and None here.
        pictures = [_as_picture(image) for image in given if image is not None]
        small, settings = self.pictures.family.smaller(self._limited(asked), pictures, scale)
        assert not settings, "families whose processor is told a size are refused at the start"
        left = iter(small)
        shrunk = [image if image is None else next(left) for image in given]
        return MultiModalDataItems({**items, "image": ImageProcessorItems(shrunk)})

    def _limited(self, asked: Mapping[str, Any]) -> Any:
        """The processor with the limits that a request or the engine sets: pictures shrink within those."""
        stock = self.info.get_hf_processor()
        own = self.info._merge_and_resolve_mm_processor_kwargs(asked).get("images_kwargs")
        if not own:
            return stock
        known = stock.image_processor
        settings = known.to_dict()
        # A request may set one edge of the size alone.
        size = {**(settings.get("size") or {}), **(own.get("size") or {})}
        held = type(known).from_dict({**settings, **own, "size": size})
        return SimpleNamespace(image_processor=held)

    @property
    def pictures(self) -> Pictures:
        """What rows are pictures of."""
        if self._pictures is None:
            self._pictures = Pictures(self.info.ctx.model_config.hf_config)
        return self._pictures

    def _get_mm_hashes(self, inputs: Any) -> dict[str, list[str]]:
        # Blocks of the KV cache, and rows that left the tower, are another's under another plan.
        found = super()._get_mm_hashes(inputs)
        return {kind: [self._keyed(one) for one in hashes] for kind, hashes in found.items()}

    def _keyed(self, name: str) -> str:
        return hashlib.blake2b(f"{name}|{self.saccade.digest}".encode(), digest_size=32).hexdigest()

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, Any], out_mm_kwargs: Any
    ) -> Sequence[Any]:
        updates = super()._get_prompt_updates(mm_items, hf_processor_mm_kwargs, out_mm_kwargs)
        if not self.saccade.stages:
            return updates

        def fewer(update: Any) -> Any:
            def replacement(number: int) -> Any:
                stock = update.replacement
                given = stock(number) if callable(stock) else stock
                return self._fewer(given, out_mm_kwargs["image"][number])

            return PromptReplacement(update.modality, update.target, replacement)

        return [fewer(update) if update.modality == "image" else update for update in updates]

    def _fewer(self, given: Any, item: Any) -> Any:
        """The same placeholders, as many as rows are kept."""
        details = given if isinstance(given, PromptUpdateDetails) else PromptUpdateDetails.from_seq(given)
        tokens = details.full
        holds = torch.ones(len(tokens), dtype=torch.bool)
        if details.is_embed is not None:
            holds = details.is_embed(tokens)
        picture = self.pictures.one(item)
        check_sizes([picture])
        if picture.lengths[0] != int(holds.sum()):
            raise ValueError(
                f"saccade: a picture of {picture.lengths[0]} rows, and {int(holds.sum())} placeholders"
            )
        spare = (holds.cumsum(0) > kept_count(self.saccade, picture)) & holds
        left = [token for token, gone in zip(tokens, spare.tolist(), strict=True) if not gone]
        return replace(details, full=left)


def _as_picture(image: Any) -> Image.Image:
    """A picture to make smaller, from any form that vLLM takes pictures in."""
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    if isinstance(image, torch.Tensor):
        image = image.cpu().numpy()
    if image.dtype != np.uint8 or image.ndim != 3:
        raise ValueError(
            "saccade: pictures that are made smaller have to come as pictures, or as bytes of three channels"
        )
    # As processors of pictures read them: channels come first where that can be.
    if image.shape[0] in (1, 3):
        image = image.transpose(1, 2, 0)
    return Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).convert("RGB")
