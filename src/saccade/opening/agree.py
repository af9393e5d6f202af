"""Settings of a checkpoint held against each other, its processor and the headers of its weights.

What disagrees would otherwise be a traceback in the middle of a prompt, a model of random weights that takes
minutes to build, or an answer that is noise.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, PreTrainedConfig

from saccade.families import Family
from saccade.opening.errors import named, telling

SLACK = 2**26
"""Numbers that weights may lack before a model is not built at all; fewer are told by name, once it is."""
FEWEST_BITS = 1.5
"""Of a number in quantised weights."""
PLAIN = ("F64", "F32", "F16", "BF16")
"""Number formats of weights that are as they act."""

SAME = (
    ("patch_size", "patch_size"),
    ("temporal_patch_size", "temporal_patch_size"),
    ("merge_size", "spatial_merge_size"),
)
"""Settings of pictures, and what the vision tower calls them."""

Headers = Mapping[str, tuple[tuple[int, ...], str]]
"""Shape and number format of every tensor of a folder, by name."""


def check_config(path: Path, data: Mapping[str, Any], config: PreTrainedConfig, family: Family) -> None:
    """Refuses a configuration whose fields contradict each other.

    Args:
        path: Its file, for the message.
        data: What the file holds.
        config: What transformers made of it.
        family: The model's adapter.

    Raises:
        ValueError: Naming the file and the field.
    """
    text, vision = config.get_text_config(), family.vision_config(config)
    inside = "text_config." if isinstance(data.get("text_config"), Mapping) else ""
    _check_heads(f"{path}: {inside}", text)
    if vision is not None:
        _check_heads(f"{path}: vision_config.", vision)
    _check_rotary(f"{path}: {inside}", text)
    for token in family.visual_ids(config):
        if not 0 <= token < text.vocab_size + more_tokens(config):
            field = next((key for key, value in data.items() if value == token), "image_token_id")
            raise ValueError(
                f"{path}: {field}: token {token} is beyond the {text.vocab_size} of {inside}vocab_size"
            )
    depth = getattr(vision, "num_hidden_layers", None) or getattr(vision, "depth", None)
    if isinstance(depth, int):
        _check_levels(path, config, vision, depth)


def more_tokens(config: PreTrainedConfig) -> int:
    """Tokens that a model has embeddings of behind those of its vocabulary: some keep them for pictures."""
    return int(getattr(config.get_text_config(), "additional_vocab_size", 0))


def _check_heads(where: str, part: Any) -> None:
    heads = getattr(part, "num_attention_heads", None) or getattr(part, "num_heads", None)
    width = getattr(part, "embed_dim", None) or getattr(part, "hidden_size", None)
    if not isinstance(heads, int) or not isinstance(width, int):
        # Towers of families that nobody wrote an adapter for may have stages of several widths.
        return
    size = getattr(part, "head_dim", None)
    if not size and width % heads:
        raise ValueError(f"{where}hidden_size: {width} is not a multiple of the {heads} attention heads")
    shared = getattr(part, "num_key_value_heads", None) or heads
    if heads % shared:
        raise ValueError(f"{where}num_key_value_heads: {heads} attention heads cannot share {shared} evenly")


def _check_rotary(where: str, text: Any) -> None:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    said = getattr(text, "rope_parameters", None) or {}
    kind = said.get("rope_type", "default")
    known = sorted({"default", *ROPE_INIT_FUNCTIONS})
    if kind not in known:
        raise ValueError(f"{where}rope_parameters.rope_type: no {kind!r}; there are {', '.join(known)}")
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    if width % 2:
        raise ValueError(
            f"{where}head_dim: rotary positions turn pairs of numbers, and heads are {width} wide"
        )
    section, part = said.get("mrope_section"), said.get("partial_rotary_factor", 1.0)
    turned = int(width * part)
    if section is not None and sum(section) * 2 != turned:
        of = "of a head" if turned == width else f"of a head's {width} that turn"
        raise ValueError(
            f"{where}rope_parameters.mrope_section: {section} adds up to {sum(section)}, not half of the "
            f"{turned} {of}"
        )


def _check_levels(path: Path, config: Any, vision: Any, depth: int) -> None:
    """Layers of the vision tower that something is taken from."""
    chosen = getattr(config, "vision_feature_layer", None)
    levels = [] if chosen is None else list(chosen) if isinstance(chosen, Sequence) else [chosen]
    if any(not isinstance(level, int) or not -depth - 1 <= level <= depth for level in levels):
        raise ValueError(
            f"{path}: vision_feature_layer: {chosen} is no state of a vision tower of {depth} layers "
            f"({-depth - 1} to {depth})"
        )
    for field in ("deepstack_visual_indexes", "fullatt_block_indexes"):
        numbers = getattr(vision, field, None) or ()
        if any(not isinstance(number, int) or not 0 <= number < depth for number in numbers):
            raise ValueError(
                f"{path}: vision_config.{field}: {list(numbers)} names layers that are not there: the vision "
                f"tower has {depth}"
            )


def check_quantisation(path: Path, said: Any) -> None:
    """Refuses a quantisation that transformers would pass over without a word.

    Args:
        path: The configuration's file, for the message.
        said: Its ``quantization_config``.

    Raises:
        ValueError: Naming the file and the field.
    """
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    if said is None:
        return
    if not isinstance(said, Mapping):
        raise ValueError(f"{path}: quantization_config: an object is needed, got {type(said).__name__}")
    method = said.get("quant_method")
    if method == "bitsandbytes" and (said.get("load_in_4bit") or said.get("load_in_8bit")):
        return  # transformers knows its two kinds by their widths
    if method is not None and method not in AUTO_QUANTIZATION_CONFIG_MAPPING:
        raise ValueError(
            f"{path}: quantization_config.quant_method: no {method!r}; transformers reads "
            f"{', '.join(sorted(AUTO_QUANTIZATION_CONFIG_MAPPING))}"
        )


def check_weights(path: Path, config: PreTrainedConfig, held: Headers, code: bool = False) -> None:
    """Refuses a configuration that asks for far more numbers than its weights hold, before anything is built.

    The model is laid out without memory and its tensors are counted off against those of the headers, by
    shape, for transformers renames tensors of older checkpoints. What lacks little is told by name, later.

    Args:
        path: The configuration's file, for the message.
        config: What it says.
        held: The tensors of the folder; nothing where they are pickled.
        code: Whether code of the repository may run.

    Raises:
        ValueError: Naming the file and the field.
    """
    packed = getattr(config, "quantization_config", None) is not None
    if not held:
        return
    odd = [(name, kind) for name, (shape, kind) in held.items() if len(shape) > 1 and kind not in PLAIN]
    if odd and not packed:
        raise ValueError(
            f"{path} has no quantization_config, but {odd[0][0]} is {odd[0][1]} in the weights: what its "
            "numbers stand for is not said"
        )
    towers = getattr(config, "vision_config", None)
    for part, of in (("text_config", config.get_text_config()), ("vision_config", towers)):
        field = "depth" if hasattr(of, "depth") else "num_hidden_layers"
        if (getattr(of, field, None) or 0) > len(held):
            raise ValueError(
                f"{path}: {part}.{field}: {getattr(of, field)} layers, but there are {len(held)} tensors"
            )
    with telling(str(path)), torch.device("meta"):
        empty: Any = AutoModelForImageTextToText.from_config(config, trust_remote_code=code)
    asked = {name: tuple(tensor.shape) for name, tensor in empty.named_parameters()}
    numbers = sum(math.prod(shape) for shape, _ in held.values())
    if packed:
        bits = sum(math.prod(shape) * _bits(kind) for shape, kind in held.values())
        if sum(map(math.prod, asked.values())) * FEWEST_BITS > bits + SLACK:
            raise ValueError(f"{path} asks for more numbers than {bits // 8:,} bytes of weights can hold")
        return
    have = Counter(shape for shape, _ in held.values())
    missing: list[str] = []
    for name, shape in asked.items():
        have[shape] -= 1
        if have[shape] < 0:
            missing.append(name)
    if sum(math.prod(asked[name]) for name in missing) > numbers + SLACK:
        name = max(missing, key=lambda name: math.prod(asked[name]))
        raise ValueError(
            f"{path} does not describe these weights: it asks for {name} of {asked[name]}"
            f"{_blamed(config, asked[name], have)}, and the files hold {numbers:,} numbers in all"
        )


def _blamed(config: PreTrainedConfig, shape: tuple[int, ...], have: Mapping[tuple[int, ...], int]) -> str:
    """Fields that hold a size which is in no file."""
    known = {size for found in have for size in found if have[found] >= 0}
    strange = {size for size in shape if size not in known}
    fields = [f"{where} {value}" for where, value in _numbers(config.to_dict(), "") if value in strange]
    return f" ({', '.join(fields[:3])})" if fields else ""


def _numbers(data: Mapping[str, Any], where: str) -> Iterator[tuple[str, int]]:
    for key, value in data.items():
        path = f"{where}.{key}" if where else str(key)
        if isinstance(value, Mapping):
            yield from _numbers(value, path)
        elif isinstance(value, int) and not isinstance(value, bool):
            yield path, value


def _bits(kind: str) -> int:
    digits = "".join(char for char in kind.partition("_")[0] if char.isdigit())
    return int(digits) if digits else 8


def check_processor(folder: Path, config: PreTrainedConfig, family: Family, processor: Any) -> None:
    """Refuses a processor that writes other placeholders, or another number of them, than the model reads.

    Raises:
        ValueError: Naming the file and the field.
    """
    settings = named(folder, "processor_config.json", "preprocessor_config.json")
    for field, wanted in family.processor_settings(config).items():
        given = getattr(processor, field, None)
        if given is not None and given != wanted:
            raise ValueError(
                f"{settings}: {field}: {given!r} does not go with {wanted!r} by {folder / 'config.json'}"
            )
    pictures, vision = getattr(processor, "image_processor", None), family.vision_config(config)
    for field, theirs in SAME:
        given, wanted = getattr(pictures, field, None), getattr(vision, theirs, None)
        if isinstance(given, int) and isinstance(wanted, int) and given != wanted:
            raise ValueError(
                f"{folder / 'preprocessor_config.json'}: {field}: {given} does not go with {wanted} by "
                f"vision_config.{theirs} in {folder / 'config.json'}"
            )
    tokenizer, token = getattr(processor, "tokenizer", None), getattr(processor, "image_token", None)
    if tokenizer is None or not isinstance(token, str) or family.generic:
        # What a processor of an unknown kind calls its token may be what it writes others for.
        return
    written = tokenizer.convert_tokens_to_ids(token)
    known = family.written_ids(config)
    if known and written not in known:
        raise ValueError(
            f"{folder / 'config.json'}: the token of a picture is {known[0]}, but the "
            f"tokenizer writes {token!r} as {written}"
        )
