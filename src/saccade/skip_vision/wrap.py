"""Making a Skip-Vision model of a stock one, in place, and taking it apart again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from saccade.engine import Attachment, apply, attached
from saccade.engine.tower_scores import look
from saccade.families import unwrap
from saccade.methods.skip_vision import Release
from saccade.models import Loaded
from saccade.plan import Plan
from saccade.skip_vision.abstractor import Abstractor, resampler_of
from saccade.skip_vision.chain_of_sight import ChainOfSight
from saccade.skip_vision.config import SkipVisionConfig

WRAPPED = "saccade_wrapped"
"""Attribute of a wrapped core that holds what was done to it."""


@dataclass(eq=False)
class Wrapped:
    """What was done to a model.

    Attributes:
        config: Its configuration.
        abstractor: The module in the projector's place.
        attachment: The resident plan, or None where the decoder stays dense.
        undo: What takes abstractor, hooks and processor settings off, in order.
    """

    config: SkipVisionConfig
    abstractor: Abstractor
    attachment: Attachment | None
    undo: tuple[Callable[[], None], ...]


def wrap(loaded: Loaded, config: SkipVisionConfig) -> Loaded:
    """Makes a Skip-Vision model of a loaded one, in place.

    The projector's place is taken by an abstractor that lays an image out as retained, skipped and summary
    rows, the processor is told how many placeholders that makes, and the method runs on the decoder as a
    resident plan: other plans may be applied over it. A model that is wrapped already keeps what fits of its
    trained parts: the scorer, and the resampler, inflated where the new one has more tokens.

    Args:
        loaded: The model and its processor.
        config: The layout and its switches.

    Returns:
        The same objects, with the shape of the new prompts.

    Raises:
        ValueError: If the family or its vision tower cannot be laid out so, or the model has a plan.
    """
    model, family = loaded.model, loaded.family
    before = wrapped(model)
    if before is not None:
        unwrap_skip_vision(loaded)
    if attached(model) is not None:
        raise ValueError("this model has a saccade plan; remove it before wrapping the model")
    if config.layout == "llava-hd" and family.name != "LLaVA-NeXT":
        raise ValueError(f"the layout llava-hd needs tiles (LLaVA-NeXT); {family.name} has cos and llava")
    if config.layout != "llava-hd" and family.name == "LLaVA-NeXT":
        raise ValueError(f"the layout {config.layout} is of one view; LLaVA-NeXT has llava-hd")
    core: Any = family.parts(model).core
    stock = getattr(core, "multi_modal_projector", None)
    if stock is None:
        family.host(model, loaded.processor, nn.Identity())
    assert stock is not None
    config = _settled(loaded, config)
    _, grid = _rows(loaded, config)
    abstractor = _build(loaded, config, stock, grid, before)
    reference = next(stock.parameters())
    abstractor = abstractor.to(device=reference.device, dtype=reference.dtype).train(model.training)
    return put_on(loaded, config, abstractor)


def put_on(loaded: Loaded, config: SkipVisionConfig, abstractor: Abstractor) -> Loaded:
    """Puts an abstractor that was made for a model in its place."""
    model, family = loaded.model, loaded.family
    rows, _ = _rows(loaded, config)
    steps = [family.host(model, loaded.processor, abstractor, config.image_size, config.levels)]
    try:
        if config.layout == "llava":
            steps.append(_watch_tower(loaded, abstractor))
        methods = config.methods(rows)
        attachment = apply(model, Plan(methods), resident=True) if methods else None
    except BaseException:
        for step in reversed(steps):
            step()
        raise
    core: Any = family.parts(model).core
    core.__dict__[WRAPPED] = Wrapped(config, abstractor, attachment, tuple(reversed(steps)))
    return replace(loaded, shape=replace(loaded.shape, visual=abstractor.length(rows)))


def unwrap_skip_vision(loaded: Loaded) -> Loaded:
    """Makes the stock model again: its own projector, processor settings and no plan.

    Raises:
        ValueError: If the model is not wrapped, or has a plan over its own.
    """
    core: Any = loaded.family.parts(loaded.model).core
    done = wrapped(loaded.model)
    if done is None:
        raise ValueError("this model is not wrapped for Skip-Vision")
    on = attached(loaded.model)
    if on is not None and on is not done.attachment:
        raise ValueError("this model has a plan over its own; remove that first")
    if done.attachment is not None:
        done.attachment.remove()
    for step in done.undo:
        step()
    del core.__dict__[WRAPPED]
    return replace(loaded, shape=loaded.family.shape(loaded.model.config, loaded.name))


def wrapped(model: nn.Module) -> Wrapped | None:
    """What was done to a model to make it a Skip-Vision model; None for others."""
    stock: Any = unwrap(model)
    core = stock.model if hasattr(stock, "lm_head") else stock
    return core.__dict__.get(WRAPPED)


def set_cache(loaded: Loaded, cache: Release) -> Loaded:
    """Changes what leaves the KV cache once a prompt is read; a matter of serving, no weights change.

    Raises:
        ValueError: If the model is not wrapped, or its layout has no skipped rows.
    """
    done = wrapped(loaded.model)
    if done is None:
        raise ValueError("this model is not wrapped for Skip-Vision")
    config = replace(done.config, cache=cache)
    methods = config.methods(_rows(loaded, config)[0])
    if done.attachment is not None:
        done.attachment.remove()
    done.config = done.abstractor.config = config
    done.attachment = apply(loaded.model, Plan(methods), resident=True) if methods else None
    return loaded


def _settled(loaded: Loaded, config: SkipVisionConfig) -> SkipVisionConfig:
    """The configuration with the number of retained rows that its layout has on this model."""
    vision = loaded.model.config.vision_config
    if config.layout == "llava-hd":
        return replace(config, retained=(vision.image_size // vision.patch_size) ** 2)
    if config.layout == "cos":
        return replace(config, retained=config.split(sum(s.queries for s in config.scales))[0])
    return config


def _rows(loaded: Loaded, config: SkipVisionConfig) -> tuple[int, int]:
    """Rows that the tower or the resampler makes of a typical image, and patches along its side."""
    vision = loaded.model.config.vision_config
    side = vision.image_size if config.image_size is None else config.image_size
    if side % vision.patch_size:
        raise ValueError(f"an image of {side} pixels does not divide into patches of {vision.patch_size}")
    grid = side // vision.patch_size
    if config.layout == "cos":
        return sum(scale.queries for scale in config.scales), grid
    return grid * grid * (5 if config.layout == "llava-hd" else 1), grid


def _build(
    loaded: Loaded, config: SkipVisionConfig, stock: nn.Module, grid: int, before: Wrapped | None
) -> Abstractor:
    width, vision = loaded.shape.hidden, loaded.model.config.vision_config
    project = stock
    old = None if before is None else before.abstractor
    if config.layout == "cos":
        project = resampler_of(config, grid, max(len(config.levels), 1), vision.hidden_size, width)
        if old is not None and isinstance(old.project, ChainOfSight):
            project.inflate_from(old.project)
    abstractor = Abstractor(config, project, width)
    if old is not None and old.scorer is not None and abstractor.scorer is not None:
        abstractor.scorer.load_state_dict(old.scorer.state_dict())
    return abstractor


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

    def note(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        x = args[0] if args else kwargs["hidden_states"]
        with torch.no_grad():
            pairs = family.tower_heads(module, x.detach(), kwargs, tower.has_cls)
            (attention_TP,) = look(pairs, tower.has_cls).attention
        glimpse.attention_BP = attention_TP[:, first:]

    return attention.register_forward_hook(note, with_kwargs=True).remove
