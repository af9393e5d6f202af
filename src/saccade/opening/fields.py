"""What a checkpoint's settings can mean: looked at field by field, before anything is built."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saccade.core.text import short

MOST_SIZE = 2**31 - 1
"""Of a width, a vocabulary, a number of positions or of pixels."""
MOST_SIDE = 32_768
"""Pixels of a side that pictures are brought to."""
MOST_DEEP = 10_000
"""Layers."""
NO_SIDE = ("longest_edge", "max_pixels", "max_height", "max_width")
"""Beside one of these ``shortest_edge`` is a number of pixels, or a bound."""


@dataclass(frozen=True)
class Meaning:
    """What the fields of some names hold.

    Attributes:
        names: Their names, as a regular expression.
        needs: What is needed, in words.
        holds: Whether a value is that; values in lists are asked one by one.
        lists: Whether the field may be a list of such.
    """

    names: str
    needs: str
    holds: Callable[[Any], bool]
    lists: bool = True


def _whole(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _number(low: float, high: float, least: bool = False) -> Callable[[Any], bool]:
    def holds(value: Any) -> bool:
        plain = isinstance(value, int | float) and not isinstance(value, bool)
        return plain and (low <= value if least else low < value) and value <= high

    return holds


def _activation(value: Any) -> bool:
    from transformers.activations import ACT2FN

    return isinstance(value, str) and value in ACT2FN


def _dtype(value: Any) -> bool:
    import torch

    return value == "auto" or isinstance(getattr(torch, str(value).removeprefix("torch."), None), torch.dtype)


MEANINGS = (
    Meaning(
        "num_hidden_layers|num_layers|depth",
        f"a whole number of layers from 1 to {MOST_DEEP:,} is needed",
        _whole(1, MOST_DEEP),
    ),
    Meaning(
        "(hidden|intermediate|vocab|patch|temporal_patch|spatial_patch|merge|spatial_merge|window|out_hidden)_size"
        "|(embed|head)_dim|num_attention_heads|num_key_value_heads|num_heads|num_channels|in_chan(nel)?s"
        "|(original_)?max_position_embeddings|num_position_embeddings|(image_seq|text)_length|image_seq_len"
        "|num_image_tokens|(min|max)_pixels|(min|max)_patches|longest_edge",
        f"a whole number from 1 to {MOST_SIZE:,} is needed",
        _whole(1, MOST_SIZE),
    ),
    Meaning(
        "size|image_size|tile_size|crop_size|height|width|shortest_edge",
        f"a whole number of pixels from 1 to {MOST_SIDE:,} is needed",
        _whole(1, MOST_SIDE),
    ),
    Meaning(
        "image_grid_pinpoints",
        f"pairs of whole numbers of pixels from 1 to {MOST_SIDE:,} are needed",
        _whole(1, MOST_SIDE),
    ),
    Meaning("num_additional_image_tokens", "a whole number from 0 is needed", _whole(0, MOST_SIZE)),
    Meaning("rescale_factor", "a number above 0 is needed", _number(0, math.inf)),
    Meaning("rope_theta", "a number above 0, and at most 1e15, is needed", _number(0, 1e15)),
    Meaning(
        "(low_freq_|high_freq_|attention_)?factor|beta_fast|beta_slow",
        "a number above 0, and at most 100,000, is needed",
        _number(0, 1e5),
    ),
    Meaning("partial_rotary_factor", "a share above 0, and at most 1, is needed", _number(0, 1)),
    Meaning("downsample_ratio", "a number above 0, and at most 1, is needed", _number(0, 1)),
    Meaning("\\w*(_eps|_epsilon)|eps", "a number above 0 and below 1 is needed", _number(0, 0.999)),
    Meaning(
        "\\w*(dropout|dropout_prob|drop_path_rate)", "a share from 0 to 1 is needed", _number(0, 1, True)
    ),
    Meaning("image_std", "a number above 0 for each colour is needed", _number(0, math.inf)),
    Meaning("image_mean", "a number for each colour is needed", _number(-math.inf, math.inf)),
    Meaning(
        "(projector_)?hidden_act", "the name of an activation of transformers is needed", _activation, False
    ),
    Meaning("(torch_)?dtype", "the name of a data type of torch is needed", _dtype, False),
    Meaning(
        "(image|video|vision|img)_(\\w+_)?token_(id|index)",
        "the number of a token, from 0, is needed",
        _whole(0, MOST_SIZE),
        False,
    ),
    Meaning("(encoder_)?repetition_penalty", "a number above 0 is needed", _number(0, math.inf)),
    Meaning(
        "(eos|bos|pad|forced_eos|forced_bos)_token_id|(begin_)?suppress_tokens",
        "the number of a token, or a list of such, is needed",
        _whole(-1, MOST_SIZE),
    ),
)
"""Fields of models, of pictures and of answers. What is not here is not asked about."""

_OF = tuple((re.compile(meaning.names), meaning) for meaning in MEANINGS)
PARTS = ("text_config", "vision_config")
"""Parts of a configuration; a part that is null would become a model of somebody's default sizes."""


def check_fields(path: Path, data: Mapping[str, Any]) -> None:
    """Refuses settings that no model can have: sizes below one, numbers that are none, unknown names.

    Args:
        path: The file, for the message.
        data: What it holds.

    Raises:
        ValueError: Naming the file, the field by its path, what it holds and what is needed.
    """
    for part in PARTS:
        if part in data and not isinstance(data[part], Mapping):
            raise ValueError(
                f"{path}: {part}: an object with settings is needed, got {short(repr(data[part]), 60)}"
            )
    for where, value, beside in _leaves(data, "", {}):
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{path}: {where}: {value} is not a number that settings can hold")
        # A number of a list goes by the list's name.
        name = re.sub(r"\[\d+\]", "", where).rpartition(".")[2]
        if value is None:
            continue
        if name == "shortest_edge" and any(key in beside for key in NO_SIDE):
            name = "longest_edge"
        for pattern, meaning in _OF:
            listed = where.endswith("]") and not meaning.lists
            if pattern.fullmatch(name) and (listed or not meaning.holds(value)):
                raise ValueError(f"{path}: {where}: {meaning.needs}, got {short(repr(value), 60)}")


def _leaves(data: Any, where: str, beside: Mapping[str, Any]) -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    """Values with their paths, and the object that each is in."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield from _leaves(value, f"{where}.{key}" if where else str(key), data)
    elif isinstance(data, list):
        for number, value in enumerate(data):
            yield from _leaves(value, f"{where}[{number}]", beside)
    else:
        yield where, data, beside
