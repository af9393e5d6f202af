"""Loading a model by name, and turning samples into inputs and, with ``saccade.asking``, answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from saccade.asking import answers, ask, greedy
from saccade.engine.resolution import note_shrunk
from saccade.families import unwrap
from saccade.inputs.films import filmed, show
from saccade.inputs.prompts import check_length, check_pixels, check_questions, check_tokens, extremes
from saccade.inputs.samples import BLIND_COLOUR, Sample, blind_image
from saccade.inputs.videos import Video
from saccade.methods.resize import Resize
from saccade.opening import Opening, open_config
from saccade.opening.agree import more_tokens
from saccade.opening.errors import reason
from saccade.opening.loaded import Loaded, input_device, read, wrap
from saccade.plans.plan import Plan, PlanLike
from saccade.system.embedded import EMBEDDED

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "Loaded",
    "answers",
    "ask",
    "blind",
    "chat_prompt",
    "check_processor",
    "encode",
    "greedy",
    "image_scale",
    "inputs",
    "load",
    "load_config",
    "open_as",
    "prompt",
    "read",
    "shrink",
    "try_longest",
    "wrap",
]

VERSION = 2
"""Raised when samples become other inputs, or outputs other answers; what was kept is then not used again."""


def load(
    name: str = "glance", dtype: torch.dtype | str | None = None, device: str | None = None, **how: Any
) -> Loaded:
    """Loads a model and its processor.

    ``load("owner/name", device_map="auto", attn="flash_attention_2", quantize="int8")``: what stands in
    `saccade.opening.Opening`, and anything else that ``from_pretrained`` takes.

    Args:
        name: ``gaze`` or ``glance``, a local folder (of a Skip-Vision model too), or a hub id.
        dtype: Data type of the weights; embedded models are float32 by default, others as saved.
        device: Where to put it; the accelerator where there is one by default.
        **how: Fields of `Opening` and arguments of ``from_pretrained``.

    Raises:
        ValueError: If it cannot be loaded, or its family is not supported.
    """
    return open_as(name, Opening.of(dtype=dtype, device=device, **how))


def open_as(name: str, opening: Opening) -> Loaded:
    """Loads a model and its processor as an `Opening` says.

    Raises:
        ValueError: If it cannot be loaded, or its family is not supported.
    """
    where = str(name)
    if where in EMBEDDED:
        where = str(EMBEDDED[where].checkpoint())
        opening = opening.but(dtype=opening.dtype or torch.float32)
    else:
        from saccade import skip_vision

        folder = skip_vision.folder_of(where, opening, weights=True)
        if folder is not None:
            return skip_vision.open_as(folder, opening, where)
    return read(where, str(name), opening)


def load_config(name: str, opening: Opening | None = None) -> Any:
    """Configuration of a model without its weights.

    Raises:
        ValueError: If it cannot be loaded.
    """
    if name in EMBEDDED:
        name = str(EMBEDDED[name].folder)
    else:
        from saccade.skip_vision import base_of, folder_of

        folder = folder_of(name, opening or Opening())
        if folder is not None:
            return open_config(str(base_of(folder)), opening and opening.but(revision=None))
    return open_config(name, opening)


def blind(sample: Sample) -> Sample:
    """The same question over plain grey images and videos of the same sizes."""
    images = tuple(blind_image(image) for image in sample.images)
    return replace(sample, images=images, videos=tuple(v.plain(BLIND_COLOUR) for v in sample.videos))


def prompt(loaded: Loaded, sample: Sample) -> str:
    """The chat prompt of a sample: its images, its videos, then its question.

    Raises:
        ValueError: If the processor has no chat template, or it fails.
    """
    plain = loaded.family.plain_prompt(sample.question, len(sample.images))
    if plain is not None and not getattr(loaded.processor, "chat_template", None):
        return plain
    content: list[dict[str, str]] = [{"type": "image"} for _ in sample.images]
    content += [{"type": "video"} for _ in sample.videos]
    content.append({"type": "text", "text": sample.question})
    return chat_prompt(loaded, [{"role": "user", "content": content}])


def chat_prompt(loaded: Loaded, messages: Sequence[Mapping[str, Any]]) -> str:
    """The prompt of a conversation whose next message is the model's.

    Args:
        loaded: The model and its processor.
        messages: As chat templates take them: a role and a list of texts and places of images.

    Raises:
        ValueError: If the processor has no chat template, or it fails.
    """
    try:
        return loaded.processor.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True
        )
    except Exception as error:  # templates are programs of others
        raise ValueError(f"{loaded.name} cannot write a chat prompt: {reason(error)}") from error


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
    note_shrunk(loaded.model)
    return loaded.family.smaller(loaded.processor, pictures, scale)


def inputs(loaded: Loaded, samples: Sequence[Sample], plan: PlanLike | None = None) -> Any:
    """Model inputs of a batch, left padded, on the model's device.

    Args:
        loaded: The model and its processor.
        samples: The questions; samples with and without images may stand side by side.
        plan: The plan they will run under; its ``resize`` methods make the images smaller.

    Raises:
        ValueError: If there is no sample, a question holds what the model reads as a picture, or a prompt is
            longer than the model's positions.
    """
    if not samples:
        raise ValueError("no samples to ask")
    check_processor(loaded)
    check_questions(samples, loaded.processor, loaded.family, loaded.model.config)
    texts = [prompt(loaded, s) for s in samples]
    images = [image for s in samples for image in s.images]
    videos = [video for s in samples for video in s.videos]
    return encode(loaded, texts, images, plan, [s.id for s in samples], videos)


def try_longest(loaded: Loaded, samples: Sequence[Sample]) -> None:
    """Makes the inputs of the largest prompts before work begins, so that what is too long is met at once.

    Raises:
        ValueError: As ``inputs``, of any of the samples.
    """
    check_questions(samples, loaded.processor, loaded.family, loaded.model.config)
    for sample in extremes(samples):
        inputs(loaded, [sample])


def encode(
    loaded: Loaded,
    texts: Sequence[str],
    images: Sequence[Image],
    plan: PlanLike | None = None,
    names: Sequence[str] = (),
    videos: Sequence[Video] = (),
) -> Any:
    """Model inputs of chat prompts, left padded, on the model's device.

    Args:
        loaded: The model and its processor.
        texts: The prompts, as the chat template writes them.
        images: Their images, in order.
        plan: The plan they will run under; its ``resize`` methods make the images smaller.
        names: What the prompts are called, for messages.
        videos: Their videos, in order.

    Raises:
        ValueError: If the processor refuses an image or a video, naming it, or a prompt is longer than the
            model's positions, or holds a token that the model has not.
    """
    check_processor(loaded)
    scale = image_scale(plan)
    shown = filmed(loaded, videos, bool(images), scale) if videos else {}
    bos = loaded.processor.tokenizer.bos_token
    try:
        pictures, sizes = shrink(loaded, images, scale)
    except Exception as error:  # processors raise whatever their authors chose
        raise _refused(loaded, images, plan) or error from None
    try:
        batch = loaded.processor(
            text=list(texts),
            images=loaded.family.by_prompt(loaded.processor, texts, pictures) if pictures else None,
            **(sizes if pictures else {}),
            **shown,
            padding=True,
            padding_side="left",
            # A template that writes the first token itself must not get it twice.
            add_special_tokens=not (bos and texts[0].startswith(bos)),
            return_tensors="pt",
        )
    except Exception as error:
        told = _refused(loaded, images, plan) or _refused_video(loaded, videos)
        raise told or _ill_fitting(loaded, reason(error)) from None
    model = loaded.model
    if (images or videos) and not bool(loaded.family.visual_mask(model, batch["input_ids"]).any()):
        # Some processors do not count.
        raise _ill_fitting(loaded, "it has pictures, and no place for any")
    # Some processors tell training at once what of a prompt is an answer.
    batch.pop("labels", None)
    check_pixels(batch, loaded.name)
    known = loaded.shape.vocab + more_tokens(unwrap(loaded.model).config)
    check_tokens(batch["input_ids"], known, loaded.name)
    check_length(loaded.family.positions(model.config, batch), model.config, names)
    return batch.to(input_device(model), dtype=model.dtype)


def _ill_fitting(loaded: Loaded, why: str) -> ValueError:
    return ValueError(
        f"{loaded.name}: its processor does not take this prompt ({why}): do its settings and its chat "
        "template fit each other?"
    )


def _refused(loaded: Loaded, images: Sequence[Image], plan: PlanLike | None) -> ValueError | None:
    """What to say where the processor takes one of the images in no prompt; None if it takes each."""
    for number, image in enumerate(images, start=1):
        try:
            pictures, sizes = shrink(loaded, [image], image_scale(plan))
            loaded.processor.image_processor(images=pictures, **sizes)
        except Exception as error:
            name = getattr(image, "filename", "") or f"image {number}"
            reason = (str(error) or type(error).__name__).splitlines()[0]
            width, height = image.size
            return ValueError(
                f"{name}: {loaded.name} takes no picture of {width} x {height} pixels ({reason})"
            )
    return None


def _refused_video(loaded: Loaded, videos: Sequence[Video]) -> ValueError | None:
    """What to say where the processor takes one of the videos in no prompt; None if it takes each."""
    for video in videos:
        frames = len(show(loaded, video)[1])
        try:
            loaded.processor.video_processor(**filmed(loaded, [video], False), return_tensors="pt")
        except Exception as error:
            width, height = video.size
            return ValueError(
                f"{video.name}: {loaded.name} takes no video of {frames} frame{'s' * (frames != 1)} of "
                f"{width} x {height} pixels ({reason(error)}); frames, or --frames, says how many are shown"
            )
    return None
