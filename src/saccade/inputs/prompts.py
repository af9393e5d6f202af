"""What may be asked of a model, checked before anything is computed."""

from __future__ import annotations

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
        ValueError: If a question is no text, or holds a placeholder, naming both; or is about no picture, of
            a model that is asked about pictures alone.
    """
    for sample in samples:
        if not sample.images and not family.text_alone:
            raise ValueError(
                f"{sample.id}: there is no picture, and {family.name} takes no prompt without one; "
                "leave it out"
            )
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
    ids = (*family.visual_ids(config), *family.written_ids(config))
    names = tokenizer.convert_ids_to_tokens(list(dict.fromkeys(ids)))
    if not family.written_ids(config):
        names.append(getattr(processor, "image_token", None))
    return tuple(dict.fromkeys(name for name in names if name))


def check_pixels(batch: Mapping[str, Any], name: str) -> None:
    """Refuses pictures that the processor turned into what are no numbers.

    Args:
        batch: Inputs of the model, on the host.
        name: What the user calls the model.

    Raises:
        ValueError: Naming what is wrong.
    """
    for kind in ("pixel_values", "pixel_values_videos"):
        pixels = batch.get(kind)
        if pixels is None or bool(torch.isfinite(torch.stack(torch.aminmax(pixels))).all()):
            continue
        raise ValueError(
            f"the processor of {name} makes pixels that are no finite numbers: look at image_mean, "
            "image_std and rescale_factor in its preprocessor_config.json"
        )


def check_tokens(ids_BN: torch.Tensor, vocab: int, name: str) -> None:
    """Refuses tokens that the model has no embedding of: its tokenizer is another model's.

    Args:
        ids_BN: Token ids on the host.
        vocab: Tokens that the model has.
        name: What the user calls the model.

    Raises:
        ValueError: Naming the first number that is too large.
    """
    if ids_BN.numel() and int(ids_BN.max()) >= vocab:
        raise ValueError(
            f"the tokenizer of {name} writes token {int(ids_BN.max())}, and the model has {vocab}: its "
            "tokenizer files are those of another model"
        )


def check_length(taken: Sequence[int], config: Any, names: Sequence[str] = ()) -> None:
    """Refuses a prompt with more positions than the model was made for: what it answers there is noise.

    Args:
        taken: Positions that each prompt of a batch takes.
        config: The model's configuration.
        names: What the prompts are called, for the message.

    Raises:
        ValueError: Naming the longest.
    """
    most, longest = most_positions(config), max(taken)
    if most is not None and longest > most:
        name = f"{short(names[taken.index(longest)], 80)}: " if names else ""
        raise ValueError(
            f"{name}the prompt takes {longest:,} positions, and this model was made for {most:,}; take a "
            "shorter question, or fewer or smaller pictures or frames"
        )


def most_positions(config: Any) -> int | None:
    """Positions that a model was made for, stretched ones too; None where they stretch with the prompt."""
    text = config.get_text_config()
    rope = getattr(text, "rope_parameters", None) or {}
    most = getattr(text, "max_position_embeddings", None)
    if most is None or rope.get("rope_type") == "dynamic":
        return None
    original = rope.get("original_max_position_embeddings") or most
    return max(most, int(original * (rope.get("factor") or 1)))


def extremes(samples: Sequence[Sample]) -> list[Sample]:
    """The sample with the longest question, and the one with the most pixels."""
    if not samples:
        return []
    words = max(samples, key=lambda sample: len(sample.question))
    pixels = max(samples, key=lambda sample: sample.pixels)
    return [words] if words is pixels else [words, pixels]
