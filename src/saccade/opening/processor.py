"""The processor of a checkpoint: its pictures read by Pillow, its videos where torchvision is installed.

Stock `AutoProcessor` loads nothing of a checkpoint whose processor has a part for videos unless torchvision
is there, and with ``backend="pil"`` not even then. Here the parts are loaded one by one and the checkpoint's
own class is built from them. Pictures go through Pillow wherever stock has a class for that, so that their
numbers do not depend on what else is installed.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers
from transformers import PROCESSOR_MAPPING, AutoTokenizer, PreTrainedConfig, ProcessorMixin

# From their module: in early releases the package's own names ask for torchvision.
from transformers.models.auto.image_processing_auto import (
    IMAGE_PROCESSOR_MAPPING,
    IMAGE_PROCESSOR_MAPPING_NAMES,
    AutoImageProcessor,
)
from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING
from transformers.utils.hub import PushToHubMixin

from saccade.opening.checks import read_settings
from saccade.opening.errors import named, telling
from saccade.opening.settings import Opening
from saccade.opening.templates import check_template
from saccade.opening.weights import quiet
from saccade.system.environment import has_torchvision, matching_torchvision

NAMED_IN = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")
"""Files that may name the class of the processor, in the order transformers asks them."""
VIDEO_FILES = ("video_preprocessor_config.json", "preprocessor_config.json")
"""Files that hold the settings of the video part, where processor_config.json does not."""
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")
"""Files that hold a tokenizer's table."""
SENTENCES = "tokenizer.model"
SAMPLED = {"num_frames": "max_frames", "fps": "fps"}
"""How many frames a processor samples of a video, and how many in a second: as settings name them."""


class NoVideos(PushToHubMixin):
    """Stands where a processor keeps its part for videos, where that cannot be loaded.

    It has the settings that the checkpoint gives the part, hands them on when the processor is saved, and
    says what to install when it is asked for a video.
    """

    model_input_names: list[str] = []
    _auto_class = None

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = dict(settings)

    def __getattr__(self, name: str) -> Any:
        settings = self.__dict__.get("_settings", {})
        if name in settings:
            return settings[name]
        # Chat templates are told how frames are sampled, also where there is no video.
        if name in SAMPLED:
            return (settings.get("video_sampling") or {}).get(SAMPLED[name])
        raise AttributeError(name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise ValueError(f"videos need torchvision: pip install {matching_torchvision()}")

    fetch_videos = get_num_of_video_patches = preprocess = __call__

    def to_dict(self) -> dict[str, Any]:
        """The settings of the part for videos, as the checkpoint has them."""
        return dict(self._settings)


def read_processor(
    folder: Path,
    config: PreTrainedConfig,
    defaults: Mapping[str, Any] | None = None,
    opening: Opening | None = None,
) -> Any:
    """Loads the processor of a folder.

    Args:
        folder: The model's folder.
        config: The model's configuration; it decides where the files name no class.
        defaults: Arguments of the processor that the configuration knows, for files that do not say them.
        opening: Whether code of the repository may run.

    Raises:
        ValueError: If a part is missing or cannot be read, naming the file.
    """
    videos = has_torchvision()
    how = {"trust_remote_code": bool(opening and opening.trust_remote_code)}
    files = {name: _settings(folder / name) for name in (*NAMED_IN, *VIDEO_FILES)}
    _check_parts(folder, files)
    with quiet():
        stock: Any = _class(files, config)
        for needed in (stock, *_stand_ins_for_pictures(files, config)):
            if not videos and "torchvision" in getattr(needed, "_backends", ()):
                raise ValueError(
                    f"the processor of {folder} ({needed.__name__}) needs torchvision: "
                    f"pip install {matching_torchvision()}"
                )
        with telling(f"the processor of {folder}"):
            settings, rest = stock.get_processor_dict(folder)
        given = {key: value for key, value in settings.items() if value is not None}
        parts: list[Any] = []
        kind = stock
        for part in stock.get_attributes():
            if "tokenizer" in part:
                with telling(f"the tokenizer {named(folder, *TOKENIZERS, 'tokenizer_config.json')}"):
                    parts.append(AutoTokenizer.from_pretrained(folder, **how))
            elif part == "video_processor" and not videos:
                kind = _without_videos(stock)
                parts.append(NoVideos(_video_settings(files)))
            elif part == "video_processor":
                with telling(f"the settings for videos {named(folder, VIDEO_FILES[0], NAMED_IN[0])}"):
                    parts.append(_videos(config, files).from_pretrained(folder, **how))
            else:
                with telling(f"the settings for pictures {named(folder, VIDEO_FILES[1], NAMED_IN[0])}"):
                    parts.append(_pictures(folder, config, files, how))
        with telling(f"the processor of {folder}"):
            processor = kind.from_args_and_dict(parts, {**(defaults or {}), **given}, **rest)
    check_template(folder, processor)
    return processor


def _settings(path: Path) -> dict[str, Any]:
    return read_settings(path) if path.exists() else {}


def _check_parts(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    pictures = folder / "preprocessor_config.json"
    table = folder / TOKENIZERS[0]
    if table.is_file() and not _head(table).lstrip().startswith(b"{"):
        raise ValueError(f"cannot read the tokenizer {table}: it holds no JSON object")
    held = [name for name in TOKENIZERS if (folder / name).is_file()]
    if not held:
        raise ValueError(f"{folder} has no tokenizer: neither {', nor '.join(TOKENIZERS[:2])} is there")
    # Stock classes would ask for tiktoken, whose tables have the same name.
    if held == [SENTENCES] and importlib.util.find_spec("sentencepiece") is None:
        raise ValueError(
            f"{folder / SENTENCES} is the only tokenizer there, and takes sentencepiece to read: "
            "pip install sentencepiece protobuf"
        )
    if not pictures.exists() and "image_processor" not in files["processor_config.json"]:
        raise ValueError(
            f"{folder} has a tokenizer but no preprocessor_config.json (or processor_config.json with what "
            "stands in it), so that pictures cannot be read; copy it from the checkpoint it was made of"
        )


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(64)


def _class(files: Mapping[str, Mapping[str, Any]], config: PreTrainedConfig) -> type[ProcessorMixin]:
    for name in NAMED_IN:
        found: Any = getattr(transformers, str(files[name].get("processor_class")), None)
        # The stand-in of a class whose packages are missing is no processor, and is meant all the same.
        stands_in = hasattr(found, "_backends")
        if stands_in or (isinstance(found, type) and issubclass(found, ProcessorMixin)):
            return found
    by_type: Any = PROCESSOR_MAPPING
    return by_type[type(config)]


def _stand_ins_for_pictures(files: Mapping[str, Mapping[str, Any]], config: PreTrainedConfig) -> list[Any]:
    """What stands in the place of a class that reads pictures, where that needs torchvision.

    Of a class for Pillow so it is with Idefics3 and SmolVLM in transformers 5.17.
    """
    kind = _pictures_class(files) or _by_torchvision_alone().get(config.model_type, "")
    names = [f"{kind}Pil", *([kind] if kind in _by_torchvision_alone().values() else [])]
    return [getattr(transformers, name, None) for name in names]


@functools.cache
def _by_torchvision_alone() -> dict[str, str]:
    """Classes that read pictures by torchvision and in no other way, by model type."""
    return {
        kind: backends["torchvision"]
        for kind, backends in IMAGE_PROCESSOR_MAPPING_NAMES.items()
        if isinstance(backends, Mapping) and backends.get("torchvision") and not backends.get("pil")
    }


def _pictures_class(files: Mapping[str, Mapping[str, Any]]) -> str:
    said = files["processor_config.json"].get("image_processor") or files["preprocessor_config.json"]
    return str(said.get("image_processor_type") or "").removesuffix("Fast")


def _pictures(
    folder: Path, config: PreTrainedConfig, files: Mapping[str, Mapping[str, Any]], how: Mapping[str, Any]
) -> Any:
    kind = _pictures_class(files)
    if kind and not hasattr(transformers, kind):
        # A name of an earlier release: the model type decides, as where the file names none.
        by_type: Any = IMAGE_PROCESSOR_MAPPING
        mapping = by_type[type(config)]
        return (mapping.get("pil") or mapping["torchvision"]).from_pretrained(folder)
    if (kind or _by_torchvision_alone().get(config.model_type)) in _by_torchvision_alone().values():
        return AutoImageProcessor.from_pretrained(folder, **how)
    return AutoImageProcessor.from_pretrained(folder, backend="pil", **how)


def _videos(config: PreTrainedConfig, files: Mapping[str, Mapping[str, Any]]) -> Any:
    """The class for videos: that of the model type where no file names one.

    Stock would derive a name from that of the pictures' class, which for LLaVA-NeXT-Video is a name of the
    whole processor's, and looks for its parts without end.
    """
    by_type: Any = VIDEO_PROCESSOR_MAPPING
    if not _video_settings(files).get("video_processor_type") and type(config) in by_type:
        found = by_type[type(config)]
        # By backend in later releases.
        return found["torchvision"] if isinstance(found, Mapping) else found
    return transformers.AutoVideoProcessor


def _video_settings(files: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    nested = files["processor_config.json"].get("video_processor")
    found = nested or next((files[name] for name in VIDEO_FILES if files[name]), {})
    return dict(found)


@functools.cache
def _without_videos(stock: Any) -> Any:
    """The class with a part for videos that need not work; its name is the stock one, for it is saved."""

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        if isinstance(argument, NoVideos):
            return NoVideos
        return super(made, self).check_argument_for_proper_class(argument_name, argument)

    body = {
        "check_argument_for_proper_class": check_argument_for_proper_class,
        "__module__": stock.__module__,
    }
    made: Any = type(stock.__name__, (stock,), body)
    return made
