"""The weights of a checkpoint, read once and straight to where they will run."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import nn
from transformers import AutoModelForImageTextToText, PreTrainedConfig
from transformers.utils import logging

from saccade.core.text import short
from saccade.families import FAMILIES
from saccade.opening import checks, quantize
from saccade.opening.bars import quiet_bars
from saccade.opening.errors import telling
from saccade.opening.settings import Opening
from saccade.opening.source import files_of

ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
"""Files that hold an adapter's weights."""


def read_weights(folder: Path, config: PreTrainedConfig, opening: Opening) -> Any:
    """Loads the model of a folder, in eval mode.

    Args:
        folder: Folder with configuration and weights.
        config: Its configuration.
        opening: How.

    Raises:
        ValueError: If files are damaged, tensors are missing or do not fit, or numbers are not finite.
    """
    with telling(str(_read_from(folder))):
        model, info = _load(folder, config, opening)
    checks.check_loaded(
        str(folder),
        info,
        mismatched=bool(opening.rest.get("ignore_mismatched_sizes")),
        names=model.state_dict().keys(),
        part="config" in opening.rest,
    )
    checks.check_finite(str(folder), model)
    return model.eval()


def _read_from(folder: Path) -> Path:
    """The file that weights are read from, where it is one that is not looked into before."""
    single = folder / checks.PICKLED[0]
    return single if single.exists() and not checks.shards_of(folder) else folder


def attention_of(config: PreTrainedConfig, asked: str | Mapping[str, str]) -> str | dict[str, str]:
    """The attention implementation that is asked for, as a model of this configuration can have it."""
    kind = config.model_type
    found = FAMILIES[kind].implementation(asked) if kind in FAMILIES else asked
    return found if isinstance(found, str) else dict(found)


def _load(folder: Path, config: PreTrainedConfig, opening: Opening) -> tuple[nn.Module, Mapping[str, Any]]:
    rest: dict[str, Any] = {"config": config, **opening.rest}
    device = opening.torch_device()
    settings = quantize.config_of(opening, config, device)
    if settings is not None:
        rest["quantization_config"] = settings
    if opening.device_map is not None:
        # from_pretrained has no word for it.
        rest["device_map"] = {"": "disk"} if opening.device_map == "disk" else opening.device_map
    elif device.type != "cpu" or _is_quantized(config, rest):
        # Straight to the device: on the way through the host's memory a second copy would lie there.
        rest.setdefault("device_map", {"": str(device)})
    if "tp_plan" in rest:
        rest.pop("device_map", None)
    with quiet():
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            folder,
            dtype=opening.torch_dtype(),
            attn_implementation=attention_of(config, opening.attn),
            trust_remote_code=opening.trust_remote_code,
            output_loading_info=True,
            # Sizes that do not fit are told by name, in one line, by the caller.
            **{**rest, "ignore_mismatched_sizes": True},
        )
    return loaded


def _is_quantized(config: PreTrainedConfig, rest: Mapping[str, Any]) -> bool:
    return "quantization_config" in rest or getattr(config, "quantization_config", None) is not None


@contextmanager
def quiet() -> Iterator[list[str]]:
    """Keeps reports and bars off standard error while a model is opened; gives the warnings."""
    said: list[str] = []
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with quiet_bars(), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield said
            said += [str(warning.message) for warning in caught]
    finally:
        logging.set_verbosity(before)


def adapter_folder(adapter: str, opening: Opening) -> Path:
    """The folder of a PEFT adapter.

    Raises:
        ValueError: If peft is not installed, or there is no whole adapter there.
    """
    if importlib.util.find_spec("peft") is None:
        raise ValueError("an adapter needs peft: pip install peft")
    folder = files_of(adapter, {**opening.hub, "revision": None}, weights=True, kind=("adapter_model*",))
    if not (folder / "adapter_config.json").exists():
        raise ValueError(f"{folder} is no PEFT adapter: it has no adapter_config.json")
    checks.read_object(folder / "adapter_config.json")
    if not any((folder / file).is_file() for file in ADAPTERS):
        raise ValueError(f"the adapter {folder} has no weights: neither {' nor '.join(ADAPTERS)} is there")
    return folder


def other_base(adapter: Path, name: str, folder: Path) -> str | None:
    """What to say of an adapter that was made for another model than the one it is put on.

    Names are all that is known of its base. A copy of the base in another place passes by its folder's name.

    Args:
        adapter: The adapter's folder.
        name: What the user calls the model.
        folder: The model's folder.

    Returns:
        A line, also where its base is not noted; None where it is this model.
    """
    base = str(checks.read_object(adapter / "adapter_config.json").get("base_model_name_or_path") or "")
    if not base:
        return f"the adapter {adapter} does not say which model it was made for"
    if _same(base, name, folder):
        return None
    return f"the adapter {adapter} was made for {short(base)}, and is put on {short(name)}"


def _same(base: str, name: str, folder: Path) -> bool:
    if Path(base).is_dir():
        return Path(base).resolve() == folder.resolve()
    return _spoken(base) in (_spoken(name), _spoken(str(folder.resolve())))


def _spoken(name: str) -> str:
    """The last part of a name: of a hub id, of a folder, or of the hub id whose snapshot a folder is."""
    kept = [part for part in Path(name).parts if part.startswith("models--")]
    return kept[-1].split("--")[-1] if kept else Path(name).name


def put_adapter(model: Any, folder: Path) -> Any:
    """The model with a PEFT adapter: merged into its weights, or on them where those are quantised.

    Raises:
        ValueError: If the adapter is damaged or of another model.
    """
    from peft import PeftModel, get_peft_model_state_dict

    with telling(f"the adapter {folder}"), quiet() as said:
        made: Any = PeftModel.from_pretrained(model, folder)
    # PEFT leaves out what has no place without a word; names alone do not tell, for old ones are mapped.
    left = _count(folder) - len(get_peft_model_state_dict(made))
    if left > 0 or any("missing adapter keys" in line for line in said):
        raise ValueError(f"the adapter {folder} is of another model: its tensors do not go where it says")
    if not hasattr(made, "merge_and_unload"):
        raise ValueError(f"the adapter {folder} adds rows to prompts, which plans would not know of")
    checks.check_finite(str(folder), made)
    if getattr(model, "is_quantized", False):
        return made.eval()
    merged = made.merge_and_unload().eval()
    checks.check_finite(f"{folder}, once it is merged,", merged)
    return merged


def _count(folder: Path) -> int:
    """Tensors of an adapter; 0 where they are pickled."""
    path = folder / "adapter_model.safetensors"
    if not path.exists():
        return 0
    with safe_open(path, framework="pt") as tensors:
        return len(tensors.keys())
