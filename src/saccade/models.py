"""Loading a model by name, and turning samples into inputs and outputs into answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from saccade.engine import attached
from saccade.engine.resolution import note_shrunk
from saccade.families import unwrap
from saccade.inputs.films import filmed
from saccade.inputs.prompts import check_length, check_pixels, check_questions, check_tokens, extremes
from saccade.inputs.samples import BLIND_COLOUR, Sample, blind_image
from saccade.inputs.videos import Video
from saccade.methods.resize import Resize
from saccade.opening import Opening, open_config
from saccade.opening.agree import more_tokens
from saccade.opening.errors import reason
from saccade.opening.loaded import Loaded, read, wrap
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
    elif Path(where).is_dir():
        from saccade import skip_vision

        if skip_vision.is_skip_vision(where):
            return skip_vision.open_as(where, opening)
    return read(where, str(name), opening)


def load_config(name: str, opening: Opening | None = None) -> Any:
    """Configuration of a model without its weights.

    Raises:
        ValueError: If it cannot be loaded.
    """
    if name in EMBEDDED:
        name = str(EMBEDDED[name].folder)
    elif Path(name).is_dir():
        from saccade.skip_vision import base_of

        name = str(base_of(name))
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
        raise _refused(loaded, images, plan) or _ill_fitting(loaded, reason(error)) from None
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
    return batch.to(model.device, dtype=model.dtype)


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


OTHER_WAYS = {
    *("cache_implementation", "prefill_chunk_size", "prompt_lookup_num_tokens", "max_time", "stop_strings"),
    *("penalty_alpha", "dola_layers"),
}
"""Settings of a generation configuration that say how an answer is computed, or when it is broken off."""
USUAL_SETTINGS = {
    *("bos_token_id", "eos_token_id", "pad_token_id", "do_sample", "temperature", "top_p", "top_k"),
    *("transformers_version", "use_cache"),
}
"""Settings that any checkpoint may have, and that cannot fail."""


@cache
def _other_ways() -> tuple[str, ...]:
    """Those of ``OTHER_WAYS`` that this release of transformers knows."""
    from transformers import GenerationConfig

    return tuple(OTHER_WAYS & vars(GenerationConfig()).keys())


def greedy(max_new_tokens: int) -> dict[str, Any]:
    """Arguments of ``generate`` with which every command asks a model.

    The checkpoint's generation configuration stands: ends of a turn, penalties, banned tokens. What would
    make something else than one greedy answer of it is off (Qwen-VL models sample by default).

    Args:
        max_new_tokens: Longest answer.
    """
    off = {"do_sample": False, "num_beams": 1, "num_return_sequences": 1, "return_dict_in_generate": False}
    off |= dict.fromkeys(_other_ways())
    # Folders that were saved in training may say otherwise; the answer is the same, and plans need the cache.
    return {**off, "use_cache": True, "max_new_tokens": max_new_tokens}


def ask(loaded: Loaded, inputs: Mapping[str, Any], max_new_tokens: int, **how: Any) -> Any:
    """What ``generate`` gives as every command asks a model (``greedy``).

    Args:
        loaded: The model.
        inputs: The prompts.
        max_new_tokens: Longest answer.
        how: More arguments of the model's ``generate``.

    Raises:
        ValueError: If logits are not finite: the tokens chosen by them say nothing.
    """
    seen, said = FiniteLogits(), loaded.model.generation_config
    settings = greedy(max_new_tokens) | {"logits_processor": [seen]}
    if said.stop_strings:
        settings |= {"stop_strings": said.stop_strings, "tokenizer": loaded.processor.tokenizer}
    try:
        made = loaded.model.generate(**inputs, **settings | how)
    except (AssertionError, ImportError, LookupError, TypeError) as error:
        unusual = sorted(said.to_diff_dict().keys() - USUAL_SETTINGS - OTHER_WAYS)
        if not unusual:
            raise
        raise ValueError(
            f"{loaded.name} does not answer ({type(error).__name__}: {reason(error)}); its "
            f"generation_config.json holds {', '.join(unusual)}: do they fit the model?"
        ) from None
    if seen.broken:
        raise ValueError(not_finite(loaded.model))
    return made


class FiniteLogits:
    """A logits processor that changes none, and notes those that are not finite without waiting for them."""

    def __init__(self) -> None:
        self._broken: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        # Banned tokens have -inf, which is as it should be.
        broken = ~(scores < math.inf).all()
        self._broken = broken if self._broken is None else self._broken | broken
        return scores

    @property
    def broken(self) -> bool:
        """Whether any were not finite; waits for the device."""
        return self._broken is not None and bool(self._broken)


def not_finite(model: Any) -> str:
    """What to say of logits that are not finite."""
    own = attached(model)
    under = f" under {own.plan.spec}" if own is not None and own.plan.methods else ""
    return (
        f"the model's logits are not finite{under} ({model.dtype}), so that its answers say nothing: check "
        "its weights and configuration, or take another --dtype (float32)"
    )


def stop_tokens(model: Any) -> frozenset[int]:
    """Tokens that end an answer, as the model's generation configuration has them."""
    ends = model.generation_config.eos_token_id
    return frozenset(ends if isinstance(ends, list) else () if ends is None else (ends,))


def answers(loaded: Loaded, output_ids: torch.Tensor, prompt_rows: int) -> list[str]:
    """The new text of each sample of a ``generate`` output (B, N).

    Args:
        loaded: The model and its processor.
        output_ids: Tokens of the prompt and the answer.
        prompt_rows: Rows of the prompt, padding included.
    """
    texts = loaded.processor.batch_decode(output_ids[:, prompt_rows:], skip_special_tokens=True)
    return [text.strip() for text in texts]
