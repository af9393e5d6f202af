"""Loading a model by name, and turning samples into inputs and outputs into answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from saccade.families import Family, find
from saccade.methods.resize import Resize
from saccade.plan import Plan, PlanLike
from saccade.samples import Sample, blind_image
from saccade.shapes import ModelShape

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model with what is needed to ask it questions.

    Attributes:
        model: The stock model, in eval mode.
        processor: Its processor.
        family: Its adapter.
        shape: Sizes of its decoder.
        name: What the user called it.
    """

    model: Any
    processor: Any
    family: Family
    shape: ModelShape
    name: str


def load(name: str = "glance", dtype: torch.dtype | str | None = None, device: str | None = None) -> Loaded:
    """Loads a model and its processor.

    Args:
        name: ``glance`` (the embedded model), a local folder (of a Skip-Vision model too), or a hub id.
        dtype: Data type of the weights; the embedded model is float32 by default, others as saved.
        device: Where to put it; the CPU by default.

    Raises:
        ValueError: If it cannot be loaded, or its family is not supported.
    """
    if isinstance(dtype, str):
        dtype = read_dtype(dtype)
    where: str | Path = name
    if name == "glance":
        from saccade.glance import weights_path

        where, dtype = weights_path(), dtype or torch.float32
    elif Path(name).is_dir():
        from saccade import skip_vision

        if skip_vision.is_skip_vision(name):
            return skip_vision.load(name, dtype, device)
    return read(where, name, dtype, device)


def read(
    where: str | Path, name: str, dtype: torch.dtype | None, device: str | None, speaks: bool = True
) -> Loaded:
    """Reads a stock model and its processor.

    Args:
        where: A folder or a hub id.
        name: What the user calls it.
        dtype: Data type of the weights; as saved if None.
        device: Where to put it; the CPU if None.
        speaks: Whether it has a processor; without one it takes ready-made inputs alone.

    Raises:
        ValueError: If it cannot be loaded, or its family is not supported.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(where, backend="pil") if speaks else None
        model = AutoModelForImageTextToText.from_pretrained(
            where, dtype=dtype or "auto", attn_implementation="sdpa"
        )
    except (OSError, KeyError, ImportError) as error:
        raise ValueError(f"cannot load {name!r}: {str(error).splitlines()[0]}") from error
    try:
        model = model.to(device or "cpu").eval()
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"cannot use device {device!r}: {str(error).splitlines()[0]}") from error
    return wrap(model, processor, name)


def wrap(model: Any, processor: Any, name: str = "") -> Loaded:
    """Pairs a model and a processor that are loaded already.

    Raises:
        ValueError: If the model's family is not supported.
    """
    family = find(model)
    name = name or model.config.model_type
    return Loaded(model, processor, family, family.shape(model.config, name), name)


def load_config(name: str) -> Any:
    """Configuration of a model without its weights.

    Raises:
        ValueError: If it cannot be loaded.
    """
    from transformers import AutoConfig

    if name == "glance":
        from saccade.glance import weights_path

        name = str(weights_path())
    elif Path(name).is_dir():
        from saccade.skip_vision import base_of

        name = str(base_of(name))
    try:
        return AutoConfig.from_pretrained(name)
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(
            f"cannot load the configuration of {name!r}: {str(error).splitlines()[0]}"
        ) from error


def read_dtype(name: str) -> torch.dtype:
    """A data type by name.

    Raises:
        ValueError: If there is no such floating-point type.
    """
    short = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
    found = getattr(torch, short.get(name, name), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"no data type {name!r}; use float32, bfloat16 or float16")
    return found


def blind(sample: Sample) -> Sample:
    """The same question over plain grey images of the same sizes."""
    return replace(sample, images=tuple(blind_image(i) for i in sample.images))


def prompt(loaded: Loaded, sample: Sample) -> str:
    """The chat prompt of a sample: its images, then its question.

    Raises:
        ValueError: If the processor has no chat template.
    """
    content: list[dict[str, str]] = [{"type": "image"} for _ in sample.images]
    content.append({"type": "text", "text": sample.question})
    try:
        return loaded.processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
    except ValueError as error:
        raise ValueError(f"{loaded.name} cannot write a chat prompt: {error}") from error


def check_processor(loaded: Loaded) -> None:
    """Refuses a processor that makes no inputs of pictures, such as a tokenizer alone.

    Raises:
        ValueError: If it is one.
    """
    if getattr(loaded.processor, "tokenizer", None) is None:
        raise ValueError(
            f"{loaded.name} has no processor for pictures, only {type(loaded.processor).__name__}: give the "
            "model's own (AutoProcessor), or a folder with its preprocessor_config.json"
        )


def image_scale(plan: PlanLike | None) -> float:
    """What a plan leaves of each side of an image: the product over its ``resize`` methods."""
    methods = () if plan is None else Plan.of(plan).methods
    return math.prod(method.scale for method in methods if isinstance(method, Resize))


def shrink(loaded: Loaded, images: Sequence[Image], scale: float) -> tuple[list[Image], dict[str, Any]]:
    """Images at a lower resolution, for calling the processor yourself.

    The prompt gets shorter: ``images, sizes = shrink(loaded, images, 0.5)``, then
    ``processor(text=..., images=images, **sizes)``. A model with a picture of fixed size must have the plan
    ``resize`` attached when it gets them.

    Args:
        loaded: The model and its processor.
        images: Images.
        scale: Of each side, above 0 and at most 1.

    Returns:
        The images, and what else the processor must be told.

    Raises:
        ValueError: If the scale is out of range.
    """
    pictures = [image.convert("RGB") for image in images]
    if Resize(scale=scale).scale == 1:
        return pictures, {}
    return loaded.family.smaller(loaded.processor, pictures, scale)


def inputs(loaded: Loaded, samples: Sequence[Sample], plan: PlanLike | None = None) -> Any:
    """Model inputs of a batch, left padded, on the model's device.

    Args:
        loaded: The model and its processor.
        samples: The questions; samples with and without images may stand side by side.
        plan: The plan they will run under; its ``resize`` methods make the images smaller.

    Raises:
        ValueError: If there is no sample.
    """
    if not samples:
        raise ValueError("no samples to ask")
    check_processor(loaded)
    texts = [prompt(loaded, s) for s in samples]
    return encode(loaded, texts, [image for s in samples for image in s.images], plan)


def encode(
    loaded: Loaded, texts: Sequence[str], images: Sequence[Image], plan: PlanLike | None = None
) -> Any:
    """Model inputs of chat prompts, left padded, on the model's device.

    Args:
        loaded: The model and its processor.
        texts: The prompts, as the chat template writes them.
        images: Their images, in order.
        plan: The plan they will run under; its ``resize`` methods make the images smaller.
    """
    check_processor(loaded)
    bos = loaded.processor.tokenizer.bos_token
    pictures, sizes = shrink(loaded, images, image_scale(plan))
    batch = loaded.processor(
        text=list(texts),
        images=loaded.family.by_prompt(loaded.processor, texts, pictures) if pictures else None,
        **(sizes if pictures else {}),
        padding=True,
        padding_side="left",
        # A template that writes the first token itself must not get it twice.
        add_special_tokens=not (bos and texts[0].startswith(bos)),
        return_tensors="pt",
    )
    model = loaded.model
    return batch.to(model.device, dtype=model.dtype)


def answers(loaded: Loaded, output_ids: torch.Tensor, prompt_rows: int) -> list[str]:
    """The new text of each sample of a ``generate`` output (B, N).

    Args:
        loaded: The model and its processor.
        output_ids: Tokens of the prompt and the answer.
        prompt_rows: Rows of the prompt, padding included.
    """
    texts = loaded.processor.batch_decode(output_ids[:, prompt_rows:], skip_special_tokens=True)
    return [text.strip() for text in texts]
