"""An abstractor in a model's projector's place, with the method on its decoder: put on, and taken off."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import MethodType
from typing import Any, cast

import torch
from torch import nn

from saccade.engine import Attachment, apply, attached
from saccade.engine.tower_scores import look
from saccade.families import core_of, unwrap
from saccade.families.projector import Undo, projector_stand_in
from saccade.methods.skip_vision import Release
from saccade.opening.loaded import Loaded
from saccade.plans.plan import Plan
from saccade.skip_vision.abstractor import Abstractor, by_hand
from saccade.skip_vision.config import SkipVisionConfig

WRAPPED = "saccade_wrapped"
"""Attribute of a wrapped core that holds what was done to it."""

Saver = Callable[[Loaded], MethodType]
"""Gives what stands in for ``save_pretrained``, which would write a folder without its projector."""


@dataclass(eq=False)
class Wrapped:
    """What was done to a model.

    Attributes:
        config: Its configuration.
        core: The module whose projector was replaced.
        attachment: The resident plan, or None where the decoder stays dense.
        undo: Takes abstractor, hooks and processor settings off.
        saver: What gives its ``save_pretrained``.
    """

    config: SkipVisionConfig
    core: nn.Module
    attachment: Attachment | None
    undo: Callable[[], None]
    saver: Saver

    def __deepcopy__(self, memo: dict[int, Any]) -> Wrapped:
        # What takes the parts off knows the first model alone, and would take that apart.
        core = copy.deepcopy(self.core, memo)
        return Wrapped(self.config, core, copy.deepcopy(self.attachment, memo), _of_another, self.saver)

    @property
    def abstractor(self) -> Abstractor:
        """The module in the projector's place: the one that was put there, or the copy that PEFT trained."""
        return cast(Abstractor, projector_stand_in(self.core))


def _of_another() -> None:
    raise ValueError(
        "this is a copy of a wrapped model, which is not taken apart, wrapped anew or saved: take the model "
        "itself, or save it and load its folder again"
    )


def put_on(loaded: Loaded, config: SkipVisionConfig, abstractor: Abstractor, saver: Saver) -> Loaded:
    """Puts an abstractor that was made for a model in its place.

    Args:
        loaded: The model and its processor.
        config: The layout and its switches.
        abstractor: What takes the projector's place.
        saver: Gives the model's ``save_pretrained``.
    """
    model, family = loaded.model, loaded.family
    core, rows = family.parts(model).core, typical_rows(loaded, config)
    undo = Undo()
    undo.append(
        family.replace_projector(model, loaded.processor, abstractor, config.image_size, config.levels)
    )
    try:
        if config.layout == "llava":
            undo.append(_watch_tower(loaded, abstractor))
        methods = config.methods(rows)
        attachment = apply(model, Plan(methods), resident=True) if methods else None
    except BaseException:
        undo.all()
        raise
    undo.attribute(unwrap(model), "save_pretrained", saver(loaded))
    core.__dict__[WRAPPED] = Wrapped(config, core, attachment, undo.all, saver)
    return replace(loaded, shape=replace(loaded.shape, visual=abstractor.length(rows)))


def unwrap_skip_vision(loaded: Loaded) -> Loaded:
    """Makes the stock model again: its own projector, processor settings and no plan.

    Raises:
        ValueError: If the model is not wrapped, or has a plan over its own.
    """
    done = wrapped(loaded.model)
    if done is None:
        raise ValueError("this model is not wrapped for Skip-Vision")
    on = attached(loaded.model)
    if on is not None and on is not done.attachment:
        raise ValueError("this model has a plan over its own; remove that first")
    if done.attachment is not None:
        done.attachment.remove()
    done.undo()
    del core_of(loaded.model).__dict__[WRAPPED]
    return replace(loaded, shape=loaded.family.shape(loaded.model.config, loaded.name))


def wrapped(model: nn.Module) -> Wrapped | None:
    """What was done to a model to make it a Skip-Vision model; None for others."""
    return core_of(model).__dict__.get(WRAPPED)


def set_cache(loaded: Loaded, cache: Release) -> Loaded:
    """Changes what leaves the KV cache once a prompt is read; a matter of serving, no weights change.

    Raises:
        ValueError: If the model is not wrapped, has a plan over its own, or has registers in place of skipped
            rows; nothing is changed then.
    """
    done = wrapped(loaded.model)
    if done is None:
        raise ValueError("this model is not wrapped for Skip-Vision")
    config = replace(done.config, cache=cache)
    if attached(loaded.model) is not done.attachment:
        raise ValueError("this model has a plan over its own; remove that first")
    methods, own = config.methods(typical_rows(loaded, config)), done.attachment
    if own is not None:
        own.remove()
    try:
        done.attachment = apply(loaded.model, Plan(methods), resident=True) if methods else None
    except BaseException:
        if own is not None:
            own.attach()
        raise
    done.config = done.abstractor.config = config
    return loaded


def typical_rows(loaded: Loaded, config: SkipVisionConfig) -> int:
    """Rows of a typical image before any is merged or added."""
    return config.projected(loaded.family.projector_place(loaded.model, config.image_size).rows)


def _watch_tower(loaded: Loaded, abstractor: Abstractor) -> Callable[[], None]:
    """Notes the attention that patches get from CLS in the layer that makes the features."""
    family = loaded.family
    tower = family.tower(loaded.model)
    if tower is None:
        raise ValueError(
            f"the layout llava ranks patches by the vision tower's attention, and that of this {family.name} "
            "model cannot be looked into; use the layout cos"
        )
    attention = tower.made if tower.made is not None else tower.reads
    if attention is None:
        raise ValueError("the layout llava needs a layer of the vision tower to look at; use the layout cos")
    glimpse, first = abstractor.glimpse, int(tower.has_cls)

    @by_hand
    def note(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        x = args[0] if args else kwargs["hidden_states"]
        with torch.no_grad():
            pairs = family.tower_heads(module, x.detach(), kwargs, tower.has_cls)
            (attention_TP,) = look(pairs, tower.has_cls).attention
        glimpse.attention_BP = attention_TP[:, first:]

    return attention.register_forward_hook(note, with_kwargs=True).remove
