"""The processor of a checkpoint: its pictures read by Pillow, its videos where torchvision is installed.

Stock `AutoProcessor` loads nothing of a checkpoint whose processor has a part for videos unless torchvision is
there, and with ``backend="pil"`` not even then. Here the parts are loaded one by one and the checkpoint's own
class is built from them. Pictures always go through Pillow, so that their numbers do not depend on what else is
installed.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers
from transformers import PROCESSOR_MAPPING, AutoImageProcessor, AutoTokenizer, PreTrainedConfig, ProcessorMixin
from transformers.utils import cached_file
from transformers.utils.hub import PushToHubMixin

from saccade.opening.environment import has_torchvision, matching_torchvision

NAMED_IN = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")
"""Files that may name the class of the processor, in the order transformers asks them."""
VIDEO_FILES = ("video_preprocessor_config.json", "preprocessor_config.json")
"""Files that hold the settings of the video part, where processor_config.json does not."""


class NoVideos(PushToHubMixin):
    """Stands where a processor keeps its part for videos, where that cannot be loaded.

    It has the settings that the checkpoint gives the part, hands them on when the processor is saved, and says
    what to install when it is asked for a video.
    """

    model_input_names: list[str] = []
    _auto_class = None

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = dict(settings)

    def __getattr__(self, name: str) -> Any:
        settings = self.__dict__.get("_settings", {})
        if name in settings:
            return settings[name]
        raise AttributeError(name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise ValueError(f"videos need torchvision: pip install {matching_torchvision()}")

    fetch_videos = get_num_of_video_patches = preprocess = __call__

    def to_dict(self) -> dict[str, Any]:
        """The settings of the part for videos, as the checkpoint has them."""
        return dict(self._settings)


def read_processor(
    where: str, config: PreTrainedConfig, defaults: Mapping[str, Any] | None = None, **hub: Any
) -> Any:
    """Loads the processor of a checkpoint.

    Args:
        where: A folder or a hub id.
        config: The model's configuration; it decides where the files name no class.
        defaults: Arguments of the processor that the configuration knows, for files that do not say them.
        hub: Where and how to read from the hub: ``revision``, ``token``, ``cache_dir`` and the like.

    Raises:
        ValueError: If a part is missing or cannot be read.
    """
    videos = has_torchvision()
    files = {name: read_json(where, name, **hub) for name in (*NAMED_IN, *VIDEO_FILES)}
    stock = _class(files, config)
    settings, rest = stock.get_processor_dict(where, **hub)
    given = {key: value for key, value in settings.items() if value is not None}
    parts: list[Any] = []
    kind = stock
    for part in stock.get_attributes():
        if "tokenizer" in part:
            parts.append(AutoTokenizer.from_pretrained(where, **hub))
        elif part == "video_processor" and not videos:
            kind = _without_videos(stock)
            parts.append(NoVideos(_video_settings(files)))
        elif part == "video_processor":
            parts.append(transformers.AutoVideoProcessor.from_pretrained(where, **hub))
        else:
            parts.append(_pictures(where, config, files, **hub))
    return kind.from_args_and_dict(parts, {**(defaults or {}), **given}, **_unread(rest, hub))


def read_json(where: str, name: str, **hub: Any) -> dict[str, Any]:
    """A JSON file of a checkpoint; empty if it has none of that name.

    Raises:
        ValueError: If it is not a JSON object, naming the file.
    """
    reach = {key: value for key, value in hub.items() if key != "trust_remote_code"}
    found = cached_file(where, name, **reach, _raise_exceptions_for_missing_entries=False)
    if found is None:
        return {}
    try:
        data = json.loads(Path(found).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{found} is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise ValueError(f"{found} holds no JSON object")
    return data


def _class(files: Mapping[str, Mapping[str, Any]], config: PreTrainedConfig) -> type[ProcessorMixin]:
    for name in NAMED_IN:
        found = getattr(transformers, str(files[name].get("processor_class")), None)
        if isinstance(found, type) and issubclass(found, ProcessorMixin):
            return found
    return PROCESSOR_MAPPING[type(config)]


def _pictures(where: str, config: PreTrainedConfig, files: Mapping[str, Mapping[str, Any]], **hub: Any) -> Any:
    named = files["processor_config.json"].get("image_processor") or files["preprocessor_config.json"]
    kind = str(named.get("image_processor_type") or "").removesuffix("Fast")
    if kind and not hasattr(transformers, kind):
        # A name of before: the configuration's model type decides, as where the file names none.
        mapping = transformers.IMAGE_PROCESSOR_MAPPING[type(config)]
        return (mapping.get("pil") or mapping["torchvision"]).from_pretrained(where, **_local(hub))
    return AutoImageProcessor.from_pretrained(where, backend="pil", **hub)


def _local(hub: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in hub.items() if key != "trust_remote_code"}


def _unread(rest: Mapping[str, Any], hub: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in rest.items() if key not in hub}


def _video_settings(files: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    nested = files["processor_config.json"].get("video_processor")
    found = nested or next((files[name] for name in VIDEO_FILES if files[name]), {})
    return dict(found)


@functools.cache
def _without_videos(stock: type[ProcessorMixin]) -> type[ProcessorMixin]:
    """The class with a part for videos that need not work; its name is the stock one, for it is saved."""

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        if isinstance(argument, NoVideos):
            return NoVideos
        return super(made, self).check_argument_for_proper_class(argument_name, argument)

    body = {"check_argument_for_proper_class": check_argument_for_proper_class, "__module__": stock.__module__}
    made: Any = type(stock.__name__, (stock,), body)
    return made
