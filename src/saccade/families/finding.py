"""The adapter of a model: that of its family, or one that was made by inspection for it alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from torch import nn

from saccade.families.base import Family, unwrap
from saccade.families.registry import FAMILIES

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_ADOPTED: WeakKeyDictionary[nn.Module, Family] = WeakKeyDictionary()
"""Models with an adapter of their own, made by inspection."""


def adopt(model: nn.Module, family: Family) -> None:
    """Gives one model an adapter, for as long as it lives."""
    _ADOPTED[unwrap(model)] = family


def find(what: nn.Module | PreTrainedConfig, generic: bool = False) -> Family:
    """The family of a model or configuration.

    Where one class of transformers holds models with another tower, their adapter is listed under both types.
    Where it holds a decoder that its adapter does not take apart, inspection may do.

    Args:
        what: The model, or its configuration.
        generic: Whether an adapter made by inspection will do where nobody wrote one. A model is looked at
            once, and keeps what was found.

    Raises:
        ValueError: If it is no model, no adapter knows the model type, or none can be made.
    """
    model = unwrap(what) if isinstance(what, nn.Module) else None
    if model is not None and model in _ADOPTED:
        return _ADOPTED[model]
    config: Any = getattr(model, "config", what)
    kind = getattr(config, "model_type", None)
    if kind is None:
        raise ValueError(_no_model(what))
    seen = f"{kind}+{getattr(getattr(config, 'vision_config', None), 'model_type', '')}"
    own = next((FAMILIES[name] for name in (seen, kind) if name in FAMILIES), None)
    if own is not None and (not generic or config.get_text_config().model_type in own.text_types):
        return own
    if not generic:
        raise ValueError(
            f"no adapter for model type {kind!r}; supported: {', '.join(FAMILIES)}. One made by inspection "
            "may do: saccade check MODEL --generic. A new family is one file in saccade/families "
            "(CONTRIBUTING says how)"
        )
    from saccade.families.generic import GenericFamily

    if model is None:
        made = GenericFamily()
        made.shape(config)  # refuses what plans have no sizes for, before anything asks for them
        return made
    adopt(model, GenericFamily.of(model))
    return _ADOPTED[model]


def _no_model(what: Any) -> str:
    """What to say where something else stands in the place of a model."""
    name = type(what).__name__
    if isinstance(what, nn.Module):
        return f"{name} is no model of transformers, for it has no configuration: give the model inside it"
    hint = ""
    if isinstance(what, str):
        hint = "; saccade.load opens one by its name, and holds it as .model"
    elif isinstance(getattr(what, "model", None), nn.Module):
        hint = f"; give its .model ({type(what.model).__name__})"
    return f"a model of transformers is wanted here, got {name}{hint}"
