"""A model opened whole: configuration, processor, weights, adapter."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from saccade.families import find
from saccade.opening import checks
from saccade.opening.agree import check_config, check_processor, check_quantisation, check_weights
from saccade.opening.errors import telling
from saccade.opening.opened import note_opened
from saccade.opening.processor import read_processor
from saccade.opening.settings import Opening
from saccade.opening.source import files_of
from saccade.opening.weights import adapter_folder, other_base, put_adapter, quiet, read_weights
from saccade.system.environment import has_torchvision


def open_model(name: str, opening: Opening, speaks: bool = True) -> tuple[Any, Any]:
    """Opens a stock model and its processor.

    What is cheap to know is looked at first: files that are missing or damaged, a family that is not
    supported and a processor that cannot be built are told before any weight is read.

    Args:
        name: A folder or a hub id.
        opening: How.
        speaks: Whether it has a processor; without one it takes ready-made inputs alone.

    Returns:
        The model, in eval mode, and its processor, or None.

    Raises:
        ValueError: If it cannot be opened, in one line that names the file.
    """
    opening.torch_device()
    has_torchvision()
    folder = files_of(name, opening.hub, code=opening.trust_remote_code)
    asked, top = opening, folder
    inner = opening.rest.get("subfolder")
    folder = folder / inner if inner else folder
    opening = opening.but(more={k: v for k, v in opening.more.items() if k != "subfolder"})
    checks.check_folder(folder)
    held = {} if "variant" in opening.rest else checks.headers_of(folder)
    config = opening.rest.get("config") or _config(folder, opening)
    family = find(config, opening.generic)
    processor = None
    if speaks:
        processor = read_processor(folder, config, family.processor_settings(config), opening)
        check_processor(folder, config, family, processor)
    if not opening.rest.get("ignore_mismatched_sizes"):
        check_weights(folder / "config.json", config, held, opening.trust_remote_code)
    adapter = None if opening.adapter is None else adapter_folder(opening.adapter, opening)
    doubt = None if adapter is None else other_base(adapter, name, folder)
    if doubt is not None and opening.strict:
        raise ValueError(f"strict: {doubt}")
    model = read_weights(folder, config, opening)
    if adapter is not None:
        model = put_adapter(model, adapter)
    note_opened(model, asked, top, name)
    if doubt is not None:
        # Once it is on: one whose tensors do not fit is told so, and nothing else.
        warnings.warn(doubt, UserWarning, stacklevel=2)
    return model, processor


def open_processor(name: str, opening: Opening | None = None) -> Any:
    """The processor of a folder or a hub id; no weights are read or fetched.

    Raises:
        ValueError: If a part is missing or damaged, naming the file.
    """
    opening = opening or Opening()
    config = open_config(name, opening)
    folder = files_of(name, opening.hub, weights=False)
    family = find(config, opening.generic)
    processor = read_processor(folder, config, family.processor_settings(config), opening)
    check_processor(folder, config, family, processor)
    return processor


def open_config(name: str, opening: Opening | None = None) -> PreTrainedConfig:
    """The configuration of a folder or a hub id; no weights are read or fetched.

    Raises:
        ValueError: If it cannot be read.
    """
    opening = opening or Opening()
    has_torchvision()
    folder = files_of(name, opening.hub, weights=False)
    if not (folder / "config.json").exists():
        raise ValueError(checks.no_config(folder))
    return _config(folder, opening)


def _config(folder: Path, opening: Opening) -> PreTrainedConfig:
    path = folder / "config.json"
    data = checks.read_settings(path)
    if "model_type" not in data:
        raise ValueError(f"{path} has no model_type: it is not the configuration of a model of transformers")
    if not opening.trust_remote_code and "AutoConfig" in (data.get("auto_map") or {}):
        _refuse_code(folder, data)
    check_quantisation(path, data.get("quantization_config"))
    with telling(str(path)), quiet():
        config = AutoConfig.from_pretrained(folder, trust_remote_code=opening.trust_remote_code)
    check_config(path, data, config, find(config, opening.generic))
    return config


def _refuse_code(folder: Path, data: dict[str, Any]) -> None:
    """Refuses a model type that only the repository's own code knows."""
    from transformers import CONFIG_MAPPING

    if data["model_type"] not in CONFIG_MAPPING:
        raise ValueError(
            f"{folder} is a {data['model_type']!r} model, which runs code of its own repository; read that "
            "code, then allow it with trust_remote_code (--trust-remote-code)"
        )
