"""What may be asked of a model, checked before anything is computed."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from saccade.core.text import is_text, short

if TYPE_CHECKING:
    from saccade.families import Family
    from saccade.inputs.samples import Sample


def check_questions(samples: Sequence[Sample], processor: Any, family: Family, config: Any) -> None:
    """Refuses questions that hold what the model reads as a picture: it would look for one that is not there.

    Args:
        samples: The questions.
        processor: The model's processor.
        family: The model's adapter.
        config: The model's configuration.

    Raises:
        ValueError: If a question is no text, or holds a placeholder, naming both.
    """
    for sample in samples:
        if not is_text(sample.question):
            raise ValueError(
                f"{sample.id}: the question is not text that can be written down; from a shell, set a UTF-8 "
                "locale (LC_ALL=C.UTF-8)"
            )
    for token in placeholders(processor, family, config):
        for sample in samples:
            if token in sample.question:
                raise ValueError(
                    f"{sample.id}: the question holds {token!r}, which this model reads as a picture; leave "
                    f"it out, pictures are placed before the question ({short(sample.question, 80)!r})"
                )


def placeholders(processor: Any, family: Family, config: Any) -> tuple[str, ...]:
    """How the tokens are written that a picture's or video's rows stand for."""
    tokenizer = getattr(processor, "tokenizer", processor)
    names = tokenizer.convert_ids_to_tokens(list(family.visual_ids(config)))
    return tuple(dict.fromkeys(name for name in names if name))


def check_pixels(batch: Mapping[str, Any], name: str) -> None:
    """Refuses pictures that the processor turned into what are no numbers.

    Args:
        batch: Inputs of the model, on the host.
        name: What the user calls the model.

    Raises:
        ValueError: Naming what is wrong.
    """
    pixels = batch.get("pixel_values")
    if pixels is not None and not bool(torch.isfinite(torch.stack(torch.aminmax(pixels))).all()):
        raise ValueError(
            f"the processor of {name} makes pixels that are no finite numbers: look at image_mean, "
            "image_std and rescale_factor in its preprocessor_config.json"
        )


def check_length(rows: int, config: Any) -> None:
    """Warns, once, of a prompt that has more rows than the model was made for.

    Args:
        rows: Rows of the longest prompt, visual ones included.
        config: The model's configuration.
    """
    most = getattr(config.get_text_config(), "max_position_embeddings", None)
    if most and rows > most:
        warnings.warn(
            f"a prompt is longer than the {most:,} positions that this model was made for; its answers may "
            "be worthless: take a shorter question, fewer or smaller pictures, or a plan with resize",
            stacklevel=3,
        )


def extremes(samples: Sequence[Sample]) -> list[Sample]:
    """The sample with the longest question, and the one with the most pixels."""
    if not samples:
        return []
    words = max(samples, key=lambda sample: len(sample.question))
    pixels = max(samples, key=lambda sample: sum(image.width * image.height for image in sample.images))
    return [words] if words is pixels else [words, pixels]
