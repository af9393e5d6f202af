"""Damage found before a model runs: shards that are not whole, tensors missing, numbers not finite."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from saccade.opening.fields import check_fields

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
SETTINGS = (
    *("config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json"),
    *("video_preprocessor_config.json", "tokenizer_config.json", "chat_template.json"),
    *("special_tokens_map.json", "added_tokens.json"),
)
NAMED = 3
"""Names that a line gives before it only counts."""


def check_folder(folder: Path) -> None:
    """Looks at what a model's folder must hold, and at what its settings say.

    Raises:
        ValueError: If a file is missing, empty, truncated or something else, naming it.
    """
    config = folder / "config.json"
    if not config.exists():
        raise ValueError(no_config(folder))
    for name in SETTINGS:
        if (folder / name).exists():
            read_settings(folder / name)


def headers_of(folder: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and number format of every tensor of a folder, by name; nothing where they are pickled.

    Raises:
        ValueError: If a shard is missing, empty, truncated or something else, naming it.
    """
    return {name: told for shard in shards_of(folder) for name, told in _header(shard).items()}


def shards_of(folder: Path) -> list[Path]:
    """The safetensors files that hold a folder's weights; none where they are pickled.

    Raises:
        ValueError: If there are no weights, or the index is damaged or names files that are not there.
    """
    index, single = folder / INDEX, folder / SINGLE
    if single.exists():
        return [single]
    if not index.exists():
        if any((folder / name).exists() for name in PICKLED):
            return []
        raise ValueError(f"{folder} has no weights: neither {SINGLE} nor {INDEX} is there")
    named = read_object(index).get("weight_map")
    if not isinstance(named, dict) or not named or not all(isinstance(f, str) for f in named.values()):
        raise ValueError(f"{index} is damaged: its weight_map does not say which file holds which tensor")
    shards = [folder / file for file in sorted(set(named.values()))]
    gone = [shard.name for shard in shards if not shard.is_file()]
    if gone:
        raise ValueError(f"{folder} is not whole: {_some(gone)} {_is(gone)} missing, though {INDEX} names it")
    return shards


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ValueError: If the file is something else, naming it.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {str(error).splitlines()[0]}") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path} is damaged: it holds no JSON object")
    return data


def read_settings(path: Path) -> dict[str, Any]:
    """A JSON object of settings, each of which can be meant.

    Raises:
        ValueError: Naming the file, and the field that holds nonsense.
    """
    data = read_object(path)
    check_fields(path, data)
    return data


def _header(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    from safetensors import SafetensorError, safe_open

    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty: the download did not finish")
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
            return {name: (tuple(one.get_shape()), str(one.get_dtype())) for name, one in slices.items()}
    except (SafetensorError, OSError) as error:
        size = path.stat().st_size
        pointer = path.open("rb").read(40).startswith(b"version https://git-lfs")
        reason = "a pointer of Git LFS; fetch the file itself" if pointer else str(error).splitlines()[0]
        raise ValueError(f"{path} is damaged ({size} bytes): {reason}") from None


def no_config(folder: Path) -> str:
    """What to say of a folder without a configuration."""
    if (folder / "adapter_config.json").exists():
        return f"{folder} holds an adapter alone: open the model it was made for with --adapter {folder}"
    if not any(folder.iterdir()):
        return f"{folder} is empty; the folder of a model holds a config.json"
    inside = [path.parent.name for path in sorted(folder.glob("*/config.json"))]
    hint = f"; perhaps you mean {folder / inside[0]}" if inside else ""
    return f"{folder} is not the folder of a model: it has no config.json{hint}"


def check_loaded(
    where: str,
    info: Mapping[str, Any],
    mismatched: bool = False,
    names: Collection[str] = (),
    part: bool = False,
) -> None:
    """Refuses a model some of whose tensors its files do not give, or whose files have more layers.

    Args:
        where: The folder, for the message.
        info: What from_pretrained says about loading.
        mismatched: Whether tensors of other sizes were allowed.
        names: Tensors of the model.
        part: Whether the caller asked for some of the layers alone.

    Raises:
        ValueError: If tensors are missing or of other sizes than the configuration says, naming them.
    """
    sizes = sorted(info.get("mismatched_keys") or ())
    if sizes and not mismatched:
        name, saved, wanted = sizes[0]
        more = f" (and {len(sizes) - 1} more)" if len(sizes) > 1 else ""
        raise ValueError(
            f"the weights in {where} do not fit its config.json: {name} is {tuple(saved)} in the file, and "
            f"{tuple(wanted)} by the configuration{more}"
        )
    missing = sorted(info.get("missing_keys") or ())
    if missing:
        raise ValueError(
            f"{where} does not give every tensor that its config.json asks for: {_some(missing)} "
            f"{_is(missing)} missing, and would be random"
        )
    deeper = [name for name in sorted(info.get("unexpected_keys") or ()) if _is_deeper(name, names)]
    if deeper and not part:
        raise ValueError(
            f"the weights in {where} have more layers than its config.json: nothing takes {_some(deeper)}"
        )
    failed = list(info.get("error_msgs") or ())
    if failed:
        raise ValueError(f"cannot read the weights in {where}: {str(failed[0]).splitlines()[0]}")


def _is_deeper(name: str, names: Collection[str]) -> bool:
    """Whether a tensor without a place is one that layer 0 has: ``layers.7.x`` beside ``layers.0.x``."""
    return any(
        f"{name[: number.start()]}0{name[number.end() :]}" in names
        for number in re.finditer(r"(?<=\.)\d+(?=\.)", name)
        if number[0] != "0"
    )


def check_finite(where: str, model: nn.Module) -> None:
    """Refuses weights that are not numbers: every answer of such a model is empty or noise.

    One pass over the parameters, without a copy of any, and one wait for the device.

    Raises:
        ValueError: If one holds NaN or an infinity, naming it, or all are 0.
    """
    ends: dict[torch.device, list[tuple[str, torch.Tensor]]] = {}
    for name, tensor in _plain(model):
        # Both ends carry NaN along; on a CPU this is twenty times as fast as isfinite.
        low, high = torch.aminmax(tensor.detach())
        ends.setdefault(tensor.device, []).append((name, torch.stack((low, high)).float()))
    bad: list[str] = []
    dead = True
    for found in ends.values():
        both = torch.stack([both for _, both in found]).cpu()
        bad += [
            name for (name, _), fine in zip(found, both.isfinite().all(-1).tolist(), strict=True) if not fine
        ]
        dead = dead and not both.any()
    if bad:
        raise ValueError(f"weights in {where} are not finite numbers: {_some(sorted(bad))}")
    if ends and dead:
        raise ValueError(f"every number of the weights in {where} is 0")


def _plain(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for name, parameter in model.named_parameters():
        # Quantised weights are packed, and what is offloaded is not here.
        kind = type(parameter.data)
        plain = kind is torch.Tensor and parameter.dtype.is_floating_point and parameter.dtype.itemsize > 1
        if plain and parameter.device.type != "meta" and parameter.numel():
            yield name, parameter


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _is(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"
