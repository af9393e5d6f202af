"""What answers depend on beside a model's weights: its prompts, its pictures, and how it was wrapped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch

from saccade.models import Loaded
from saccade.skip_vision.wrap import wrapped


def weights_digest(model: torch.nn.Module) -> str:
    """A digest that changes with the weights: shapes and up to 64 spread-out numbers of every tensor."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        for part in _plain(tensor):
            flat = part.detach().reshape(-1)
            spread = flat[:: max(1, flat.numel() // 64)][:64].float().cpu().numpy()
            digest.update(f"{name}{tuple(tensor.shape)}".encode() + spread.tobytes())
    return digest.hexdigest()[:16]


def _plain(tensor: Any) -> Iterator[torch.Tensor]:
    """The tensor itself, or those that a quantised one is made of."""
    if not hasattr(tensor, "__tensor_flatten__"):
        yield tensor
        return
    names, _ = tensor.__tensor_flatten__()
    for name in names:
        yield from _plain(getattr(tensor, name))


def setup_digest(loaded: Loaded) -> str:
    """A digest of the chat template, the processor's settings and the Skip-Vision configuration.

    Empty where prompts and pictures are made as for the shipped Glance and nothing is wrapped, so that what
    was kept of that model is found by its weights alone.
    """
    told: dict[str, Any] = {"processor": _told(loaded.processor)}
    skip_vision = wrapped(loaded.model)
    if skip_vision is not None:
        told["skip_vision"] = skip_vision.config.to_dict()
    elif told["processor"] == _shipped():
        return ""
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def model_digest(loaded: Loaded) -> str:
    """A digest of all of a model that answers depend on: of its weights, and of its setup if it has one."""
    return "+".join(filter(None, (weights_digest(loaded.model), setup_digest(loaded))))


def _told(processor: Any) -> dict[str, Any]:
    """Settings of a processor as plain values."""
    if processor is None:
        return {}
    # Pictures do not depend on the part for videos, which not every environment can load.
    given = {key: value for key, value in processor.to_dict().items() if key != "video_processor"}
    settings = {"template": getattr(processor, "chat_template", None), "settings": given}
    # Numbers, names and enumerations alike; a class of its own is told by its name.
    return json.loads(json.dumps(settings, sort_keys=True, default=str))


@lru_cache(maxsize=1)
def _shipped() -> dict[str, Any]:
    """Settings of the shipped Glance's processor."""
    from saccade.glance import weights_path
    from saccade.opening import open_processor

    return _told(open_processor(str(weights_path())))
