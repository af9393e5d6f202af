"""What answers depend on beside a model's weights: its prompts, its pictures, and how it was wrapped."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from typing import Any

from saccade import models
from saccade.engine import VERSION as ENGINE
from saccade.engine import attached
from saccade.models import Loaded
from saccade.opening.digest import weights_digest
from saccade.plans.plan import Plan
from saccade.skip_vision.placed import wrapped
from saccade.skip_vision.wrap import VERSION as WRAPPED

DISPATCHED = 2
"""Of a decoder that is dispatched or offloaded as one module: until 2 no rows were dropped inside it."""


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


def code_of(loaded: Loaded, plan: Plan | None = None, **more: int) -> str:
    """Versions of the code that made answers, as far as one was ever raised: ``"engine 2, fastv 3"``.

    Every method, every family and the engine has a number that is raised with its behaviour. Numbers that are
    still 1 are left out, so that what was kept before there were numbers is found.

    Args:
        loaded: The model.
        plan: What it runs under; None for the stock model.
        more: Numbers of other code that answers hang on, by its name.
    """
    own = attached(loaded.model)
    methods = [
        *(own.plan.methods if own is not None and own.resident else ()),
        *(plan.methods if plan else ()),
    ]
    numbers = {"models": models.VERSION, loaded.family.name: loaded.family.version, **more}
    if methods:
        numbers |= {"engine": ENGINE} | {method.name: method.version for method in methods}
    if wrapped(loaded.model) is not None:
        numbers["skip_vision model"] = WRAPPED
    if methods and "_hf_hook" in vars(loaded.family.parts(loaded.model).decoder):
        numbers["dispatched decoder"] = DISPATCHED
    return ", ".join(f"{name} {number}" for name, number in sorted(numbers.items()) if number != 1)


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
